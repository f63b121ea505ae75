"""A flood's row is judged by what the others got beside it, and only if it was a flood."""

import math
from dataclasses import replace
from typing import Any

import pytest

from benchmarks import attack_plan, attack_report
from benchmarks.attack_plan import MANY, ROWS, Row

ROW = Row("a row", "held", "socks")


def phase(p50: float = 0.01, p99: float = 0.02, failed: int = 0) -> dict[str, Any]:
    return {
        "asked": 100,
        "failed": failed,
        "served": 1 - failed / 100,
        "p50": p50,
        "p99": p99,
    }


def verdict(row: Row, beside: dict[str, Any], rate: float = 1000) -> str:
    found = {"idle": phase(), "beside": beside, "flood": {"rate": rate, "held": 0}}
    return str(attack_plan.verdict(row, found)["verdict"])


JUDGED = [
    pytest.param("times", phase(0.029, 0.19), "ok", id="within both"),
    pytest.param("times", phase(0.031, 0.19), "worse", id="more than 3 times p50"),
    pytest.param("times", phase(0.029, 0.21), "worse", id="more than 10 times p99"),
    pytest.param("times", phase(failed=1), "worse", id="one source, one failed"),
    pytest.param("served", phase(1, 9, failed=1), "ok", id="many sources, 99 percent served"),
    pytest.param("served", phase(failed=2), "worse", id="many sources, 98 percent served"),
    pytest.param("login", phase(1, 1.9, failed=1), "ok", id="log-ins within 2 s"),
    pytest.param("login", phase(1, 2.1), "worse", id="log-ins beyond 2 s"),
    pytest.param("login", phase(failed=2), "worse", id="log-ins of 98 percent"),
]


@pytest.mark.parametrize("bound, beside, wanted", JUDGED)
def test_each_bound_is_kept_or_broken(bound: str, beside: dict[str, Any], wanted: str) -> None:
    assert verdict(replace(ROW, bound=bound), beside) == wanted


@pytest.mark.parametrize("rate, wanted", [(70, "ok"), (69, "worse"), (0, "worse")])
def test_a_fast_download_keeps_70_percent(rate: float, wanted: str) -> None:
    found = {"idle": {"rate": 100}, "beside": {"rate": rate}, "flood": {"rate": 9, "held": 9}}
    judged = attack_plan.verdict(replace(ROW, bound="fast"), found)
    assert judged["verdict"] == wanted


def test_a_flood_that_misses_its_rate_proves_nothing() -> None:
    row = replace(ROW, least=1100)
    assert verdict(row, phase(), rate=1100 * attack_plan.RATE_PART - 1) == "weak"
    assert verdict(row, phase(), rate=1100) == "ok"


def test_where_nobody_is_served_there_is_no_time() -> None:
    beside = attack_plan.figures([], failed=7)
    assert beside == {"asked": 7, "failed": 7, "served": 0.0, "p50": None, "p99": None}
    assert verdict(ROW, beside) == "worse"


def test_a_proxy_that_fails_without_a_flood_is_not_ok() -> None:
    found = {"idle": phase(failed=1), "beside": phase(), "flood": {"rate": 1, "held": 0}}
    assert attack_plan.verdict(ROW, found)["verdict"] == "worse"


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert attack_plan.percentile(values, 0.5) == 50
    assert attack_plan.percentile(values, 0.99) == 99
    assert attack_plan.percentile([], 0.5) == math.inf


def test_a_row_of_many_sources_asks_for_service_not_for_times() -> None:
    assert all(row.bound in ("served", "login") for row in ROWS if row.sources == MANY)


def test_rows_are_chosen_by_pattern() -> None:
    assert attack_plan.chosen("") == list(ROWS)
    assert [row.name for row in attack_plan.chosen("one-byte*")] == [
        "one-byte-fin",
        "one-byte-fin-200",
    ]


def results(verdict_before: str, verdict_after: str) -> dict[str, Any]:
    found = {
        label: {
            "idle": phase(),
            "beside": attack_plan.figures([], 3),
            "flood": {"rate": 1000.4, "held": 12},
            "verdict": given,
            "broken": [] if given == "ok" else ["0.0% served"],
        }
        for label, given in (("before", verdict_before), ("after", verdict_after))
    }
    about = {label: {"commit": "abc", "dirty": False} for label in found}
    return {"attack": {"places": found}, "checkouts": about}


def test_the_table_has_both_checkouts_and_what_was_broken() -> None:
    text = attack_report.text(results("worse", "ok"))
    assert "1000/s, 12 held" in text
    assert "places, before: 0.0% served" in text
    assert "after: abc" in text


@pytest.mark.parametrize("after, wanted", [("ok", False), ("worse", True), ("weak", True)])
def test_only_this_checkout_fails_the_command(after: str, wanted: bool) -> None:
    assert attack_report.failed(results("worse", after)) is wanted
