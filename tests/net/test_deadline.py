"""Deadlines as scopes: what they raise, in whom, and that nothing of them stays."""

import time

import gevent
import pytest

from geproxy.errors import DeadlineError, IdleError, ResolveError
from geproxy.net.deadline import Deadline
from tests.support.conformance import HARD_SECONDS, beside

SOON_SECONDS = 0.01
LATER_SECONDS = 0.03


def test_a_deadline_says_what_took_too_long_and_how_long_it_might_take() -> None:
    with pytest.raises(DeadlineError) as caught, Deadline(SOON_SECONDS, "the handshake"):
        gevent.sleep(HARD_SECONDS)
    assert str(caught.value) == "the handshake took longer than 0.01 seconds"


def test_the_error_given_is_the_error_raised() -> None:
    mine = ResolveError("too slow")
    with pytest.raises(ResolveError) as caught, Deadline(SOON_SECONDS, "a look-up", mine):
        gevent.sleep(HARD_SECONDS)
    assert caught.value is mine


def test_all_waits_of_a_step_share_one_time() -> None:
    waits = 0
    with pytest.raises(DeadlineError), Deadline(LATER_SECONDS, "many short waits"):
        while waits < 10_000:
            gevent.sleep(0.001)
            waits += 1
    assert waits > 1


def test_a_step_in_time_hears_nothing_then_or_later() -> None:
    with Deadline(SOON_SECONDS, "a quick step"):
        pass
    gevent.sleep(SOON_SECONDS * 3)


def test_a_step_that_fails_hears_nothing_later() -> None:
    with pytest.raises(IdleError), Deadline(SOON_SECONDS, "a step"):
        raise IdleError("something else")
    gevent.sleep(SOON_SECONDS * 3)


def test_an_inner_deadline_leaves_the_outer_one_running() -> None:
    inner_ended = False
    with pytest.raises(DeadlineError, match="outer"), Deadline(LATER_SECONDS, "outer"):
        with pytest.raises(DeadlineError, match="inner"), Deadline(SOON_SECONDS, "inner"):
            gevent.sleep(HARD_SECONDS)
        inner_ended = True
        gevent.sleep(HARD_SECONDS)
    assert inner_ended


def test_an_outer_deadline_passes_through_the_inner_one() -> None:
    outer = Deadline(SOON_SECONDS, "outer")
    with pytest.raises(DeadlineError, match="outer"), outer, Deadline(HARD_SECONDS, "inner"):
        gevent.sleep(HARD_SECONDS)


def test_two_deadlines_at_one_moment_are_raised_once() -> None:
    outer = Deadline(SOON_SECONDS, "outer")
    with pytest.raises(DeadlineError), outer, Deadline(SOON_SECONDS, "inner"):
        gevent.sleep(HARD_SECONDS)
    gevent.sleep(SOON_SECONDS * 3)


def test_only_the_greenlet_that_entered_is_meant() -> None:
    order = []

    def hurried() -> None:
        with pytest.raises(DeadlineError), Deadline(SOON_SECONDS, "one of two"):
            gevent.sleep(HARD_SECONDS)
        order.append("hurried")

    def patient() -> None:
        gevent.sleep(LATER_SECONDS)
        order.append("patient")

    with beside(hurried, patient):
        pass
    assert order == ["hurried", "patient"]


def test_the_time_begins_at_the_entrance_however_long_the_loop_was_held_up() -> None:
    gevent.sleep(0.001)
    time.sleep(0.6)  # the loop's own idea of now is that old
    with Deadline(0.5, "a step"):
        gevent.sleep(0.001)
