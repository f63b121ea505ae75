"""Move one direction's bytes: the seam where every faster way of doing so enters."""

from __future__ import annotations

from time import monotonic

from geproxy.errors import DeadlineError, ResetError
from geproxy.net.buffers import BUFFER_BYTES, LARGE_BUFFER_BYTES, PLAIN_ROOM_BYTES, BufferPool
from geproxy.net.deadline import Deadline
from geproxy.net.stream import SocketStream
from geproxy.net.timeslice import begin, give_way
from geproxy.streams import Stream

# Chosen here
ROUNDS = 4  # reads between two looks at the clock, 444 KiB at most by buffers: 0.1 to 0.5 ms
# A read of so much, so often in a row, is a bulk transfer, and pays for a pipe. Interactive ones
# never do: to splice few bytes takes two system calls more than it saves.
BULK_BYTES = 16 * 1024
BULK_READS = 4
HEAD_SECONDS = 0.05  # a head waits this long for the first bytes to travel with


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
    woken = True
    slice_ends = 0.0  # 0: none has begun, for most moves end before the clock need be asked
    while True:
        waiting = None
        if flow.bulk_reads >= BULK_READS:
            waiting = _splice(source, sink, flow, pool, woken=woken)
        if waiting is None:
            waiting = _copy(source, sink, flow, pool)
        woken = False
        if flow.ended and not (back is not None and back.ended):
            _half_close(sink, flow)
        if waiting or flow.ended:
            return
        if not slice_ends:
            slice_ends = begin()
        elif monotonic() >= slice_ends:
            slice_ends = give_way()


def _copy(source: Stream, sink: Stream, flow: Flow, pool: BufferPool) -> bool:
    """Move what is there through a buffer, for some rounds at most; True to wait for more."""
    plain = isinstance(source, SocketStream)
    for number in range(ROUNDS):
        if flow.bulk_reads >= BULK_READS and not number:
            buffer = _borrow(sink, pool)
        else:
            buffer = pool.take()
        # Plain bytes no more than fit once they are sealed. What a sealed source opens is shorter
        # than what it reads into its buffer; send_lent() takes the few that may be too many.
        room_bytes = PLAIN_ROOM_BYTES[len(buffer)] if plain else len(buffer)
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
        if count > BUFFER_BYTES:  # as much as all rounds
            return False
    return False


def _borrow(sink: Stream, pool: BufferPool) -> memoryview:
    """A buffer to begin a turn of bulk with: a large one where *sink* will take it at once.

    So nobody waits with a large one. Should the kernel refuse what it had room for, as it may while
    the system is short of memory for sockets, two do, and no more: there are but LARGE_BUFFERS.
    """
    if pool.has_large and sink.room_bytes >= LARGE_BUFFER_BYTES:
        return pool.take(LARGE_BUFFER_BYTES)
    return pool.take()


def _splice(
    source: Stream, sink: Stream, flow: Flow, pool: BufferPool, *, woken: bool
) -> bool | None:
    """Move what is there through a pipe, as _copy() does; None where _copy() has to.

    A pipe takes no urgent byte, and what fill() says in front of one is false. So _copy() confirms
    every end, and every "nothing there" that contradicts the loop which has just *woken* us. Bulk
    pays nothing for it: a wake-up brings bytes, and the last look of a turn is believed. Should
    that one miss bytes, the loop wakes us again at once.
    """
    if not (isinstance(source, SocketStream) and isinstance(sink, SocketStream)):
        return None  # bytes that are to be sealed have to be seen
    pipe = pool.pipes.take()
    if pipe is None:
        return None
    try:
        for number in range(ROUNDS):
            count = source.fill(pipe)
            if count is None:
                return None if woken and not number else True
            if count == 0:
                flow.bulk_reads = 0  # nearly always it is the end: that takes no large buffer
                return None
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
