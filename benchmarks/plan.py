"""The rows of a run: which work is put on whom, and what belongs to the quick mode."""

from __future__ import annotations

import fnmatch
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from benchmarks import calls, contenders, work
from benchmarks.contenders import DIRECT, Contender
from benchmarks.work import Work

METHODS = ("aes-256-gcm", "chacha20-ietf-poly1305")
IDLE_LEVELS = (10, 10_000, 20_000)
WORKER_COUNTS = (1, 2, 4)
USER_COUNTS = (1, 100, 10_000)
LISTENER_COUNTS = (1, 16, 128)
SPARE_DESCRIPTORS = 500  # for short connections beside the idle ones, and whatever else is open


@dataclass(frozen=True)
class Entry:
    """One line of a row: who, under which label, with how many workers, doing what."""

    label: str
    contender: Contender
    work: Work
    workers: int


@dataclass(frozen=True)
class Row:
    """Entries that are measured in turn, round by round."""

    name: str
    entries: tuple[Entry, ...]
    dialect: str = "socks5"
    method: str = ""
    fresh: bool = False  # each measurement gets a contender that was just started
    quick: bool = False  # belongs to the quick mode
    once: bool = False  # it counts what does not differ from round to round


class Named(Protocol):
    """What is chosen by its name."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Plan:
    """What the rows are made for."""

    workers: int
    quick: bool = False
    stream_gibibytes: float = 0  # 0: no streams; else nothing but them

    def rows(self) -> Iterator[Row]:
        """All rows, those of one group of contenders after each other."""
        if self.stream_gibibytes:
            yield from self._streams()
            return
        plain = contenders.PLAIN
        yield from self._common("plain", plain, beside=True)
        yield self._calls("plain", plain)
        yield from self._datagrams("plain", _without(plain, "microsocks"))
        yield from self._fresh("plain", plain)
        for method in METHODS:
            first = method == METHODS[0]
            sealed = [
                *self._common(method, contenders.SEALED, beside=first),
                *([self._calls(method, contenders.SEALED)] if first else []),
                *self._datagrams(method, contenders.SEALED),
                *self._fresh(method, contenders.SEALED),
            ]
            for row in sealed:
                yield replace(row, method=method, quick=row.quick and first)
        http = contenders.HTTP
        for row in (*self._common("http", http, beside=False), self._calls("http", http)):
            yield replace(row, dialect="http", quick=False)
        yield from self._scale()

    def _row(
        self,
        name: str,
        who: tuple[Contender, ...],
        what: Work,
        *,
        quick: bool = False,
        fresh: bool = False,
    ) -> Row:
        entries = tuple(Entry(each.name, each, what, self.workers) for each in who)
        return Row(name, entries, quick=quick, fresh=fresh)

    def _common(self, group: str, who: tuple[Contender, ...], *, beside: bool) -> Iterator[Row]:
        who = (*who, DIRECT)
        yield self._row(f"{group}/short", who, work.short(), quick=True)
        yield self._row(f"{group}/down-4", who, work.bulk(4, up=False), quick=True)
        yield self._row(f"{group}/up-4", who, work.bulk(4, up=True))
        yield self._row(f"{group}/down-64", who, work.bulk(64, up=False))
        yield self._row(f"{group}/up-64", who, work.bulk(64, up=True))
        yield self._row(f"{group}/latency", who, work.latency)
        if beside:
            yield self._row(f"{group}/beside-bulk", who, work.beside_bulk)

    def _calls(self, group: str, who: tuple[Contender, ...]) -> Row:
        return replace(self._row(f"{group}/syscalls", who, calls.syscalls), once=True)

    def _datagrams(self, group: str, who: tuple[Contender, ...]) -> Iterator[Row]:
        who = (*who, DIRECT)
        yield self._row(f"{group}/udp-1200x64", who, work.datagrams(1200, 64), quick=True)
        yield self._row(f"{group}/udp-64x64", who, work.datagrams(64, 64))
        yield self._row(f"{group}/udp-1200x1", who, work.datagrams(1200, 1))
        yield self._row(f"{group}/udp-64x1", who, work.datagrams(64, 1))

    def _fresh(self, group: str, who: tuple[Contender, ...]) -> Iterator[Row]:
        count = 300 if self.quick else 1000
        what = work.memory(count)
        yield self._row(f"{group}/memory", who, what, quick=group == "plain", fresh=True)
        yield self._row(f"{group}/start", who, work.start, quick=group == "plain", fresh=True)

    def _scale(self) -> Iterator[Row]:
        geproxy = contenders.PLAIN[0]
        levels = [min(level, most_connections(self.workers)) for level in IDLE_LEVELS]
        yield Row(
            "scale/open",
            tuple(
                Entry(f"{level} open", geproxy, work.beside_idle(level), self.workers)
                for level in dict.fromkeys(levels)
            ),
            fresh=True,
        )
        yield self._sizes("users", contenders.with_users, USER_COUNTS)
        yield self._sizes("listeners", contenders.with_listeners, LISTENER_COUNTS)
        loads = {"short": work.from_rest(work.short()), "down-4": work.bulk(4, up=False)}
        for name, what in loads.items():
            yield Row(
                f"scale/workers-{name}",
                tuple(Entry(f"workers: {n}", geproxy, what, n) for n in WORKER_COUNTS),
                fresh=True,
            )

    def _sizes(self, name: str, made: Callable[[int], Contender], counts: tuple[int, ...]) -> Row:
        what = work.from_rest(work.short())
        return Row(
            f"scale/{name}",
            tuple(Entry(f"{name}: {count}", made(count), what, self.workers) for count in counts),
            fresh=True,
        )

    def _streams(self) -> Iterator[Row]:
        groups = [("plain", contenders.PLAIN[:1], "")]
        groups += [(method, contenders.SEALED[:1], method) for method in METHODS]
        for group, who, method in groups:
            for direction in ("down", "up"):
                what = work.stream(self.stream_gibibytes, up=direction == "up")
                row = self._row(f"{group}/stream-{direction}", who, what)
                yield replace(row, method=method)


def _without(who: tuple[Contender, ...], name: str) -> tuple[Contender, ...]:
    return tuple(each for each in who if each.name != name)


def chosen(row: Named, pattern: str) -> bool:
    """Whether *pattern*, a glob or a part of a name, chooses *row*."""
    return pattern in row.name or fnmatch.fnmatchcase(row.name, pattern)


def most_connections(workers: int) -> int:
    """How many idle connections fit: one descriptor each in the generator, two in a worker.

    With the right to it, both raise their limit as far as they need.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max(IDLE_LEVELS) + SPARE_DESCRIPTORS
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, max(hard, wanted)))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        limit = max(hard, wanted)
    except (OSError, ValueError):
        limit = hard
    return min(limit, workers * limit // 2) - SPARE_DESCRIPTORS


def cores() -> int:
    """The processors that we may use."""
    return len(os.sched_getaffinity(0))
