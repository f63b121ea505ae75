"""Measure the rows of a plan, the contenders of each in turn: A B C A B C, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from benchmarks import work
from benchmarks.load import PART, Figures, LoadError
from benchmarks.plan import Entry, Row
from benchmarks.running import Running, StartError
from benchmarks.work import Bench

Outcome = Figures | str  # the figures of one measurement, or why there are none
Outcomes = dict[str, list[Outcome]]  # by label, one of each round
Say = Callable[[str], None]

OF_CPU = ("cpu_", "user_")  # so the names of figures begin that are a contender's CPU time


class Stage:
    """The contenders that run now: those of one group wait side by side for their turns."""

    def __init__(self) -> None:
        self._group: tuple[str, ...] = ()
        self._running: dict[str, Running] = {}
        self._refused: dict[str, str] = {}

    def enter(self, row: Row) -> None:
        """End those who have no part in *row*."""
        group = (row.name.partition("/")[0], row.dialect, row.method)
        if group != self._group or row.fresh:
            self.close()
        self._group = group

    def take(self, bench: Bench, row: Row, entry: Entry) -> Running:
        """The contender of *entry*, started if it does not run; StartError if it cannot."""
        name = entry.contender.name
        running = self._running.get(name)
        if running is not None and running.alive():
            return running
        if running is not None:
            running.__exit__(None, None, None)
        if name in self._refused:
            raise StartError(self._refused[name])
        running = _prepared(row, entry)
        try:
            running.__enter__()
        except StartError as error:
            self._refused[name] = str(error)
            raise
        self._running[name] = running
        work.warm_up(bench, running)
        return running

    def close(self) -> None:
        """End all of them."""
        for running in self._running.values():
            running.__exit__(None, None, None)
        self._running.clear()
        self._refused.clear()


@contextmanager
def _stage() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


def measure_rows(rows: Iterable[Row], bench: Bench, rounds: int, say: Say) -> dict[str, Outcomes]:
    """Measure *rows*, leaving out who is not installed; *say* is told each outcome at once."""
    found: dict[str, Outcomes] = {}
    with _stage() as stage:
        for row in rows:
            entries = [entry for entry in row.entries if not entry.contender.missing()]
            outcomes: Outcomes = {entry.label: [] for entry in entries}
            stage.enter(row)
            for number in range(1 if row.once else rounds):
                for entry in entries:
                    outcome = _measure(stage, bench, row, entry)
                    outcomes[entry.label].append(outcome)
                    say(f"{row.name} round {number + 1} {entry.label}: {brief(outcome)}")
            found[row.name] = outcomes
    return found


def _measure(stage: Stage, bench: Bench, row: Row, entry: Entry) -> Outcome:
    try:
        if entry.contender.prepare is None:
            return _uncharged(entry.work(bench, stage.take(bench, row, entry)))
        if not row.fresh:
            return entry.work(bench, stage.take(bench, row, entry))
        with _prepared(row, entry) as running:
            return entry.work(bench, running)
    except (StartError, LoadError) as error:
        return str(error)


def _uncharged(figures: Figures) -> Figures:
    """Without a proxy there is nobody whose CPU time could be counted."""
    return {name: value for name, value in figures.items() if not name.startswith(OF_CPU)}


def _prepared(row: Row, entry: Entry) -> Running:
    return Running(entry.contender, row.dialect, workers=entry.workers, method=row.method)


def brief(outcome: Outcome) -> str:
    """One outcome in a line, without the parts of its figures."""
    if isinstance(outcome, str):
        return f"FAILED: {outcome}"
    whole = {name: value for name, value in outcome.items() if PART not in name}
    return ", ".join(f"{name} {value:.4g}" for name, value in whole.items())
