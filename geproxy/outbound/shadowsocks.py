"""The way through a Shadowsocks peer (SIP004): it resolves the name and dials the target."""

from __future__ import annotations

from geproxy.crypto.secret import Secret
from geproxy.net.dialer import Dialer
from geproxy.net.forward import BufferPool
from geproxy.net.resolver import literal
from geproxy.net.sealed import SealedStream
from geproxy.terms import Endpoint, Permit
from geproxy.wire.shadowsocks import Target


class ShadowsocksOutbound:
    """One [via.NAME] with an ss:// URL."""

    def __init__(
        self, name: str, peer: Endpoint, secret: Secret, dialer: Dialer, pool: BufferPool
    ) -> None:
        self.name = name
        self._peer = peer
        self._secret = secret
        self._dialer = dialer
        self._pool = pool

    def connect(self, target: Endpoint, permit: Permit, client: Endpoint) -> SealedStream:
        """Connect to the peer; *target* travels in front of the first bytes.

        What becomes of the target only the far end knows: the wire format has no answer for it.
        An address is judged here as well, a name only there, where it is resolved.
        """
        address = literal(target.host) if isinstance(target.host, str) else target.host
        if address is not None:
            permit(Endpoint(address, target.port))
        stream = self._dialer.connect(self._peer, _trusted, client)
        return SealedStream(stream, self._secret, self._pool, head=Target(target).encode())


def _trusted(endpoint: Endpoint) -> None:
    """Permit any address: the configuration names the peer, no client can."""
