"""Connected streams in memory, which act as the two ends of a TCP connection do.

Every send arrives as pieces of its own, never glued to the next: a test decides how the bytes
that a reader sees are cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import TypeVar

import gevent
from gevent.event import Event

from geproxy.errors import DeadlineError, ProtocolError, ResetError
from geproxy.net.deadline import Deadline
from geproxy.streams import Decoder, Lender
from geproxy.terms import Endpoint

T = TypeVar("T")

# Chosen here
CAPACITY_BYTES = 64 * 1024
READ_BYTES = 4096
CLIENT = Endpoint(IPv4Address("192.0.2.1"), 50001)
TARGET = Endpoint(IPv4Address("192.0.2.2"), 80)


class _Pipe:
    """One direction: the bytes on their way, and how it ended."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._pieces: deque[bytes] = deque()
        self._arrived = Event()
        self._taken = Event()
        self.waiting_bytes = self.put_bytes = 0
        self.ended = False  # the writer half-closed
        self._deaf = False  # the reader closed: nothing more is taken
        self._broken = False  # reset

    def put(self, data: memoryview) -> None:
        """Return once all of *data* is on its way, of which there is room for so much."""
        while len(data):
            if self.ended or self._deaf or self._broken:
                raise ResetError("Broken pipe")
            room = self._capacity_bytes - self.waiting_bytes
            if not room:
                self._taken.clear()
                self._taken.wait()
                continue
            piece, data = bytes(data[:room]), data[room:]
            self._pieces.append(piece)
            self.waiting_bytes += len(piece)
            self.put_bytes += len(piece)
            self._arrived.set()

    def take(self, size_bytes: int) -> bytes | None:
        """A piece, b"" at the end, None when nothing is there. A reset comes after the bytes."""
        if self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > size_bytes:
                self._pieces.appendleft(piece[size_bytes:])
                piece = piece[:size_bytes]
            self.waiting_bytes -= len(piece)
            self._taken.set()
            return piece
        if self._broken:
            raise ResetError("Connection reset by peer")
        return b"" if self.ended else None

    def wait(self) -> None:
        """Return once take() has an answer."""
        while not (self._pieces or self.ended or self._broken):
            self._arrived.clear()
            self._arrived.wait()

    def end(self) -> None:
        """No more bytes come."""
        if self._broken:
            raise ResetError("Transport endpoint is not connected")
        self.ended = True
        self._arrived.set()
        self._taken.set()

    def deafen(self) -> None:
        """Nobody reads any more."""
        self._deaf = True
        self._taken.set()

    def sever(self, *, drop: bool) -> None:
        """Reset; *drop* what waits."""
        self._broken = True
        if drop:
            self._pieces.clear()
            self.waiting_bytes = 0
        self._arrived.set()
        self._taken.set()


class NoKernel:
    """What the kernel has of a connection that is in our own memory: nothing."""

    blocked = False
    memory_bytes = 0

    def cap(self) -> None:
        """There is nothing to cap."""

    def uncap(self) -> None:
        """Nor was there."""


class MemoryStream:
    """One end; see streams.Stream for what each call promises."""

    kernel = NoKernel()

    holds_head = False
    left = False
    lost = False
    room_bytes = 0

    def __init__(
        self, incoming: _Pipe, outgoing: _Pipe, *, bound: Endpoint, peer: Endpoint
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._bound = bound
        self._peer = peer
        self._kept = b""
        self._caller: gevent.Greenlet[[], None] | None = None
        self.closed = False  # whether close() or abort() was called
        self.aborted = False

    @property
    def peer(self) -> Endpoint:
        """The other end's address."""
        return self._peer

    @property
    def bound(self) -> Endpoint:
        """Our own address."""
        return self._bound

    @property
    def unread_bytes(self) -> int:
        """How much has arrived here and was not read yet."""
        return len(self._kept) + self._incoming.waiting_bytes

    def recv(self, size_bytes: int) -> bytes:
        """Wait for a piece."""
        while (data := self._take(size_bytes)) is None:
            self._incoming.wait()
        return data

    def recv_into(self, buffer: memoryview) -> int | None:
        """Read a piece if one is there."""
        data = self._take(len(buffer))
        if data is None:
            return None
        buffer[: len(data)] = data
        return len(data)

    def _take(self, size_bytes: int) -> bytes | None:
        if self._kept:
            data, self._kept = self._kept[:size_bytes], self._kept[size_bytes:]
            return data
        return self._incoming.take(size_bytes)

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        """Call back from a greenlet of its own."""

        def call() -> None:
            self.wait_readable()
            self._caller = None
            callback()

        self._caller = gevent.spawn(call)

    def stop_calling(self) -> None:
        """Forget the callback."""
        if self._caller is not None:
            # The loop itself may call this, and must not wait.
            self._caller.kill(block=gevent.getcurrent() is not gevent.get_hub())
            self._caller = None

    def wait_readable(self) -> None:
        """Wait for a piece, the end or a reset."""
        if not self._kept:
            self._incoming.wait()

    def send_all(self, data: bytes | memoryview) -> None:
        """Put *data* on its way."""
        self._outgoing.put(memoryview(data))

    @property
    def sent_bytes(self) -> int:
        """What is on its way, or has arrived."""
        return self._outgoing.put_bytes

    def send_lent(self, buffer: memoryview, count: int, lender: Lender) -> None:
        """Put a copy on its way."""
        try:
            self.send_all(buffer[:count])
        finally:
            lender.give(buffer)

    def read_message(self, message: Decoder[T], limit_bytes: int) -> T:
        """Read piece by piece until *message* is satisfied; keep the rest of the last one."""
        read = b""
        while (found := message.decode(read)) is None:
            if len(read) >= limit_bytes:
                raise ProtocolError("too long")
            piece = self.recv(READ_BYTES)
            if not piece:
                raise ProtocolError("cut off")
            read += piece
        self._kept = read[found[1] :] + self._kept
        return found[0]

    def keep_alive(self) -> None:
        """Nothing can vanish here."""

    def close_write(self) -> None:
        """End our direction."""
        self._outgoing.end()

    def abort(self) -> None:
        """Reset both directions."""
        if not self.closed:
            self.closed = self.aborted = True
            self._outgoing.sever(drop=False)
            self._incoming.sever(drop=True)

    def linger(self, seconds: float) -> None:
        """Half-close, then read and drop for a while, if anything was sent."""
        if not self.sent_bytes:
            return
        late = DeadlineError("lingered")
        try:
            with Deadline(seconds, "linger", late):
                self.close_write()
                while self.recv(READ_BYTES):
                    pass
        except ResetError:
            pass
        except DeadlineError as error:
            if error is not late:
                raise

    def close(self) -> None:
        """End both directions; with bytes unread this is a reset, as it is for the kernel."""
        if self.closed:
            return
        self.closed = True
        if self._incoming.waiting_bytes:
            self._outgoing.sever(drop=False)
            self._incoming.sever(drop=True)
            return
        if not self._outgoing.ended:
            try:
                self._outgoing.end()
            except ResetError:
                pass  # the other end reset it already
        self._incoming.deafen()


def memory_pair(
    capacity_bytes: int = CAPACITY_BYTES, *, client: Endpoint = CLIENT, target: Endpoint = TARGET
) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends; each direction holds *capacity_bytes* before its writer must wait."""
    there, back = _Pipe(capacity_bytes), _Pipe(capacity_bytes)
    return (
        MemoryStream(back, there, bound=client, peer=target),
        MemoryStream(there, back, bound=target, peer=client),
    )
