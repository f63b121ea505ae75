"""Move one direction's bytes: the seam where every faster way of doing so enters."""

from __future__ import annotations

from geproxy.terms import Stream

# Chosen here
BUFFER_BYTES = 64 * 1024  # one direction holds at most this; more gained nothing in measurements
POOL_BUFFERS = 64  # 4 MiB kept per worker; beyond that a burst pays for its own allocations


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

    __slots__ = ("bytes", "ended")

    def __init__(self) -> None:
        self.bytes = 0
        self.ended = False


def forward(source: Stream, sink: Stream, flow: Flow, pool: BufferPool) -> None:
    """Copy *source* to *sink* until its end, then half-close *sink*.

    Holds one buffer while there is something to move and none while waiting for more, so that a
    reader that stops costs BUFFER_BYTES and no more. Closes neither stream. Raises ResetError.
    """
    while True:
        buffer = pool.take()
        try:
            while (count := source.recv_into(buffer)) is not None:
                if count == 0:
                    sink.close_write()
                    flow.ended = True
                    return
                sink.send_all(buffer[:count])
                flow.bytes += count
        finally:
            pool.give(buffer)
        source.wait_readable()
