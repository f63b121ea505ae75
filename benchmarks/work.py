"""The kinds of work: each puts one load on one contender, and gives figures per unit of work."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.load import Beside, Figures, Held, LoadError, compile_into, run
from benchmarks.measure import Cost
from benchmarks.running import Running

MIB = 1 << 20
GB = 1e9
MEGABYTE = 1e6
WARM_UP_SECONDS = 0.2
IDLE_SECONDS = 1.0  # for how long silent connections are watched
MANY = 1000  # of so many, the memory of each can be told from what else a process does
SATURATING = 8
PINGING = 100


@dataclass(frozen=True)
class Bench:
    """The generator, and the ports of two target processes: one never keeps the other waiting."""

    program: Path
    near: Figures
    far: Figures
    seconds: float

    def port(self, service: str) -> int:
        """Where *service* is, of the target process for small messages."""
        return int(self.near[service])

    def far_port(self, service: str) -> int:
        """Where *service* is, of the target process for bulk and for idle connections."""
        return int(self.far[service])


@contextmanager
def ready(seconds: float, connections: int) -> Iterator[Bench]:
    """The generator, compiled, and its targets, which have room for so many connections."""
    with tempfile.TemporaryDirectory(prefix="geproxy-bench-") as folder:
        program = compile_into(Path(folder))
        room = {"connections": connections}
        with Held(program, "targets", **room) as near, Held(program, "targets", **room) as far:
            yield Bench(program, near.figures, far.figures, seconds)


Work = Callable[[Bench, Running], Figures]


def short(connections: int = 64) -> Work:
    """Short connections, *connections* at once."""

    def work(bench: Bench, running: Running) -> Figures:
        found, cost = measure.charged(
            running.leaders,
            lambda: short_connections(bench, running, connections, seconds=bench.seconds),
        )
        return {
            "per_second": found["count"] / found["seconds"],
            "p50_ms": found["p50_ms"],
            "p99_ms": found["p99_ms"],
            "cpu_ms": cost.cpu_seconds / found["count"] * 1000,
            "user_loops": cost.user_loops / found["count"],
            "failures": found["failures"],
        }

    return work


def short_connections(bench: Bench, running: Running, connections: int, **until: float) -> Figures:
    """So many at once for *seconds*, or *count* in all; LoadError if more than a few fail."""
    found = run(
        bench.program,
        "short",
        **running.load_options(),
        target=bench.port("echo"),
        connections=connections,
        **until,
    )
    if found["failures"] > found["count"] / 100:
        raise LoadError(f"{found['failures']} connections failed: {found['reason']}")
    return found


def warm_up(bench: Bench, running: Running) -> None:
    """Let a contender load, fork and allocate what it does but once."""
    short_connections(bench, running, 4, seconds=WARM_UP_SECONDS)


def bulk(connections: int, *, up: bool) -> Work:
    """Bytes in one direction over *connections*."""

    def work(bench: Bench, running: Running) -> Figures:
        found, cost = measure.charged(
            running.leaders,
            lambda: run(
                bench.program,
                "bulk",
                **running.load_options(),
                target=bench.far_port("sink" if up else "source"),
                up=int(up),
                connections=connections,
                seconds=bench.seconds,
            ),
        )
        return _rates(found, cost)

    return work


def stream(gibibytes: float, *, up: bool) -> Work:
    """One connection, so many GiB, every byte compared with what it has to be."""

    def work(bench: Bench, running: Running) -> Figures:
        size = int(gibibytes * 1024) * MIB
        found, cost = measure.charged(
            running.leaders,
            lambda: run(
                bench.program,
                "bulk",
                **running.load_options(),
                target=bench.far_port("sink" if up else "source"),
                up=int(up),
                compare=1,
                bytes=size,
                seconds=size / MEGABYTE,  # at 1 MB/s it is given up
            ),
        )
        if found["bytes"] != size or not found["compared"]:
            raise LoadError(f"{found['bytes']} of {size} bytes were compared")
        return {**_rates(found, cost), "bytes": found["bytes"]}

    return work


def _rates(found: Figures, cost: Cost) -> Figures:
    return {
        "mb_per_second": found["bytes"] / found["seconds"] / MEGABYTE,
        "cpu_s_per_gb": cost.cpu_seconds / (found["bytes"] / GB),
        "user_loops_per_gb": cost.user_loops / (found["bytes"] / GB),
    }


def latency(bench: Bench, running: Running) -> Figures:
    """One byte there and back, again and again, through a proxy that does nothing else."""
    return _ping(bench, running, 1, bench.seconds)


def beside_bulk(bench: Bench, running: Running) -> Figures:
    """The same on 100 connections while eight others take all that they can get."""
    with Beside(
        bench.program,
        "bulk",
        **running.load_options(),
        target=bench.far_port("source"),
        connections=SATURATING,
        seconds=bench.seconds + 0.2,
    ) as saturating:
        found = _ping(bench, running, PINGING, bench.seconds)
        beside = saturating.figures()
    return {**found, "mb_per_second": beside["bytes"] / beside["seconds"] / MEGABYTE}


def _ping(bench: Bench, running: Running, connections: int, seconds: float) -> Figures:
    found = run(
        bench.program,
        "ping",
        **running.load_options(),
        target=bench.port("echo"),
        connections=connections,
        payload=1,
        seconds=seconds,
    )
    return {
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "per_second": found["count"] / seconds,
    }


def datagrams(payload: int, flight: int) -> Work:
    """Datagrams there and back through one association, *flight* of them under way."""

    def work(bench: Bench, running: Running) -> Figures:
        found, cost = measure.charged(
            running.leaders,
            lambda: run(
                bench.program,
                "udp",
                **running.load_options(),
                target=bench.port("datagrams"),
                payload=payload,
                flight=flight,
                seconds=bench.seconds,
            ),
        )
        return {
            "per_second": found["count"] / found["seconds"],
            "cpu_s_per_100k": cost.cpu_seconds / found["count"] * 1e5,
            "user_loops_per_datagram": cost.user_loops / found["count"],
            "p50_ms": found["p50_ms"],
            "p99_ms": found["p99_ms"],
            "lost": found["lost"],
            "late": found["late"],
        }

    return work


def memory(connections: int) -> Work:
    """What *connections* cost that have carried a byte each way, and are silent now."""

    def work(bench: Bench, running: Running) -> Figures:
        warm_up(bench, running)
        measure.settle(running.leaders)
        before_kib = measure.pss_kib(running.leaders)
        with _idle(bench, running, connections):
            idle_cpu_seconds = _watch_silence(running)
            kib = measure.pss_kib(running.leaders) - before_kib
        return {
            "kib_per_connection": kib / connections,
            "base_mib": before_kib / 1024,
            "idle_cpu_ms_per_s": idle_cpu_seconds * 1000,
            "connections": connections,
        }

    return work


def beside_idle(connections: int) -> Work:
    """Short connections while *connections* are open and silent; and the memory of those."""

    def work(bench: Bench, running: Running) -> Figures:
        warm_up(bench, running)
        before_kib = _resting_kib(running)
        with _idle(bench, running, connections):
            idle_cpu_seconds = _watch_silence(running)
            kib = _resting_kib(running)
            figures = {
                **short()(bench, running),
                "idle_cpu_ms_per_s": idle_cpu_seconds * 1000,
                "connections": connections,
            }
        if connections >= MANY and kib is not None and before_kib is not None:
            figures["kib_per_connection"] = (kib - before_kib) / connections
        return figures

    return work


def from_rest(what: Work) -> Work:
    """*what*, put on a warm contender; and its memory at rest, and its time to start."""

    def work(bench: Bench, running: Running) -> Figures:
        warm_up(bench, running)
        kib = _resting_kib(running)
        rest = {} if kib is None else {"base_mib": kib / 1024}
        return {**what(bench, running), **rest, "start_seconds": running.start_seconds}

    return work


def _resting_kib(running: Running) -> int | None:
    measure.settle(running.leaders)
    try:
        return measure.pss_kib(running.leaders)
    except LoadError:  # not ours to read; what follows can be measured all the same
        return None


def _idle(bench: Bench, running: Running, connections: int) -> Held:
    return Held(
        bench.program,
        "idle",
        **running.load_options(),
        target=bench.far_port("echo"),
        connections=connections,
        payload=1,
    )


def _watch_silence(running: Running) -> float:
    before = measure.settled_cpu_seconds(running.leaders)
    time.sleep(IDLE_SECONDS)
    return (measure.cpu_seconds(running.leaders) - before) / IDLE_SECONDS


def start(bench: Bench, running: Running) -> Figures:
    """From the execution of its commands until it answers its first client."""
    return {"start_seconds": running.start_seconds}
