"""Measure two checkouts in turns, so short that what slows the machine down slows all of them.

A turn is a fixed amount of work, about a tenth of a second of it. In a round each contender has one
turn, in each of their orders as often. In a pass each row has some rounds, with contenders that
were started for it: a process keeps what its memory's layout gave it, some percent, to its end.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks import checkouts, plan, reference, work
from benchmarks.checkouts import Checkout
from benchmarks.load import LoadError, run
from benchmarks.meter import Meter, Reading
from benchmarks.plan import METHODS
from benchmarks.running import Running
from benchmarks.verdict import BASE, BASE_AGAIN, INSTRUCTIONS, THIS, TOTAL, USER, Round, settled
from benchmarks.work import GB, Bench

ROUNDS_EACH_PASS = 12  # a multiple of the orders of three; more would come from the same processes
GIVEN_UP_SECONDS = 60.0  # a turn that has not moved its bytes by then

Turn = Callable[[Bench, Running, float], float]  # does so much of its usual work: units that it did
Found = dict[str, list[Round]]  # by the row's name
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One kind of work, counted in *unit*."""

    name: str
    unit: str
    turn: Turn
    method: str = ""  # of a sealed pair; empty: a plain proxy


def _short(count: int) -> Turn:
    def turn(bench: Bench, running: Running, part: float) -> float:
        amount = max(1, round(count * part))
        return work.short_connections(bench, running, 64, count=amount)["count"]

    return turn


def _bulk(connections: int, megabytes: int, *, up: bool) -> Turn:
    def turn(bench: Bench, running: Running, part: float) -> float:
        found = run(
            bench.program,
            "bulk",
            **running.load_options(),
            target=bench.far_port("sink" if up else "source"),
            up=int(up),
            connections=connections,
            bytes=max(1, int(megabytes * work.MEGABYTE * part / connections)),
            seconds=GIVEN_UP_SECONDS,
        )
        return found["bytes"] / GB

    return turn


def _datagrams(count: int) -> Turn:
    def turn(bench: Bench, running: Running, part: float) -> float:
        found = run(
            bench.program,
            "udp",
            **running.load_options(),
            target=bench.port("datagrams"),
            payload=1200,
            flight=64,
            count=max(64, round(count * part)),
        )
        return found["count"]

    return turn


def rows() -> Iterator[Row]:
    """All of them; how much one turn does is some 100 ms of a core of 2023.

    With 64 connections it is more, or their handshakes would be much of what is measured.
    """
    yield Row("plain/short", "connection", _short(400))
    yield Row("plain/udp-1200x64", "datagram", _datagrams(5000))
    for direction in ("down", "up"):
        yield Row(f"plain/{direction}-4", "GB", _bulk(4, 500, up=direction == "up"))
        yield Row(f"plain/{direction}-64", "GB", _bulk(64, 1000, up=direction == "up"))
    for method, megabytes in zip(METHODS, (80, 50), strict=True):
        if method == METHODS[0]:  # the other differs in bulk alone
            yield Row(f"{method}/short", "connection", _short(200), method)
            yield Row(f"{method}/udp-1200x64", "datagram", _datagrams(2000), method)
        for direction in ("down", "up"):
            up = direction == "up"
            yield Row(f"{method}/{direction}-4", "GB", _bulk(4, megabytes, up=up), method)
            yield Row(f"{method}/{direction}-64", "GB", _bulk(64, 2 * megabytes, up=up), method)


def chosen(pattern: str) -> list[Row]:
    """Those whose names *pattern* has, a glob or a part of one."""
    return [row for row in rows() if plan.chosen(row, pattern)]


@dataclass(frozen=True)
class Contest:
    """Who is measured, where: this checkout, and *base* twice."""

    bench: Bench
    base: Checkout
    core: int  # of all contenders and the reference loop; the rest is on another if there is one
    part: float  # of its usual work that a turn does


class Contenders:
    """Those of one group of rows, running from enter to exit, each with its meter."""

    def __init__(self, contest: Contest, method: str) -> None:
        self._bench = contest.bench
        self._core = contest.core
        self._part = contest.part
        self._who = {BASE: contest.base, BASE_AGAIN: contest.base, THIS: checkouts.THIS}
        self._method = method
        self._stack = ExitStack()
        self._running: dict[str, Running] = {}
        self._meters: dict[str, Meter] = {}

    def __enter__(self) -> Self:
        with ExitStack() as started:
            self._stack = started
            for label, checkout in self._who.items():
                self._start(label, checkout)
            self._stack = started.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self, label: str, checkout: Checkout) -> None:
        running = Running(
            checkout.contender(sealed=bool(self._method)),
            "socks5",
            workers=1,
            method=self._method,
            environment=checkouts.environment(),
        )
        with reference.on_core(self._core):  # which its processes keep
            self._stack.enter_context(running)
        work.warm_up(self._bench, running)
        self._running[label] = running
        self._meters[label] = self._stack.enter_context(Meter(running.leaders, self._core))

    def refusal(self) -> str:
        """Why user time cannot be told from the rest; empty if it can."""
        return self._meters[BASE].refusal

    def warm_up(self, row: Row) -> None:
        """A turn of each that is not counted: the first one allocates."""
        for running in self._running.values():
            row.turn(self._bench, running, self._part)

    def round(self, row: Row, order: tuple[str, ...]) -> Round:
        """One turn of each, in *order*; the reference loop before each, and after the last."""
        found: Round = {}
        loops = []
        for label in order:
            loops.append(self._reference_seconds())
            before = self._meters[label].read()
            units = row.turn(self._bench, self._running[label], self._part)
            found[label] = _each(before, self._meters[label].read(), units)
        loops.append(self._reference_seconds())
        return normalised(found, loops)

    def _reference_seconds(self) -> float:
        with reference.on_core(self._core):
            return reference.seconds()


def _each(before: Reading, after: Reading, units: float) -> dict[str, float]:
    figures = {
        USER: (after.user_seconds - before.user_seconds) / units,
        TOTAL: (after.cpu_seconds - before.cpu_seconds) / units,
    }
    if after.instructions is not None and before.instructions is not None:
        figures[INSTRUCTIONS] = (after.instructions - before.instructions) / units
    return figures


def normalised(found: Round, loops: list[float]) -> Round:
    """Seconds as reference loops, whose median in the round all of its turns are divided by.

    A loop for each turn alone would be nearer to it, but what disturbs that loop and not the turn
    would be in their quotient: ratios of the same checkout to itself then spread by a half more.
    """
    seconds = statistics.median(loops)
    return {
        label: {
            name: value if name == INSTRUCTIONS else value / seconds
            for name, value in figures.items()
        }
        for label, figures in found.items()
    }


def cores() -> tuple[int, int]:
    """The core of the generator and the targets, and that of the contenders."""
    ours = sorted(os.sched_getaffinity(0))
    return ours[0], ours[-1]


def measure(wanted: list[Row], contest: Contest, seconds: float, say: Say) -> tuple[Found, str]:
    """Measure *wanted* in passes, until each row is known well enough or the time is over.

    One pass is always made. Returns the rounds, and why user time cannot be told from the rest.
    Raises LoadError and StartError: there is nothing to compare where one contender fails.
    """
    deadline = time.monotonic() + seconds
    found: Found = {row.name: [] for row in wanted}
    refusal = ""
    left = wanted
    for number in itertools.count(1):
        for method, group in itertools.groupby(left, lambda row: row.method):
            if number > 1 and time.monotonic() > deadline:
                return found, refusal
            with Contenders(contest, method) as contenders:
                refusal = contenders.refusal()
                for row in group:
                    found[row.name] += _visit(contenders, row)
                    say(f"pass {number} {row.name}: {len(found[row.name])} rounds")
        left = [row for row in wanted if not settled(found[row.name])]
        if not left:
            break
    return found, refusal


def _visit(contenders: Contenders, row: Row) -> list[Round]:
    orders = itertools.cycle(itertools.permutations((BASE, BASE_AGAIN, THIS)))
    try:
        contenders.warm_up(row)
        return [contenders.round(row, next(orders)) for _ in range(ROUNDS_EACH_PASS)]
    except LoadError as error:
        raise LoadError(f"{row.name}: {error}") from None
