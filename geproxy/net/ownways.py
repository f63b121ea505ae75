"""Our own sockets on ways out, so that a client that is one of them is known for what it is.

The name of a peer, or NAT, may lead a way out back to the listener that it was taken from: each
session would open the next. The configuration refuses the paths that it sees; this ends the rest.
"""

from __future__ import annotations

from geproxy.errors import DeniedError
from geproxy.terms import Endpoint


class OwnWays:
    """The local ends of the connections to peers of one worker, and the listeners each came by.

    A loop over several workers comes back to one of them within a few turns.
    """

    __slots__ = ("_paths",)

    def __init__(self) -> None:
        self._paths: dict[Endpoint, frozenset[str]] = {}

    def add(self, end: Endpoint, path: frozenset[str]) -> None:
        """Note a socket of ours that *path* led to; whoever closes it discards it first."""
        self._paths[end] = path

    def discard(self, end: Endpoint) -> None:
        """Forget a socket, which may be unknown."""
        self._paths.pop(end, None)

    def path(self, client: Endpoint, listener: str) -> frozenset[str]:
        """Return the listeners that led here. Raises DeniedError if *listener* is met again."""
        before = self._paths.get(client) if self._paths else None
        if before is None:
            return frozenset((listener,))
        if listener in before:
            raise DeniedError("a way out leads back to this listener")
        return before | {listener}
