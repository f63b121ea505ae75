"""Shadowsocks clients (SIP004): the key is the proof, the first bytes are the target."""

from __future__ import annotations

from geproxy.crypto.secret import Secret
from geproxy.errors import AuthenticationError, ProtocolError
from geproxy.net.deadline import absorb
from geproxy.net.forward import BufferPool
from geproxy.net.sealed import SealedStream
from geproxy.terms import Command, Endpoint, Outcome, Store, Stream
from geproxy.wire.shadowsocks import MAX_TARGET_BYTES, Target


class ShadowsocksRequest:
    """One client's request. The wire format has neither a yes nor a no."""

    __slots__ = ("stream", "target")

    command = Command.CONNECT
    user = None

    def __init__(self, stream: SealedStream, target: Endpoint) -> None:
        self.stream = stream
        self.target = target

    def grant(self, bound: Endpoint) -> None:
        """Say nothing: the target's own bytes are the answer."""

    def refuse(self, outcome: Outcome) -> None:
        """Say nothing: the connection's end is the answer. Only a holder of the key gets it."""


class ShadowsocksInbound:
    """Opens what clients seal with *secret*; *salts* keeps anything from being served twice."""

    def __init__(self, secret: Secret, salts: Store, pool: BufferPool) -> None:
        self._secret = secret
        self._salts = salts
        self._pool = pool

    def negotiate(self, stream: Stream) -> ShadowsocksRequest:
        """Read the target.

        A stranger who probes shall not tell garbage from a replay, nor either from a handshake
        that is incomplete: no byte is answered, and the connection is read on until the deadline
        that an incomplete one would meet. Raises AuthenticationError, ReplayError, ProtocolError.
        """
        sealed = SealedStream(stream, self._secret, self._pool, salts=self._salts)
        try:
            target = sealed.read_message(Target, MAX_TARGET_BYTES)
        except (AuthenticationError, ProtocolError):
            absorb(stream)
            raise
        return ShadowsocksRequest(sealed, target.endpoint)
