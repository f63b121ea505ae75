"""What a filter lets pass: the latest, as many as there is memory for, and never nobody."""

from ipaddress import IPv4Address

import pytest

from geproxy.net.budget import Budget
from geproxy.outbound import reached as module
from geproxy.outbound.reached import HANDED_OVER, KEY_BYTES, Reached

CLIENT = IPv4Address("192.0.2.1")


def passing(reached: Reached, top: int = 1000) -> list[int]:
    return [key for key in range(top) if key in reached]


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    reached = Reached()
    assert [reached.add(key) for key in (1, 2, 3, 1, 4)] == [False, False, False, False, True]
    assert passing(reached) == [1, 3, 4]


def test_another_worker_hears_of_the_latest() -> None:
    reached = Reached()
    reached.extend(range(2 * HANDED_OVER))
    assert reached.latest() == list(range(HANDED_OVER, 2 * HANDED_OVER))
    assert Reached().latest() == []


def test_there_are_as_many_as_somebody_pays_for() -> None:
    holding = Budget(8 * KEY_BYTES).holding(CLIENT)
    reached = Reached()
    reached.extend([1, 2])
    reached.charge(holding)
    assert holding.size_bytes == 2 * KEY_BYTES
    reached.extend(range(3, 10))
    assert passing(reached) == [4, 5, 6, 7, 8, 9]
    assert holding.size_bytes == 6 * KEY_BYTES


def test_where_nobody_pays_the_latest_passes() -> None:
    reached = Reached()
    reached.charge(Budget(0).holding(CLIENT))
    reached.extend([1, 2])
    assert passing(reached) == [2]
