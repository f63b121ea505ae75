"""Whose share is largest, and who came first of it."""

from __future__ import annotations

from geproxy.net.crowd import COUNTED_AT_ONCE, Crowd


def source_of(member: str) -> str:
    return member[0]


def test_the_oldest_of_the_greediest_goes_first() -> None:
    crowd = Crowd(source_of, ())
    for member in ("a1", "b1", "b2", "c1", "b3"):
        crowd.add(member)
    gone = []
    for _ in range(5):
        gone.append(crowd.oldest_of_greediest())
        crowd.discard(gone[-1])
    assert gone[:2] == ["b1", "b2"]
    assert sorted(gone[2:]) == ["a1", "b3", "c1"]
    assert crowd.held("b") == 0


def test_those_who_stood_there_are_counted_a_few_at_a_time_and_stay_the_oldest() -> None:
    standing = [f"a{number}" for number in range(COUNTED_AT_ONCE + 1)]
    crowd = Crowd(source_of, standing)
    crowd.add("a-new")
    crowd.count_some()
    assert (crowd.complete, crowd.held("a")) == (False, COUNTED_AT_ONCE + 1)
    crowd.count_some()
    assert (crowd.complete, crowd.oldest_of_greediest()) == (True, "a0")


def test_who_leaves_before_it_is_counted_is_never_counted() -> None:
    crowd = Crowd(source_of, ["a1", "b1"])
    crowd.discard("a1")
    crowd.count_some()
    assert (crowd.held("a"), crowd.held("b")) == (0, 1)
