"""Pipes through which the kernel moves a connection's bytes, so that they never come up to us."""

from __future__ import annotations

import fcntl
import os
import resource
import time

# Chosen here
PIPE_BYTES = 1 << 20  # what one splice() moves at most; an unprivileged pipe may be no larger
POOL_PIPES = 32  # per worker: 64 descriptors, and 32 MiB where every reader has stopped
# A smaller one is no better than a buffer: the system has no pages left for us
# (fs.pipe-user-pages-soft).
LEAST_PIPE_BYTES = 1 << 16

REFUSAL_SECONDS = 1.0  # between two attempts where the system has none for us
SPARE_DESCRIPTORS = 64  # that no pipe takes: who connects needs them more

F_SETPIPE_SZ = 1031  # linux/fcntl.h
SPLICE_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """A pipe, empty between two moves."""

    __slots__ = ("held_bytes", "reader", "size_bytes", "writer")

    def __init__(self) -> None:
        """Raises OSError, where the system has no pipe of a useful size for us."""
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held_bytes = 0
        try:
            # The kernel gives the lowest numbers that are free: are there enough for connections?
            if self.writer >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS:
                raise OSError("no descriptors for a pipe")
            self.size_bytes = fcntl.fcntl(self.writer, F_SETPIPE_SZ, PIPE_BYTES)
            if self.size_bytes < LEAST_PIPE_BYTES:
                raise OSError("no pages for a pipe")
        except OSError:
            self.close()
            raise

    def fill(self, source: int) -> int:
        """Move what socket *source* has into the pipe; 0 is its end, or an urgent byte.

        Raises OSError.
        """
        self.held_bytes = os.splice(source, self.writer, self.size_bytes, flags=SPLICE_FLAGS)
        return self.held_bytes

    def pour(self, sink: int) -> int:
        """Move what the pipe holds on to socket *sink*, as far as it takes it. Raises OSError."""
        count = os.splice(self.reader, sink, self.held_bytes, flags=SPLICE_FLAGS)
        self.held_bytes -= count
        return count

    def close(self) -> None:
        """Give both ends back, and what they hold."""
        os.close(self.reader)
        os.close(self.writer)


class PipePool:
    """Pipes that are lent while bytes move, so that an idle connection holds none."""

    __slots__ = ("_free", "_left", "_not_before")

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._left = POOL_PIPES  # how many may be made still
        self._not_before = 0.0  # monotonic; after a refusal

    def take(self) -> Pipe | None:
        """Lend an empty pipe; None where all are out, or none can be had."""
        if self._free:
            return self._free.pop()
        if not self._left:
            return None
        if time.monotonic() < self._not_before:
            return None
        try:
            pipe = Pipe()
        except OSError:  # as it will be for a while
            self._not_before = time.monotonic() + REFUSAL_SECONDS
            return None
        self._left -= 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Take a lent pipe back. One that holds bytes still is closed, and another may be made."""
        if pipe.held_bytes:
            pipe.close()
            self._left += 1
        else:
            self._free.append(pipe)
