"""What a tree of processes has cost so far: CPU seconds and memory, read from /proc."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks import reference
from benchmarks.load import NOT_HERE, LoadError

Result = TypeVar("Result")

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SETTLE_SECONDS = 0.05
SETTLE_TRIES = 40

# proc_pid_stat(5), counted from the first field behind the command's closing parenthesis
PPID, SESSION = 1, 3
UTIME, STIME, CUTIME, CSTIME = 11, 12, 13, 14

Stat = list[str]


def _stats() -> dict[int, Stat]:
    found: dict[int, Stat] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            text = Path(entry.path, "stat").read_text(errors="replace")
        except OSError:
            continue  # it ended while we looked
        # A command's name may itself hold spaces and parentheses.
        found[int(entry.name)] = text.rpartition(")")[2].split()
    return found


def tree(leaders: Collection[int]) -> list[int]:
    """The pids of all living processes that *leaders* started, and of themselves.

    Each leader leads a session: who lost its parent still belongs to one.
    """
    return sorted(_tree(leaders, _stats()))


def _tree(leaders: Collection[int], stats: dict[int, Stat]) -> set[int]:
    wanted = set(leaders)
    found = {pid for pid, stat in stats.items() if pid in wanted or int(stat[SESSION]) in wanted}
    grown = True
    while grown:
        children = {pid for pid, stat in stats.items() if int(stat[PPID]) in found} - found
        found |= children
        grown = bool(children)
    return found


@dataclass(frozen=True)
class Cost:
    """What some work has cost the trees."""

    cpu_seconds: float  # user and system
    user_loops: float  # user time in reference loops: see reference.py


def cpu_seconds(leaders: Collection[int]) -> float:
    """What the trees of *leaders* have used, user and system, the ended among them included."""
    return _seconds(leaders, (UTIME, STIME, CUTIME, CSTIME))


def _user_seconds(leaders: Collection[int]) -> float:
    return _seconds(leaders, (UTIME, CUTIME))


def _seconds(leaders: Collection[int], fields: Collection[int]) -> float:
    stats = _stats()
    ticks = sum(int(stats[pid][field]) for pid in _tree(leaders, stats) for field in fields)
    return ticks / TICKS_PER_SECOND


def settle(leaders: Collection[int]) -> None:
    """Return once the trees stand still: connections are put away after their clients have gone."""
    settled_cpu_seconds(leaders)


def settled_cpu_seconds(leaders: Collection[int]) -> float:
    """What they have used by the time they stand still."""
    before = cpu_seconds(leaders)
    for _ in range(SETTLE_TRIES if leaders else 0):
        time.sleep(SETTLE_SECONDS)
        now = cpu_seconds(leaders)
        if now == before:
            break
        before = now
    return before


def charged(leaders: Collection[int], work: Callable[[], Result]) -> tuple[Result, Cost]:
    """Do *work*; returns its result, and what it has cost the trees.

    The reference loop runs right before and right after it.
    """
    before = settled_cpu_seconds(leaders)
    user_before = _user_seconds(leaders)
    loop_before = reference.seconds()
    result = work()
    loop_seconds = (loop_before + reference.seconds()) / 2
    cpu = settled_cpu_seconds(leaders) - before
    return result, Cost(cpu, (_user_seconds(leaders) - user_before) / loop_seconds)


def pss_kib(leaders: Collection[int]) -> int:
    """The memory of the trees, what several processes share divided among them.

    Raises LoadError where it is not ours to read: geproxy's workers show theirs to root alone.
    """
    total = 0
    for pid in tree(leaders):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except PermissionError:
            raise LoadError(f"{NOT_HERE}: memory of others is read by root alone") from None
        except OSError:
            continue  # it ended, or is a zombie, which has no memory
        match = re.search(r"^Pss:\s+(\d+) kB$", text, re.M)
        total += int(match[1]) if match else 0
    return total
