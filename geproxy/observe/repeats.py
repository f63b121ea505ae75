"""Lines that a flood repeats: each source has one a second, with the count that it stands for."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

# Chosen here
# Of a source that was silent for LINE_SECONDS; as many as fail2ban waits for before it bans. So
# each slip of an honest user has a line with the name that was given.
SINGLE_LINES = 5
LINE_SECONDS = 1.0  # between two lines after those: enough to be banned by, and little for a disk
SOURCES = 8192  # that are told apart, 1 KiB each; of more, the one that is due first has its line

T = TypeVar("T")


class _Source(Generic[T]):
    """What was not written yet of one source; *due* is monotonic."""

    __slots__ = ("count", "due", "newest", "singles")

    def __init__(self, due: float) -> None:
        self.due = due
        self.singles = SINGLE_LINES  # may be written at once
        self.count = 0
        self.newest: T | None = None  # None: nothing is counted


class Repeats(Generic[T]):
    """Writes the first SINGLE_LINES of a source at once, and then one line for all that follow
    within LINE_SECONDS.

    That shows the newest. Whoever has one calls flush() about once a second, and with
    everything=True before the end: no count is lost.
    """

    def __init__(self, write: Callable[[T, int], None]) -> None:
        """*write* gets what a line shows, and how many it stands for."""
        self._write = write
        self._sources: dict[Hashable, _Source[T]] = {}  # the one that is due first in front

    def add(self, source: Hashable, shown: T, count: int) -> None:
        """Write a line of *source* that stands for *count*, or count it."""
        now = time.monotonic()
        found = self._sources.get(source)
        if found is None:
            if len(self._sources) >= SOURCES:
                self._make_room(now)
            found = self._sources[source] = _Source(now)
        found.count += count
        found.newest = shown
        if found.singles or now >= found.due:
            self._write_out(source, found, now)

    def flush(self, *, everything: bool = False) -> None:
        """Write what is due, or *everything*, and forget sources that have fallen silent."""
        now = time.monotonic()
        for source, found in list(self._sources.items()):
            if found.due > now and not everything:
                return
            if found.count:
                self._write_out(source, found, now)
            else:
                del self._sources[source]

    def _make_room(self, now: float) -> None:
        source, found = next(iter(self._sources.items()))
        self._write_out(source, found, now)
        del self._sources[source]

    def _write_out(self, source: Hashable, found: _Source[T], now: float) -> None:
        """Write what is counted, if anything is, and count anew."""
        if found.newest is not None:
            self._write(found.newest, found.count)
        del self._sources[source]  # to be the last in the order of due
        found.due = now + LINE_SECONDS
        found.singles = max(found.singles - 1, 0)
        found.count = 0
        found.newest = None
        self._sources[source] = found
