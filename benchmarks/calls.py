"""How many system calls one short connection takes, and which: strace counts them.

Tracing slows a contender down, so that more is ready each time it wakes: its calls for waiting
(epoll_wait) may be counted a little low.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from benchmarks import measure, work
from benchmarks.contenders import find
from benchmarks.load import NOT_HERE, PART, Figures, LoadError
from benchmarks.running import Running
from benchmarks.work import Bench

Result = TypeVar("Result")
Calls = dict[str, int]  # by name

CONNECTIONS = 400
AT_ONCE = 4
LEAST_EACH = 0.05  # what is rarer belongs to no connection: timers, and our coming and going
ATTACH_SECONDS = 10.0
DETACH_SECONDS = 10.0
POLL_SECONDS = 0.005


def syscalls(bench: Bench, running: Running) -> Figures:
    """Of all processes of a contender, both ends of a sealed pair; then each call by its name."""
    found, calls = counted(
        running.leaders,
        lambda: work.short_connections(bench, running, AT_ONCE, count=CONNECTIONS),
    )
    figures = {"syscalls": sum(calls.values()) / found["count"]}
    for name, amount in sorted(calls.items(), key=lambda item: item[1], reverse=True):
        each = amount / found["count"]
        if each >= LEAST_EACH:
            figures[f"calls{PART}{name}"] = each
    return figures


def counted(leaders: Collection[int], what: Callable[[], Result]) -> tuple[Result, Calls]:
    """Do *what*; returns its result, and the system calls that the trees of *leaders* made.

    Raises LoadError where nobody may trace them.
    """
    strace = find("strace")
    if strace is None:
        raise LoadError(f"{NOT_HERE}: strace is not installed (Debian package strace)")
    with tempfile.TemporaryDirectory(prefix="geproxy-bench-") as folder:
        summary, said = Path(folder, "summary"), Path(folder, "said")
        targets = [f"--attach={pid}" for pid in measure.tree(leaders)]
        with open(said, "wb") as log:
            tracer = subprocess.Popen(
                [strace, "-f", "-qq", "-c", "-o", str(summary), *targets],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            _wait_until_attached(tracer, leaders, said)
            result = what()
            measure.settle(leaders)
        finally:
            _detach(tracer)
        calls = parsed(summary.read_text())
        if not calls:  # it had to be killed
            raise LoadError("strace has counted nothing")
        return result, calls


def parsed(summary: str) -> Calls:
    """Read the table of strace -c: % time, seconds, usecs/call, calls, errors or none, name."""
    rows = [line.split() for line in summary.splitlines()]
    return {
        row[-1]: int(row[3])
        for row in rows
        if len(row) in (5, 6) and row[3].isdigit() and row[-1] != "total"
    }


def _wait_until_attached(
    tracer: subprocess.Popen[bytes], leaders: Collection[int], said: Path
) -> None:
    deadline = time.monotonic() + ATTACH_SECONDS
    while not all(_traced(pid, tracer.pid) for pid in measure.tree(leaders)):
        words = said.read_text(errors="replace")
        # It goes on with those processes that it may trace, and would count too little.
        refused = "not permitted" in words or tracer.poll() is not None
        if refused or time.monotonic() > deadline:
            last = words.strip().rpartition("\n")[2]
            raise LoadError(f"{NOT_HERE}: {last or 'strace does not attach'}")
        time.sleep(POLL_SECONDS)


def _traced(pid: int, tracer: int) -> bool:
    """Whether *tracer* traces every thread of *pid*; what has ended is not waited for."""
    for path in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if f"\nTracerPid:\t{tracer}\n" not in text and "\nState:\tZ" not in text:
            return False
    return True


def _detach(tracer: subprocess.Popen[bytes]) -> None:
    """Let go of all that are traced; the summary is written then."""
    tracer.send_signal(signal.SIGINT)
    try:
        tracer.wait(DETACH_SECONDS)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()
