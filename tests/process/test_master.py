"""The master with workers of our own making: births, deaths, reloads and signals, all real."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.logs import writes_logs

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 20.0

pytestmark = pytest.mark.slow


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


class Running:
    """One master in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def plan(self, name: str) -> None:
        """What workers that are born from now on will do."""
        self._replace("plan", name)

    def config(self, text: str) -> None:
        self._replace("config", text)

    def _replace(self, name: str, text: str) -> None:
        (self.folder / "new").write_text(text)
        (self.folder / "new").rename(self.folder / name)

    def start(self, plan: str, config: str = "2 a") -> "Running":
        self.plan(plan)
        self.config(config)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.fake_master", str(self.folder)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        return self

    def ready(self) -> "Running":
        self.wait_for(" ready ")
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.log().splitlines() if re.search(pattern, line)]

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        def found() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise AssertionError(f"the master is gone: {out}{err}\n{self.log()}")
            return len(self.lines(pattern)) >= count

        wait_until(found, f"{pattern!r} stands {count} times in the log:\n{self.log()}")
        return self.lines(pattern)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def hears(self) -> None:
        """Wait until no signal is pending: a second of the same kind would be lost in the first."""
        status = Path(f"/proc/{self.pid}/status")
        wait_until(lambda: re.search(r"ShdPnd:\s0+\n", status.read_text()), "signals are heard")

    def end(self) -> tuple[int, str, str]:
        """Wait for the master's end: its status, output and errors."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, out, err

    def address(self, name: str = "a") -> tuple[str, int]:
        line = self.wait_for(rf"listen\.start listen={name} ")[0]
        host, port = line.rpartition("address=")[2].split(":")
        return host, int(port)

    def ask(self, name: str = "a") -> str:
        """What a worker answers to a client: which reading of the configuration it has."""
        with socket.create_connection(self.address(name), timeout=WAIT_SECONDS) as client:
            return client.recv(100).decode()

    def workers(self) -> list[int]:
        """The pids of the workers that live."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split() if not writes_logs(int(pid))]

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def close(self) -> None:
        if self.process is None:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)  # the group is the master and its workers alone
        except ProcessLookupError:
            pass
        self.process.communicate(timeout=WAIT_SECONDS)


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.close()


REASONS = [
    pytest.param("raise_error", r"RuntimeError: no luck today", id="it raises"),
    pytest.param("exit_7", r"status 7", id="it exits"),
    pytest.param("be_killed", r"signal SIGKILL", id="it is killed"),
]


@pytest.mark.parametrize("workers", [1, 8], ids=["one worker", "many that fail at once"])
@pytest.mark.parametrize(("plan", "reason"), REASONS)
def test_a_worker_that_dies_before_it_is_ready_stops_the_start_with_its_reason(
    master: Running, plan: str, reason: str, workers: int
) -> None:
    status, out, err = master.start(plan, f"{workers} a").end()
    assert err == ""
    assert re.fullmatch(rf"StartError: worker [1-8] could not start: {reason}\n", out)
    assert status == 1


def test_every_worker_is_ready_before_any_serves(master: Running) -> None:
    master.start("wait_for_go", "3 a")
    master.wait_for("fake.born", 3)
    assert master.lines("listen.start| ready ") == []
    (master.folder / "go").touch()
    master.ready()
    assert master.ask() == "reading1"


def test_a_worker_that_is_killed_is_replaced_at_once_under_its_number(master: Running) -> None:
    master.start("serve").ready()
    victim = master.workers()[0]
    os.kill(victim, signal.SIGKILL)
    (lost,) = master.wait_for(rf"worker\.lost worker=\d pid={victim} how=\"signal SIGKILL\"")
    number = lost.partition("worker=")[2].split()[0]
    master.wait_for(rf"worker\.ready worker={number} ")
    assert len(master.workers()) == 2
    assert master.ask() == "reading1"


def test_a_later_birth_that_fails_is_tried_again_after_longer_and_longer_pauses(
    master: Running,
) -> None:
    master.start("serve").ready()
    master.plan("raise_error")
    os.kill(master.workers()[0], signal.SIGKILL)
    failures = master.wait_for(r"worker\.fail ", 3)
    assert all('how="RuntimeError: no luck today"' in line for line in failures)
    delays = [line.rpartition("retry_seconds=")[2] for line in failures[:3]]
    assert delays == ["0.100", "0.200", "0.400"]
    assert master.ask() == "reading1"  # the other one serves on
    master.plan("serve")
    master.wait_for(r"worker\.ready")
    assert len(master.workers()) == 2


def test_a_reload_hands_over_to_new_workers_on_the_same_sockets(master: Running) -> None:
    master.start("serve").ready()
    before = set(master.workers())
    address = master.address()
    master.send(signal.SIGHUP)
    master.wait_for(r"reload\.done")
    wait_until(lambda: not before & set(master.workers()), "the old workers are gone")
    assert master.ask() == "reading2"
    assert master.address() == address
    assert len(master.lines(r"listen\.start")) == 1
    assert master.lines(r"worker\.(lost|fail)") == []


def test_no_collection_of_a_worker_looks_at_a_configuration_be_it_reloaded(master: Running) -> None:
    master.start("share").ready()
    for count in (1, 2):
        master.send(signal.SIGHUP)
        master.wait_for("reload.(done|fail)", count)
    assert len(master.lines("reload.done")) == 2, master.log()


@pytest.mark.parametrize(("plan", "reason"), REASONS)
def test_a_reload_whose_workers_fail_keeps_the_old_ones(
    master: Running, plan: str, reason: str
) -> None:
    master.start("serve", "4 a").ready()
    before = master.workers()
    master.plan(plan)
    master.send(signal.SIGHUP)
    (line,) = master.wait_for(r"reload\.fail")
    assert re.search(rf'reason="worker [1-4] could not start: {reason}"', line)
    wait_until(lambda: master.workers() == before, "only the old workers live")
    assert master.ask() == "reading1"
    assert master.lines(r"worker\.(lost|fail)") == []
    master.plan("serve")
    master.send(signal.SIGHUP)
    master.wait_for(r"reload\.done")
    assert master.ask() == "reading3"


def test_a_reload_of_a_broken_file_names_the_key_and_changes_nothing(master: Running) -> None:
    master.start("serve").ready()
    before = master.workers()
    master.config("broken")
    master.send(signal.SIGHUP)
    master.wait_for(r'reload\.fail key=server\.workers reason="a number is wanted"')
    assert master.workers() == before
    assert master.ask() == "reading1"


def test_reloads_cost_the_master_no_descriptors(master: Running) -> None:
    master.start("serve").ready()
    before = master.descriptors()
    for number in range(1, 4):
        master.send(signal.SIGHUP)
        master.wait_for(r"reload\.done", number)
    wait_until(lambda: len(master.workers()) == 2, "the old workers are gone")
    master.plan("raise_error")
    for number in range(1, 4):
        master.send(signal.SIGHUP)
        master.wait_for(r"reload\.fail", number)
    wait_until(lambda: len(master.workers()) == 2, "the failed workers are gone")
    wait_until(lambda: master.descriptors() == before, f"{before} descriptors are open")


def test_a_reload_closes_what_left_the_file_and_opens_what_is_new(master: Running) -> None:
    master.start("serve", "2 a b").ready()
    gone = master.address("b")
    master.config("2 a c")
    master.send(signal.SIGHUP)
    master.wait_for(r"reload\.done")
    assert master.ask("a") == master.ask("c") == "reading2"
    master.wait_for(rf"listen\.stop address={gone[0]}:{gone[1]}")

    def refused() -> bool:
        try:
            socket.create_connection(gone, timeout=WAIT_SECONDS).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(refused, "nobody listens on what left the file")


def test_however_many_hups_come_during_a_reload_one_more_follows(master: Running) -> None:
    master.start("serve").ready()
    master.plan("wait_for_go")
    master.send(signal.SIGHUP)
    master.wait_for(r"reload\.start")
    master.wait_for("fake.born", 4)
    for _ in range(50):
        master.send(signal.SIGHUP)
    master.hears()
    # The queue keeps its order: when the TTIN has been dealt with, so have the HUPs.
    master.send(signal.SIGTTIN)
    master.wait_for("fake.born worker=3 ")
    (master.folder / "go").touch()
    master.wait_for(r"reload\.done", 2)
    master.send(signal.SIGTERM)
    assert master.end() == (0, "", "")
    assert len(master.lines(r"reload\.start")) == 2


def test_a_hup_during_the_start_is_not_lost(master: Running) -> None:
    master.start("wait_for_go")
    master.wait_for("fake.born", 2)
    master.send(signal.SIGHUP)
    (master.folder / "go").touch()
    master.wait_for(r"reload\.done")
    assert master.ask() == "reading2"


def test_ttin_and_ttou_change_the_number_of_workers_but_not_to_none(master: Running) -> None:
    master.start("serve").ready()
    master.send(signal.SIGTTIN)
    wait_until(lambda: len(master.workers()) == 3, "there is one more")
    master.wait_for(r"worker\.ready worker=3")
    for _ in range(5):
        master.send(signal.SIGTTOU)
        master.hears()
    wait_until(lambda: len(master.workers()) == 1, "one is left")
    assert master.ask() == "reading1"
    master.send(signal.SIGTTIN)
    wait_until(lambda: len(master.workers()) == 2, "there is one more than one")
    assert master.lines(r"worker\.(lost|fail)") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_ends_every_worker_and_exits_with_0(master: Running, number: signal.Signals) -> None:
    master.start("serve").ready()
    master.send(number)
    assert master.end() == (0, "", "")
    assert master.log().endswith(" info end\n")
    assert master.lines(r"worker\.(lost|fail)") == []


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_second_stop_does_not_wait_for_sessions(master: Running, second: signal.Signals) -> None:
    master.start("stay").ready()
    master.send(signal.SIGTERM)
    master.wait_for(" stop drain_seconds=")
    assert len(master.workers()) == 2
    master.send(second)
    assert master.end() == (0, "", "")
    assert len(master.lines(" quit")) == 1


def test_a_stop_during_a_start_that_hangs_is_heard(master: Running) -> None:
    master.start("wait_for_go")
    master.wait_for("fake.born", 2)
    master.send(signal.SIGTERM)
    assert master.end() == (0, "", "")


def test_a_worker_that_a_strange_signal_killed_is_replaced(master: Running) -> None:
    master.start("serve").ready()
    os.kill(master.workers()[0], signal.SIGRTMIN + 3)
    master.wait_for(r"worker\.lost .* how=\"signal \d+\"")
    master.wait_for(r"worker\.ready")


def test_when_the_master_dies_every_worker_sees_it(master: Running) -> None:
    """Also while a sibling lives that was born later, and could hold a copy of the line."""
    master.start("serve", "3 a").ready()
    os.kill(master.workers()[0], signal.SIGKILL)
    (line,) = master.wait_for(r"worker\.ready")
    youngest = int(line.rpartition("pid=")[2])
    workers = master.workers()
    assert len(workers) == 3
    os.kill(youngest, signal.SIGSTOP)
    os.kill(master.pid, signal.SIGKILL)
    for pid in set(workers) - {youngest}:
        wait_until(lambda pid=pid: not alive(pid), "the worker has left")
    os.kill(youngest, signal.SIGCONT)
    wait_until(lambda: not alive(youngest), "the youngest has left too")


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has collected yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
