"""Two jobs side by side: nothing of either outlives the call that ran them."""

import errno
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import gevent
import pytest

from geproxy.errors import DeadlineError, IdleError, ResetError, ShutdownError
from geproxy.net.both import Readable, run_both
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import interrupt
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
from tests.support.jobs import (
    FAILING,
    SHORT,
    fail_at_once,
    fail_later,
    return_at_once,
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


class Ready:
    """Something to read, always: the other side begins at the loop's next turn."""

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        self._soon = gevent.get_hub().loop.run_callback(callback)

    def stop_calling(self) -> None:
        self._soon.stop()


def both(here: Callable[[], object], there: Callable[[], Readable | None]) -> None:
    """Run both sides, neither of which has to wait for its beginning."""
    run_both(here, there, Ready())


@pytest.mark.parametrize("there", SHORT)
@pytest.mark.parametrize("here", SHORT)
def test_both_are_waited_for(here: Callable[[], None], there: Callable[[], None]) -> None:
    ended = []

    def follow(function: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            function()
            ended.append(function)

        return run

    both(follow(here), follow(there))
    assert len(ended) == 2


@pytest.mark.parametrize("other", [*SHORT, wait_for_ever])
@pytest.mark.parametrize("failing", FAILING)
@pytest.mark.parametrize("side", ["here", "there"])
def test_the_first_error_of_either_side_ends_both_and_is_raised(
    side: str, failing: Callable[[], None], other: Callable[[], None]
) -> None:
    sides = (failing, other) if side == "here" else (other, failing)
    with pytest.raises(ResetError, match="broken"):
        both(*sides)


@pytest.mark.parametrize("failing_there", FAILING)
@pytest.mark.parametrize("failing_here", FAILING)
def test_two_errors_are_one_error(
    failing_here: Callable[[], None], failing_there: Callable[[], None]
) -> None:
    with pytest.raises(ResetError):
        both(failing_here, failing_there)
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
        both(*(partial(hold, one) for one in sides))
    except ResetError:
        pass
    settle()
    assert held
    assert not any(one() for one in held)


def test_what_is_no_error_of_ours_is_raised_too() -> None:
    def divide() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        both(wait_for_ever, divide)


def test_the_side_that_is_ended_can_clean_up() -> None:
    cleaned = []

    def careful() -> None:
        try:
            wait_for_ever()
        finally:
            cleaned.append(True)

    with pytest.raises(ResetError):
        both(fail_later, careful)
    assert cleaned


def test_a_side_that_was_never_begun_is_ended_too() -> None:
    with pytest.raises(ResetError):
        both(fail_at_once, wait_for_ever)


def test_a_deadline_around_both_ends_both() -> None:
    with pytest.raises(DeadlineError), Deadline(0.01, "both"):
        both(wait_for_ever, wait_for_ever)


def test_an_interruption_ends_both() -> None:
    def own() -> None:
        with pytest.raises(IdleError, match="silent"):
            both(wait_for_ever, wait_for_ever)

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
            both(wait_for_ever, count)
        except (IdleError, ShutdownError):
            seen.append(inside)

    with beside(own) as (owner,):
        until(lambda: inside)
        interrupt(owner, IdleError("silent"))
        interrupt(owner, ShutdownError("over"))
    assert seen == [0]


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
    with beside(lambda: both(here, visits)) as (owner,):
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
    with beside(lambda: both(wait_for_ever, visits)) as (owner,):
        until(lambda: visits.bell.awaited)
        settle()
        assert left_since(before) == {id(owner)}
        owner.kill()


@pytest.mark.parametrize("failing", FAILING)
def test_an_error_of_a_later_call_is_raised_too(failing: Callable[[], None]) -> None:
    visits = Visits(2, failing)

    def own() -> None:
        with pytest.raises(ResetError, match="broken"):
            both(wait_for_ever, visits)

    with beside(own):
        until(lambda: visits.bell.awaited)
        visits.bell.ring()
    assert visits.made == 2


def test_an_error_of_a_later_call_is_raised_when_the_other_side_has_returned() -> None:
    visits = Visits(2, fail_at_once)

    def own() -> None:
        with pytest.raises(ResetError, match="broken"):
            both(return_at_once, visits)

    with beside(own):
        until(lambda: visits.bell.awaited)
        settle()
        visits.bell.ring()


def test_an_owner_that_leaves_while_nothing_is_there_to_read_has_nobody_called() -> None:
    visits = Visits(2)

    def own() -> None:
        with pytest.raises(IdleError):
            both(wait_for_ever, visits)

    with beside(own) as (owner,):
        until(lambda: visits.bell.awaited)
        interrupt(owner, IdleError("silent"))
    assert (visits.made, visits.bell.stopped, visits.bell.awaited) == (1, 1, False)


@pytest.mark.parametrize("error", [IdleError("silent"), ShutdownError("over")], ids=repr)
def test_an_owner_that_leaves_while_a_later_call_runs_ends_it(error: Exception) -> None:
    visits = Visits(2, wait_for_ever)

    def own() -> None:
        with pytest.raises(type(error)):
            both(wait_for_ever, visits)
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
            both(wait_for_ever, visits)
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
        both(fail_at_once, visits)
    settle()
    assert visits.made == visits.ended
    assert not visits.bell.awaited


@pytest.mark.parametrize("here", SHORT)
def test_a_side_that_is_awaited_from_the_beginning_has_no_greenlet_before(
    here: Callable[[], None],
) -> None:
    visits = Visits(2)
    with beside(lambda: run_both(here, visits, visits.bell)) as (owner,):
        settle()
        assert (visits.made, visits.bell.awaited) == (0, True)
        for made in (1, 2):
            visits.bell.ring()
            until(lambda now=made: visits.ended == now)
        until(lambda: owner.dead)
    assert not visits.bell.awaited


def test_an_owner_that_fails_before_there_was_anything_to_read_has_nobody_called() -> None:
    visits = Visits(2)
    with pytest.raises(ResetError):
        run_both(fail_later, visits, visits.bell)
    assert (visits.made, visits.bell.awaited) == (0, False)


def test_an_owner_that_is_interrupted_while_it_waits_for_a_first_call_has_nobody_called() -> None:
    visits = Visits(2)

    def own() -> None:
        with pytest.raises(IdleError):
            run_both(return_at_once, visits, visits.bell)

    with beside(own) as (owner,):
        settle()
        interrupt(owner, IdleError("silent"))
    assert (visits.made, visits.bell.awaited) == (0, False)


def test_a_side_that_cannot_be_awaited_is_an_error_like_any_other() -> None:
    class Broken(Bell):
        def call_when_readable(self, callback: Callable[[], None]) -> None:
            raise OSError(errno.ENOMEM, "no memory for a watcher")

    with pytest.raises(OSError, match="no memory"):
        both(wait_for_ever, Broken)
    with pytest.raises(OSError, match="no memory"):
        run_both(wait_for_ever, return_at_once, Broken())


@pytest.mark.usefixtures("without_collector")
def test_an_owner_that_is_interrupted_while_it_ends_the_other_side_holds_nothing() -> None:
    held: list[weakref.ref[Held]] = []

    def there() -> None:
        one = Held()
        held.append(weakref.ref(one))
        try:
            wait_for_ever()
        finally:
            raise IdleError(f"while {one} was put away")

    def own() -> None:
        with pytest.raises(ShutdownError):
            both(wait_for_ever, there)

    with beside(own) as (owner,):
        until(lambda: held)
        interrupt(owner, ResetError("the first"))
        interrupt(owner, ShutdownError("while the other side is being ended"))
    settle()
    assert not any(one() for one in held)


def test_a_side_that_would_wait_after_its_owner_has_left_does_not() -> None:
    bell = Bell()

    def slow_to_end() -> Bell | None:
        try:
            wait_for_ever()
        finally:
            gevent.sleep(0.005)
            return bell  # noqa: B012

    with pytest.raises(ResetError):
        both(fail_later, slow_to_end)
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

    with beside(lambda: both(return_at_once, there)):
        for count in range(1, 4):
            far.send_all(b"x")
            until(lambda now=count: len(got) == now)
            settle()
        far.close_write()
    near.close_write()
    assert far.recv(1) == b""
