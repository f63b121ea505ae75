"""From a name to a connection: resolve, judge each address, dial."""

from __future__ import annotations

from geproxy.errors import DeniedError, DialError
from geproxy.net.deadline import Deadline
from geproxy.net.dial import dial, interleave
from geproxy.net.resolver import Resolver
from geproxy.net.stream import SocketStream
from geproxy.terms import Endpoint, Outcome, Permit


class Dialer:
    """Opens connections for every way out of one worker."""

    def __init__(self, resolver: Resolver, connect_seconds: float) -> None:
        self._resolver = resolver
        self._connect_seconds = connect_seconds

    def connect(self, target: Endpoint, permit: Permit, client: Endpoint) -> SocketStream:
        """Connect to *target*; the caller closes the stream.

        Each address is judged after it was resolved and before it is dialed, so no second look-up
        can put another in its place. Raises DeniedError when none of them may be dialed,
        DialError, and LimitError.
        """
        assert not isinstance(client.host, str), "a client's endpoint holds its address"
        addresses = self._resolver.resolve(target.host, client.host)
        endpoints = [Endpoint(address, target.port) for address in interleave(addresses)]
        allowed = permitted(endpoints, permit)
        text = f"{target}: no connection in {self._connect_seconds:g} seconds"
        late = DialError(text, "timeout", Outcome.TIMED_OUT)
        with Deadline(self._connect_seconds, "connect", late):
            return dial(allowed)


def permitted(endpoints: list[Endpoint], permit: Permit) -> list[Endpoint]:
    """Keep what *permit* lets pass. Raises the last DeniedError when nothing is left."""
    allowed = []
    denied = None
    for endpoint in endpoints:
        try:
            permit(endpoint)
            allowed.append(endpoint)
        except DeniedError as error:
            denied = error
    if denied is not None and not allowed:
        raise denied
    return allowed
