"""Greenlets that belong to somebody: nothing outlives its owner's call."""

import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator

import gevent
import pytest

from geproxy.errors import DeadlineError, IdleError, ResetError, ShutdownError
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import (
    Crew,
    Runner,
    getcurrent,
    interrupt,
    spawn,
    stacks,
)
from tests.support.conformance import (
    HARD_SECONDS,
    beside,
    settle,
    until,
)
from tests.support.jobs import (
    fail_at_once,
    fail_later,
    return_at_once,
    return_later,
    wait_for_ever,
)
from tests.support.living import left_since, living, set_heap_aside


@pytest.fixture(scope="module", autouse=True)
def the_heap_of_others_is_not_walked() -> None:
    set_heap_aside()


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = living()
    with Deadline(HARD_SECONDS, "a test"):
        yield
    assert not left_since(before)


@pytest.mark.usefixtures("without_collector")
def test_a_runner_whose_function_has_raised_holds_it_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub = gevent.get_hub()
    monkeypatch.setattr(hub, "NOT_ERROR", (*hub.NOT_ERROR, ResetError))  # it would be printed

    def fail() -> None:
        raise ResetError("broken")

    held = weakref.ref(fail)
    runner = spawn(fail)
    del fail
    until(lambda: runner.dead)
    assert held() is None


def test_a_finished_greenlet_is_not_interrupted() -> None:
    finished = spawn(return_at_once)
    settle()
    interrupt(finished, IdleError("silent"))
    settle()


def test_an_interruption_that_comes_too_late_does_not_hit_the_next_job() -> None:
    finished, waits = spawn(return_at_once), []
    gevent.get_hub().loop.run_callback(interrupt, finished, IdleError("of the first job"))

    def next_job() -> None:
        gevent.sleep(0.01)
        waits.append(gevent.getcurrent())

    until(lambda: isinstance(finished, Runner) and finished.function is None)
    again = spawn(next_job)
    assert again is finished, "a parked runner takes the next job"
    settle()
    until(lambda: bool(waits))
    assert waits == [finished]


def test_an_interruption_of_a_job_that_has_ended_does_not_hit_the_next() -> None:
    ended, done = spawn(return_at_once), []
    until(lambda: isinstance(ended, Runner) and ended.function is None)
    interrupt(ended, IdleError("too late"))
    again = spawn(lambda: done.append(True))
    assert again is ended
    until(lambda: done)
    assert not ended.dead


def test_a_runner_that_was_ended_takes_no_other_job() -> None:
    crew = Crew(pytest.fail)
    crew.spawn(wait_for_ever)
    settle()
    (ended,) = crew._members
    crew.end()
    until(lambda: ended.dead)
    assert spawn(return_at_once) is not ended


def test_an_interruption_reaches_the_wait_it_finds() -> None:
    waits = []

    def wait_twice() -> None:
        for _ in range(2):
            try:
                wait_for_ever()
            except IdleError as error:
                waits.append(str(error))

    with beside(wait_twice) as (waiting,):
        for text in ("first", "second"):
            settle()
            interrupt(waiting, IdleError(text))
    assert waits == ["first", "second"]


# -- crews ---------------------------------------------------------------------------------------


class Heard:
    """What a crew's owner hears of."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def __call__(self, error: Exception) -> None:
        self.errors.append(error)


def test_a_crew_works_beside_its_owner_and_ends_with_it() -> None:
    heard = Heard()
    crew = Crew(heard)
    cleaned = []

    def careful() -> None:
        try:
            wait_for_ever()
        finally:
            cleaned.append(True)

    for _ in range(3):
        crew.spawn(careful)
    settle()
    assert (len(crew), cleaned) == (3, [])
    crew.end()
    assert (len(crew), cleaned) == (0, [True] * 3)
    assert heard.errors == [], "an end that was wanted is no error"


def test_an_error_of_a_member_is_heard_and_the_others_go_on() -> None:
    heard = Heard()
    crew = Crew(heard)
    crew.spawn(wait_for_ever)
    crew.spawn(fail_later)
    until(lambda: heard.errors)
    assert [type(error) for error in heard.errors] == [ResetError]
    assert len(crew) == 1
    crew.end()


def test_a_bug_of_a_member_is_heard_as_well() -> None:
    heard = Heard()
    crew = Crew(heard)
    crew.spawn(lambda: {}[0])
    until(lambda: heard.errors)
    assert [type(error) for error in heard.errors] == [KeyError]
    crew.end()


def test_a_member_that_returns_is_no_member_any_more() -> None:
    crew = Crew(Heard())
    crew.spawn(return_later)
    assert len(crew) == 1
    until(lambda: not len(crew))
    crew.end()


@pytest.mark.parametrize("member", [wait_for_ever, return_at_once, fail_at_once])
def test_a_crew_is_ended_before_a_member_has_begun(member: Callable[[], None]) -> None:
    crew = Crew(Heard())
    crew.spawn(member)
    crew.end()
    assert not len(crew)


def test_a_member_that_is_spawned_by_one_that_had_not_begun_is_ended_too() -> None:
    """A client that leaves in the moment in which its first datagram is looked at."""
    crew = Crew(Heard())
    crew.spawn(lambda: crew.spawn(wait_for_ever))
    crew.end()
    assert not len(crew)


def test_nobody_is_begun_by_a_member_that_is_being_ended() -> None:
    crew = Crew(Heard())

    def replace() -> None:
        try:
            wait_for_ever()
        finally:
            crew.spawn(wait_for_ever)

    crew.spawn(replace)
    settle()
    crew.end()
    assert not len(crew)


def test_the_end_of_a_crew_is_not_cut_short_by_an_interruption() -> None:
    crew = Crew(Heard())
    ended, ending = [], []

    def slow_to_end() -> None:
        try:
            wait_for_ever()
        finally:
            gevent.sleep(0.005)
            ended.append(True)

    def own() -> None:
        crew.spawn(slow_to_end)
        settle()
        ending.append(True)
        with pytest.raises(ShutdownError):
            crew.end()
        assert ended, "nothing runs any more when end() is over, whatever ends it"

    with beside(own) as (owner,):
        until(lambda: ending)
        interrupt(owner, ShutdownError("over"))


def test_a_crew_of_nobody_ends_at_once_and_twice() -> None:
    crew = Crew(Heard())
    crew.end()
    crew.end()
    crew.wait()


def test_a_crew_is_waited_for_until_its_last_member_has_returned() -> None:
    crew = Crew(Heard())
    crew.spawn(return_later)
    crew.spawn(fail_later)
    with beside(crew.wait) as (waiting,):
        settle()
        assert not waiting.dead
    assert not len(crew)
    crew.spawn(wait_for_ever)
    with pytest.raises(DeadlineError), Deadline(0.01, "a wait"):
        crew.wait()
    crew.end()


# -- where greenlets stand ------------------------------------------------------


def test_a_greenlet_that_hangs_is_shown_with_the_place_where_it_stands() -> None:
    with beside(wait_for_ever) as (waiting,):
        settle()
        text = stacks([waiting, getcurrent()])
        waiting.kill()
    assert text.splitlines()[0].startswith(wait_for_ever.__code__.co_filename)
    assert text.splitlines()[1] == "running or finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "verdict"),
    [
        pytest.param("", "safe", id="imports alone are safe"),
        pytest.param("prepare_loop()", "a hub exists", id="a hub is not"),
        pytest.param(
            "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()",
            "a thread exists",
            id="a thread is not",
        ),
    ],
)
def test_whoever_forks_must_have_neither_hub_nor_thread(before: str, verdict: str) -> None:
    script = f"""
import threading, time
from geproxy.net.greenlets import assert_fork_safe, prepare_loop
{before}
try:
    assert_fork_safe()
    print("safe", flush=True)
except AssertionError as error:
    print(error, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=HARD_SECONDS
    )
    assert done.stdout.startswith(verdict), done.stderr
