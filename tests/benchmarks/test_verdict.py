"""Rounds become ratios, ratios a verdict: worse is beyond 3 %, and beyond what noise makes."""

from typing import Any

import pytest

from benchmarks import report, verdict
from benchmarks.verdict import (
    BASE,
    BASE_AGAIN,
    INSTRUCTIONS,
    LEAST_ROUNDS,
    THIS,
    TOTAL,
    USER,
    Round,
)


def a_round(base: float, again: float, this: float, **more: float) -> Round:
    values = {BASE: base, BASE_AGAIN: again, THIS: this}
    return {label: {USER: value, TOTAL: 2 * value, **more} for label, value in values.items()}


def rounds(again: float, this: float, count: int = LEAST_ROUNDS) -> list[Round]:
    """So many, each twice as slow as the last: what is left of that is in no ratio."""
    return [a_round(2.0**n, again * 2**n, this * 2**n) for n in range(count)]


def test_a_ratio_is_that_of_one_round() -> None:
    measured = [a_round(1, 1, 2), a_round(10, 10, 30)]
    assert verdict.ratios(measured, THIS, USER) == [2, 3]


def test_a_round_in_which_nothing_was_sampled_gives_no_ratio() -> None:
    measured = [a_round(0, 1, 2), a_round(1, 1, 0), a_round(1, 1, 3)]
    assert verdict.ratios(measured, THIS, USER) == [3]
    assert verdict.ratios(measured, THIS, INSTRUCTIONS) == []


def test_what_slows_a_round_is_in_no_ratio() -> None:
    ratio = verdict.judged(rounds(1.01, 1.02), "GB")["ratio"]
    assert ratio[THIS][USER] == pytest.approx(
        {"median": 1.02, "low": 1.02, "high": 1.02, "rounds": LEAST_ROUNDS}
    )
    assert ratio[BASE_AGAIN][TOTAL]["median"] == pytest.approx(1.01)


RULE = [
    pytest.param(1.0, 1.0, "ok", id="the same"),
    pytest.param(1.0, 0.5, "ok", id="better"),
    pytest.param(1.0, 1.029, "ok", id="less than 3 percent"),
    pytest.param(1.0, 1.031, "worse", id="more than 3 percent"),
    pytest.param(1.05, 1.049, "ok", id="no more than the noise"),
    pytest.param(1 / 1.05, 1.049, "ok", id="no more than the noise, the other way"),
    pytest.param(1.05, 1.051, "worse", id="more than the noise"),
]


@pytest.mark.parametrize("again, this, wanted", RULE)
def test_worse_is_more_than_3_percent_and_more_than_the_noise(
    again: float, this: float, wanted: str
) -> None:
    row = verdict.judged(rounds(again, this), "GB")
    assert row["verdict"] == wanted
    assert verdict.worse({"a row": row}) == (wanted == "worse")


def test_the_noise_is_the_interval_of_the_same_checkout_to_itself() -> None:
    # The median of base/base is 1; two in five of its rounds are 6 % away.
    measured = [a_round(1, 1.06 if n % 5 > 2 else 1, 1.05) for n in range(LEAST_ROUNDS)]
    assert verdict.judged(measured, "GB")["verdict"] == "ok"


def test_a_ratio_whose_interval_has_1_in_it_is_not_worse() -> None:
    measured = [a_round(1, 1, 0.9 if n % 5 > 2 else 1.05) for n in range(LEAST_ROUNDS)]
    row = verdict.judged(measured, "GB")
    assert row["ratio"][THIS][USER]["median"] > 1.03
    assert row["verdict"] == "ok"
    assert not row["sure"]


def test_a_row_that_was_not_measured_is_not_ok() -> None:
    row = verdict.judged([a_round(0, 1, 1)], "GB")
    assert row["verdict"] == "not measured"
    assert verdict.worse({"a row": row})


INTERVALS = [
    pytest.param([2.0], (2.0, 2.0), id="one"),
    pytest.param([3.0, 1.0, 2.0], (1.0, 3.0), id="few: all of them"),
    # Of 25 values the sign test's 95 % interval is from the 8th to the 18th.
    pytest.param([float(n) for n in range(1, 26)], (8.0, 18.0), id="25"),
    # ... and of 100 from the 40th to the 61st.
    pytest.param([float(n) for n in range(1, 101)], (40.0, 61.0), id="100"),
]


@pytest.mark.parametrize("values, wanted", INTERVALS)
def test_the_interval_of_a_median_is_the_sign_tests(
    values: list[float], wanted: tuple[float, float]
) -> None:
    assert verdict.interval(values) == wanted


def test_a_row_is_settled_once_both_ratios_are_known_well() -> None:
    assert not verdict.settled([])
    assert not verdict.settled(rounds(1, 1, LEAST_ROUNDS - 1))
    assert verdict.settled(rounds(1, 1.5))
    wild = [a_round(1, 1, 1 + n % 2) for n in range(LEAST_ROUNDS)]
    assert not verdict.settled(wild)
    assert not verdict.settled([a_round(1, 1 + n % 2, 1) for n in range(LEAST_ROUNDS)])
    assert not verdict.settled([a_round(0, 0, 0)] * LEAST_ROUNDS)


def test_a_row_that_is_not_known_to_3_percent_says_so() -> None:
    assert verdict.judged(rounds(1, 1), "GB")["sure"]
    wild = [a_round(1, 1, 1 + (n % 5) / 10) for n in range(LEAST_ROUNDS)]
    assert not verdict.judged(wild, "GB")["sure"]


def results(*, refusal: str = "", **more: float) -> dict[str, Any]:
    measured = [a_round(0.5, 0.5, 0.6, **more)] * LEAST_ROUNDS
    versions = [["3.11.2 (main)", "gevent 25.1"], ["3.11.2 (main)", "gevent 25.2"]]
    return {
        "date": "2026-11-22",
        "commit": "abc1234",
        "dirty": False,
        "checkouts": {
            BASE: {"commit": "0123456", "dirty": True, "versions": versions[0]},
            THIS: {"commit": "abc1234", "dirty": False, "versions": versions[1]},
        },
        "not_user_time": refusal,
        "rows": {"plain/short": verdict.judged(measured, "connection")},
    }


def test_a_table_has_figures_ratios_intervals_and_the_verdict() -> None:
    heading, row, _, *notes = verdict.text(results()).splitlines()
    assert heading.split()[:6] == ["user", "loops", "per", "base", "this", "this/base"]
    assert row.split() == [
        *("plain/short", "connection", "0.5", "0.6", "1.200", "1.200-1.200"),
        *("1.000", "1.000-1.000", "1.200", str(LEAST_ROUNDS), "worse"),
    ]
    assert notes == [
        "base: 0123456, dirty",
        "this: abc1234",
        "this has gevent 25.2, base has gevent 25.1",
    ]


def test_instructions_have_a_column_where_they_were_counted() -> None:
    assert "user instructions" not in verdict.text(results())
    assert "user instructions this/base" in verdict.text(results(**{INSTRUCTIONS: 7.0}))


def test_where_user_time_cannot_be_told_the_table_says_what_it_has() -> None:
    lines = verdict.text(results(refusal="perf_event_open: Permission denied")).splitlines()
    assert lines[0].startswith("CPU loops")
    assert "perf_event_open: Permission denied" in lines[-1]


def test_markdown_has_as_many_cells_in_each_line() -> None:
    lines = [line for line in verdict.markdown(results()).splitlines() if line.startswith("|")]
    assert len(lines) == 3
    assert len({line.count("|") for line in lines}) == 1


def test_what_was_written_is_shown_again(tmp_path: Any) -> None:
    path = tmp_path / "results.json"
    report.write(results(), path)
    assert verdict.text(report.read(path)) == verdict.text(results())
