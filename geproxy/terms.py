"""The nouns that every room shares."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

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
        """Take a name as it stood on the wire, right or wrong: hostname.canonical() judges it."""
        return cls(name.decode("utf-8", "surrogateescape"), port)

    @classmethod
    def from_sockaddr(cls, sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> Self:
        """Take what getsockname() or accept() gave; an IPv4-mapped address becomes IPv4."""
        return cls(plain_address(sockaddr[0]), sockaddr[1])

    @property
    def address(self) -> Address:
        """The host, where it must be an address by now."""
        assert not isinstance(self.host, str), "a name is resolved before it is dialed"
        return self.host

    @property
    def sockaddr(self) -> tuple[str, int]:
        """What connect() and bind() take. Only an Endpoint that holds an address has one."""
        return (text_of(self.address), self.port)

    def __str__(self) -> str:
        if isinstance(self.host, str):
            return f"{self.host}:{self.port}"
        text = text_of(self.host)
        return f"[{text}]:{self.port}" if ":" in text else f"{text}:{self.port}"


# Clients and targets come again, and an address takes as long to parse, or to write, as a system
# call takes.
@lru_cache(maxsize=4096)
def text_of(address: Address) -> str:
    """Write an address as the kernel reads it."""
    return str(address)


@lru_cache(maxsize=4096)
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


class Filtering(enum.Enum):
    """Whose datagrams an association takes, once it has sent any (RFC 4787 §5)."""

    NONE = "endpoint-independent"  # everybody's: what full-cone NAT does
    ADDRESS = "address-dependent"  # those of addresses that it has sent to
    PORT = "address-and-port-dependent"  # those of endpoints that it has sent to


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


@dataclass(frozen=True, slots=True)
class Offer:
    """How a listener's clients, and the peers of their BINDs, reach the ports we open for them."""

    # What is told in place of our own address, for there is NAT before us: at most one address per
    # family, and names.
    announced: tuple[Address | str, ...] = ()
    ports: range | None = None  # None: any


AS_WE_ARE = Offer()
