"""Who waits for passwords to be checked, by source: the parts that net.checks is made of."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from gevent.event import AsyncResult

from geproxy.net.offload import Answer
from geproxy.net.standing import Rank

if TYPE_CHECKING:
    # What one session waits for: the answer, or None, which says that it is its turn to begin.
    News = AsyncResult[Answer[bool] | None]
else:
    News = AsyncResult


class Entry:
    """One source's wish to have one password checked, and those of its sessions that wait."""

    __slots__ = ("asked", "check", "line", "source", "waiters")

    def __init__(self, check: Check, source: Hashable) -> None:
        self.check = check
        self.source = source
        self.asked = time.monotonic()
        self.line: Line | None = None  # None: taken out, or never put in
        self.waiters: deque[News] = deque()


class Check:
    """One password of one user: whoever asks for it while it waits or runs shares the answer."""

    __slots__ = ("entries", "function", "key", "running")

    def __init__(self, key: bytes, function: Callable[[], bool]) -> None:
        self.key = key
        self.function = function
        self.running = False
        self.entries: dict[Hashable, Entry] = {}  # by source


class Line:
    """Entries by source. Choosing takes a time that grows with the sources, WAITING_LIMIT at most:
    30 µs for 100 of them, beside a check of 47 ms.
    """

    __slots__ = ("_length", "_queues", "_rank")

    def __init__(self, rank: Callable[[Hashable], Rank]) -> None:
        self._rank = rank
        self._queues: dict[Hashable, dict[Entry, None]] = {}  # oldest first
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, entry: Entry) -> None:
        """Put *entry* behind those of its source."""
        entry.line = self
        self._queues.setdefault(entry.source, {})[entry] = None
        self._length += 1

    def remove(self, entry: Entry) -> None:
        """Take *entry* out."""
        entry.line = None
        queue = self._queues[entry.source]
        del queue[entry]
        if not queue:
            del self._queues[entry.source]
        self._length -= 1

    def best(self) -> Entry:
        """Return the oldest entry of the source that ranks first; there must be one.

        Of sources that rank equal it is the one that waits longest.
        """
        return next(iter(self._queues[min(self._queues, key=self._rank)]))

    def worst(self) -> Entry:
        """Return the newest entry of the greediest source; there must be one.

        Those that logged in lately are spared as long as there are others. Of sources that are
        equal it is the one that waits longest, which has the least time left.
        """

        def greed(source: Hashable) -> tuple[bool, int, int]:
            unproven, asked = self._rank(source)
            return unproven, len(self._queues[source]), asked

        return next(reversed(self._queues[max(self._queues, key=greed)]))

    def of(self, source: Hashable) -> list[Entry]:
        """Return the entries of *source*, oldest first."""
        return list(self._queues.get(source, ()))

    def older_than(self, time_asked: float) -> list[Entry]:
        """Return the entries that were asked for before *time_asked* (monotonic)."""
        return [
            entry for queue in self._queues.values() for entry in queue if entry.asked < time_asked
        ]
