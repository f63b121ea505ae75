"""The results of a run: medians and ratios, as JSON and as tables for a terminal."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.goals import goals
from benchmarks.load import NOT_HERE, Figures
from benchmarks.rounds import Outcome, Outcomes

HEADINGS = {
    "per_second": "per s",
    "mb_per_second": "MB/s",
    "cpu_ms": "CPU ms each",
    "cpu_s_per_gb": "CPU s/GB",
    "cpu_s_per_100k": "CPU s/100k",
    "user_loops": "user loops each",
    "user_loops_per_gb": "user loops/GB",
    "user_loops_per_datagram": "user loops/datagram",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "kib_per_connection": "KiB each",
    "base_mib": "MiB at rest",
    "idle_cpu_ms_per_s": "idle CPU ms/s",
    "start_seconds": "s to serve",
    "syscalls": "calls each",
}
# The first of these that a row has is what its contenders are compared by; where two kinds of
# load meet, it is how long the small one waits.
COMPARED = (
    "mb_per_second",
    "per_second",
    "kib_per_connection",
    "start_seconds",
    "p50_ms",
    "syscalls",
)
CPU = ("cpu_ms", "cpu_s_per_gb", "cpu_s_per_100k")
SUBJECT = "geproxy"
# Reasons that are no failures: what this version refuses as still to come, and what cannot be
# measured here.
EXCUSES = ("is not in this version", NOT_HERE)

Json = dict[str, Any]  # what json.loads gives: the shape is that of `results` below


def medians(outcomes: Sequence[Outcome]) -> Figures:
    """The median of each metric over the rounds that went well; empty if none did."""
    figures = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    if not figures:
        return {}
    return {name: statistics.median(each[name] for each in figures) for name in figures[0]}


def ratios(own: Json, other: Json) -> Figures:
    """Each metric of *own* divided by that of *other*, where both have one that is not 0.

    Both are entries of a row. They are compared round by round, and the median of that counts: what
    slows the machine down for a while slows both. Where one failed a round, medians are compared.
    """
    pairs = list(zip(own["rounds"], other["rounds"], strict=False))
    if not pairs or own["failures"] or other["failures"]:
        pairs = [(own["median"], other["median"])]
    return {
        name: statistics.median(figures[name] / others[name] for figures, others in pairs)
        for name in own["median"]
        if all(others.get(name) for _, others in pairs)
    }


def rows(found: Mapping[str, Outcomes]) -> Json:
    """All raw figures by row and contender, with medians and geproxy's ratios to each."""
    return {name: _row(outcomes) for name, outcomes in found.items()}


def _row(outcomes: Outcomes) -> Json:
    entries: Json = {label: _entry(measured) for label, measured in outcomes.items()}
    own = entries.get(SUBJECT, _entry([]))
    for label, entry in entries.items():
        entry["geproxy_ratio"] = ratios(own, entry) if label != SUBJECT else {}
    return entries


def _entry(measured: Sequence[Outcome]) -> Json:
    return {
        "rounds": [each for each in measured if not isinstance(each, str)],
        "failures": [each for each in measured if isinstance(each, str)],
        "median": medians(measured),
    }


def judged(measured: Json) -> list[Mapping[str, object]]:
    """The goals against the rows that were measured."""
    levels = list(measured.get("scale/open", {"10 open": {}, "10000 open": {}}))
    base, loaded = levels[0], levels[min(1, len(levels) - 1)]

    def entry(row: str, label: str) -> Json:
        found: Json = measured.get(row, {}).get(label, _entry([]))
        return found

    def median(row: str, label: str, metric: str) -> float | None:
        value = entry(row, label)["median"].get(metric)
        return None if value is None else float(value)

    def ratio(row: str, label: str, other: str, metric: str) -> float | None:
        return ratios(entry(row, label), entry(row, other)).get(metric)

    return [goal.verdict(median, ratio) for goal in goals(base, loaded)]


def write(results: Json, path: Path) -> None:
    """Write the whole of a run to *path*."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def text(results: Json) -> str:
    """The tables of a run."""
    blocks = [_table(name, row) for name, row in results["rows"].items()]
    blocks.append(_goal_table(results["goals"]))
    blocks += [f"not measured: {reason}" for reason in results["missing"]]
    return "\n\n".join(block for block in blocks if block)


def _table(name: str, row: Json) -> str:
    metrics = [metric for metric in HEADINGS if any(metric in e["median"] for e in row.values())]
    compared = _compared(metrics) if SUBJECT in row else []
    lines = [[name, *(HEADINGS[metric] for metric in metrics)]]
    lines[0] += [f"geproxy's {HEADINGS[metric]}" for metric in compared]
    failures: list[str] = []
    for label, entry in row.items():
        cells = [number(entry["median"].get(metric)) for metric in metrics]
        cells += [_times(entry["geproxy_ratio"].get(metric)) for metric in compared]
        lines.append([label, *cells])
        failures += _failures(label, entry)
    return "\n".join([*aligned(lines), *failures])


def _compared(metrics: Sequence[str]) -> list[str]:
    if {"mb_per_second", "p99_ms"} <= set(metrics):
        return ["p99_ms"]
    first = [metric for metric in COMPARED if metric in metrics][:1]
    return first + [metric for metric in CPU if metric in metrics]


def _failures(label: str, entry: Json) -> Iterator[str]:
    rounds = len(entry["rounds"]) + len(entry["failures"])
    for reason in dict.fromkeys(entry["failures"]):
        count = entry["failures"].count(reason)
        yield f"  {label} FAILED in {count} of {rounds} rounds: {reason}"
    for name in ("lost", "late", "failures"):
        amounts = [int(figures.get(name, 0)) for figures in entry["rounds"]]
        if any(amounts):
            yield f"  {label}, {name} by round: {', '.join(map(str, amounts))}"


def _goal_table(verdicts: Sequence[Json]) -> str:
    lines = [["goal", "of", "against", "ratio", "must", "", "aim", ""]]
    for verdict in verdicts:
        if verdict["ratio"] is None:
            continue
        sense = verdict["sense"]
        lines.append(
            [
                verdict["row"],
                HEADINGS[verdict["metric"]],
                verdict["best"] or "itself",
                number(verdict["ratio"]),
                f"{sense} {verdict['must']:g}",
                "met" if verdict["must_met"] else "MISSED",
                f"{sense} {verdict['aim']:g}",
                "met" if verdict["aim_met"] else "missed",
            ]
        )
    return "\n".join(aligned(lines)) if len(lines) > 1 else ""


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text: the first of each to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def number(value: float | None) -> str:
    """Write a figure with three digits that mean something."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.001 else "0"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} x"


def read(path: Path) -> Json:
    """Read what `write` has written."""
    return dict(json.loads(path.read_text()))


def failed(measured: Json) -> bool:
    """Whether geproxy failed in any row, EXCUSES left aside."""
    reasons = [why for row in measured.values() for why in row.get(SUBJECT, {}).get("failures", [])]
    return any(not any(excuse in why for excuse in EXCUSES) for why in reasons)
