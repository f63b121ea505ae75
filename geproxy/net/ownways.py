"""Our own sockets on ways out, so that a client that is one of them is known for what it is.

The name of a peer, or NAT, may lead a way out back to the listener that it was taken from: each
session would open the next. The configuration refuses the paths that it sees; this ends the rest.
"""

from __future__ import annotations

from geproxy.errors import DeniedError
from geproxy.terms import Endpoint

NOWHERE: frozenset[str] = frozenset()


class OwnWays:
    """The local ends of the connections to peers of one worker, and the listeners each came by.

    A loop over several workers comes back to one of them within a few turns.
    """

    __slots__ = ("_paths",)

    def __init__(self) -> None:
        self._paths: dict[Endpoint, frozenset[str]] = {}

    def add(self, end: Endpoint, client: Endpoint, listener: str) -> None:
        """Note a socket of ours that *client* of *listener* led to; whoever closes it discards it
        first.
        """
        self._paths[end] = self._paths.get(client, NOWHERE) | {listener}

    def discard(self, end: Endpoint) -> None:
        """Forget a socket, which may be unknown."""
        self._paths.pop(end, None)

    def refuse_loop(self, client: Endpoint, listener: str) -> None:
        """Raise DeniedError if the way that led to *client* came by *listener* before."""
        if self._paths and listener in self._paths.get(client, NOWHERE):
            raise DeniedError("a way out leads back to this listener")
