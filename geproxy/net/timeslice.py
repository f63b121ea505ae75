"""Slices of the loop's time: a loop that may go on by itself works for one, then gives way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from gevent import get_hub, getcurrent
from greenlet import greenlet

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher as Timer

T = TypeVar("T")

# Chosen here
# A client's request waits so long behind each flood that is being read; a poll takes some 10 µs,
# which is 1 % of a slice. A count of items would bound nothing: one item takes 1 µs or 1 ms.
SLICE_SECONDS = 0.001

_waiting: OrderedDict[greenlet, None] = OrderedDict()  # the one that gave way first in front
_timers: list[Timer] = []  # one, once somebody has given way


def begin() -> float:
    """Begin a slice. Returns its end, for comparison with time.monotonic()."""
    return monotonic() + SLICE_SECONDS


def give_way() -> float:
    """Have the loop poll, and go on once others had their turn. Returns the end of a new slice.

    gevent.sleep(0) does not poll: its callbacks go on for the interpreter's switch interval, and
    what a socket or a timer has to say waits for all of them. Whatever is thrown into the greenlet
    in the meantime is raised here.
    """
    me = getcurrent()
    if not _waiting:
        _call_after_poll()
    _waiting[me] = None
    try:
        get_hub().switch()
    finally:
        _waiting.pop(me, None)
    return begin()


def in_slices(items: Iterable[T]) -> Iterator[T]:
    """Give one of *items* after the other, and give way between slices.

    Others run in between: pass a copy of what they may change, and see whether an item has left.
    """
    slice_ends = begin()
    for item in items:
        if monotonic() >= slice_ends:
            slice_ends = give_way()
        yield item


def _call_after_poll() -> None:
    if not _timers:
        _timers.append(get_hub().loop.timer(0))
    # libev runs timers after a poll. One of the past is as good: the clock need not be asked.
    _timers[0].start(_resume, update=False)


def _resume() -> None:
    """Let those that gave way go on, one slice in all: a poll must not wait for every flood."""
    ends = begin()
    try:
        for _ in range(len(_waiting)):
            _waiting.popitem(last=False)[0].switch()
            if not _waiting or monotonic() >= ends:
                break
    finally:  # an error of one of them is the hub's; the others go on
        if _waiting:
            _call_after_poll()
