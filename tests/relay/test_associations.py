"""All associations of a worker: who was quiet for too long, and what was moved in all."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address

import gevent
import pytest

from geproxy.errors import IdleError, ResolveError, ShutdownError
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import Event, interrupt
from geproxy.relay.associations import ANSWERED_SECONDS, FORGET_SECONDS, Associations, Totals
from geproxy.terms import Endpoint
from tests.support.associations import Around, association
from tests.support.conformance import HARD_SECONDS, beside, settle
from tests.support.datagrams import udp_peer
from tests.support.floods import FEW, Flood, items_before_others

NOW = 10_000.0
IDLE_SECONDS = 300.0


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    gevent.get_hub()
    before = len(os.listdir("/proc/self/fd"))
    with Deadline(HARD_SECONDS, "a test"):
        yield
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def around() -> Iterator[Around]:
    with association() as around:
        yield around


def watched(*arounds: Around) -> Associations:
    associations = Associations(IDLE_SECONDS)
    for one in arounds:
        associations.add(one.association)
    return associations


def move(around: Around, count: int = 1) -> None:
    """Have so many datagrams go up."""
    with udp_peer() as target:
        for _ in range(count):
            around.send(target.endpoint, b"1234")
        for _ in range(count):
            target.receive()


# -- quiet ---------------------------------------------------------------------------------------


def test_who_is_quiet_for_too_long_is_told_and_nobody_earlier(around: Around) -> None:
    associations = watched(around)
    for after in (0, 1, 299.9):
        associations.sweep(NOW + after)
        assert around.ended == []
    associations.sweep(NOW + 300)
    (error,) = around.ended
    assert (type(error), str(error)) == (IdleError, "no datagram for 300 seconds")


def test_a_datagram_begins_the_time_anew(around: Around) -> None:
    associations = watched(around)
    associations.sweep(NOW)
    move(around)
    associations.sweep(NOW + 299)
    associations.sweep(NOW + 598)
    assert around.ended == []
    associations.sweep(NOW + 599)
    assert len(around.ended) == 1


def test_only_who_was_quiet_is_told(around: Around) -> None:
    with association() as busy:
        associations = watched(around, busy)
        associations.sweep(NOW)
        move(busy)
        associations.sweep(NOW + 300)
        assert (len(around.ended), busy.ended) == (1, [])


def test_who_has_ended_is_told_nothing(around: Around) -> None:
    associations = watched(around)
    associations.sweep(NOW)
    associations.end(around.association)
    associations.sweep(NOW + 1000)
    assert around.ended == []
    assert len(associations) == 0


def test_ways_are_found_anew_now_and_then(around: Around) -> None:
    associations = watched(around)
    with udp_peer() as target:
        decided = []
        for after in (0, 1, FORGET_SECONDS - 1, FORGET_SECONDS, FORGET_SECONDS + 1):
            associations.sweep(NOW + after)
            around.decided.clear()
            around.send(target.endpoint)
            target.receive()
            decided.append(bool(around.decided))
        assert decided == [True, False, False, True, False]


@pytest.mark.parametrize(
    ("idle_seconds", "sweep_seconds"), [(0.5, 0.25), (4.0, 1.0), (300.0, 5.0)], ids=str
)
def test_sweeps_are_often_enough_and_not_too_often(
    idle_seconds: float, sweep_seconds: float
) -> None:
    assert Associations(idle_seconds).sweep_seconds == sweep_seconds


# -- questions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [0, 1, 2, 3])
def test_who_has_all_answers_is_told_after_ten_seconds_and_others_are_not(
    around: Around, answers: int
) -> None:
    associations = watched(around)
    around.association.questions = True
    with udp_peer() as target:
        around.send(target.endpoint)
        around.send(target.endpoint)
        for _ in range(2):
            _, ours = target.receive()
        for _ in range(answers):
            target.send(b"answer", ours)
        around.wait_for_replies(answers)
    associations.sweep(NOW)
    associations.sweep(NOW + ANSWERED_SECONDS - 0.1)
    assert around.ended == []
    associations.sweep(NOW + ANSWERED_SECONDS)
    assert len(around.ended) == (answers >= 2)
    associations.sweep(NOW + IDLE_SECONDS)
    assert len(around.ended) == 1 + (answers >= 2)


def test_who_asks_nothing_waits_for_the_whole_time(around: Around) -> None:
    associations = watched(around)
    around.association.questions = True
    associations.sweep(NOW)
    associations.sweep(NOW + ANSWERED_SECONDS)
    assert around.ended == []


def test_a_shorter_limit_holds_for_answered_questions_too(around: Around) -> None:
    associations = Associations(ANSWERED_SECONDS / 2)
    associations.add(around.association)
    around.association.questions = True
    associations.sweep(NOW)
    associations.sweep(NOW + ANSWERED_SECONDS / 2)
    assert len(around.ended) == 1


# -- ways that are silent --------------------------------------------------------------------------


class Silent:
    """A way by which nothing ever comes back."""

    def __init__(self) -> None:
        self.renewed = 0
        self.fault: Exception | None = None

    def take_silence(self) -> bool:
        """Say so."""
        return True

    def renew(self, client: object) -> None:
        """Count, and fail where that is wanted."""
        self.renewed += 1
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        """Nothing is there to be given back."""


def test_every_silent_way_is_renewed_at_each_sweep_whatever_becomes_of_the_others(
    around: Around,
) -> None:
    associations = watched(around)
    ways = [Silent() for _ in range(3)]
    ways[1].fault = ResolveError("nobody knows")
    around.association._ways = {str(number): way for number, way in enumerate(ways)}  # type: ignore[misc]
    for count in (1, 2):
        associations.sweep(NOW + count)
        settle()
        assert [way.renewed for way in ways] == [count] * 3
    assert around.ended == []


def test_a_bug_in_a_renewal_ends_the_one_association(around: Around) -> None:
    with association() as other:
        associations = watched(around, other)
        bug, well = Silent(), Silent()
        bug.fault = ValueError("a bug")
        around.association._ways = {"bug": bug}  # type: ignore[dict-item]
        other.association._ways = {"well": well}  # type: ignore[dict-item]
        associations.sweep(NOW)
        settle()
        assert (around.ended, other.ended) == ([bug.fault], [])
        assert well.renewed == 1


class Slow(Silent):
    """One that takes a while to be looked at, and to be renewed."""

    def __init__(self, flood: Flood) -> None:
        super().__init__()
        self.flood = flood

    def take_silence(self) -> bool:
        """Say so, after a while."""
        self.flood.item()
        return True

    def renew(self, client: object) -> None:
        """Take a while."""
        self.flood.item()


def test_sweeps_renewals_and_totals_of_many_leave_others_their_turn() -> None:
    flood = Flood()

    class Many(Counter[str]):
        """The drops of one, which take a while to be counted."""

        def total(self) -> int:
            """Take a while."""
            flood.item()
            return 1

    with ExitStack() as stack:
        arounds = [stack.enter_context(association()) for _ in range(4 * FEW)]
        associations = watched(*arounds)
        for one in arounds:
            one.association._ways = {"slow": Slow(flood)}  # type: ignore[dict-item]
            one.association.dropped = Many()
        assert items_before_others(lambda: associations.sweep(NOW), flood) < FEW
        flood.items = 0
        silent = [
            (one.association, way) for one in arounds for way in one.association.silent_ways()
        ]
        flood.items = 0
        renew = partial(associations._renew, silent)
        assert items_before_others(renew, flood) < FEW
        flood.items = 0
        assert items_before_others(associations.totals, flood) < FEW
        assert associations.totals().dropped == len(arounds)


def test_who_ends_while_a_sweep_gives_way_is_let_alone() -> None:
    flood = Flood()
    with ExitStack() as stack:
        arounds = [stack.enter_context(association()) for _ in range(FEW)]
        associations = watched(*arounds)
        associations.sweep(NOW)
        for one in arounds:
            one.association._ways = {"slow": Slow(flood)}  # type: ignore[dict-item]

        def end_all() -> None:
            for one in arounds:
                associations.end(one.association)

        sweep = partial(associations.sweep, NOW + IDLE_SECONDS)
        with beside(sweep, end_all) as (sweeping, ending):
            gevent.joinall([sweeping, ending], raise_error=True)
        assert 0 < sum(bool(one.ended) for one in arounds) < FEW


# -- totals --------------------------------------------------------------------------------------


def test_the_totals_are_those_of_the_living_and_the_ended(around: Around) -> None:
    associations = Associations(IDLE_SECONDS)
    assert associations.totals() == Totals(0, 0, 0, 0, 0)
    with association() as other:
        for one, count in ((around, 2), (other, 3)):
            associations.add(one.association)
            move(one, count)
        other.association.drop("size")
        other.association.drop("stranger")
        assert len(associations) == 2
        expected = Totals(up_datagrams=5, up_bytes=20, dropped=2)
        assert associations.totals() == expected
        associations.end(other.association)
        assert (len(associations), associations.totals()) == (1, expected)
    associations.end(around.association)
    assert (len(associations), associations.totals()) == (0, expected)


def test_what_came_down_counts_as_well(around: Around) -> None:
    associations = watched(around)
    with udp_peer() as target:
        around.send(target.endpoint, b"")
        target.send(b"answer", target.receive()[1])
        around.wait_for_replies(1)
    assert associations.totals() == Totals(1, 1, 0, 6, 0)


def test_the_totals_never_go_down_while_one_ends(around: Around) -> None:
    """They are written for others to read at any moment, and the end of one takes a while."""
    associations = watched(around)
    move(around, 3)
    go_on = Event()

    def slow_to_end() -> None:
        try:
            Event().wait()
        finally:
            go_on.wait()

    around.association.crew.spawn(slow_to_end)
    settle()
    with beside(lambda: associations.end(around.association)) as (ending,):
        settle()
        assert not ending.dead
        assert len(associations) == 0
        assert associations.totals().up_datagrams == 3
        go_on.set()
    assert associations.totals().up_datagrams == 3


def test_an_end_that_is_interrupted_is_complete_all_the_same(around: Around) -> None:
    associations = watched(around)
    move(around, 3)

    def end() -> None:
        with pytest.raises(ShutdownError):
            associations.end(around.association)

    ending = gevent.spawn(end)
    interrupt(ending, ShutdownError("the proxy stops"))
    ending.get(timeout=HARD_SECONDS)
    assert (len(associations), associations.totals().up_datagrams) == (0, 3)
    assert not len(around.association.crew)


def test_what_is_given_away_counts_elsewhere(around: Around) -> None:
    associations = watched(around)
    move(around, 3)
    associations.give_away(around.association)
    assert (len(associations), associations.totals()) == (0, Totals())


def test_a_hundred_that_end_leave_nothing_behind() -> None:
    associations = Associations(IDLE_SECONDS)
    with ExitStack() as held:
        arounds = [held.enter_context(association()) for _ in range(100)]
        for one in arounds:
            associations.add(one.association)
            one.send(Endpoint(IPv4Address("127.0.0.1"), 9))
        settle()
        for one in arounds:
            associations.end(one.association)
    assert (len(associations), associations.totals().up_datagrams) == (0, 100)
