"""Two jobs side by side, of which one needs a greenlet only while there is something to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gevent import get_hub, getcurrent
from greenlet import greenlet

from geproxy.net.greenlets import dismiss, outlast, spawn


class Readable(Protocol):
    """What can call somebody once there is something to read."""

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        """Call back once, from the loop, which must not wait."""
        ...

    def stop_calling(self) -> None:
        """Forget the callback, if it has not been called."""
        ...


def run_both(
    here: Callable[[], object], there: Callable[[], Readable | None], awaited: Readable
) -> None:
    """Run *here* in this greenlet and *there* in another; return when both have returned.

    *there* is called once there is something to read of *awaited*. It may return what it waits for
    next, and is called again then: until that it has no greenlet, which is most of what an idle
    connection costs. The first error of either ends the other and is raised here. Nothing is left
    running.
    """
    both = _Both(there, awaited)
    try:
        here()
        both.wait()
        both.owner_inside = False
        if both.failure is not None:
            raise both.failure
    finally:
        both.owner_inside = False
        try:
            both.end()
        finally:
            both.failure = None  # its traceback holds this frame, and with it itself


class _Both:
    """The other side of run_both().

    Only the owner waits for its end, which therefore takes no Event: 0.7 µs instead of 2.5.
    """

    __slots__ = (
        "_awaited",
        "_finished",
        "_owner",
        "_owner_waits",
        "_runner",
        "_there",
        "failure",
        "owner_inside",
    )

    def __init__(self, there: Callable[[], Readable | None], awaited: Readable) -> None:
        self._owner = getcurrent()
        self._there = there
        self._awaited: Readable | None = awaited
        self._runner: greenlet | None = None
        self.owner_inside = True
        self.failure: Exception | None = None
        self._finished = self._owner_waits = False
        awaited.call_when_readable(self._wake)

    def _run(self) -> None:
        try:
            awaited = self._there()
            if awaited is not None and self.owner_inside:
                awaited.call_when_readable(self._wake)
                self._awaited = awaited
        except Exception as error:  # not lost: it is raised in the owner
            self.failure = error
            get_hub().loop.run_callback(self._report)
        finally:
            if self._awaited is None:  # or the owner has left, and waits for us to be done
                self._finished = True
                if self._owner_waits:
                    get_hub().loop.run_callback(self._return)

    def _return(self) -> None:
        if self._owner_waits:
            self._owner.switch()

    def wait(self) -> None:
        """Return when nothing of it runs any more, and nothing is awaited."""
        while not self._finished:
            self._owner_waits = True
            try:
                get_hub().switch()
            finally:
                self._owner_waits = False

    def _wake(self) -> None:
        self._awaited = None
        self._runner = spawn(self._run)

    def _report(self) -> None:
        # The owner may have left, or met the failure itself, in the meantime.
        if self.owner_inside and self.failure is not None:
            self._owner.throw(self.failure)

    def end(self) -> None:
        """Have nothing left running, whatever is thrown in the meantime."""
        if self._awaited is not None:
            self._awaited.stop_calling()
        elif self._runner is not None and not self._finished:
            dismiss(self._runner)
            outlast(self.wait)
