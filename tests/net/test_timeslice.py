"""A loop that may go on by itself gives way to whatever the loop has to poll for."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import cast

import gevent
import pytest

from geproxy.net.deadline import Deadline, absorb
from geproxy.net.greenlets import interrupt
from geproxy.net.messages import read_to_end
from geproxy.net.timeslice import give_way, in_slices
from geproxy.streams import Stream
from tests.support.conformance import HARD_SECONDS
from tests.support.floods import FEW, Flood, items_before_others


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


def test_each_time_somebody_gives_way_the_loop_polls() -> None:
    flood = Flood()

    def run() -> None:
        while True:
            flood.items += 1
            give_way()

    assert items_before_others(run, flood) <= 2


def test_many_that_gave_way_have_one_slice_in_all_between_two_polls() -> None:
    flood = Flood()

    def run() -> None:
        while True:
            flood.item()
            give_way()

    runners = [gevent.spawn(run) for _ in range(200)]
    try:
        gevent.sleep(0)  # each has begun, and stands in the row
        begun = flood.items
        assert items_before_others(lambda: None, flood) - begun <= FEW
    finally:
        gevent.killall(runners)


def test_all_that_gave_way_have_their_turn_one_after_the_other() -> None:
    order: list[int] = []

    def run(number: int) -> None:
        for _ in range(3):
            order.append(number)
            give_way()

    gevent.joinall([gevent.spawn(run, number) for number in range(4)])
    assert order == [0, 1, 2, 3] * 3


def test_what_is_thrown_into_one_that_gave_way_leaves_nothing_of_it_in_the_row() -> None:
    class Enough(Exception):
        pass

    resumed: list[str] = []

    def first() -> None:
        try:
            give_way()
        except Enough:
            gevent.sleep(0.01)  # a turn that came here now would cut this short
            resumed.append("after its own wait")

    def second() -> None:
        give_way()
        resumed.append("second")

    one, two = gevent.spawn(first), gevent.spawn(second)
    gevent.sleep(0)
    interrupt(one, Enough())
    gevent.joinall([one, two], raise_error=True)
    assert resumed == ["second", "after its own wait"]


def test_what_goes_in_slices_gives_way_between_its_items() -> None:
    flood = Flood()

    def run() -> None:
        for _ in in_slices(count()):
            flood.item()

    assert items_before_others(run, flood) < FEW
    assert list(in_slices([1, 2, 3])) == [1, 2, 3]


@pytest.mark.parametrize("read", [read_to_end, absorb])
def test_who_sends_for_ever_what_is_dropped_leaves_others_their_turn(
    read: Callable[[Stream], None],
) -> None:
    flood = Flood()
    assert items_before_others(lambda: read(cast(Stream, flood)), flood) < FEW
