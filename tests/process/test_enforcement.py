"""A worker that does not do as it was told ends by TERM, or by KILL; real processes, our clock."""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from geproxy.observe.line import Lines
from geproxy.observe.log import Log
from geproxy.observe.sink import Descriptor, Sink
from geproxy.process.control import Control, Verb
from geproxy.process.enforcement import attend
from geproxy.process.outbox import DEAF_KILL_SECONDS, DEAF_SECONDS
from geproxy.process.scoreboard import Scoreboard
from geproxy.process.spawn import Child, spawn

WAIT_SECONDS = 20.0


def deaf(control: Control) -> int:
    """Say that it is ready, and hear nothing."""
    control.send(Verb.READY)
    while True:
        time.sleep(60)


def stubborn(control: Control) -> int:
    """Be deaf to TERM as well."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return deaf(control)


class Told:
    """One worker that was told something, and the log."""

    def __init__(self, main: Callable[[Control], int]) -> None:
        slot = Scoreboard().take()
        assert slot is not None
        self.child: Child = spawn(main, 1, slot)
        assert select.select([self.child.control], [], [], WAIT_SECONDS)[0]
        self.child.control.receive()
        self.child.ready = True
        self._said, write = socket.socketpair()
        sink = Sink("memory", Descriptor(write.detach()), Lines("text"))
        self.log = Log(sink, sink, level="info")
        self.now = time.monotonic()
        self.child.outbox.order(Verb.DRAIN, "5.0")

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now += 1.0
            attend([self.child], self.log, self.now)

    def end(self) -> int:
        """Wait for its end; returns the signal that it died of."""
        give_up = time.monotonic() + WAIT_SECONDS
        while True:
            pid, status = os.waitpid(self.child.pid, os.WNOHANG)
            if pid:
                return os.WTERMSIG(status)
            assert time.monotonic() < give_up, "it lives still"
            time.sleep(0.01)

    def lives(self) -> bool:
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def lines(self) -> list[str]:
        self.log.flush()
        return self._said.recv(1 << 16).decode().splitlines()

    def close(self) -> None:
        try:
            os.kill(self.child.pid, signal.SIGKILL)
            os.waitpid(self.child.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        self.child.close()
        self.log.close()
        self._said.close()


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    made = Told(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("told", [deaf], indirect=True)
def test_a_deaf_worker_is_asked_by_term(told: Told) -> None:
    told.pass_time(DEAF_SECONDS)
    assert told.lives(), "the first look begins the count"
    told.pass_time(1)
    assert told.end() == signal.SIGTERM
    (line,) = told.lines()
    assert " error worker.deaf worker=1 " in line
    assert "command=drain unheard_seconds=5.000 signal=SIGTERM" in line


@pytest.mark.parametrize("told", [stubborn], indirect=True)
def test_one_that_term_does_not_reach_is_killed_and_told_of_once(told: Told) -> None:
    told.pass_time(DEAF_SECONDS + DEAF_KILL_SECONDS)
    assert told.lives()
    told.pass_time(20)
    assert told.end() == signal.SIGKILL
    assert [line.rpartition("=")[2] for line in told.lines()] == ["SIGTERM", "SIGKILL"]


@pytest.mark.parametrize("told", [deaf], indirect=True)
def test_one_that_has_acknowledged_is_left_alone(told: Told) -> None:
    told.pass_time(DEAF_SECONDS - 1)
    told.child.outbox.acknowledge(1)
    told.pass_time(100)
    assert told.lives()
