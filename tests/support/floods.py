"""Floods that never run dry, and what another greenlet gets beside them, counted in items."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import gevent

from geproxy.net.watchers import READ, wait_ready

ITEM_SECONDS = 0.0002  # of work for each item: five fill a slice
FEW = 50  # items; what only gives way to callbacks gives others their turn after 1600, or never


class Flood:
    """Counts items, each of which costs a while."""

    def __init__(self) -> None:
        self.items = 0

    def item(self) -> None:
        """Work on one."""
        self.items += 1
        ends = time.perf_counter() + ITEM_SECONDS
        while time.perf_counter() < ends:
            pass

    in_burst = False
    holds_head = False
    room_bytes = 0

    def wait_readable(self) -> None:
        """Return at once: there is always more."""

    def recv(self, size_bytes: int) -> bytes:
        """As a stream whose other side never stops."""
        self.item()
        return b"x"

    def recv_into(self, buffer: memoryview) -> int:
        """The same, and never less than all that there is room for."""
        self.item()
        return len(buffer)


def items_before_others(run: Callable[[], object], flood: Flood) -> int:
    """Run a loop over *flood*; returns how many items passed before a socket that is readable all
    the time was noticed.
    """
    here, there = socket.socketpair()
    with here, there:
        there.send(b"x")
        seen: list[int] = []

        def other() -> None:
            wait_ready(here.fileno(), READ)
            seen.append(flood.items)

        waiting = gevent.spawn(other)
        pump = gevent.spawn(run)
        waiting.get()
        pump.kill()
    return seen[0]
