"""Judge a checkout by its rounds beside another: no row may be worse, beyond what noise is.

*base* is measured twice over, as two contenders: their ratio is what nothing but noise makes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.report import Json, aligned, number

BASE, BASE_AGAIN, THIS = "base", "base again", "this"
USER, TOTAL, INSTRUCTIONS = "user_loops", "cpu_loops", "user_instructions"
METRICS = (USER, TOTAL, INSTRUCTIONS)
HEADINGS = {USER: "user loops", TOTAL: "CPU loops", INSTRUCTIONS: "user instructions"}

ALLOWED = 0.03  # the acceptance rule: by more than this, and by more than noise, is worse
SETTLED = 0.02  # a median known to within this, on either side, needs no more rounds
LEAST_ROUNDS = 24  # fewer say little of how far a median is known
SIGMAS = 1.96  # of a 95 % interval

Round = dict[str, dict[str, float]]  # by contender, by metric: per unit of work


def ratios(rounds: Sequence[Round], label: str, metric: str) -> list[float]:
    """*label*'s figure divided by BASE's of the same round, where both have one that is not 0."""
    pairs = [(each[label].get(metric), each[BASE].get(metric)) for each in rounds]
    return [own / other for own, other in pairs if own and other]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median of all rounds that could be made is, with 95 %, whatever their distribution.

    The bounds are two of the sorted values themselves (the sign test's, in its normal form).
    """
    ordered = sorted(values)
    rank = max(0, math.floor((len(ordered) - SIGMAS * math.sqrt(len(ordered)) - 1) / 2))
    return ordered[rank], ordered[-1 - rank]


def settled(rounds: Sequence[Round]) -> bool:
    """Whether more rounds would say nothing new."""
    if len(rounds) < LEAST_ROUNDS:
        return False
    for label in (BASE_AGAIN, THIS):
        found = ratios(rounds, label, USER)
        if not found or _reach(found) > SETTLED:
            return False
    return True


def _reach(values: Sequence[float]) -> float:
    """How far the interval goes from the median, half of its width."""
    low, high = interval(values)
    return (high - low) / 2


def judged(rounds: Sequence[Round], unit: str) -> Json:
    """One row's figures, ratios and verdict; with its rounds, as the JSON file keeps them."""
    row: Json = {"unit": unit, "median": {}, "ratio": {}, "verdict": "not measured"}
    for metric in METRICS:
        for label in (BASE, BASE_AGAIN, THIS):
            values = [each[label][metric] for each in rounds if metric in each[label]]
            if values:
                row["median"].setdefault(label, {})[metric] = statistics.median(values)
            found = ratios(rounds, label, metric)
            if found and label != BASE:
                row["ratio"].setdefault(label, {})[metric] = _ratio(found)
    if all(USER in row["ratio"].get(label, {}) for label in (BASE_AGAIN, THIS)):
        row |= verdict(row["ratio"][THIS][USER], row["ratio"][BASE_AGAIN][USER])
    return {**row, "rounds": list(rounds)}


def _ratio(found: Sequence[float]) -> Json:
    low, high = interval(found)
    return {"median": statistics.median(found), "low": low, "high": high, "rounds": len(found)}


def verdict(own: Json, again: Json) -> Json:
    """Apply the rule: worse is what exceeds 3 %, and what the same checkout differs by from itself.

    How far that may differ is its interval, not its median alone, which is near 1 by luck as often
    as not; for the same reason the interval of the ratio has to be beyond 1. *sure* is False where
    an interval reaches so far that 3 % would not have been told.
    """
    allowed = max(1 + ALLOWED, again["high"], 1 / again["low"])
    reach = max((each["high"] - each["low"]) / 2 for each in (own, again))
    return {
        "allowed": allowed,
        "sure": reach <= ALLOWED,
        "verdict": "worse" if own["median"] > allowed and own["low"] > 1 else "ok",
    }


def worse(rows: Mapping[str, Json]) -> bool:
    """Whether any row is, or was not measured at all."""
    return any(row["verdict"] != "ok" for row in rows.values())


def text(results: Json) -> str:
    """The table of a run, and what stands behind it."""
    lines = aligned([list(line) for line in _table(results)])
    return "\n".join([*lines, "", *_notes(results)])


def markdown(results: Json) -> str:
    """The same table in Markdown."""
    lines = [f"| {' | '.join(line)} |" for line in _table(results)]
    rule = f"|{'---|' * (lines[0].count('|') - 1)}"
    return "\n".join([lines[0], rule, *lines[1:], "", *_notes(results)])


def _table(results: Json) -> Iterator[tuple[str, ...]]:
    rows: Mapping[str, Json] = results["rows"]
    more = [
        name
        for name in METRICS[1:]
        if any(name in r["median"].get(THIS, {}) for r in rows.values())
    ]
    user = HEADINGS[USER] if not results["not_user_time"] else HEADINGS[TOTAL]
    yield (
        user, "per", BASE, THIS, "this/base", "95 %", "base/base", "95 %",
        *(f"{HEADINGS[name]} this/base" for name in more), "rounds", "verdict",
    )  # fmt: skip
    for name, row in rows.items():
        ratio = {label: row["ratio"].get(label, {}) for label in (BASE_AGAIN, THIS)}
        medians = [row["median"].get(label, {}).get(USER) for label in (BASE, THIS)]
        yield (
            name,
            row["unit"],
            *(number(value) for value in medians),
            *(cell for label in (THIS, BASE_AGAIN) for cell in _cells(ratio[label].get(USER))),
            *(_cells(ratio[THIS].get(metric))[0] for metric in more),
            str(len(row["rounds"])),
            row["verdict"] + ("" if row.get("sure", True) else " (unsure)"),
        )


def _cells(ratio: Json | None) -> tuple[str, str]:
    if ratio is None:
        return "-", "-"
    return f"{ratio['median']:.3f}", f"{ratio['low']:.3f}-{ratio['high']:.3f}"


def _notes(results: Json) -> Iterator[str]:
    for label in (BASE, THIS):
        about = results["checkouts"][label]
        yield f"{label}: {about['commit']}{', dirty' if about['dirty'] else ''}"
    versions = [results["checkouts"][label]["versions"] for label in (BASE, THIS)]
    for own, other in zip(versions[1], versions[0], strict=True):
        if own != other:
            yield f"this has {own}, base has {other}"
    if results["not_user_time"]:
        yield f"user and system time, for user time cannot be told: {results['not_user_time']}"
    if not all(row.get("sure", True) for row in results["rows"].values()):
        yield "unsure: an interval reaches so far that 3 % would not be told; give it more minutes"
