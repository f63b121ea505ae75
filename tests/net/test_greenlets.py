"""Greenlets that belong to somebody: nothing outlives its owner's call."""

import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import gevent
import pytest
from gevent.event import Event

from geproxy.errors import DeadlineError, IdleError, ResetError, ShutdownError
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import (
    Crew,
    Runner,
    getcurrent,
    interrupt,
    run_both,
    spawn,
    stacks,
    wait_readable,
)
from geproxy.net.stream import SocketStream
from tests.support.conformance import (
    HARD_SECONDS,
    HELLO,
    Parcel,
    beside,
    settle,
    tcp_pair,
    until,
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


def wait_for_ever() -> None:
    Event().wait()


def fail_at_once() -> None:
    raise ResetError("broken")


def fail_later() -> None:
    gevent.sleep(0.005)
    raise ResetError("broken")


def return_at_once() -> None:
    pass


def return_later() -> None:
    gevent.sleep(0.005)


SHORT = [return_at_once, return_later]
FAILING = [fail_at_once, fail_later]


@pytest.mark.parametrize("there", SHORT)
@pytest.mark.parametrize("here", SHORT)
def test_both_are_waited_for(here: Callable[[], None], there: Callable[[], None]) -> None:
    ended = []

    def follow(function: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            function()
            ended.append(function)

        return run

    run_both(follow(here), follow(there))
    assert len(ended) == 2


@pytest.mark.parametrize("other", [*SHORT, wait_for_ever])
@pytest.mark.parametrize("failing", FAILING)
@pytest.mark.parametrize("side", ["here", "there"])
def test_the_first_error_of_either_side_ends_both_and_is_raised(
    side: str, failing: Callable[[], None], other: Callable[[], None]
) -> None:
    sides = (failing, other) if side == "here" else (other, failing)
    with pytest.raises(ResetError, match="broken"):
        run_both(*sides)


@pytest.mark.parametrize("failing_there", FAILING)
@pytest.mark.parametrize("failing_here", FAILING)
def test_two_errors_are_one_error(
    failing_here: Callable[[], None], failing_there: Callable[[], None]
) -> None:
    with pytest.raises(ResetError):
        run_both(failing_here, failing_there)
    settle()  # the second one is not raised later


class Held:
    """What a frame holds, and with it whoever keeps an error that came through it."""


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("side", ["here", "there"])
def test_an_error_that_was_dealt_with_holds_nothing_any_more(side: str, later: bool) -> None:
    held: list[weakref.ref[Held]] = []

    def hold(function: Callable[[], None]) -> None:
        one = Held()
        held.append(weakref.ref(one))
        function()

    fail, wait = fail_later if later else fail_at_once, wait_for_ever
    sides = (fail, wait) if side == "here" else (wait, fail)
    try:
        run_both(*(partial(hold, one) for one in sides))
    except ResetError:
        pass
    settle()
    assert held
    assert not any(one() for one in held)


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


def test_what_is_no_error_of_ours_is_raised_too() -> None:
    def divide() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_both(wait_for_ever, divide)


def test_the_side_that_is_ended_can_clean_up() -> None:
    cleaned = []

    def careful() -> None:
        try:
            wait_for_ever()
        finally:
            cleaned.append(True)

    with pytest.raises(ResetError):
        run_both(fail_later, careful)
    assert cleaned


def test_a_side_that_was_never_begun_is_ended_too() -> None:
    with pytest.raises(ResetError):
        run_both(fail_at_once, wait_for_ever)


def test_a_deadline_around_both_ends_both() -> None:
    with pytest.raises(DeadlineError), Deadline(0.01, "both"):
        run_both(wait_for_ever, wait_for_ever)


def test_an_interruption_ends_both() -> None:
    def own() -> None:
        with pytest.raises(IdleError, match="silent"):
            run_both(wait_for_ever, wait_for_ever)

    with beside(own) as (owner,):
        settle()
        interrupt(owner, IdleError("silent"))


def test_two_interruptions_at_one_moment_still_leave_nothing_running() -> None:
    inside = 0
    seen = []

    def count() -> None:
        nonlocal inside
        inside += 1
        try:
            wait_for_ever()
        finally:
            inside -= 1

    def own() -> None:
        try:
            run_both(wait_for_ever, count)
        except (IdleError, ShutdownError):
            seen.append(inside)

    with beside(own) as (owner,):
        until(lambda: inside)
        interrupt(owner, IdleError("silent"))
        interrupt(owner, ShutdownError("over"))
    assert seen == [0]


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


# -- a side that is called when there is something to read ---------------------------------------


class Bell:
    """Something to read, whenever a test says so."""

    def __init__(self) -> None:
        self.callback: Callable[[], None] | None = None
        self.stopped = 0

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        assert self.callback is None, "nobody asks twice"
        self.callback = callback

    def stop_calling(self) -> None:
        self.callback = None
        self.stopped += 1

    def ring(self) -> None:
        assert self.callback is not None, "nobody waits"
        gevent.get_hub().loop.run_callback(self._call)

    def _call(self) -> None:
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()

    @property
    def awaited(self) -> bool:
        return self.callback is not None


class Visits:
    """A side that is done after so many calls; *last* is what the last one does."""

    def __init__(self, count: int, last: Callable[[], None] = return_at_once) -> None:
        self.bell = Bell()
        self.made = self.ended = 0
        self._count = count
        self._last = last

    def __call__(self) -> Bell | None:
        self.made += 1
        try:
            if self.made < self._count:
                return self.bell
            self._last()
            return None
        finally:
            self.ended += 1


@pytest.mark.parametrize("here", SHORT)
def test_a_side_that_waits_is_called_again_until_it_waits_no_more(
    here: Callable[[], None],
) -> None:
    visits = Visits(4)
    with beside(lambda: run_both(here, visits)) as (owner,):
        for count in range(1, 4):
            until(lambda: visits.bell.awaited)
            settle()
            assert (visits.made, owner.dead) == (count, False)
            visits.bell.ring()
        owner.join(HARD_SECONDS)
    assert visits.made == visits.ended == 4
    assert visits.bell.stopped == 0


def test_a_side_that_waits_has_no_greenlet() -> None:
    before = living()
    visits = Visits(2)
    with beside(lambda: run_both(wait_for_ever, visits)) as (owner,):
        until(lambda: visits.bell.awaited)
        settle()
        assert left_since(before) == {id(owner)}
        owner.kill()


@pytest.mark.parametrize("failing", FAILING)
def test_an_error_of_a_later_call_is_raised_too(failing: Callable[[], None]) -> None:
    visits = Visits(2, failing)

    def own() -> None:
        with pytest.raises(ResetError, match="broken"):
            run_both(wait_for_ever, visits)

    with beside(own):
        until(lambda: visits.bell.awaited)
        visits.bell.ring()
    assert visits.made == 2


def test_an_error_of_a_later_call_is_raised_when_the_other_side_has_returned() -> None:
    visits = Visits(2, fail_at_once)

    def own() -> None:
        with pytest.raises(ResetError, match="broken"):
            run_both(return_at_once, visits)

    with beside(own):
        until(lambda: visits.bell.awaited)
        settle()
        visits.bell.ring()


def test_an_owner_that_leaves_while_nothing_is_there_to_read_has_nobody_called() -> None:
    visits = Visits(2)

    def own() -> None:
        with pytest.raises(IdleError):
            run_both(wait_for_ever, visits)

    with beside(own) as (owner,):
        until(lambda: visits.bell.awaited)
        interrupt(owner, IdleError("silent"))
    assert (visits.made, visits.bell.stopped, visits.bell.awaited) == (1, 1, False)


@pytest.mark.parametrize("error", [IdleError("silent"), ShutdownError("over")], ids=repr)
def test_an_owner_that_leaves_while_a_later_call_runs_ends_it(error: Exception) -> None:
    visits = Visits(2, wait_for_ever)

    def own() -> None:
        with pytest.raises(type(error)):
            run_both(wait_for_ever, visits)
        assert visits.ended == 2, "it was left running"

    with beside(own) as (owner,):
        until(lambda: visits.bell.awaited)
        visits.bell.ring()
        until(lambda: visits.made == 2)
        interrupt(owner, error)
    assert not visits.bell.awaited


@pytest.mark.parametrize("ring_first", [True, False], ids=["after the call", "before the call"])
def test_an_owner_that_leaves_at_the_moment_of_a_call_leaves_nothing_running(
    ring_first: bool,
) -> None:
    visits = Visits(2, wait_for_ever)

    def own() -> None:
        with pytest.raises(IdleError):
            run_both(wait_for_ever, visits)
        assert visits.made == visits.ended

    with beside(own) as (owner,):
        until(lambda: visits.bell.awaited)
        steps = [visits.bell.ring, lambda: interrupt(owner, IdleError("silent"))]
        for step in steps if ring_first else steps[::-1]:
            step()
        owner.join(HARD_SECONDS)
    settle()
    assert visits.made == visits.ended
    assert not visits.bell.awaited


def test_an_owner_that_leaves_before_the_first_call_leaves_nothing_running() -> None:
    visits = Visits(2)
    with pytest.raises(ResetError):
        run_both(fail_at_once, visits)
    settle()
    assert visits.made == visits.ended
    assert not visits.bell.awaited


def test_a_side_that_would_wait_after_its_owner_has_left_does_not() -> None:
    bell = Bell()

    def slow_to_end() -> Bell | None:
        try:
            wait_for_ever()
        finally:
            gevent.sleep(0.005)
            return bell  # noqa: B012

    with pytest.raises(ResetError):
        run_both(fail_later, slow_to_end)
    settle()
    assert not bell.awaited


# -- how a stream calls --------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[SocketStream, SocketStream]]:
    near, far = tcp_pair()
    yield near, far
    near.close()
    far.close()


MOVES = [
    pytest.param(lambda far: far.send_all(b"x"), id="a byte"),
    pytest.param(lambda far: far.close_write(), id="the end"),
    pytest.param(lambda far: far.abort(), id="a reset"),
]


@pytest.mark.parametrize("before", [True, False], ids=["already there", "still to come"])
@pytest.mark.parametrize("move", MOVES)
def test_a_stream_calls_once_for_whatever_there_is_to_read(
    pair: tuple[SocketStream, SocketStream], move: Callable[[SocketStream], None], before: bool
) -> None:
    near, far = pair
    calls: list[str] = []
    if before:
        move(far)
        near.wait_readable()
    near.call_when_readable(lambda: calls.append("called"))
    assert not calls, "it is the loop that calls"
    if not before:
        settle()
        assert not calls, "there is nothing to read"
        move(far)
    until(lambda: calls)
    settle()
    assert calls == ["called"]
    near.stop_calling()  # after the call it does nothing


@pytest.mark.parametrize("move", MOVES)
def test_a_stream_that_was_told_to_stop_does_not_call(
    pair: tuple[SocketStream, SocketStream], move: Callable[[SocketStream], None]
) -> None:
    near, far = pair
    near.stop_calling()  # before there was anything to stop
    calls: list[str] = []
    near.call_when_readable(lambda: calls.append("too late"))
    move(far)
    near.stop_calling()
    near.wait_readable()
    settle()
    near.call_when_readable(lambda: calls.append("called"))
    until(lambda: calls)
    settle()
    assert calls == ["called"]


def test_a_stream_calls_for_what_is_left_over_of_a_message(
    pair: tuple[SocketStream, SocketStream],
) -> None:
    near, far = pair
    far.send_all(HELLO.encode() + b"more")
    assert near.read_message(Parcel, Parcel.LIMIT_BYTES) == HELLO
    calls: list[bytes] = []
    near.call_when_readable(lambda: calls.append(near.recv(10)))
    assert not calls
    until(lambda: calls)
    settle()
    assert calls == [b"more"]


def test_a_stream_that_was_told_to_stop_does_not_call_for_what_is_left_over(
    pair: tuple[SocketStream, SocketStream],
) -> None:
    near, far = pair
    far.send_all(HELLO.encode() + b"more")
    assert near.read_message(Parcel, Parcel.LIMIT_BYTES) == HELLO
    calls: list[str] = []
    near.call_when_readable(lambda: calls.append("called"))
    near.stop_calling()
    settle()
    assert not calls
    assert near.recv(10) == b"more"


def test_a_stream_that_is_closed_does_not_call(pair: tuple[SocketStream, SocketStream]) -> None:
    near, far = pair
    calls: list[str] = []
    near.call_when_readable(lambda: calls.append("called"))
    near.close()
    far.send_all(b"x")
    settle()
    assert not calls


def test_who_was_called_may_wait_in_the_ordinary_way_next(
    pair: tuple[SocketStream, SocketStream],
) -> None:
    near, far = pair
    got = bytearray()

    def there() -> SocketStream | None:
        while (piece := near.recv_into(memoryview(bytearray(10)))) is not None:
            if not piece:
                return None
            got.extend(b"." * piece)
        return near

    with beside(lambda: run_both(return_at_once, there)):
        for count in range(1, 4):
            far.send_all(b"x")
            until(lambda now=count: len(got) == now)
            settle()
        far.close_write()
    near.close_write()
    assert far.recv(1) == b""


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
    ended = []

    def slow_to_end() -> None:
        try:
            wait_for_ever()
        finally:
            gevent.sleep(0.005)
            ended.append(True)

    def own() -> None:
        crew.spawn(slow_to_end)
        settle()
        with pytest.raises(ShutdownError):
            crew.end()
        assert ended, "nothing runs any more when end() is over, whatever ends it"

    with beside(own) as (owner,):
        until(lambda: len(crew))
        settle()
        settle()
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


# -- descriptors, and where greenlets stand ------------------------------------------------------


def test_a_descriptor_is_waited_for_until_it_has_something() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(DeadlineError), Deadline(0.01, "nothing there"):
            wait_readable(reading)
        os.write(writing, b"x")
        wait_readable(reading)
        os.read(reading, 1)
    finally:
        os.close(writing)
    wait_readable(reading)  # its end counts
    os.close(reading)


def test_a_greenlet_that_hangs_is_shown_with_the_place_where_it_stands() -> None:
    with beside(wait_for_ever) as (waiting,):
        settle()
        text = stacks([waiting, getcurrent()])
        waiting.kill()
    assert text.splitlines()[0].startswith(__file__)
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
