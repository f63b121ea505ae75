"""What no way out leads to: our own ports, and for clients from elsewhere what is not public."""

from __future__ import annotations

from collections.abc import Collection, Container
from ipaddress import IPv4Address, IPv6Address

from geproxy.errors import DeniedError
from geproxy.nat64 import Nat64
from geproxy.policy.ranges import is_loopback, is_public
from geproxy.terms import Address, Endpoint, unmapped

# connect() takes these for "this host"; as the expected peer of a BIND they mean anybody.
UNSPECIFIED: frozenset[Address] = frozenset((IPv4Address("0.0.0.0"), IPv6Address("::")))


class Bounds:
    """Judges addresses of one transport; what the kernel dials counts, IPv4 where it is mapped.

    The IPv4 address that NAT64 makes of an address is judged as well: the translator may stand
    inside, and what it sends may even come back to this host.
    """

    def __init__(
        self, own: Container[Address], listening: Collection[Endpoint], nat64: Nat64
    ) -> None:
        """*own* holds every address of this host; *listening* are our sockets'."""
        self._own = own
        self._nat64 = nat64
        self._listening: dict[int, list[Address]] = {}
        for endpoint in listening:
            self._listening.setdefault(endpoint.port, []).append(endpoint.address)

    def permit_local(self, endpoint: Endpoint) -> None:
        """Judge an address for clients of this host: all but our own ports."""
        bound = self._listening.get(endpoint.port)
        if bound is None:
            return
        address = unmapped(endpoint.address)
        if any(self._is_ours(one, bound) for one in (address, *self._nat64.inside(address))):
            raise DeniedError(f"{endpoint}: a port of this proxy")

    def permit_public(self, endpoint: Endpoint) -> None:
        """Judge an address for clients from elsewhere: public, and none of this host."""
        self.permit_local(endpoint)
        self.refuse_inside(endpoint, unmapped(endpoint.address))

    def refuse_inside(self, endpoint: Endpoint, address: Address) -> None:
        """Raise DeniedError where *address*, which is *endpoint*'s, is not public or is ours."""
        if not is_public(address):
            raise DeniedError(f"{endpoint}: not a public address")
        if address in self._own:  # a system call: last
            raise DeniedError(f"{endpoint}: an address of this host")
        if isinstance(address, IPv6Address):
            for embedded in self._nat64.inside(address):
                self.refuse_inside(endpoint, embedded)

    def _is_ours(self, host: Address, bound: list[Address]) -> bool:
        if host in UNSPECIFIED or host in bound:
            return True
        wildcard = any(address in UNSPECIFIED for address in bound)
        return wildcard and (is_loopback(host) or host in self._own)
