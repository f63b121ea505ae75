"""A whole run of this checkout against another: what it was made of, its rows, their verdicts."""

from __future__ import annotations

from pathlib import Path

from benchmarks import checkouts, machine, network, reference, turns, verdict
from benchmarks.load import LoadError
from benchmarks.report import Json
from benchmarks.turns import Contest, Row, Say
from benchmarks.verdict import BASE, THIS
from benchmarks.work import ready

CONNECTIONS = 200  # three times as many as one turn has at once


def measure(path: Path, rows: list[Row], seconds: float, say: Say, *, part: float = 1) -> Json:
    """Measure *rows* here and in the checkout at *path*; each turn does *part* of its usual work.

    Raises LoadError and StartError where they cannot be compared. This process, and what it starts
    afterwards, is in a network of its own from here on, and on one core.
    """
    if not rows:
        raise LoadError("no row has such a name")
    base = checkouts.at(path)
    results: Json = {**machine.describe(), "minutes": seconds / 60}
    results["checkouts"] = {BASE: base.describe(), THIS: checkouts.THIS.describe()}
    results["network"] = network.isolate()
    results["congestion_control"] = network.congestion_control()
    generator_core, core = turns.cores()
    with reference.on_core(generator_core), ready(seconds, CONNECTIONS) as bench:
        contest = Contest(bench, base, core, part)
        found, refusal = turns.measure(rows, contest, seconds, say)
    results["not_user_time"] = refusal
    results["rows"] = {row.name: verdict.judged(found[row.name], row.unit) for row in rows}
    return results


def name(results: Json) -> str:
    """The name of its file."""
    base = results["checkouts"][BASE]
    parts = [results["date"], results["commit"], "against", base["commit"]]
    return "-".join([*parts, *(["dirty"] if results["dirty"] or base["dirty"] else [])])
