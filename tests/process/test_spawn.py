"""Births and deaths: real forks, and what the kernel says of the children."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from geproxy.process.control import Control, Verb
from geproxy.process.scoreboard import Scoreboard
from geproxy.process.spawn import (
    FIRST_DELAY_SECONDS,
    LAST_DELAY_SECONDS,
    MASTERS_SIGNALS,
    Child,
    ChildMain,
    Throttle,
    describe,
    reap,
    spawn,
)

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 10.0


class Nursery:
    """Children of one test, ended with it."""

    def __init__(self) -> None:
        self.scoreboard = Scoreboard()
        self.children: list[Child] = []

    def bear(self, main: ChildMain) -> Child:
        slot = self.scoreboard.take()
        assert slot is not None
        child = spawn(main, len(self.children) + 1, slot)
        self.children.append(child)
        return child

    def close(self) -> None:
        for child in self.children:
            child.control.close()
            try:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # the test has buried it


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def message_from(child: Child) -> tuple[Verb, str] | None:
    """What the child says next."""
    assert select.select([child.control], [], [], WAIT_SECONDS)[0], "the child says nothing"
    message = child.control.receive()
    return None if message is None else message[:2]


def bury(child: Child) -> int:
    """Wait for the child's end, which its hanging up announces; returns its wait status."""
    while message_from(child) is not None:
        pass
    return os.waitpid(child.pid, 0)[1]


def wait_for_word(control: Control) -> None:
    """What a child does until it is told anything, or its parent is gone."""
    select.select([control], [], [])


def live(control: Control) -> int:
    """A child that says that it is there, and stays."""
    control.send(Verb.READY)
    wait_for_word(control)
    return 0


def status_of(pid: int) -> dict[str, str]:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {row.partition(":")[0]: row.partition(":")[2].strip() for row in rows}


def signals_in(mask: str) -> set[int]:
    bits = int(mask, 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def raise_value_error(control: Control) -> int:
    raise ValueError("no luck today")


def raise_system_exit(control: Control) -> int:
    sys.exit("asked to")


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_a_child_exits_with_what_its_main_returned(nursery: Nursery, status: int) -> None:
    child = nursery.bear(lambda control: status)
    assert os.waitstatus_to_exitcode(bury(child)) == status


@pytest.mark.parametrize(
    ("main", "reason"),
    [
        pytest.param(raise_value_error, "ValueError: no luck today", id="an error"),
        pytest.param(raise_system_exit, "SystemExit: asked to", id="an exit"),
    ],
)
def test_a_main_that_raises_tells_its_reason_and_exits_with_1(
    nursery: Nursery, main: ChildMain, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    child = nursery.bear(main)
    assert message_from(child) == (Verb.FAILED, reason)
    assert os.waitstatus_to_exitcode(bury(child)) == 1
    assert capfd.readouterr() == ("", "")


def test_the_child_is_known_by_its_pid_in_the_scoreboard(nursery: Nursery) -> None:
    child = nursery.bear(live)
    reading = child.slot.read()
    assert (reading.pid, reading.number) == (child.pid, child.number)
    assert child.pid != os.getpid()
    assert not child.ready


def test_nothing_of_the_parents_stack_runs_in_the_child(nursery: Nursery) -> None:
    read, write = os.pipe()
    try:
        child = nursery.bear(lambda control: 0)
    finally:
        os.write(write, b"x")
    bury(child)
    os.close(write)
    assert os.read(read, 10) == b"x"
    os.close(read)


def test_a_child_ignores_what_is_for_the_master_alone(nursery: Nursery) -> None:
    handlers = {number: signal.getsignal(number) for number in MASTERS_SIGNALS}
    try:
        for number in (*MASTERS_SIGNALS,):
            signal.signal(number, lambda number, frame: None)
        child = nursery.bear(live)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    message_from(child)
    ignored = signals_in(status_of(child.pid)["SigIgn"])
    assert set(MASTERS_SIGNALS) <= ignored


def test_a_child_can_be_ended_by_term_and_has_no_handler_of_the_masters(nursery: Nursery) -> None:
    caught = (*MASTERS_SIGNALS, signal.SIGTERM, signal.SIGCHLD)
    handlers = {number: signal.getsignal(number) for number in caught}
    try:
        for number in caught:
            signal.signal(number, lambda number, frame: None)
        child = nursery.bear(live)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    message_from(child)
    status = status_of(child.pid)
    assert not signals_in(status["SigCgt"]) & set(caught)
    assert not signals_in(status["SigIgn"]) & {signal.SIGTERM, signal.SIGCHLD}
    os.kill(child.pid, signal.SIGTERM)
    assert describe(bury(child)) == "signal SIGTERM"


def test_signals_are_blocked_neither_here_nor_there_afterwards(nursery: Nursery) -> None:
    before = status_of(os.getpid())["SigBlk"]
    child = nursery.bear(live)
    message_from(child)
    assert status_of(os.getpid())["SigBlk"] == before
    assert status_of(child.pid)["SigBlk"] == before


def test_a_child_has_no_wake_up_descriptor(nursery: Nursery) -> None:
    def main(control: Control) -> int:
        control.send(Verb.FAILED, str(signal.set_wakeup_fd(-1)))
        return 0

    read, write = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(write)
    try:
        child = nursery.bear(main)
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
    assert message_from(child) == (Verb.FAILED, "-1")


def test_each_side_holds_its_own_end_of_the_line_alone(nursery: Nursery) -> None:
    before = len(os.listdir("/proc/self/fd"))
    child = nursery.bear(live)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    message_from(child)
    child.control.close()  # had the child a copy of this end, it would never see the hang-up
    assert os.waitpid(child.pid, 0) == (child.pid, 0)


def test_a_birth_that_fails_leaves_nothing_open() -> None:
    code = """
    import os, resource
    from geproxy.process.scoreboard import Scoreboard
    from geproxy.process.spawn import spawn

    slot = Scoreboard().take()
    if os.geteuid() == 0:
        os.setuid(65534)  # root may have any number of processes
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    before = len(os.listdir("/proc/self/fd"))
    try:
        spawn(lambda control: 0, 1, slot)
    except OSError as error:
        print(type(error).__name__, len(os.listdir("/proc/self/fd")) - before, slot.free)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("BlockingIOError 0 True\n", "")


def test_the_dead_are_collected_with_their_statuses(nursery: Nursery) -> None:
    children = [nursery.bear(lambda control, status=status: status) for status in (3, 4)]
    dead: dict[int, int] = {}
    deadline = time.monotonic() + WAIT_SECONDS
    while len(dead) < 2 and time.monotonic() < deadline:
        dead.update(reap())
    assert [os.waitstatus_to_exitcode(dead[child.pid]) for child in children] == [3, 4]
    assert list(reap()) == []


def test_collecting_does_not_wait_for_the_living(nursery: Nursery) -> None:
    nursery.bear(live)
    assert list(reap()) == []


def test_while_one_of_two_dead_is_mourned_the_pid_of_the_other_is_its_own_still(
    nursery: Nursery,
) -> None:
    """A signal sent to a child that was collected already would find nobody, or a stranger."""
    children = {nursery.bear(lambda control: 1).pid for _ in range(2)}
    for pid in children:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    first, _ = next(iter(reap()))
    (other,) = children - {first}
    os.kill(other, signal.SIGKILL)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param(0, "status 0", id="a good end"),
        pytest.param(7 << 8, "status 7", id="a status"),
        pytest.param(int(signal.SIGKILL), "signal SIGKILL", id="a signal"),
        pytest.param(int(signal.SIGSEGV) | 0x80, "signal SIGSEGV", id="a core dump"),
    ],
)
def test_an_end_is_told_in_words(status: int, words: str) -> None:
    assert describe(status) == words


def test_an_end_by_a_real_time_signal_is_told_too(nursery: Nursery) -> None:
    child = nursery.bear(live)
    message_from(child)
    os.kill(child.pid, signal.SIGRTMIN + 3)
    assert describe(bury(child)).startswith("signal ")


def test_a_number_that_never_failed_may_be_born_at_once() -> None:
    assert Throttle().due(1, 0.0)


def test_delays_double_from_a_tenth_of_a_second_to_half_a_minute() -> None:
    throttle = Throttle()
    delays = [throttle.failed(1, 100.0) for _ in range(12)]
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[0] == FIRST_DELAY_SECONDS
    assert delays[-1] == LAST_DELAY_SECONDS == 30.0
    assert all(later == min(2 * delay, 30.0) for delay, later in pairwise(delays))


def test_a_number_is_due_when_its_delay_is_over() -> None:
    throttle = Throttle()
    throttle.failed(1, 100.0)
    assert not throttle.due(1, 100.09)
    assert throttle.due(1, 100.1)


def test_a_good_birth_forgets_the_failures() -> None:
    throttle = Throttle()
    for _ in range(5):
        throttle.failed(1, 100.0)
    throttle.succeeded(1)
    assert throttle.due(1, 100.0)
    assert throttle.failed(1, 200.0) == FIRST_DELAY_SECONDS


def test_numbers_are_throttled_each_for_itself() -> None:
    throttle = Throttle()
    throttle.failed(1, 100.0)
    assert throttle.due(2, 100.0)
    assert throttle.failed(2, 100.0) == FIRST_DELAY_SECONDS
