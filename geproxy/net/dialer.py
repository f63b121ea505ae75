"""From a name to a connection: resolve, judge each address, dial."""

from __future__ import annotations

from geproxy.errors import DeniedError
from geproxy.net.dial import dial, interleave
from geproxy.net.resolver import Resolver
from geproxy.net.stream import SocketStream
from geproxy.seams import Permit
from geproxy.terms import Address, Endpoint


class Dialer:
    """Opens connections for every way out of one worker."""

    def __init__(self, resolver: Resolver, connect_seconds: float) -> None:
        self._resolver = resolver
        self._connect_seconds = connect_seconds

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> SocketStream:
        """Connect to *target*; the caller closes the stream.

        Raises DeniedError when none of its addresses may be dialed, DialError, and LimitError.
        """
        allowed = self.permitted(target, permit, client)
        return dial(allowed, target, self._connect_seconds)

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
