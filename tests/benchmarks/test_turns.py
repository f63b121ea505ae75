"""Contenders take turns round by round; what slows a round is the same for all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import checkouts, turns, verdict
from benchmarks.load import Figures, LoadError
from benchmarks.turns import Contest, Row
from benchmarks.verdict import BASE, BASE_AGAIN, INSTRUCTIONS, THIS, TOTAL, USER
from benchmarks.work import Bench
from tests.support.proxy import ROOT

RUN_SECONDS = 120
TINY = 0.02  # of its usual work


def test_a_round_is_divided_by_the_median_of_its_reference_loops() -> None:
    figures = {USER: 4.0, TOTAL: 6.0, INSTRUCTIONS: 5.0}
    found = turns.normalised({BASE: figures, THIS: figures}, [2.0, 9.0, 2.0, 1.0])
    assert found[BASE] == found[THIS] == {USER: 2.0, TOTAL: 3.0, INSTRUCTIONS: 5.0}


def test_rows_have_names_of_their_own_and_those_of_one_group_stand_together() -> None:
    rows = list(turns.rows())
    assert len({row.name for row in rows}) == len(rows) == 16
    groups = [row.method for row in rows]
    assert groups == sorted(groups, key=groups.index)


def test_a_pattern_chooses_rows() -> None:
    assert [row.name for row in turns.chosen("plain/up-*")] == ["plain/up-4", "plain/up-64"]
    assert turns.chosen("no such row") == []


def contest(program: Path, targets: Figures) -> Contest:
    bench = Bench(program, targets, targets, 0.1)
    return Contest(bench, checkouts.THIS, turns.cores()[1], TINY)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["plain/", "aes-256-gcm/udp", "chacha20*/up-4"])
def test_each_row_is_measured_for_each_contender(
    program: Path, targets: Figures, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    monkeypatch.setattr(turns, "ROUNDS_EACH_PASS", 1)
    rows = turns.chosen(pattern)
    said: list[str] = []
    found, _ = turns.measure(rows, contest(program, targets), 0, said.append)
    assert said == [f"pass 1 {row.name}: 1 rounds" for row in rows]
    for measured in found.values():
        assert set(measured[0]) == {BASE, BASE_AGAIN, THIS}
        assert all(figures[TOTAL] > 0 for figures in measured[0].values())


@pytest.mark.slow
def test_a_row_that_fails_is_named_and_ends_the_run(program: Path, targets: Figures) -> None:
    def broken(bench: object, running: object, part: float) -> float:
        raise LoadError("it fell over")

    row = Row("plain/broken", "GB", broken)
    with pytest.raises(LoadError, match="plain/broken: it fell over"):
        turns.measure([row], contest(program, targets), 0, print)


def against(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", "--against", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS)


@pytest.mark.slow
def test_a_run_against_itself_prints_and_keeps_a_verdict_for_each_row(
    program: Path, tmp_path: Path
) -> None:
    done = against(str(ROOT), "--minutes", "0", "--only", "plain/short", "--output", str(tmp_path))
    (path,) = tmp_path.glob("*-against-*.json")
    results = json.loads(path.read_text())
    assert list(results["rows"]) == ["plain/short"]
    row = results["rows"]["plain/short"]
    assert len(row["rounds"]) == turns.ROUNDS_EACH_PASS
    # Noise may call the same checkout worse: what is promised is that the status says so.
    assert done.returncode == int(verdict.worse(results["rows"])), done.stderr
    assert verdict.text(results) in done.stdout
    shown = [sys.executable, "-m", "benchmarks", "--markdown", str(path)]
    again = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS)
    assert again.stdout == f"{verdict.markdown(results)}\n"


@pytest.mark.slow
def test_what_is_no_checkout_is_named(tmp_path: Path) -> None:
    done = against(str(tmp_path))
    assert (done.returncode, done.stderr) == (
        1,
        f"benchmarks: {tmp_path} is no checkout of geproxy: it has no bin/geproxy\n",
    )


@pytest.mark.slow
def test_a_pattern_that_chooses_nothing_is_an_error() -> None:
    done = against(str(ROOT), "--only", "no such row")
    assert (done.returncode, done.stderr) == (1, "benchmarks: no row has such a name\n")
