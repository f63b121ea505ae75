"""Pools that know what they have lent."""

from __future__ import annotations

from geproxy.net.buffers import BUFFER_BYTES, BufferPool


class CountedPool(BufferPool):
    """A pool that knows how many of its buffers are out, and how many bytes those have."""

    def __init__(self) -> None:
        super().__init__()
        self.out = self.out_bytes = self.most = self.taken = self.taken_large = 0

    def take(self, wanted_bytes: int = BUFFER_BYTES) -> memoryview:
        """Lend a buffer."""
        buffer = super().take(wanted_bytes)
        self.taken += 1
        self.taken_large += len(buffer) > BUFFER_BYTES
        self.out += 1
        self.out_bytes += len(buffer)
        self.most = max(self.most, self.out)
        return buffer

    def give(self, buffer: memoryview) -> None:
        """Take a buffer back."""
        self.out -= 1
        self.out_bytes -= len(buffer)
        super().give(buffer)
