"""One slot of shared memory per worker, written by that worker alone.

The memory is a memfd of the master's, so that it has no name, needs no cleaning up, and another
process can read it through /proc/PID/fd.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from geproxy.state.shared import make_memory

NAME = "geproxy-scoreboard"

# Chosen here
SLOTS = 1024  # 64 workers through 16 reloads whose old sessions never end: 128 KiB in all
WORD_BYTES = 8
SLOT_BYTES = 128  # two cache lines: writers do not slow each other


@dataclass(frozen=True, slots=True)
class Reading:
    """What one slot said at one moment."""

    pid: int
    number: int
    beat_ns: int
    sessions: int
    served: int
    up_bytes: int
    down_bytes: int
    associations: int
    up_datagrams: int
    down_datagrams: int
    dropped: int
    sandbox: int  # a Sandbox.word


FIELDS = len(dataclasses.fields(Reading))
WORDS = SLOT_BYTES // WORD_BYTES
BEAT, COUNTS, SANDBOX = 2, 3, FIELDS - 1  # places: the counts are the fields between


class Slot:
    """One worker's words; each is written whole, so a reader never sees half a number."""

    __slots__ = ("_words", "index")

    def __init__(self, words: memoryview, index: int) -> None:
        self._words = words
        self.index = index

    def beat(self, *counts: int) -> None:
        """Say that the loop turns, and what it has done so far: Reading's sessions to dropped."""
        for place, count in enumerate(counts, COUNTS):
            self._words[place] = count
        self._words[BEAT] = time.monotonic_ns()

    def confined(self, word: int) -> None:
        """Say which sandbox the worker is in, as Sandbox.word has it."""
        self._words[SANDBOX] = word

    def read(self) -> Reading:
        """Copy the words out."""
        return Reading(*self._words[:FIELDS])

    def claim(self, pid: int, number: int) -> None:
        """Make the slot a new worker's."""
        self._words[:] = memoryview(bytes(SLOT_BYTES)).cast("Q")
        self._words[0], self._words[1] = pid, number

    @property
    def free(self) -> bool:
        """True while no worker has it."""
        return not self._words[0]


class Scoreboard:
    """All slots. The master makes it before the first fork; workers inherit it."""

    def __init__(self) -> None:
        self.descriptor, memory = make_memory(NAME, SLOTS * SLOT_BYTES)
        words = memoryview(memory).cast("Q")
        self._slots = [Slot(words[i * WORDS : (i + 1) * WORDS], i) for i in range(SLOTS)]

    def take(self) -> Slot | None:
        """Find a free slot; None when so many workers live that there is none."""
        return next((slot for slot in self._slots if slot.free), None)


def read(data: bytes) -> list[Reading]:
    """The slots that are taken, from a copy of the memory, in the order of the workers."""
    words = memoryview(data).cast("Q")
    readings = [Reading(*words[i : i + FIELDS]) for i in range(0, len(words), WORDS)]
    return sorted((one for one in readings if one.pid), key=lambda one: (one.number, one.pid))
