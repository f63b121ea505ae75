"""The benchmarks' arithmetic and its outcome: medians, ratios, goals, tables, JSON, drawing."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import plot, report
from benchmarks.goals import Goal
from benchmarks.load import NOT_HERE
from benchmarks.plan import Plan, chosen
from benchmarks.rounds import Outcomes, brief

GEPROXY: list[Any] = [
    {"per_second": 300.0, "cpu_ms": 0.2},
    {"per_second": 100.0, "cpu_ms": 0.4},
    {"per_second": 200.0, "cpu_ms": 0.3},
]
PEER: list[Any] = [{"per_second": 400.0, "cpu_ms": 0.0}, "it fell over", "it fell over"]
FOUND: dict[str, Outcomes] = {"plain/short": {"geproxy": GEPROXY, "microsocks": PEER}}


def results(found: dict[str, Outcomes]) -> dict[str, Any]:
    rows = report.rows(found)
    about = {"commit": "abc1234", "date": "2026-11-22", "cores": 2, "cpu": "<X&Y>", "kernel": "6"}
    return {**about, "rows": rows, "goals": report.judged(rows), "missing": []}


def test_a_median_is_taken_of_each_metric_on_its_own() -> None:
    assert report.medians(GEPROXY) == {"per_second": 200.0, "cpu_ms": 0.3}


def test_a_median_leaves_out_the_rounds_that_failed() -> None:
    assert report.medians(PEER) == {"per_second": 400.0, "cpu_ms": 0.0}


def test_without_a_round_that_went_well_there_is_no_median() -> None:
    assert report.medians(["it fell over"]) == {}


def test_a_ratio_is_that_of_one_round_and_the_median_of_all() -> None:
    peer: list[Any] = [{"per_second": 100.0}, {"per_second": 25.0}, {"per_second": 400.0}]
    entry = report.rows({"a row": {"geproxy": GEPROXY, "peer": peer}})["a row"]["peer"]
    assert entry["geproxy_ratio"] == {"per_second": 3.0}, "of 3, 4 and 0.5"


def test_where_a_round_failed_medians_are_compared_and_a_ratio_to_nothing_is_left_out() -> None:
    entry = report.rows(FOUND)["plain/short"]["microsocks"]
    assert entry["geproxy_ratio"] == {"per_second": 0.5}


def test_each_round_and_each_failure_is_kept() -> None:
    entry = report.rows(FOUND)["plain/short"]["microsocks"]
    assert entry["rounds"] == PEER[:1]
    assert entry["failures"] == PEER[1:]


def test_a_failure_stands_below_its_table_with_its_reason() -> None:
    assert "microsocks FAILED in 2 of 3 rounds: it fell over" in report.text(results(FOUND))


def test_geproxys_own_failure_is_one_of_the_run() -> None:
    assert not report.failed(report.rows(FOUND))
    assert report.failed(report.rows({"plain/short": {"geproxy": ["it fell over"]}}))
    not_yet = "geproxy: http.conf: listen.front.url: scheme http:// is not in this version"
    assert not report.failed(report.rows({"http/short": {"geproxy": [not_yet]}}))
    assert not report.failed(report.rows({"plain/syscalls": {"geproxy": [f"{NOT_HERE}: why"]}}))


def test_the_columns_of_a_table_stand_below_their_headings() -> None:
    lines = report.text(results(FOUND)).splitlines()
    assert lines[0].index("per s") + len("per s") == lines[1].index("200") + len("200")


def test_parts_of_a_figure_stand_in_the_file_and_in_no_line_of_text() -> None:
    figures: Any = {"syscalls": 30.0, "calls.sendto": 4.0}
    found: dict[str, Outcomes] = {"plain/syscalls": {"geproxy": [figures], "danted": [figures]}}
    assert results(found)["rows"]["plain/syscalls"]["danted"]["rounds"] == [figures]
    assert report.text(results(found)).splitlines() == [
        "plain/syscalls  calls each  geproxy's calls each",
        "geproxy                 30",
        "danted                  30                1.00 x",
    ]
    assert brief(figures) == "syscalls 30"


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "results.json"
    report.write(results(FOUND), path)
    assert report.read(path) == results(FOUND)


GOALS = [
    pytest.param({"geproxy": 1.0, "a": 4.0, "b": 2.0}, False, "b", True, True, id="the least"),
    pytest.param({"geproxy": 1.5, "a": 4.0, "b": 2.0}, False, "b", True, False, id="must, not aim"),
    pytest.param({"geproxy": 4.0, "a": 4.0, "b": 2.0}, True, "a", True, True, id="the most"),
    pytest.param({"geproxy": 1.0, "a": 4.0}, True, "a", False, False, id="one peer is missing"),
    pytest.param({"geproxy": 1.0}, True, "", None, None, id="no peer"),
    pytest.param({"a": 4.0}, True, "a", None, None, id="no geproxy"),
]


@pytest.mark.parametrize("values, more, best, must_met, aim_met", GOALS)
def test_a_goal_is_judged_against_the_best_peer(
    values: dict[str, float], more: bool, best: str, must_met: bool | None, aim_met: bool | None
) -> None:
    bounds = (0.75, 1.0) if more else (0.75, 0.5)
    goal = Goal("a row", "a metric", ("a", "b"), *bounds, more)
    verdict = goal.verdict(
        lambda row, label, metric: values.get(label),
        lambda row, label, other, metric: (
            values[label] / values[other] if label in values else None
        ),
    )
    assert (verdict["best"], verdict["must_met"], verdict["aim_met"]) == (best, must_met, aim_met)


def test_a_goal_without_peers_judges_the_figure_itself() -> None:
    goal = Goal("a row", "a metric", (), 1.0, 0.4)
    verdict = goal.verdict(lambda row, label, metric: 0.7, lambda *_: None)
    assert (verdict["ratio"], verdict["must_met"], verdict["aim_met"]) == (0.7, True, False)


def test_every_goal_is_about_a_row_of_the_plan() -> None:
    names = {row.name for row in Plan(workers=2).rows()}
    assert {verdict["row"] for verdict in report.judged({})} <= names


def test_rows_have_names_of_their_own() -> None:
    names = [row.name for row in Plan(workers=2).rows()]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("pattern", ["", "udp", "plain/*", "plain/udp-64x64"])
def test_a_pattern_chooses_rows_by_a_part_or_a_glob(pattern: str) -> None:
    rows = {row.name: row for row in Plan(workers=2).rows()}
    assert chosen(rows["plain/udp-64x64"], pattern)
    assert chosen(rows["http/short"], pattern) == (pattern == "")


def test_the_drawing_is_xml_with_a_bar_for_each_contender_and_metric() -> None:
    drawing = ElementTree.fromstring(plot.svg(results(FOUND)))
    bars = drawing.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + 2 * 2  # the ground, and two contenders in two panels
