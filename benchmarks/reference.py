"""The unit of normalised user time: a fixed loop of pure Python.

User time divided by that of the loop on the same core at the same time says how much work it was,
whatever the processor, its clock, and whoever else uses it. Figures of two runs can be compared
where VERSION and the version of Python are the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Fixed for ever: who changes the loop, or how many turns one is, gives it another VERSION.
VERSION = 1
TURNS = 1000  # one reference loop: about 0.13 ms on a processor of 2023

# Chosen here
LOOPS = 30  # in one measurement: 4 ms, beside which the clock's own microsecond is nothing


class _Counter:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int) -> None:
        self.value += amount


def run(loops: int) -> int:
    """Turn *loops* reference loops; what it does is a little of all that the product's code does.

    Attribute, call, dictionary, list, slice of bytes and arithmetic; nothing that grows, no call of
    the system.
    """
    counter = _Counter()
    table = {number: number + 1 for number in range(64)}
    data = bytes(range(64))
    stack: list[int] = []
    for number in range(loops * TURNS):
        stack.append(table[number & 63])
        counter.add(stack.pop())
        counter.add(len(data[number & 31 :]))
    return counter.value


def seconds() -> float:
    """The user time of one reference loop, here and now.

    It is the thread's CPU time, which has nanoseconds where user time alone has clock ticks: the
    loop makes no system call, so that all of it is user time.
    """
    before = time.thread_time_ns()
    run(LOOPS)
    return (time.thread_time_ns() - before) / 1e9 / LOOPS


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Be on *core* alone meanwhile; who is started here stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
