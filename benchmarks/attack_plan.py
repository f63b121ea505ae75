"""The rows of an attack: which flood, whose service is measured beside it, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from benchmarks.report import Json

# The bounds that the project promises
P50_TIMES, P99_TIMES = 3.0, 10.0  # of idle, beside a flood of one source
SERVED = 0.99  # of the probes, beside a flood of many sources
LOGIN_P99_SECONDS = 2.0  # of first correct log-ins, beside wrong ones of many sources
FAST_PART = 0.7  # of its idle rate, what a fast download keeps beside slow readers

# Chosen here
MANY = 200  # sources of a flood that one share does not hold
FEW_PLACES = 600  # `sessions`: few enough that a flood fills them within two seconds
ALL_PLACES = 10_000  # the default: places are not what runs out
RATE_PART = 0.95  # a flood may miss its rate by a twentieth, for timers' sake


@dataclass(frozen=True)
class Row:
    """One flood. A rate is per second, of connections or datagrams; 0: as fast as it goes."""

    name: str
    flood: str  # a function of attack_flood
    probe: str  # a function of attack_probe
    rate: int = 0  # how many the flood begins
    most: int = 20_000  # how many connections it holds at once
    sources: int = 1
    least: int = 0  # a flood that begins fewer a second proves nothing
    places: int = FEW_PLACES
    probe_rate: int = 20
    bound: str = "times"  # "times", "served", "login" or "fast"
    udp_ports: int = 0  # how many the proxy's host has; 0: all


ROWS = (
    Row("udp-bursts", "bursts", "socks", least=50_000),
    Row("one-byte-fin", "one_byte", "sealed", rate=1_100, least=1_100),
    Row("one-byte-fin-200", "one_byte", "sealed", 1_100, sources=MANY, least=1_100, bound="served"),
    Row("places", "held", "socks", rate=1_000, most=1_400),
    Row("places-200", "held", "socks", rate=1_000, most=1_400, sources=MANY, bound="served"),
    Row("associations", "associated", "udp", 1_200, 2_000, places=ALL_PLACES, udp_ports=2_000),
    Row("unread-downloads", "unread", "socks", rate=200, most=200),
    Row("wrong-passwords", "wrong", "login", rate=100, least=100, probe_rate=5),
    Row(
        "wrong-passwords-200", "wrong", "login", rate=500, sources=MANY, least=500, probe_rate=5,
        places=ALL_PLACES, bound="login",
    ),
    Row("slow-readers", "slow", "fast", rate=500, most=500, bound="fast"),
)  # fmt: skip


def chosen(pattern: str) -> list[Row]:
    """The rows whose name is *pattern*, or matches it; all of them if it is empty."""
    return [row for row in ROWS if not pattern or fnmatch(row.name, pattern)]


def percentile(values: Sequence[float], part: float) -> float:
    """The least value that *part* of all do not exceed; infinite if there is none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else math.inf


def figures(seconds: Sequence[float], failed: int) -> Json:
    """What a phase of probes comes to; times in seconds, null where nobody was served."""
    asked = len(seconds) + failed
    known = bool(seconds)
    return {
        "asked": asked,
        "failed": failed,
        "served": len(seconds) / asked if asked else 0.0,
        "p50": percentile(seconds, 0.5) if known else None,
        "p99": percentile(seconds, 0.99) if known else None,
    }


def verdict(row: Row, found: Mapping[str, Json]) -> Json:
    """Judge the phases `idle` and `flood`: "ok", "worse", or "weak" for a flood that was none."""
    idle, beside, flood = found["idle"], found["beside"], found["flood"]
    if row.least and flood["rate"] < row.least * RATE_PART:
        return {"verdict": "weak", "broken": [f"the flood made {flood['rate']:.0f} a second"]}
    broken = list(_broken(row, idle, beside))
    return {"verdict": "worse" if broken else "ok", "broken": broken}


def _broken(row: Row, idle: Json, beside: Json) -> list[str]:
    if row.bound == "fast":
        kept = beside["rate"] / idle["rate"] if idle["rate"] else 0.0
        return [] if kept >= FAST_PART else [f"keeps {kept:.0%} of its rate"]
    if not idle["asked"] or idle["failed"]:
        return ["not all are served without a flood"]
    served = 1.0 if row.bound == "times" else SERVED
    broken = [] if beside["served"] >= served else [f"{beside['served']:.1%} served"]
    if beside["p50"] is None:
        return broken
    if row.bound == "times":
        for name, times in (("p50", P50_TIMES), ("p99", P99_TIMES)):
            ratio = beside[name] / idle[name]
            broken += [f"{name} is {ratio:.1f} x idle"] if ratio > times else []
    if row.bound == "login" and beside["p99"] > LOGIN_P99_SECONDS:
        broken.append(f"p99 is {beside['p99']:.1f} s")
    return broken
