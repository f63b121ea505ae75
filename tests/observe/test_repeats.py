"""A flood of equal lines: few of them, and no count is lost."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from geproxy.observe import repeats as module
from geproxy.observe.repeats import LINE_SECONDS, SINGLE_LINES, SOURCES, Repeats


class Desk:
    """What is written, and a clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.lines: list[dict[str, Any]] = []
        self.repeats: Repeats[dict[str, Any]] = Repeats(self.write)

    def monotonic(self) -> float:
        return self.now

    def write(self, shown: dict[str, Any], count: int) -> None:
        self.lines.append(shown if count == 1 else {**shown, "repeated": count})

    def add(self, source: str = "a", times: int = 1, **fields: object) -> None:
        for _ in range(times):
            self.repeats.add(source, {"source": source, **fields}, 1)

    def counts(self) -> Counter[str]:
        """How many each source's lines stand for."""
        found: Counter[str] = Counter()
        for line in self.lines:
            found[line["source"]] += line.get("repeated", 1)
        return found


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk()
    monkeypatch.setattr(module, "time", made)
    return made


def test_a_few_have_a_line_each_at_once(desk: Desk) -> None:
    for number in range(SINGLE_LINES):
        desk.add(user=number)
    assert desk.lines == [{"source": "a", "user": number} for number in range(SINGLE_LINES)]


def test_a_flood_has_one_line_a_second_that_says_for_how_many_it_stands(desk: Desk) -> None:
    desk.add(times=SINGLE_LINES)
    desk.lines.clear()
    for second in range(3):
        for number in range(37):
            desk.add(user=number)
        assert len(desk.lines) == second
        desk.now += LINE_SECONDS
        desk.repeats.flush()
    assert desk.lines == [{"source": "a", "user": 36, "repeated": 37}] * 3


def test_one_that_waited_alone_is_an_ordinary_line(desk: Desk) -> None:
    desk.add(times=SINGLE_LINES + 1)
    desk.repeats.flush()
    assert len(desk.lines) == SINGLE_LINES
    desk.now += LINE_SECONDS
    desk.repeats.flush()
    assert desk.lines == [{"source": "a"}] * (SINGLE_LINES + 1)


def test_a_line_that_is_due_waits_for_no_flush(desk: Desk) -> None:
    desk.add(times=SINGLE_LINES + 2)
    desk.now += LINE_SECONDS
    desk.add()
    assert desk.lines[SINGLE_LINES:] == [{"source": "a", "repeated": 3}]


def test_one_source_takes_no_line_from_another(desk: Desk) -> None:
    desk.add("a", 100)
    desk.add("b")
    assert [line["source"] for line in desk.lines] == ["a"] * SINGLE_LINES + ["b"]


def test_after_a_silence_each_has_a_line_again_and_nothing_is_kept(desk: Desk) -> None:
    desk.add(times=100)
    for _ in range(2):
        desk.now += LINE_SECONDS
        desk.repeats.flush()
    assert desk.repeats._sources == {}
    desk.lines.clear()
    desk.add(times=SINGLE_LINES)
    assert desk.lines == [{"source": "a"}] * SINGLE_LINES


def test_what_stands_for_many_is_counted_as_many(desk: Desk) -> None:
    desk.repeats.add("a", {"source": "a"}, 12)
    assert desk.lines == [{"source": "a", "repeated": 12}]


def test_the_end_writes_what_is_not_due_yet(desk: Desk) -> None:
    desk.add("a", 100)
    desk.add("b", 50)
    desk.repeats.flush()
    assert desk.counts() == {"a": SINGLE_LINES, "b": SINGLE_LINES}
    desk.repeats.flush(everything=True)
    assert desk.counts() == {"a": 100, "b": 50}


def test_memory_is_bounded_and_no_count_is_lost_for_it(desk: Desk) -> None:
    desk.add("first", 100)
    for number in range(SOURCES):
        desk.add(str(number), SINGLE_LINES + 1)
    assert len(desk.repeats._sources) == SOURCES
    assert desk.counts()["first"] == 100
    desk.repeats.flush(everything=True)
    assert desk.counts().total() == 100 + SOURCES * (SINGLE_LINES + 1)
