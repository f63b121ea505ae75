"""From a name to a connection: resolve, judge each address, dial."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

from geproxy.errors import DeniedError, DialError
from geproxy.nat64 import Nat64
from geproxy.net.dial import dial, interleave
from geproxy.net.resolver import Resolver
from geproxy.net.stream import SocketStream
from geproxy.seams import Permit
from geproxy.terms import Address, Endpoint, Outcome


class Dialer:
    """Opens connections for every way out of one worker."""

    def __init__(
        self, resolver: Resolver, connect_seconds: float, nat64: Nat64 | None = None
    ) -> None:
        """*nat64* gives a way to IPv4 where there is no other."""
        self._resolver = resolver
        self._connect_seconds = connect_seconds
        self._nat64 = nat64 or Nat64()

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> SocketStream:
        """Connect to *target*; the caller closes the stream.

        Raises DeniedError when none of its addresses may be dialed, DialError, and LimitError.
        """
        allowed = self.permitted(target, permit, client)
        try:
            return dial(allowed, target, self._connect_seconds)
        except DialError as error:
            if error.outcome is not Outcome.NETWORK_UNREACHABLE or not self._nat64.learned:
                raise
            around = self._around(allowed, permit)
            if not around:
                raise
        return dial(around, target, self._connect_seconds)

    def _around(self, endpoints: Sequence[Endpoint], permit: Permit) -> list[Endpoint]:
        """Return where this network's NAT64 reaches those of *endpoints* that are on IPv4.

        RFC 8305 §7.1: for addresses of IPv4 where there is none, and no DNS64. *permit* judges the
        IPv4 address once more, and the prefix besides.
        """
        found = []
        for endpoint in endpoints:
            if isinstance(endpoint.host, IPv4Address):
                for address in self._nat64.around(endpoint.host):
                    try:
                        permit(Endpoint(address, endpoint.port))
                    except DeniedError:
                        continue
                    found.append(Endpoint(address, endpoint.port))
        return found

    def permitted(self, target: Endpoint, permit: Permit, client: Address) -> list[Endpoint]:
        """Resolve *target* and keep what *permit* lets pass, at least one, in order of preference.

        Each address is judged after it was resolved and before it is used, so no second look-up
        can put another in its place. Raises ResolveError, LimitError, and the last DeniedError
        when nothing is left.
        """
        addresses = self._resolver.resolve(target.host, client)
        allowed = []
        denied = None
        for address in interleave(addresses):
            try:
                endpoint = target if address is target.host else Endpoint(address, target.port)
                permit(endpoint)
                allowed.append(endpoint)
            except DeniedError as error:
                denied = error
        if denied is not None and not allowed:
            raise denied
        return allowed
