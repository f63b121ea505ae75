"""A Shadowsocks AEAD stream around another stream (SIP004): the bytes inside are the plain ones."""

from __future__ import annotations

from collections.abc import Callable

from geproxy.crypto.salts import SaltMaker
from geproxy.errors import AuthenticationError, ProtocolError, ReplayError, ResetError
from geproxy.net.buffers import PLAIN_ROOM_BYTES, READ_BYTES, BufferPool
from geproxy.net.messages import MessageReader
from geproxy.seams import Store
from geproxy.streams import Kernel, Lender, Stream
from geproxy.terms import Endpoint
from geproxy.wire.shadowsocks import (
    CHUNK_BYTES,
    MAX_SEALED_CHUNK_BYTES,
    ChunkOpener,
    ChunkSealer,
)


class SealedStream(MessageReader):
    """What goes in is sealed onto *inner*, what comes out was opened and is authentic.

    *maker* makes our salts, and holds the key. *head* is sent in one segment with the first bytes.
    *salts* are those of a listener's clients, none served twice; without it only ours are refused.
    """

    __slots__ = (
        "_broken",
        "_head",
        "_inner",
        "_maker",
        "_opener",
        "_pool",
        "_salt",
        "_salts",
        "_sealed",
        "_sealer",
    )

    def __init__(
        self,
        inner: Stream,
        maker: SaltMaker,
        pool: BufferPool,
        *,
        head: bytes = b"",
        salts: Store | None = None,
    ) -> None:
        super().__init__()
        self._inner = inner
        self._maker = maker
        self._pool = pool
        self._head = head
        self._salts = salts
        self._sealer: ChunkSealer | None = None
        self._opener: ChunkOpener | None = None
        self._salt: bytes | None = None  # the other side's, until it is known to be fresh
        self._sealed = b""  # the beginning of a chunk whose rest has not come
        self._broken = False

    @property
    def peer(self) -> Endpoint:
        """The other side's address."""
        return self._inner.peer

    @property
    def bound(self) -> Endpoint:
        """Our own address of this connection."""
        return self._inner.bound

    # -- opening -------------------------------------------------------------------------------

    def recv(self, size_bytes: int) -> bytes:
        """Wait for bytes; b"" is the end of the stream."""
        if self._leftover:
            return self._take_leftover(size_bytes)
        while True:
            buffer = self._pool.take()
            try:
                count = self.recv_into(buffer)
                if count is not None:
                    self._leftover = bytes(buffer[:count])
                    return self._take_leftover(size_bytes)
            finally:
                self._pool.give(buffer)
            self.wait_readable()

    def recv_into(self, buffer: memoryview) -> int | None:
        """Open what is there into *buffer*, by way of a larger one where a chunk has no room there.

        Raises AuthenticationError, ReplayError, and ProtocolError for an end inside a chunk.
        """
        if self._leftover:
            data = self._take_leftover(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        if len(buffer) < MAX_SEALED_CHUNK_BYTES:
            large = self._pool.take()
            try:
                count = self.recv_into(large)
                self._leftover = bytes(large[: count or 0])
            finally:
                self._pool.give(large)
            return self.recv_into(buffer) if count else count
        lent = self._pool.take(len(buffer))
        try:
            # All that is opened has room: a whole chunk left behind would wait unseen for more.
            return self._read(lent[: len(buffer)], buffer)
        finally:
            self._pool.give(lent)

    def _read(self, sealed: memoryview, buffer: memoryview) -> int | None:
        """Read once into *sealed*, and open that: of empty chunks there may be no end."""
        have = len(self._sealed)
        sealed[:have] = self._sealed
        count = self._inner.recv_into(sealed[have:])
        if count is None:
            return None
        if count == 0:
            self._check_end(have)
            return 0
        used, written = self._open(sealed[: have + count], buffer)
        self._sealed = bytes(sealed[used : have + count])
        return written or None

    def _open(self, sealed: memoryview, buffer: memoryview) -> tuple[int, int]:
        """Open into *buffer*: (bytes used, bytes written)."""
        salt_bytes = 0
        if self._opener is None:
            secret = self._maker.secret
            salt_bytes = secret.method.salt_bytes
            if len(sealed) < salt_bytes:
                return 0, 0
            self._salt = bytes(sealed[:salt_bytes])
            self._opener = ChunkOpener(secret.subkey(self._salt))
        used, written = self._opener.open_into(sealed[salt_bytes:], buffer)
        if self._salt is not None and self._opener.authenticated:
            self._claim(self._salt)
            self._salt = None
        return salt_bytes + used, written

    def _claim(self, salt: bytes) -> None:
        """Take the other side's salt for this stream alone.

        Only now that its first chunk is authentic: anybody can send a salt, and nobody shall be
        able to have a client's refused by sending it first with garbage.
        """
        if self._maker.is_ours(salt):  # reflected, from whatever stream of this key and role
            raise ReplayError("our own bytes, sent back")
        if self._salts is not None and not self._salts.remember_once(salt):
            raise ReplayError("a stream that was sent before")

    def _check_end(self, have_bytes: int) -> None:
        if self._salts is not None and (self._salt or (have_bytes and self._opener is None)):
            raise AuthenticationError("the stream ended before its first whole chunk")
        if have_bytes or not (self._opener is None or self._opener.between_chunks):
            raise ProtocolError("the stream ended inside a chunk")

    def wait_readable(self) -> None:
        """Return once the inner stream has something, which may be less than a chunk."""
        if not self._leftover:
            self._inner.wait_readable()

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        """See streams.Stream."""
        if self._leftover:
            self._call_soon(callback)
        else:
            self._inner.call_when_readable(callback)

    def stop_calling(self) -> None:
        """See streams.Stream."""
        super().stop_calling()
        self._inner.stop_calling()

    # -- sealing -------------------------------------------------------------------------------

    @property
    def holds_head(self) -> bool:
        """True while the head waits for the first bytes; send_all(b"") sends it alone."""
        return bool(self._head)

    def send_all(self, data: bytes | memoryview) -> None:
        """Seal and send.

        When a send is interrupted nobody knows how much of it is out, and to go on would put
        other bytes under the same nonce: every later send raises ResetError.
        """
        self._begin_send()
        view = memoryview(data)
        # Once as well for a head alone, without data.
        for start in range(0, len(view) or int(self.holds_head), READ_BYTES):
            sealed, size, _ = self._seal(view[start : start + READ_BYTES])
            self._inner.send_lent(sealed, size, self._pool)
        self._broken = False

    def send_lent(self, buffer: memoryview, count: int, lender: Lender) -> None:
        """See streams.Stream; and send_all() for what an interrupted send means."""
        try:
            self._begin_send()
            sealed, size, rest = self._seal(buffer[:count])
        finally:
            lender.give(buffer)
        self._inner.send_lent(sealed, size, self._pool)
        self._broken = False
        if rest:
            self.send_all(rest)

    def _begin_send(self) -> None:
        if self._broken:
            raise ResetError("an earlier send was interrupted")
        self._broken = True

    def _seal(self, plain: memoryview) -> tuple[memoryview, int, bytes]:
        """Seal into a buffer: (that one, lent; how many bytes of it; what it had no room for).

        What another sealed stream opened may be a little more than there is room for.
        """
        sealed = self._pool.take(len(plain))
        try:
            room_bytes = PLAIN_ROOM_BYTES[len(sealed)]
            plain, rest = plain[:room_bytes], bytes(plain[room_bytes:])
            if self._sealer is None:
                return sealed, self._seal_first(plain, sealed), rest
            return sealed, self._sealer.seal_into(plain, sealed), rest
        except BaseException:
            self._pool.give(sealed)
            raise

    def _seal_first(self, plain: memoryview, sealed: memoryview) -> int:
        """Put the salt in front, and the head into the first chunk."""
        salt = self._maker.make()
        self._sealer = ChunkSealer(self._maker.secret.subkey(salt))
        sealed[: len(salt)] = salt
        room = CHUNK_BYTES - len(self._head)
        first, self._head = self._head + bytes(plain[:room]), b""
        size = len(salt) + self._sealer.seal_into(first, sealed[len(salt) :])
        if len(plain) > room:
            size += self._sealer.seal_into(plain[room:], sealed[size:])
        return size

    @property
    def sent_bytes(self) -> int:
        """See streams.Stream: sealed ones."""
        return self._inner.sent_bytes

    @property
    def room_bytes(self) -> int:
        """See streams.Stream: sealed ones."""
        return self._inner.room_bytes

    @property
    def kernel(self) -> Kernel:
        """See streams.Stream."""
        return self._inner.kernel

    @property
    def lost(self) -> bool:
        """See streams.Stream."""
        return self._inner.lost

    def keep_alive(self) -> None:
        """See streams.Stream."""
        self._inner.keep_alive()

    @property
    def left(self) -> bool:
        """See streams.Stream."""
        return self._inner.left

    # -- ending --------------------------------------------------------------------------------

    def close_write(self) -> None:
        """Send what is held back, then the end of this direction.

        Raises ResetError after an interrupted send: a cut is not to be taken for an end.
        """
        if self._head or self._broken:
            self.send_all(b"")
        self._inner.close_write()

    def abort(self) -> None:
        """End the connection with a reset."""
        self._inner.abort()

    def linger(self, seconds: float) -> None:
        """See streams.Stream."""
        self._inner.linger(seconds)

    def close(self) -> None:
        """Close the inner stream.

        After an interrupted send with a reset: a cut between two chunks would look like an end.
        """
        if self._broken:
            self._inner.abort()
        else:
            self._inner.close()
