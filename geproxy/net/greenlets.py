"""Greenlets that belong to somebody: started, interrupted and ended by their owner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import gevent
from gevent import get_hub, getcurrent, sleep
from gevent.event import Event
from greenlet import greenlet

# Chosen here
PARKED_RUNNERS = 128  # 16 KiB of stack each, and what is left of the deepest job

__all__ = [
    "Crew",
    "Event",
    "assert_fork_safe",
    "getcurrent",
    "greenlet",
    "interrupt",
    "interrupter",
    "prepare_loop",
    "run_both",
    "sleep",
    "spawn",
    "stacks",
    "wait_readable",
]


def assert_fork_safe() -> None:
    """Hold the master to its promise: no hub and no thread exists when it forks.

    A hub's pending greenlets would run once more in every child (gevent.os says so).
    """
    from gevent._hub_local import get_hub_if_exists

    assert get_hub_if_exists() is None, "a hub exists in the process that forks"
    assert threading.active_count() == 1, "a thread exists in the process that forks"


def prepare_loop() -> str:
    """Make this process's hub. Returns the loop's name and backend, for the log."""
    # On by default; it keeps frames of the spawner for every greenlet.
    gevent.config.track_greenlet_tree = False
    loop = get_hub().loop
    return f"{type(loop).__module__.rpartition('.')[2]}/{loop.backend}"


class Runner(greenlet):
    """A greenlet that is used again: to make one, with a stack of its own, takes 14 µs.

    What is thrown at one job must not hit the next: each has a number.
    """

    __slots__ = ("function", "job")

    def __init__(self) -> None:
        super().__init__(None, get_hub())
        self.function: Callable[[], None] | None = None  # None: parked
        self.job = 0

    def run(self) -> None:
        """Do one job after the other; their errors, which none should have, are the hub's."""
        while self.function is not None:
            try:
                self.function()
            finally:
                self.function = None  # an error's traceback holds it, and it holds the error
            self.job += 1
            if len(_parked) < PARKED_RUNNERS:
                _parked.append(self)
                get_hub().switch()


_parked: list[Runner] = []


def spawn(function: Callable[[], None]) -> greenlet:
    """Start *function* in a greenlet of its own, at the loop's next turn; it must not raise."""
    hub = get_hub()
    runner = _parked.pop() if _parked else Runner()
    runner.function = function
    hub.loop.run_callback(runner.switch)
    return runner


def interrupt(target: greenlet, error: BaseException) -> None:
    """Raise *error* in *target* at the wait it stands in, soon, if it does the same job then."""
    interrupter(target)(error)


def interrupter(target: greenlet) -> Callable[[BaseException], None]:
    """Return what interrupts the job that *target* is doing now, and none that it does later."""
    job = getattr(target, "job", 0)

    def interrupt_job(error: BaseException) -> None:
        get_hub().loop.run_callback(partial(_throw, target, job, error))

    return interrupt_job


def _throw(target: greenlet, job: int, error: BaseException) -> None:
    if target.dead or getattr(target, "job", 0) != job:
        return
    if isinstance(target, Runner) and target.function is None:
        return  # parked: it would die, and be taken for alive
    target.throw(error)


class Readable(Protocol):
    """What can call somebody once there is something to read."""

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        """Call back once, from the loop, which must not wait."""
        ...

    def stop_calling(self) -> None:
        """Forget the callback, if it has not been called."""
        ...


def run_both(here: Callable[[], None], there: Callable[[], Readable | None]) -> None:
    """Run *here* in this greenlet and *there* in another; return when both have returned.

    *there* may return what it waits for, and is called again then: until that it has no greenlet,
    which is most of what an idle connection costs. The first error of either ends the other and is
    raised here. Nothing is left running.
    """
    both = _Both(there)
    try:
        here()
        both.finished.wait()
        both.inside = False
        if both.failure is not None:
            raise both.failure
    finally:
        both.inside = False
        both.end()
        both.failure = None  # its traceback holds this frame, and with it itself


class _Both:
    """The other side of run_both()."""

    __slots__ = ("_awaited", "_owner", "_runner", "_there", "failure", "finished", "inside")

    def __init__(self, there: Callable[[], Readable | None]) -> None:
        self._owner = getcurrent()
        self._there = there
        self._awaited: Readable | None = None
        self.inside = True  # the owner is
        self.failure: Exception | None = None
        self.finished = Event()
        self._runner = spawn(self._run)

    def _run(self) -> None:
        awaited = None
        try:
            awaited = self._there()
        except Exception as error:  # not lost: it is raised in the owner
            self.failure = error
            get_hub().loop.run_callback(self._report)
        finally:
            if awaited is not None and self.inside:
                self._awaited = awaited
                awaited.call_when_readable(self._wake)
            else:  # or the owner has left, and waits for us to be done
                self.finished.set()

    def _wake(self) -> None:
        self._awaited = None
        self._runner = spawn(self._run)

    def _report(self) -> None:
        # The owner may have left, or met the failure itself, in the meantime.
        if self.inside and self.failure is not None:
            self._owner.throw(self.failure)

    def end(self) -> None:
        """Have nothing left running, whatever is thrown in the meantime."""
        if self._awaited is not None:
            self._awaited.stop_calling()
        elif not self.finished.is_set():
            _dismiss(self._runner)
            _outlast(self.finished)


class Crew:
    """Greenlets that work for one owner, and end with it.

    *fail* hears of an error of any of them, in that greenlet; the others go on until end().
    """

    __slots__ = ("_ended", "_ending", "_fail", "_members")

    def __init__(self, fail: Callable[[Exception], None]) -> None:
        self._fail = fail
        self._members: set[greenlet] = set()
        self._ended = Event()
        self._ending = False

    def spawn(self, function: Callable[[], None]) -> None:
        """Have *function* run in a greenlet of its own."""
        self._ended.clear()
        member = spawn(partial(self._run, function))
        self._members.add(member)
        if self._ending:  # by a member that end() found before its start
            _dismiss(member)

    def __len__(self) -> int:
        return len(self._members)

    def wait(self) -> None:
        """Return when none of them runs any more."""
        if self._members:
            self._ended.wait()

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:
            self._fail(error)
        finally:
            self._members.discard(getcurrent())
            if not self._members:
                self._ended.set()

    def end(self) -> None:
        """End all of them; nothing of them runs any more when this returns.

        Not for a member to call, which would wait for itself.
        """
        self._ending = True
        if not self._members:
            return
        for member in self._members:
            _dismiss(member)
        _outlast(self._ended)


def _dismiss(member: greenlet) -> None:
    """End *member* by way of the loop, after the start that spawn() queued.

    A greenlet that is killed before it started never runs its finally.
    """
    interrupt(member, gevent.GreenletExit())


def _outlast(done: Event) -> None:
    """Wait for *done* whatever is thrown in the meantime; that is raised afterwards."""
    try:
        done.wait()
    except BaseException:
        _outlast(done)
        raise


def wait_readable(descriptor: int) -> None:
    """Wait until *descriptor* has something to read or has ended."""
    watcher = get_hub().loop.io(descriptor, 1)
    try:
        get_hub().wait(watcher)
    finally:
        watcher.close()


def stacks(greenlets: Iterable[greenlet]) -> str:
    """Say where each of *greenlets* stands, one line each: for the log of a worker that hangs."""
    lines = []
    for one in greenlets:
        frame = one.gr_frame
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "running or finished"
        lines.append(place)
    return "\n".join(lines)
