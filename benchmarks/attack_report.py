"""The table of an attack: the others' latency and service, idle and beside each flood."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.report import Json, aligned

HEADINGS = (
    "flood", "checkout", "made", "idle p50", "p50", "idle p99", "p99", "served", "verdict"
)  # fmt: skip


def text(results: Json) -> str:
    """The table of a run, and which bounds were broken."""
    table = [list(HEADINGS)]
    notes = []
    for name, labels in results["attack"].items():
        for label, found in labels.items():
            table.append([name, label, *_cells(found), found["verdict"]])
            notes += [f"{name}, {label}: {', '.join(found['broken'])}"] if found["broken"] else []
    return "\n".join([*aligned(table), "", *notes, *_about(results)])


def _about(results: Json) -> Iterator[str]:
    for label, about in results["checkouts"].items():
        yield f"{label}: {about['commit']}{', dirty' if about['dirty'] else ''}"


def _cells(found: Json) -> tuple[str, ...]:
    idle, beside, flood = found["idle"], found["beside"], found["flood"]
    made = f"{flood['rate']:.0f}/s" + (f", {flood['held']} held" if flood["held"] else "")
    if "rate" in idle:
        rates = [f"{each['rate'] / 1e6:.0f} MB/s" for each in (idle, beside)]
        return made, *rates, "-", "-", "-"
    p50 = [_time(each["p50"]) for each in (idle, beside)]
    p99 = [_time(each["p99"]) for each in (idle, beside)]
    return made, *p50, *p99, f"{beside['served']:.1%}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def failed(results: Json) -> bool:
    """Whether a bound is broken here; what was before is no fault of this checkout."""
    return any(found["after"]["verdict"] != "ok" for found in results["attack"].values())
