"""What work gives: figures per unit of it, the user time among them in reference loops."""

from pathlib import Path

import pytest

from benchmarks import work
from benchmarks.contenders import DIRECT, PLAIN, Contender
from benchmarks.load import Figures
from benchmarks.plan import Entry, Row
from benchmarks.rounds import measure_rows
from benchmarks.work import Bench, Work

KINDS = [
    pytest.param(work.short(), "user_loops", id="each connection"),
    pytest.param(work.bulk(4, up=False), "user_loops_per_gb", id="each GB"),
    pytest.param(work.datagrams(1200, 64), "user_loops_per_datagram", id="each datagram"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind, metric", KINDS)
def test_user_time_of_a_unit_is_in_reference_loops(
    program: Path, targets: Figures, kind: Work, metric: str
) -> None:
    found = measured(program, targets, PLAIN[0], kind)
    assert metric in found
    assert found[metric] >= 0  # a short time may be less than the tick by which it is counted


@pytest.mark.slow
@pytest.mark.parametrize("kind, metric", KINDS)
def test_without_a_proxy_there_is_no_user_time(
    program: Path, targets: Figures, kind: Work, metric: str
) -> None:
    assert metric not in measured(program, targets, DIRECT, kind)


def measured(program: Path, targets: Figures, who: Contender, kind: Work) -> Figures:
    bench = Bench(program, targets, targets, 0.1)
    row = Row("a/row", (Entry(who.name, who, kind, 1),))
    (outcome,) = measure_rows([row], bench, 1, print)["a/row"][who.name]
    assert not isinstance(outcome, str), outcome
    return outcome
