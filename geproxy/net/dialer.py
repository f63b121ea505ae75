"""From a name to a connection: resolve, judge each address, dial."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
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
        """*nat64* gives a way to IPv4 where this host has no other."""
        self._resolver = resolver
        self._connect_seconds = connect_seconds
        self._nat64 = nat64 or Nat64()

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> SocketStream:
        """Connect to *target*; the caller closes the stream.

        Raises DeniedError when none of its addresses may be dialed, DialError, and LimitError.
        """
        allowed = self.permitted(target, permit, client)
        if self._nat64.learned:
            return self._dial_either(allowed, target, permit)
        return dial(allowed, target, self._connect_seconds)

    def _dial_either(
        self, endpoints: Sequence[Endpoint], target: Endpoint, permit: Permit
    ) -> SocketStream:
        """Dial *endpoints*; where this host has no way to any, dial them through NAT64.

        RFC 8305 §7.1: a literal IPv4 address, or a name without DNS64, on an IPv6-only host. Both
        attempts together have the time of one.
        """
        begun = time.monotonic()
        try:
            return dial(endpoints, target, self._connect_seconds)
        except DialError as error:
            left = self._connect_seconds - (time.monotonic() - begun)
            if error.outcome is not Outcome.NETWORK_UNREACHABLE or left <= 0:
                raise
            translated = self._translated(endpoints, permit)
            if not translated:
                raise
        return dial(translated, target, left)

    def _translated(self, endpoints: Sequence[Endpoint], permit: Permit) -> list[Endpoint]:
        """Return where this network's NAT64 reaches those of *endpoints* that are on IPv4.

        *permit* judges each once more: it lets no prefix pass that is closed to this client.
        """
        allowed = []
        for endpoint in endpoints:
            if not isinstance(endpoint.host, IPv4Address):
                continue
            for address in self._nat64.around(endpoint.host):
                translated = Endpoint(address, endpoint.port)
                with suppress(DeniedError):
                    permit(translated)
                    allowed.append(translated)
        return allowed

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
