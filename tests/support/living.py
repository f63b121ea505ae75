"""Greenlets that live: to prove that a test leaves none running."""

from __future__ import annotations

import gc
from weakref import WeakSet

import gevent
from greenlet import greenlet

from geproxy.net.greenlets import Runner

_aside: WeakSet[greenlet] = WeakSet()  # those that gc.get_objects() shows no more


def living() -> set[int]:
    """The greenlets that have begun and not ended, raw ones too; parked runners do nothing."""
    hub = gevent.get_hub()
    return {
        id(one)
        for one in (*_aside, *gc.get_objects())
        if isinstance(one, greenlet)
        and one
        and one is not hub
        and one.parent is not None
        and not (isinstance(one, Runner) and one.function is None)
    }


def left_since(before: set[int]) -> set[int]:
    """The greenlets that live on and were not among those of *before*."""
    left = living() - before
    if not left:
        return left
    gc.collect()  # what nobody can reach any more is not running
    return living() - before


def set_heap_aside() -> None:
    """Have living() walk only what is made from now on, and the greenlets that there are already.

    What the reports of thousands of tests hold takes longer to walk than most tests run.
    """
    gc.collect()  # or what is garbage now stays for good
    _aside.update(one for one in gc.get_objects() if isinstance(one, greenlet))
    gc.freeze()
