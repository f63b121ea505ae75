"""Shadowsocks clients (SIP004): the key is the proof, the first bytes are the target."""

from __future__ import annotations

from typing import NoReturn

from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import AuthenticationError, CommandError, ProtocolError, ReplayError
from geproxy.net.buffers import BufferPool
from geproxy.net.sealed import SealedStream
from geproxy.seams import Store
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint, Outcome
from geproxy.wire.address import split_address
from geproxy.wire.sealed_datagram import open_datagram, seal_datagram
from geproxy.wire.shadowsocks import MAX_TARGET_BYTES, Target

ROLE = b"geproxy listen"


class ShadowsocksRequest:
    """One client's request. The wire format has neither a yes nor a no."""

    __slots__ = ("stream", "target")

    command = Command.CONNECT
    user = None
    claimed = None

    def __init__(self, stream: SealedStream, target: Endpoint) -> None:
        self.stream = stream
        self.target = target

    def grant(self, bound: Endpoint) -> None:
        """Say nothing: the target's own bytes are the answer."""

    def refuse(self, outcome: Outcome) -> None:
        """Say nothing: the connection's end is the answer. Only a holder of the key gets it."""

    @property
    def codec(self) -> NoReturn:
        """Raise CommandError: datagrams come by a socket of their own here."""
        raise CommandError("no UDP ASSOCIATE in Shadowsocks")


class ShadowsocksInbound:
    """Opens what clients seal with *secret*; *salts* keeps anything from being served twice."""

    def __init__(self, secret: Secret, salts: Store, pool: BufferPool) -> None:
        self._maker = SaltMaker(secret, ROLE)
        self._salts = salts
        self._pool = pool

    def negotiate(self, stream: Stream) -> ShadowsocksRequest:
        """Read the target.

        A stranger who probes shall not tell garbage from a replay, nor either from a handshake
        that is incomplete: no byte is answered, and the error asks for silence until the deadline
        that an incomplete one would meet. Raises AuthenticationError, ReplayError, ProtocolError.
        """
        sealed = SealedStream(stream, self._maker, self._pool, salts=self._salts)
        try:
            target = sealed.read_message(Target, MAX_TARGET_BYTES)
        except (AuthenticationError, ProtocolError) as error:
            error.in_silence = True
            raise
        return ShadowsocksRequest(sealed, target.endpoint)


class ShadowsocksDatagrams:
    """What clients seal one by one; *salts* keeps any of it from being relayed twice."""

    __slots__ = ("_maker", "_salts")

    def __init__(self, secret: Secret, salts: Store) -> None:
        self._salts = salts
        self._maker = SaltMaker(secret, ROLE)

    def read(self, datagram: bytes) -> tuple[bytes, bytes]:
        """See seams.DatagramCodec. Raises AuthenticationError, ReplayError, ProtocolError.

        Its salt is claimed once the datagram is known to be authentic, and not before.
        """
        salt, plain = open_datagram(self._maker.secret, datagram)
        if self._maker.is_ours(salt) or not self._salts.remember_once(salt):
            raise ReplayError("a datagram that was sent before")
        return split_address(plain, 0)

    def write(self, head: bytes, data: bytes) -> bytes:
        """See seams.DatagramCodec."""
        return seal_datagram(self._maker.secret, self._maker.make(), head + data)
