"""System calls are counted in whole trees of processes; who may not count says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import calls, measure
from benchmarks.contenders import PLAIN, Contender
from benchmarks.load import NOT_HERE, Figures, LoadError
from benchmarks.plan import Entry, Row
from benchmarks.rounds import measure_rows
from benchmarks.running import Running
from benchmarks.work import Bench
from tests.support.peers import missing
from tests.support.proxy import wait_until

SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 71.43    0.000050          50         1           execve
 28.57    0.000020           6         3         2 openat
  0.00    0.000000           0        12           rt_sigaction
------ ----------- ----------- --------- --------- ----------------
100.00    0.000070           4        16         2 total
"""

# A leader that waits, and a child of two threads; one of them makes a call for each line it reads.
CALLER = """
import os, sys, threading
end = threading.Event()
other = threading.Thread(target=end.wait)
other.start()
for line in sys.stdin:
    for _ in range(int(line)):
        os.getppid()
    print("done", flush=True)
end.set()
"""
LEADER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CALLER!r}])"


def test_a_summary_gives_how_often_by_name() -> None:
    assert calls.parsed(SUMMARY) == {"execve": 1, "openat": 3, "rt_sigaction": 12}


def test_a_summary_without_calls_is_empty() -> None:
    assert calls.parsed("") == {}


def test_without_strace_the_reason_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "find", lambda program: None)
    with pytest.raises(LoadError, match=r"not installed \(Debian package strace\)") as caught:
        calls.counted([os.getpid()], list)
    assert str(caught.value).startswith(NOT_HERE)


REFUSALS = [
    pytest.param(
        "echo 'strace: attach: Operation not permitted' >&2; exec sleep 60", id="it goes on"
    ),
    pytest.param("echo 'strace: attach: Operation not permitted' >&2; exit 1", id="it ends"),
]


@pytest.mark.parametrize("script", REFUSALS)
def test_who_may_not_trace_is_told_why_and_does_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    program = tmp_path / "strace"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(calls, "find", lambda name: str(tmp_path / name))
    worked: list[int] = []
    with pytest.raises(LoadError, match="strace: attach: Operation not permitted") as caught:
        calls.counted([os.getpid()], lambda: worked.append(1))
    assert str(caught.value).startswith(NOT_HERE)
    assert not worked


def test_a_tracer_that_has_counted_nothing_is_no_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, ready = tmp_path / "strace", tmp_path / "ready"
    program.write_text(f'#!/bin/sh\nshift 4; : > "$1"; : > {ready}\n')
    program.chmod(0o755)
    monkeypatch.setattr(calls, "find", lambda name: str(tmp_path / name))
    with pytest.raises(LoadError, match="counted nothing"):
        calls.counted([], lambda: wait_until(ready.exists))


@pytest.fixture
def _strace() -> None:
    """What counts here is strace itself, if there is one and it may."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as sleeper:
        try:
            calls.counted([sleeper.pid], list)
        except LoadError as error:
            if NOT_HERE in str(error):  # else it was counted that a sleeper does nothing
                missing(str(error))
        finally:
            sleeper.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("_strace")
def test_each_call_of_a_tree_is_counted_while_the_work_lasts_and_no_other() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEADER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as leader:
        assert leader.stdin is not None and leader.stdout is not None

        def make(count: int) -> str:
            assert leader.stdin is not None and leader.stdout is not None
            leader.stdin.write(f"{count}\n")
            leader.stdin.flush()
            return leader.stdout.readline()

        assert make(50) == "done\n"
        said, found = calls.counted([leader.pid], lambda: make(123))
        assert (said, found["getppid"]) == ("done\n", 123)
        assert make(1) == "done\n"  # it is let go of
        leader.stdin.close()


@pytest.mark.slow
@pytest.mark.usefixtures("_strace")
def test_calls_are_those_of_one_connection(program: Path, targets: Figures) -> None:
    bench = Bench(program, targets, targets, 0.1)
    with Running(PLAIN[0], "socks5", workers=2) as running:
        figures = calls.syscalls(bench, running)
        wait_until(lambda: not any(traced(pid) for pid in measure.tree(running.leaders)))
    parts = {name: value for name, value in figures.items() if name.startswith("calls.")}
    assert figures["calls.socket"] == pytest.approx(1, abs=0.01)  # the target's; accept is not one
    assert sum(parts.values()) == pytest.approx(figures["syscalls"], rel=0.05)
    assert list(parts.values()) == sorted(parts.values(), reverse=True)


def traced(pid: int) -> bool:
    return "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.slow
def test_a_row_that_counts_is_measured_once(program: Path, targets: Figures) -> None:
    said: list[str] = []
    who = Contender("direct", "", "", None)
    entry = Entry("direct", who, lambda bench, running: {"syscalls": 1.0}, 1)
    bench = Bench(program, targets, targets, 0.1)
    rows = [Row("a/once", (entry,), once=True), Row("a/often", (entry,))]
    found = measure_rows(rows, bench, 3, said.append)
    assert {name: len(outcomes["direct"]) for name, outcomes in found.items()} == {
        "a/once": 1,
        "a/often": 3,
    }
