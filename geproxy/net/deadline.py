"""Deadlines as scopes: one total time for a whole step, however many waits it has."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from gevent import get_hub, getcurrent
from gevent.event import Event

from geproxy.errors import DeadlineError, GeproxyError
from geproxy.net.timeslice import begin, give_way
from geproxy.streams import Stream

ABSORB_BYTES = 64 * 1024


class Deadline:
    """Raises in the greenlet that entered it once *seconds* are over.

    The clock is the loop's monotonic one: a step of the wall clock changes nothing. *error* is
    what is raised; by default a DeadlineError that names *step*.
    """

    __slots__ = ("_error", "_greenlet", "_seconds", "_step", "_timer")

    def __init__(self, seconds: float, step: str, error: GeproxyError | None = None) -> None:
        self._seconds = seconds
        self._step = step
        self._error = error

    def __enter__(self) -> Self:
        self._greenlet = getcurrent()
        self._timer = get_hub().loop.timer(self._seconds)
        # From now on, not from when the loop last looked at its clock.
        self._timer.start(self._expire, update=True)
        return self

    def _expire(self) -> None:
        text = f"{self._step} took longer than {self._seconds:g} seconds"
        self._greenlet.throw(self._error or DeadlineError(text))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.stop()
        self._timer.close()


def absorb(stream: Stream) -> None:
    """Read and drop all that comes, until the Deadline around this call is over.

    The end of the stream changes nothing. Raises ResetError when the other side is gone.
    """
    slice_ends = begin()
    try:
        while stream.recv(ABSORB_BYTES):
            if monotonic() >= slice_ends:
                slice_ends = give_way()
        Event().wait()
    except DeadlineError:
        pass
