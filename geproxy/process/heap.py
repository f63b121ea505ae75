"""The heap of a process that lives for months: what it keeps, and how often it is searched."""

from __future__ import annotations

import ctypes
import gc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

# Chosen here: no session holds so large a block; the check of a password does (16 MiB, 50 ms).
LARGE_BYTES = 1 << 20
# New containers between two searches for garbage in cycles, of which sessions leave hardly any.
# With the 700 that Python chooses, a search comes with every few connections.
YOUNG_OBJECTS = 10_000


def search_seldom() -> None:
    """Look for garbage less often than Python does of itself."""
    gc.set_threshold(YOUNG_OBJECTS)


def share_with_children() -> None:
    """Have no collection look at what is here now: it would copy all of its pages in each child.

    What is garbage goes first, or it would stay for ever.
    """
    gc.collect()
    gc.freeze()


def return_large_blocks() -> None:
    """Have large blocks go back to the kernel as soon as they are free.

    Left alone, glibc takes the first one for a sign that more will follow, and keeps 16 MiB in
    every worker from its first password on.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another C library has none, and no such habit
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        # To set the one ends glibc's adjusting of both: this would stay at 128 KiB, less than a
        # busy loop takes and gives back all the time.
        mallopt(M_TRIM_THRESHOLD, 4 * LARGE_BYTES)
