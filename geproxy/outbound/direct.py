"""The way straight out."""

from __future__ import annotations

from geproxy.net.dialer import Dialer
from geproxy.net.stream import SocketStream
from geproxy.terms import Endpoint, Permit


class DirectOutbound:
    """Dials targets from this host."""

    name = "direct"

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    def connect(self, target: Endpoint, permit: Permit, client: Endpoint) -> SocketStream:
        """Connect to *target*. See terms.Outbound and Dialer for what is raised."""
        return self._dialer.connect(target, permit, client)
