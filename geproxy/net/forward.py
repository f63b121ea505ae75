"""Move one direction's bytes: the seam where every faster way of doing so enters."""

from __future__ import annotations

from gevent import sleep

from geproxy.errors import DeadlineError, ResetError
from geproxy.net.deadline import Deadline
from geproxy.net.pipes import PipePool
from geproxy.net.stream import SocketStream
from geproxy.streams import Stream
from geproxy.wire.shadowsocks import CHUNK_BYTES, FIRST_SEND_EXTRA_BYTES, SEALED_CHUNK_BYTES

# Chosen here
# Seven is the most with which a direction whose reader has stopped, and which holds one buffer and
# the beginning of a chunk, stays within 128 KiB. A spliced one holds a pipe: see pipes.py.
CHUNKS = 7
READ_BYTES = CHUNKS * CHUNK_BYTES  # 111 KiB, in whole chunks where they are to be sealed
BUFFER_BYTES = FIRST_SEND_EXTRA_BYTES + CHUNKS * SEALED_CHUNK_BYTES  # room for as much, sealed
POOL_BUFFERS = 32  # 3.5 MiB kept per worker; beyond that a burst pays for its own allocations
ROUNDS = 4  # in a row; then others have their turn, if this stream never has to wait
# A read of so much, so often in a row, is a bulk transfer, and pays for a pipe. Interactive ones
# never do: to splice few bytes takes two system calls more than it saves.
BULK_BYTES = 16 * 1024
BULK_READS = 4
HEAD_SECONDS = 0.05  # a head waits this long for the first bytes to travel with


class BufferPool:
    """Buffers, and pipes, that are lent for a moment, so that an idle connection holds none."""

    __slots__ = ("_free", "pipes")

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self.pipes = PipePool()

    def take(self) -> memoryview:
        """Lend a buffer of BUFFER_BYTES; its content is whatever was there before."""
        return self._free.pop() if self._free else memoryview(bytearray(BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Take a lent buffer back."""
        if len(self._free) < POOL_BUFFERS:
            self._free.append(buffer)


class Flow:
    """What one direction has moved so far. Read by the log, the sweep and the scoreboard."""

    __slots__ = ("broken", "bulk_reads", "bytes", "ended")

    def __init__(self) -> None:
        self.bytes = 0
        self.ended = False
        self.broken = False  # the sink took no more
        self.bulk_reads = 0  # in a row, up to now

    def reached(self, count: int) -> None:
        """Count *count* bytes that the kernel has taken."""
        self.bytes += count
        self.bulk_reads = self.bulk_reads + 1 if count >= BULK_BYTES else 0


def forward(
    source: Stream, sink: Stream, flow: Flow, pool: BufferPool, back: Flow | None = None
) -> None:
    """Move *source* to *sink* until its end, then half-close *sink*; see move()."""
    if sink.holds_head:
        _await_company(source)
    while True:
        move(source, sink, flow, pool, back)
        if flow.ended:
            return
        if sink.holds_head:
            sink.send_all(b"")
        source.wait_readable()


def move(
    source: Stream, sink: Stream, flow: Flow, pool: BufferPool, back: Flow | None = None
) -> None:
    """Move what *source* has to *sink*; at its end half-close *sink*, and say so in *flow*.

    Where *back*, the other direction, has ended before, that is left to the close that follows.

    Holds one buffer, or one pipe, while it waits for *sink*, and none once it returns. Closes
    neither stream. Raises ResetError.
    """
    while True:
        waiting = _splice(source, sink, flow, pool) if flow.bulk_reads >= BULK_READS else None
        if waiting is None:
            waiting = _copy(source, sink, flow, pool)
        if flow.ended and not (back is not None and back.ended):
            _half_close(sink, flow)
        if waiting or flow.ended:
            return
        sleep(0)


def _copy(source: Stream, sink: Stream, flow: Flow, pool: BufferPool) -> bool:
    """Move what is there through a buffer, for some rounds at most; True to wait for more."""
    # Plain bytes no more than fit once they are sealed. What a sealed source opens is shorter than
    # what it reads into its buffer; send_lent() takes the few bytes that may be too many.
    room_bytes = READ_BYTES if isinstance(source, SocketStream) else BUFFER_BYTES
    for _ in range(ROUNDS):
        buffer = pool.take()
        count = None
        try:
            count = source.recv_into(buffer[:room_bytes])
        finally:
            if not count:
                pool.give(buffer)
        if count is None:
            return True
        if count == 0:
            flow.ended = True
            return False
        try:
            sink.send_lent(buffer, count, pool)
        except ResetError:
            flow.broken = True
            raise
        flow.reached(count)
        if count < BULK_BYTES:  # all there was, as a rule; to ask costs more than it would find
            return True
    return False


def _splice(source: Stream, sink: Stream, flow: Flow, pool: BufferPool) -> bool | None:
    """Move what is there through a pipe, as _copy() does; None where that cannot be done."""
    if not (isinstance(source, SocketStream) and isinstance(sink, SocketStream)):
        return None  # bytes that are to be sealed have to be seen
    pipe = pool.pipes.take()
    if pipe is None:
        return None
    try:
        for _ in range(ROUNDS):
            count = source.fill(pipe)
            if count is None:
                return True
            if count == 0:
                flow.ended = True
                return False
            try:
                while pipe.held_bytes:  # piece by piece: a slow reader of them is not silent
                    poured = sink.pour(pipe)  # not in one with +=, which reads before the wait
                    flow.bytes += poured
            except ResetError:
                flow.broken = True
                raise
            if count < BULK_BYTES:
                flow.bulk_reads = 0
                return False
        return False
    finally:
        pool.pipes.give(pipe)


def _half_close(sink: Stream, flow: Flow) -> None:
    try:
        sink.close_write()
    except ResetError:
        flow.broken = True
        raise


def _await_company(source: Stream) -> None:
    """Give *source*'s first bytes a moment to come; without them the head goes alone.

    In most protocols the client speaks first, and one segment with everything tells an observer
    less than two. In some the server does, and must not be kept waiting.
    """
    alone = DeadlineError("the client has not spoken")
    try:
        with Deadline(HEAD_SECONDS, "the first bytes", alone):
            source.wait_readable()
    except DeadlineError as error:
        if error is not alone:
            raise
