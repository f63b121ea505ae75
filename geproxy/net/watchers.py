"""What tells us that a descriptor is ready; those for reading connections are used again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent import get_hub

if TYPE_CHECKING:
    from gevent._types import _IoWatcher as Watcher

READ, WRITE = 1, 2  # libev's EV_READ and EV_WRITE

# Chosen here
PARKED_WATCHERS = 1024  # 0.2 KiB each

_parked: list[Watcher] = []


def wait_ready(descriptor: int, events: int) -> None:
    """Return once *descriptor* is ready for READ or WRITE, or has ended."""
    watcher = get_hub().loop.io(descriptor, events)
    try:
        get_hub().wait(watcher)
    finally:
        watcher.close()


def take_reader(descriptor: int) -> Watcher:
    """Return a watcher that tells when *descriptor* has something to read.

    Who closes the descriptor gives the watcher back first. To make a new one takes a system call,
    which every connection would pay twice.
    """
    if not _parked:
        return get_hub().loop.io(descriptor, READ)
    watcher = _parked.pop()
    watcher.fd = descriptor  # type: ignore[attr-defined]  # gevent has it, its stubs do not
    return watcher


def give_reader(watcher: Watcher) -> None:
    """Take a watcher back: from now on it may be another descriptor's."""
    watcher.stop()
    if len(_parked) < PARKED_WATCHERS:
        _parked.append(watcher)
    else:
        watcher.close()
