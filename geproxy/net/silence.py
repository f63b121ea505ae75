"""Strangers who must learn nothing: read in silence until their time is over, by no greenlet."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gevent import get_hub

from geproxy.errors import ResetError
from geproxy.streams import Stream

if TYPE_CHECKING:
    from gevent._types import _TimerWatcher as Timer

# Chosen here
SCRATCH_BYTES = 64 * 1024  # read at a time: who floods us gets one read each turn of the loop


class Silence:
    """Holds connections of which each keeps its descriptor and a timer, and no stack or buffer.

    A timer for each, as a Deadline has: one queue would close who failed late, of those that came
    early, too late, and tell a stranger when it was found out.
    """

    def __init__(self, ended: Callable[[Stream], None]) -> None:
        """*ended* is told, from the loop, of each stream that has been closed."""
        self._ended = ended
        self._timers: dict[Stream, Timer] = {}
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))

    def __len__(self) -> int:
        return len(self._timers)

    def hold(self, stream: Stream, until_seconds: float) -> None:
        """Own *stream*, read and drop what comes, and close it at *until_seconds* (monotonic)."""
        timer = get_hub().loop.timer(max(until_seconds - time.monotonic(), 0.0))
        self._timers[stream] = timer
        timer.start(partial(self._end, stream), update=True)
        self._listen(stream)

    def _listen(self, stream: Stream) -> None:
        stream.call_when_readable(partial(self._read, stream))

    def _read(self, stream: Stream) -> None:
        try:
            count = stream.recv_into(self._scratch)
        except ResetError:
            self._end(stream)
        else:
            if count != 0:  # at the end of the stream nothing more comes, and nothing is watched
                self._listen(stream)

    def _end(self, stream: Stream) -> None:
        self._forget(stream)
        stream.close()
        self._ended(stream)

    def abort(self, stream: Stream) -> None:
        """Reset *stream* before its time."""
        self._forget(stream)
        stream.abort()
        self._ended(stream)

    def _forget(self, stream: Stream) -> None:
        timer = self._timers.pop(stream)
        timer.stop()
        timer.close()
        stream.stop_calling()
