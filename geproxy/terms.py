"""The nouns that every room shares, and the Protocols at the seams between rooms."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol, Self, TypeVar

Address = IPv4Address | IPv6Address

# Fixed by the specification
MAX_NAME_BYTES = 255  # RFC 1928 §5: one octet of length


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a port: the host an address, or a name that nobody has resolved yet."""

    host: Address | str
    port: int

    @classmethod
    def from_name(cls, name: bytes, port: int) -> Self:
        """Take a name as it stood on the wire.

        Raises ValueError for a name that is empty, longer than 255 bytes, or holds a NUL.
        """
        if not name or len(name) > MAX_NAME_BYTES:
            raise ValueError(f"a name has 1 to {MAX_NAME_BYTES} bytes, not {len(name)}")
        if b"\0" in name:
            raise ValueError("a name holds no NUL")
        # surrogateescape: a name that goes to a far end unresolved must leave as it came.
        return cls(name.decode("utf-8", "surrogateescape"), port)

    @classmethod
    def from_sockaddr(cls, sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Self:
        """Take what getsockname() or accept() gave; an IPv4-mapped address becomes IPv4."""
        return cls(plain_address(sockaddr[0]), sockaddr[1])

    @property
    def sockaddr(self) -> tuple[str, int]:
        """What connect() and bind() take. Only an Endpoint that holds an address has one."""
        assert not isinstance(self.host, str), "a name is resolved before it is dialed"
        return (str(self.host), self.port)

    def __str__(self) -> str:
        if isinstance(self.host, IPv6Address):
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def plain_address(text: str) -> Address:
    """Parse an address as the kernel prints it: without its scope, and IPv4 where it is mapped."""
    return unmapped(ip_address(text.partition("%")[0]))


def unmapped(address: Address) -> Address:
    """Give the IPv4 address inside ::ffff:0:0/96, any other address as it is."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class Command(enum.Enum):
    """What a client asks for; the values are what logs and rules say."""

    CONNECT = "connect"
    BIND = "bind"
    UDP_ASSOCIATE = "udp"


class Outcome(enum.Enum):
    """What a client is told, in no protocol's own codes; each inbound owns a table to its codes."""

    GRANTED = enum.auto()
    FAILED = enum.auto()
    DENIED = enum.auto()
    NETWORK_UNREACHABLE = enum.auto()
    HOST_UNREACHABLE = enum.auto()
    REFUSED = enum.auto()
    TIMED_OUT = enum.auto()
    COMMAND_UNSUPPORTED = enum.auto()
    ADDRESS_UNSUPPORTED = enum.auto()


M = TypeVar("M", covariant=True)


class Decoder(Protocol[M]):
    """A message type of wire/: *decode* reads one message from the front of *data*.

    Returns the message and the bytes it used, or None while it is incomplete.
    Raises ProtocolError at the first byte that rules a message out.
    """

    def decode(self, data: bytes, /) -> tuple[M, int] | None: ...


T = TypeVar("T")


class Stream(Protocol):
    """A connection's bytes in both directions; plain, sealed and in-memory ones act alike.

    One greenlet may read while another writes. Every wait can be ended from outside by an
    exception thrown into the waiting greenlet. Raises ResetError where the other side is gone.
    """

    @property
    def peer(self) -> Endpoint:
        """The other side's address."""
        ...

    @property
    def bound(self) -> Endpoint:
        """Our own address of this connection."""
        ...

    def recv(self, size_bytes: int) -> bytes:
        """Wait for bytes and return at most *size_bytes* of them; b"" is the end of the stream."""
        ...

    def recv_into(self, buffer: memoryview) -> int | None:
        """Like recv, into *buffer*, but without waiting: None when nothing is there."""
        ...

    def wait_readable(self) -> None:
        """Return once bytes, the end of the stream or an error are there to be read."""
        ...

    def send_all(self, data: bytes | memoryview) -> None:
        """Return once the kernel has taken every byte of *data*."""
        ...

    def read_message(self, message: Decoder[T], limit_bytes: int) -> T:
        """Read one message, byte boundaries wherever they fall.

        What follows it stays for the next read. Raises ProtocolError for a message that is
        wrong, longer than *limit_bytes*, or cut off by the end of the stream.
        """
        ...

    @property
    def holds_head(self) -> bool:
        """True while a head waits to be sent in front of the first bytes, or by send_all(b"")."""
        ...

    @property
    def unanswered(self) -> bool:
        """True where the other side has not answered for long what the kernel sent it."""
        ...

    def close_write(self) -> None:
        """Tell the other side that no more bytes come (half-close). Reading goes on."""
        ...

    def abort(self) -> None:
        """End the connection with a reset, so that nobody takes the end for a complete one."""
        ...

    def linger(self, seconds: float) -> None:
        """Half-close, then read and drop for at most *seconds*, so that the last reply arrives.

        A close with unread bytes would be a reset, and a reset can overtake the reply. Returns at
        once where nothing was ever sent.
        """
        ...

    def close(self) -> None:
        """Give the connection back to the kernel. May be called twice."""
        ...


Permit = Callable[[Endpoint], None]  # raises DeniedError for an address that must not be dialed


class Request(Protocol):
    """What a client asks for, and the way to answer it in its own protocol."""

    @property
    def command(self) -> Command: ...

    @property
    def target(self) -> Endpoint:
        """DST.ADDR and DST.PORT, as the client sent them."""
        ...

    @property
    def user(self) -> str | None:
        """The authenticated name, or None where the listener has no users."""
        ...

    @property
    def stream(self) -> Stream:
        """What is relayed: the client's stream, or one that an inbound put around it."""
        ...

    def grant(self, bound: Endpoint) -> None:
        """Answer yes; *bound* is our address towards the target (BND.ADDR, BND.PORT)."""
        ...

    def refuse(self, outcome: Outcome) -> None:
        """Answer no. The stream is open still; the session closes it."""
        ...


class Store(Protocol):
    """A memory that all workers share."""

    def remember_once(self, key: bytes) -> bool:
        """True for the first to say *key*, in whichever worker; False for everyone after."""
        ...


class Authenticator(Protocol):
    """Knows the users of one listener."""

    def authenticate(self, user: str, password: bytes) -> None:
        """Return if *password* is *user*'s. Raises AuthenticationError, or LimitError when busy."""
        ...


class Inbound(Protocol):
    """One way to let clients in."""

    def negotiate(self, stream: Stream) -> Request:
        """Talk to the client until we hold its request.

        Raises ProtocolError or AuthenticationError once the client has been told.
        """
        ...


class Outbound(Protocol):
    """One way out."""

    @property
    def name(self) -> str: ...

    def connect(self, target: Endpoint, permit: Permit, client: Endpoint) -> Stream:
        """Open a stream to *target*; the caller closes it.

        *permit* is asked for every address before it is dialed; *client* is whose share of the
        look-ups is spent. Raises DeniedError or DialError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """The decision for one request: the way out, and the judge of every address dialed there."""

    outbound: Outbound
    permit: Permit


@dataclass(frozen=True, slots=True)
class Listener:
    """One [listen.NAME], as a session sees it."""

    name: str
    inbound: Inbound
    loopback: bool  # every socket of it is bound to a loopback address
    via: str


class Policy(Protocol):
    """Says yes or no, and by which way."""

    def decide(self, request: Request, listener: Listener) -> Route:
        """Raises DeniedError for what may not be asked at all."""
        ...
