"""Move one direction's bytes: the seam where every faster way of doing so enters."""

from __future__ import annotations

from gevent import sleep

from geproxy.errors import DeadlineError, ResetError
from geproxy.net.deadline import Deadline
from geproxy.seams import Stream
from geproxy.wire.shadowsocks import MAX_CHUNK_BYTES, MAX_SEALED_CHUNK_BYTES

# Chosen here
CHUNKS = 4
READ_BYTES = CHUNKS * MAX_CHUNK_BYTES  # 64 KiB, in whole chunks where they are to be sealed
BUFFER_BYTES = CHUNKS * MAX_SEALED_CHUNK_BYTES  # room for as much, sealed
POOL_BUFFERS = 64  # 4 MiB kept per worker; beyond that a burst pays for its own allocations
ROUNDS = 8  # in a row; then others have their turn, if this stream never has to wait
HEAD_SECONDS = 0.05  # a head waits this long for the first bytes to travel with


class BufferPool:
    """Buffers that are lent for a moment, so that an idle connection holds none."""

    __slots__ = ("_free",)

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """Lend a buffer of BUFFER_BYTES; its content is whatever was there before."""
        return self._free.pop() if self._free else memoryview(bytearray(BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Take a lent buffer back."""
        if len(self._free) < POOL_BUFFERS:
            self._free.append(buffer)


class Flow:
    """What one direction has moved so far. Read by the log, the sweep and the scoreboard."""

    __slots__ = ("broken", "bytes", "ended")

    def __init__(self) -> None:
        self.bytes = 0
        self.ended = False
        self.broken = False  # the sink took no more


def forward(source: Stream, sink: Stream, flow: Flow, pool: BufferPool) -> None:
    """Copy *source* to *sink* until its end, then half-close *sink*.

    Holds one buffer while there is something to move and none while waiting for more, so that a
    reader that stops costs BUFFER_BYTES and no more. Closes neither stream. Raises ResetError.
    """
    if sink.holds_head:
        _await_company(source)
    while not flow.ended:
        buffer = pool.take()
        try:
            waiting = _forward_rounds(source, sink, flow, buffer[:READ_BYTES])
        finally:
            pool.give(buffer)
        if waiting:
            if sink.holds_head:
                sink.send_all(b"")
            source.wait_readable()
        elif not flow.ended:
            sleep(0)


def _forward_rounds(source: Stream, sink: Stream, flow: Flow, window: memoryview) -> bool:
    """Move what is there, for some rounds at most. Returns whether *source* ran dry."""
    for _ in range(ROUNDS):
        count = source.recv_into(window)
        if count is None:
            return True
        try:
            if count == 0:
                sink.close_write()
                flow.ended = True
                return False
            sink.send_all(window[:count])
        except ResetError:
            flow.broken = True
            raise
        flow.bytes += count
    return False


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
