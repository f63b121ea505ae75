"""Bear and bury children: the mechanism alone. When, and how many, is the master's business."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from geproxy.process.control import Control, Verb
from geproxy.process.outbox import Outbox
from geproxy.process.scoreboard import Slot

# Chosen here
FIRST_DELAY_SECONDS = 0.1
LAST_DELAY_SECONDS = 30.0
HANGS_SECONDS = 3.0  # three beats: what such a worker has to leave is not waited for

# A terminal, or an administrator, sends these to the whole group; they are for the master alone.
MASTERS_SIGNALS = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
)

ChildMain = Callable[[Control], int]


@dataclass(slots=True, eq=False)
class Child:
    """One worker as the master sees it."""

    pid: int
    number: int  # 1 to N, kept by the one that replaces it
    control: Control
    slot: Slot
    ready: bool = False
    draining: bool = False
    failure: str = ""  # what it said before it died
    beat_ns: int = 0
    silent_seconds: float = 0.0
    aborted: bool = False
    born: float = field(default_factory=time.monotonic)
    outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.control)

    @property
    def hangs(self) -> bool:
        """True for a worker that is ready and has not beaten of late."""
        return self.ready and self.silent_seconds >= HANGS_SECONDS

    def close(self) -> None:
        """Hang up, and keep nothing that it has not heard."""
        self.outbox.close()
        self.control.close()


def spawn(main: ChildMain, number: int, slot: Slot) -> Child:
    """Fork a child that runs *main* and exits with its status.

    Raises OSError when the system has no room for a process.
    """
    ours, theirs = Control.pair()
    # No signal may find the child with the master's handlers and wake-up descriptor.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _become(main, theirs, mask)
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    slot.claim(pid, number)
    return Child(pid, number, ours, slot)


def _become(main: ChildMain, control: Control, mask: Iterable[int]) -> None:
    """Be the child, to the end: nothing of the master's stack may ever run here again."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for caught in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(caught, signal.SIG_DFL)
        for ignored in MASTERS_SIGNALS:
            signal.signal(ignored, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = main(control)
    except BaseException as error:
        control.send(Verb.FAILED, f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def reap() -> Iterator[tuple[int, int]]:
    """Collect the dead: (pid, wait status) of each. Never waits.

    One at a time: while one is mourned, the pids of the others are theirs still.
    """
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def describe(status: int) -> str:
    """Say in words how a child ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        names = {one.value: one.name for one in signal.Signals}  # of real-time ones, two alone
        return f"signal {names.get(number, number)}"
    return f"status {os.waitstatus_to_exitcode(status)}"


class Throttle:
    """When each worker number may be born again: later and later while births fail."""

    def __init__(self) -> None:
        self._delays: dict[int, float] = {}
        self._due: dict[int, float] = {}

    def failed(self, number: int, now: float) -> float:
        """Note a birth that failed; returns the delay in seconds."""
        delay = min(self._delays.get(number, FIRST_DELAY_SECONDS / 2) * 2, LAST_DELAY_SECONDS)
        self._delays[number] = delay
        self._due[number] = now + delay
        return delay

    def succeeded(self, number: int) -> None:
        """Note a birth that went well."""
        self._delays.pop(number, None)
        self._due.pop(number, None)

    def due(self, number: int, now: float) -> bool:
        """True when *number* may be born now."""
        return now >= self._due.get(number, 0.0)
