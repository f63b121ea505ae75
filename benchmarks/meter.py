"""What a tree of processes has cost, finer than the clock ticks of /proc/PID/stat.

Whole CPU time is exact, to the nanosecond. How much of it was user time Linux itself only samples,
at each timer tick (4 or 10 ms, CONFIG_TICK_CPU_ACCOUNTING): so few samples that of one second's
work it knows user time to within 6 % alone. Here it is sampled forty times as often, by a perf
event of the software's clock, which a virtual machine has too, and each process in its own CPU
time. A sample costs an interrupt, 13 us in a virtual machine: all contenders pay the same.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import measure
from benchmarks.load import LoadError

# Fixed by Linux: perf_event_open(2), linux/perf_event.h
CALL = {"x86_64": 298, "aarch64": 241}.get(platform.machine(), -1)
ATTRIBUTES = "IIQQQQQ"  # type, size, config, period, sample_type, read_format, flags
ATTRIBUTES_BYTES = 112  # PERF_ATTR_SIZE_VER5
TYPE_HARDWARE, INSTRUCTIONS = 0, 1
TYPE_SOFTWARE, CPU_CLOCK = 1, 0
INHERIT, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
CLOSE_ON_EXEC = 8
DATA_HEAD_OFFSET = 1024  # perf_event_mmap_page: all bytes that were ever written
RECORD_BYTES = 8  # with an empty sample_type a record is its header

# Chosen here
PERIOD_NS = 100_003  # a prime number: no timer of the product's is a multiple of it
QUIET_SECONDS = 0.002  # without a moment on a core: its work is done
QUIET_TRIES = 250


@dataclass(frozen=True)
class Reading:
    """What a tree has used since its meter began."""

    user_seconds: float  # of user and system, where nobody may sample: see Meter.sampled
    cpu_seconds: float
    instructions: int | None  # in user mode; None where the processor does not count, or not for us


class Meter:
    """Counts for the processes of a tree, which run on *core* alone.

    Owns its perf events from enter to exit. LoadError, by `read`, where one of them has ended.
    """

    def __init__(self, leaders: Collection[int], core: int) -> None:
        self.refusal = ""  # why user time cannot be sampled here; empty: it is
        self._core = core
        self._pids = measure.tree(leaders)
        self._files: list[int] = []
        self._counters: list[int] | None = []  # None: not all of them can be had
        self._heads: list[mmap.mmap] = []

    def __enter__(self) -> Self:
        try:
            for thread in _threads(self._pids):
                self._sample(thread)
                self._count(thread)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _sample(self, thread: int) -> None:
        if self.refusal:
            return
        try:
            file = self._open(TYPE_SOFTWARE, CPU_CLOCK, PERIOD_NS, thread)
            # Read alone, it is written round and round, and nothing of it is lost to the count.
            head = mmap.mmap(file, 2 * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        except OSError as error:
            self.refusal = f"perf_event_open: {error.strerror}"
        else:
            self._heads.append(head)

    def _count(self, thread: int) -> None:
        if self._counters is None:
            return
        try:
            self._counters.append(self._open(TYPE_HARDWARE, INSTRUCTIONS, 0, thread))
        except OSError:  # most virtual machines have no such counter, and nothing depends on it
            self._counters = None

    def _open(self, kind: int, config: int, period: int, thread: int) -> int:
        flags = INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR
        wanted = struct.pack(ATTRIBUTES, kind, ATTRIBUTES_BYTES, config, period, 0, 0, flags)
        attributes = wanted.ljust(ATTRIBUTES_BYTES, b"\0")
        if CALL < 0:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        libc = ctypes.CDLL(None, use_errno=True)
        file = int(
            libc.syscall(CALL, attributes, thread, self._core, -1, ctypes.c_ulong(CLOSE_ON_EXEC))
        )
        if file < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._files.append(file)
        return file

    def _close(self) -> None:
        for head in self._heads:
            head.close()
        for file in self._files:
            os.close(file)
        self._heads, self._files, self._counters = [], [], None

    def read(self) -> Reading:
        """What the tree has used, once it is quiet: what a client leaves behind is put away."""
        cpu_ns = self._quiet_ns()
        user_ns = cpu_ns
        if not self.refusal:
            written = sum(
                struct.unpack_from("Q", head, DATA_HEAD_OFFSET)[0] for head in self._heads
            )
            user_ns = written // RECORD_BYTES * PERIOD_NS
        return Reading(user_ns / 1e9, cpu_ns / 1e9, self._instructions())

    def _instructions(self) -> int | None:
        if self._counters is None:
            return None
        return sum(int.from_bytes(os.read(file, 8), sys.byteorder) for file in self._counters)

    def _quiet_ns(self) -> int:
        before = _on_core_ns(self._pids)
        for _ in range(QUIET_TRIES):
            time.sleep(QUIET_SECONDS)
            now = _on_core_ns(self._pids)
            if now == before:
                break
            before = now
        return before


def _threads(pids: Collection[int]) -> list[int]:
    return [int(thread) for pid in pids for thread in os.listdir(f"/proc/{pid}/task")]


def _on_core_ns(pids: Collection[int]) -> int:
    """What their threads have been on a core (Linux, Documentation/scheduler/sched-stats.rst)."""
    try:
        return sum(
            int(Path(f"/proc/{thread}/schedstat").read_text().split()[0])
            for thread in _threads(pids)
        )
    except FileNotFoundError:
        raise LoadError("a process or a thread of it has ended while it was measured") from None
