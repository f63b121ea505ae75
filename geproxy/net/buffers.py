"""Buffers that are lent for a moment, so that an idle connection holds none."""

from __future__ import annotations

from geproxy.net.pipes import PipePool
from geproxy.wire.shadowsocks import CHUNK_BYTES, FIRST_SEND_EXTRA_BYTES, SEALED_CHUNK_BYTES

# Chosen here
# Seven is the most with which a direction whose reader has stopped, and which holds one buffer and
# the beginning of a chunk, stays within 128 KiB. A spliced one holds a pipe: see pipes.py.
CHUNKS = 7
READ_BYTES = CHUNKS * CHUNK_BYTES  # 111 KiB, in whole chunks where they are to be sealed
BUFFER_BYTES = FIRST_SEND_EXTRA_BYTES + CHUNKS * SEALED_CHUNK_BYTES  # room for as much, sealed
POOL_BUFFERS = 32  # 3.5 MiB kept per worker; beyond that a burst pays for its own allocations
# What a read and a send cost by themselves is paid once for all that they move. Two buffers of so
# many chunks, for what comes and for what goes, are in the cache of a core (1 MiB) still.
LARGE_CHUNKS = 28
LARGE_READ_BYTES = LARGE_CHUNKS * CHUNK_BYTES  # 444 KiB
LARGE_BUFFER_BYTES = FIRST_SEND_EXTRA_BYTES + LARGE_CHUNKS * SEALED_CHUNK_BYTES
# Of a lent buffer, by its size: how many plain bytes fit it once they are sealed, the first of a
# stream.
PLAIN_ROOM_BYTES = {BUFFER_BYTES: READ_BYTES, LARGE_BUFFER_BYTES: LARGE_READ_BYTES}
# Per worker. A move takes two, and who waits has none, as a rule: see forward.py.
LARGE_BUFFERS = 3


class BufferPool:
    """Buffers of two sizes, and pipes."""

    __slots__ = ("_free", "_large", "_large_left", "pipes")

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._large: list[memoryview] = []
        self._large_left = LARGE_BUFFERS  # how many may be made still
        self.pipes = PipePool()

    @property
    def has_large(self) -> bool:
        """True where there are large ones for a move: one to read into, and one to seal into."""
        return len(self._large) + self._large_left >= 2

    def take(self, wanted_bytes: int = BUFFER_BYTES) -> memoryview:
        """Lend a buffer of BUFFER_BYTES, or of LARGE_BUFFER_BYTES where more is wanted and one is
        to be had. Its content is whatever was there before.
        """
        if wanted_bytes > BUFFER_BYTES:
            if self._large:
                return self._large.pop()
            if self._large_left:
                made = memoryview(bytearray(LARGE_BUFFER_BYTES))
                self._large_left -= 1
                return made
        return self._free.pop() if self._free else memoryview(bytearray(BUFFER_BYTES))

    def give(self, buffer: memoryview) -> None:
        """Take a lent buffer back."""
        if len(buffer) > BUFFER_BYTES:
            self._large.append(buffer)
        elif len(self._free) < POOL_BUFFERS:
            self._free.append(buffer)
