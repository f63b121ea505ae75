"""Greenlets that belong to somebody: started, interrupted and ended by their owner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

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
    "dismiss",
    "getcurrent",
    "greenlet",
    "interrupt",
    "interrupter",
    "outlast",
    "prepare_loop",
    "sleep",
    "spawn",
    "stacks",
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

    What is thrown at one job must not hit the next: each has a number, which it gets by spawn().
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
            if len(_parked) < PARKED_RUNNERS:
                _parked.append(self)
                get_hub().switch()


_parked: list[Runner] = []


def spawn(function: Callable[[], None]) -> greenlet:
    """Start *function* in a greenlet of its own, at the loop's next turn; it must not raise."""
    hub = get_hub()
    runner = _parked.pop() if _parked else Runner()
    runner.job += 1
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
            dismiss(member)

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
            dismiss(member)
        outlast(self._ended.wait)


def dismiss(member: greenlet) -> None:
    """End *member* by way of the loop, after the start that spawn() queued.

    A greenlet that is killed before it started never runs its finally.
    """
    interrupt(member, gevent.GreenletExit())


def outlast(wait: Callable[[], object]) -> None:
    """Wait to the end whatever is thrown in the meantime; that is raised afterwards."""
    try:
        wait()
    except BaseException:
        outlast(wait)
        raise


def stacks(greenlets: Iterable[greenlet]) -> str:
    """Say where each of *greenlets* stands, one line each: for the log of a worker that hangs."""
    lines = []
    for one in greenlets:
        frame = one.gr_frame
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "running or finished"
        lines.append(place)
    return "\n".join(lines)
