"""The Protocols at the seams between the rooms, but for that of streams, and what passes there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from geproxy.streams import Stream
from geproxy.terms import AS_WE_ARE, Address, Command, Endpoint, Filtering, Offer, Outcome

Permit = Callable[[Endpoint], None]  # raises DeniedError for an address that must not be dialed
Place = tuple[str, int] | tuple[str, int, int, int] | None  # a sockaddr; None: the way knows


class Request(Protocol):
    """What a client asks for, and the way to answer it in its own protocol."""

    @property
    def command(self) -> Command: ...

    target: Endpoint
    """DST.ADDR and DST.PORT: as the client sent them, until the session puts the host's one
    spelling in the place (hostname.canonical)."""

    @property
    def user(self) -> str | None:
        """The authenticated name, or None where the listener has no users."""
        ...

    @property
    def claimed(self) -> str | None:
        """A name that nobody has proven (SOCKS4's USERID), for the log alone."""
        ...

    @property
    def stream(self) -> Stream:
        """What is relayed: the client's stream, or one that an inbound put around it."""
        ...

    @property
    def codec(self) -> DatagramCodec:
        """How this client writes its datagrams. Only a request for UDP ASSOCIATE has one."""
        ...

    def grant(self, bound: Endpoint) -> None:
        """Answer yes; *bound* is BND.ADDR and BND.PORT. BIND is answered so twice."""
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

    def authenticate(self, user: str, password: bytes, client: Stream) -> None:
        """Return if *password* is *user*'s. *client* is who says so: its address has a share of
        the checks, and one that has left costs none.

        Raises AuthenticationError, LimitError when busy, or ResetError.
        """
        ...


class Inbound(Protocol):
    """One way to let clients in."""

    def negotiate(self, stream: Stream) -> Request:
        """Talk to the client until we hold its request; it is told before a ProtocolError or an
        AuthenticationError is raised.
        """
        ...


class DatagramCodec(Protocol):
    """How a client writes datagrams: the head, ATYP ADDR PORT of target or source, and data."""

    def read(self, datagram: bytes) -> tuple[bytes, bytes] | None:
        """Split what a client sent into head and data; None for a fragment that is not the last.
        Raises GeproxyError for what must be dropped; its code says why.
        """
        ...

    def write(self, head: bytes, data: bytes) -> bytes:
        """Put together what the client is sent."""
        ...


class Holding(Protocol):
    """What one client's things may take of a memory that all of a worker share."""

    def take(self, size_bytes: int) -> bool:
        """Take *size_bytes* more; False where there are not so many for it."""
        ...

    def give(self, size_bytes: int) -> None:
        """Give *size_bytes* back."""
        ...


class Datagrams(Protocol):
    """A way out for the datagrams of one association: one local port, whatever the target."""

    def charge(self, holding: Holding) -> None:
        """Have *holding* pay for what is remembered; its owner gives back what is held at last."""
        ...

    def find(self, target: Endpoint, permit: Permit, client: Address) -> Place:
        """Return where to send what is for *target*. Waits where a name is to be resolved here.
        Raises DeniedError, DialError or LimitError.
        """
        ...

    def send(self, head: bytes, data: bytes, place: Place) -> None:
        """Send *data* soon to the target that *head* names, which was found to be at *place*.

        Never waits. Raises DropError for what cannot be sent at all.
        """
        ...

    def on_loss(self, lost: Callable[[str, int], None]) -> None:
        """Have *lost* hear of what the system did not take: why, and how many bytes of data."""
        ...

    @property
    def in_burst(self) -> bool:
        """True while what receive() gives needs no system call."""
        ...

    def receive(self) -> tuple[bytes, bytes] | None:
        """Take the next datagram that came back, its source's head and its data; None: there is
        none. Raises GeproxyError for one that must be dropped.
        """
        ...

    def wait_readable(self) -> None:
        """Return once there may be something to receive."""
        ...

    def take_silence(self) -> bool:
        """True where something was sent since the last call, and nothing has come back."""
        ...

    def renew(self, client: Address) -> None:
        """Follow the world: where the peer, or the address of ours that leads to it, is another
        by now, go on from a new port. For a way that is silent; one that answers is left alone.

        Waits where a name is to be looked up, at the expense of *client*. Raises DialError or
        LimitError, and keeps the port that there is.
        """
        ...

    def duplicate(self) -> tuple[int, list[Any]]:
        """Return a second descriptor of the port for another worker, and what it must know."""
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


class Waiting(Protocol):
    """A port, *bound*, that waits for the one peer of a BIND."""

    bound: Endpoint

    def accept(self) -> Stream:
        """Wait for the expected peer; whoever else connects is closed."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Outbound(Protocol):
    """One way out."""

    @property
    def name(self) -> str: ...

    @property
    def waits(self) -> bool:
        """True where associate() may have to look a name up."""
        ...

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> Stream:
        """Open a stream to *target*; the caller closes it. *permit* is asked for every address
        before it is dialed; *client* is whose share of the look-ups is spent. Raises DeniedError
        or DialError.
        """
        ...

    def bind(self, request: Request, permit: Permit, offer: Offer) -> Waiting:
        """Listen for the peer that *request* expects; the caller closes it.
        Raises DeniedError, DialError, and CommandError where this way cannot.
        """
        ...

    def associate(self, client: Address, filtering: Filtering) -> Datagrams:
        """Open a way for datagrams; the caller closes it. Raises DialError."""
        ...

    def adopt(self, descriptor: int, known: list[Any], filtering: Filtering) -> Datagrams:
        """Go on with a way that another worker gave by duplicate()."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """The decision for one target: the way out, and the judge of every address dialed there."""

    outbound: Outbound
    target: Endpoint  # what was asked for, or the one address of it that this way is for
    permit: Permit


@dataclass(frozen=True, slots=True)
class Listener:
    """One [listen.NAME], as a session sees it."""

    name: str
    inbound: Inbound
    loopback: bool  # every socket of it is bound to a loopback address
    via: str
    target: Endpoint | None = None  # the only one there is, named by the operator (tcp://, udp://)
    by_rule: bool = False  # open to whom a rule on `client` lets in, and nobody else
    udp: bool = True  # UDP ASSOCIATE is allowed
    codec: DatagramCodec | None = None  # of its UDP sockets, where it has any
    offer: Offer = AS_WE_ARE
    filtering: Filtering = Filtering.NONE


@dataclass(frozen=True, slots=True)
class Subject:
    """Who asks, and for what: all that a rule can know before there is a target."""

    listener: Listener
    client: Address
    user: str | None
    command: Command


class Policy(Protocol):
    """Says yes or no, and by which way."""

    def admit(self, subject: Subject) -> None:
        """Raises DeniedError where no target whatever would be allowed."""
        ...

    def decide(self, subject: Subject, target: Endpoint) -> Route:
        """Choose the way out. May wait, where a rule speaks of the addresses of a name.
        Raises DeniedError for what may not be asked at all, ResolveError and LimitError.
        """
        ...
