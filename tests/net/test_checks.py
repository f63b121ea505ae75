"""The order in which passwords are checked: who comes first, who goes, and what is hashed at all.

A check here is one that waits for the test, on the real thread; clients are streams in memory.
"""

import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import gevent
import pytest

from geproxy.errors import (
    DeadlineError,
    GeproxyError,
    LimitError,
    ResetError,
    ShutdownError,
    UncheckedError,
)
from geproxy.net import checks as module
from geproxy.net import standing
from geproxy.net.checks import WAITING_LIMIT, Checks
from geproxy.net.deadline import Deadline
from geproxy.net.stream import SocketStream
from geproxy.streams import Stream
from geproxy.terms import Address, Endpoint
from tests.support.conformance import HARD_SECONDS, beside, settle, tcp_pair, until
from tests.support.memory import memory_pair

HANDSHAKE_SECONDS = 10.0


def from_(address: Address | str) -> Stream:
    """A client at *address*; a text is the end of one in 10.0.0.0/8."""
    host = IPv4Address(f"10.0.{address}") if isinstance(address, str) else address
    return memory_pair(client=Endpoint(host, 50_001))[1]


class Door:
    """A thread's checks, each of which waits until the test lets it through."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._through = threading.Semaphore(0)

    def check(self, name: str, *, right: bool = False) -> Callable[[], bool]:
        def run() -> bool:
            self.begun.append(name)
            assert self._through.acquire(timeout=HARD_SECONDS)
            return right

        return run

    def let(self, count: int = 1) -> None:
        """Let the next *count* of them end."""
        self._through.release(count)


class Desk:
    """Checks, who asks for them, and what came of each."""

    def __init__(self) -> None:
        self.checks = Checks(HANDSHAKE_SECONDS)
        self.door = Door()
        self.outcomes: dict[str, bool | GeproxyError] = {}
        self.failures: dict[str, int] = {}
        self.asking: dict[str, gevent.Greenlet[[], None]] = {}

    def ask(self, source: str, name: str, client: Stream | None = None, **right: bool) -> None:
        """Have a client of *source* want the password *name* checked, and see it wait."""

        def run() -> None:
            try:
                check = self.door.check(name, **right)
                failures = self.checks.run(name.encode(), check, client or from_(source))
                self.outcomes[name], self.failures[name] = not failures, failures
            except GeproxyError as error:
                self.outcomes[name] = error

        self.asking[name] = gevent.spawn(run)
        settle()

    def verdict(self, source: str, name: str, *, right: bool = False) -> None:
        """Have one password checked to the end, with nobody else there."""
        self.ask(source, name, right=right)
        self.door.let()
        until(lambda: name in self.outcomes)
        self.door.begun.clear()

    def order(self) -> list[str]:
        """Let everything through; returns the order in which it began."""
        self.door.let(1000)
        gevent.joinall(list(self.asking.values()))
        return self.door.begun


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(module, "SUSPECT_REST", 0)  # but where a test is about it
    made = Desk()
    with Deadline(HARD_SECONDS, "a test"):
        yield made
    made.door.let(1000)
    gevent.killall(list(made.asking.values()))
    made.checks._offload._pool.kill()  # a worker's own thread ends with its process


def be_busy(desk: Desk) -> None:
    """Have a check run whose end the test decides on."""
    desk.ask("9.9", "busy")
    until(lambda: desk.door.begun == ["busy"])
    desk.door.begun.clear()


def fail_twice(desk: Desk, *sources: str) -> None:
    for source in sources:
        for number in range(2):
            desk.verdict(source, f"guess {number} of {source}")


# -- what comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize("right", [True, False])
def test_a_verdict_comes_back_and_the_loop_turns_meanwhile(desk: Desk, right: bool) -> None:
    desk.ask("0.1", "a", right=right)
    until(lambda: desk.door.begun)
    desk.door.let()
    until(lambda: desk.outcomes)
    assert desk.outcomes == {"a": right}


def test_an_error_comes_back_and_is_no_verdict(desk: Desk) -> None:
    def fail() -> bool:
        raise MemoryError

    for _ in range(3):
        with pytest.raises(MemoryError):
            desk.checks.run(b"a", fail, from_("0.1"))
    assert not desk.checks._standings.suspects(IPv4Address("10.0.0.1"))


def test_equal_passwords_that_overlap_share_one_check(desk: Desk) -> None:
    be_busy(desk)
    results: list[int] = []

    def ask(source: str) -> None:
        results.append(desk.checks.run(b"a", desk.door.check("a", right=True), from_(source)))

    with beside(*[lambda: ask("0.1")] * 5, *[lambda: ask("0.2")] * 5):
        settle()
        desk.door.let()
        until(lambda: desk.door.begun == ["a"])
        with beside(lambda: ask("0.1"), lambda: ask("0.3")):  # those who come later share it too
            settle()
            desk.door.let(1000)
    assert results == [0] * 12
    assert desk.door.begun == ["a"]
    assert desk.checks._checks == {}


def test_one_check_runs_at_a_time(desk: Desk) -> None:
    for name in "abc":
        desk.ask(f"0.{ord(name)}", name)
    until(lambda: desk.door.begun)
    settle()
    assert desk.door.begun == ["a"]
    assert sorted(desk.order()) == ["a", "b", "c"]


# -- who comes first ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_newcomer_comes_before_200_sources_that_have_just_failed(desk: Desk) -> None:
    for number in range(200):
        desk.verdict(f"1.{number}", f"first guess of {number}")
    be_busy(desk)
    for number in range(100):
        desk.ask(f"1.{number}", f"guess {number}")
    desk.ask("2.1", "newcomer", right=True)
    assert desk.order()[0] == "newcomer"
    assert desk.outcomes["newcomer"] is True


def test_a_newcomer_comes_before_those_who_asked_more_and_were_not_served(desk: Desk) -> None:
    be_busy(desk)
    for number in range(20):
        desk.ask("1.1", f"guess {number}")
    desk.ask("2.1", "newcomer")
    assert desk.order()[0] == "newcomer"


def test_a_source_that_logged_in_lately_comes_before_newcomers(desk: Desk) -> None:
    desk.verdict("3.1", "known", right=True)
    be_busy(desk)
    for number in range(20):
        desk.ask(f"1.{number}", f"newcomer {number}")
    desk.ask("3.1", "known again", right=True)
    assert desk.order()[0] == "known again"


def test_among_equals_the_first_is_served_first(desk: Desk) -> None:
    be_busy(desk)
    names = [f"newcomer {number}" for number in range(10)]
    for number, name in enumerate(names):
        desk.ask(f"1.{number}", name)
    assert desk.order() == names


def test_two_sources_that_logged_in_take_turns(desk: Desk) -> None:
    for source in ("1.1", "1.2"):
        desk.verdict(source, source, right=True)
    be_busy(desk)
    for number in range(5):
        desk.ask("1.1", f"a{number}", right=True)
    desk.ask("1.2", "b0", right=True)
    assert desk.order()[0] == "b0"


def test_a_whole_64_is_one_source(desk: Desk) -> None:
    be_busy(desk)
    for number in range(20):
        client = from_(IPv6Address(f"2001:db8::{number + 1:x}"))
        desk.ask("", f"guess {number}", client)
    desk.ask("", "newcomer", from_(IPv6Address("2001:db8:0:1::1")))
    assert desk.order()[0] == "newcomer"


def test_suspects_wait_for_everybody_else(desk: Desk) -> None:
    desk.verdict("1.1", "right", right=True)
    fail_twice(desk, "1.1")
    be_busy(desk)
    desk.ask("1.1", "the suspect's")
    for number in range(5):
        desk.ask(f"2.{number}", f"newcomer {number}")
    assert desk.order()[-1] == "the suspect's"


def test_what_waits_already_moves_with_the_verdict_on_its_source(desk: Desk) -> None:
    desk.verdict("3.1", "known", right=True)
    be_busy(desk)
    for number in range(4):
        desk.ask("3.1", f"guess {number}")
    desk.ask("2.1", "newcomer")
    # It logged in lately, and comes first until it was wrong twice.
    assert desk.order() == ["guess 0", "guess 1", "newcomer", "guess 2", "guess 3"]


def test_an_office_of_newcomers_is_cleared_by_its_first_right_password(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "SUSPECT_SECONDS", 0.0)
    be_busy(desk)
    for number in range(20):
        desk.ask("5.1", f"colleague {number}", right=True)
    assert len(desk.checks._suspects), "so many passwords of one address, and none was right yet"
    assert len(desk.order()) == 20
    assert desk.outcomes.pop("busy") is False
    assert set(desk.outcomes.values()) == {True}


def test_suspects_rest_after_each_check_and_nobody_else_does(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_twice(desk, "1.1")
    monkeypatch.setattr(module, "SUSPECT_REST", 1e6)
    desk.verdict("1.1", "guess")
    desk.ask("1.1", "another guess")
    desk.verdict("2.1", "newcomer", right=True)
    settle()
    assert desk.door.begun == []
    assert "another guess" not in desk.outcomes
    desk.checks._rested = 0.0
    desk.checks._offer()
    desk.door.let()
    until(lambda: desk.outcomes.get("another guess") is False)


def test_the_rest_ends_by_itself(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_twice(desk, "1.1")
    monkeypatch.setattr(module, "SUSPECT_REST", 2)
    desk.ask("1.1", "guess")
    desk.ask("1.1", "another guess")
    assert desk.order() == ["guess", "another guess"]


# -- who goes -----------------------------------------------------------------------------------


def test_what_cannot_be_served_in_time_is_refused_at_once(desk: Desk) -> None:
    desk.checks._check_seconds = 1.0
    be_busy(desk)
    places = int(HANDSHAKE_SECONDS * module.PATIENCE * module.OVERBOOKED)
    for number in range(places + 1):
        desk.ask(f"2.{max(number, 1)}", f"password {number}")
    (refused,) = desk.outcomes
    assert isinstance(desk.outcomes[refused], LimitError)
    assert refused == "password 1", "the newest of the one that has most"
    assert len(desk.checks._first) == places


def test_a_full_queue_spares_those_who_logged_in(desk: Desk) -> None:
    desk.verdict("3.1", "known", right=True)
    desk.outcomes.clear()
    desk.checks._check_seconds = 1.0
    be_busy(desk)
    for number in range(3):
        desk.ask("3.1", f"known {number}")
    for number in range(50):
        desk.ask(f"2.{number}", f"newcomer {number}")
    assert not [name for name in desk.outcomes if name.startswith("known")]


@pytest.mark.slow
def test_a_newcomer_finds_a_place_in_a_queue_that_guessers_fill(desk: Desk) -> None:
    desk.checks._check_seconds = 0.1
    be_busy(desk)
    for number in range(200):
        desk.ask(f"1.{number}", f"first guess {number}")
        desk.ask(f"1.{number}", f"second guess {number}")
    desk.ask("2.1", "newcomer", right=True)
    assert "newcomer" in desk.order()


@pytest.mark.slow
def test_memory_is_bounded_however_fast_a_check_may_be(desk: Desk) -> None:
    desk.checks._check_seconds = 1e-9
    be_busy(desk)
    for number in range(WAITING_LIMIT + 10):
        desk.ask(f"1.{number % 250}", f"password {number}")
    assert len(desk.checks._first) == WAITING_LIMIT
    assert len(desk.checks._checks) == WAITING_LIMIT + 1


def test_what_waited_for_too_long_is_not_hashed_for_nobody(desk: Desk) -> None:
    be_busy(desk)
    desk.ask("1.1", "too late")
    entry = desk.checks._first.best()
    entry.asked -= HANDSHAKE_SECONDS * module.PATIENCE
    assert desk.order() == []
    assert isinstance(desk.outcomes["too late"], LimitError)


def test_a_costly_check_that_is_alone_is_made_whatever_it_takes(desk: Desk) -> None:
    desk.checks._check_seconds = HANDSHAKE_SECONDS * 2
    desk.verdict("1.1", "a", right=True)
    assert desk.outcomes == {"a": True}


def test_a_refusal_blames_suspects_alone(desk: Desk) -> None:
    fail_twice(desk, "1.1")
    desk.outcomes.clear()
    desk.checks._check_seconds = HANDSHAKE_SECONDS * 2  # one place in each line
    be_busy(desk)
    for number in range(3):
        desk.ask("1.1", f"guess {number}")
        desk.ask(f"2.{number}", f"honest {number}")
    blamed = {name: type(outcome) for name, outcome in desk.outcomes.items()}
    assert blamed == {
        "guess 1": UncheckedError,
        "guess 2": UncheckedError,
        "honest 0": LimitError,
        "honest 1": LimitError,
    }


def test_a_wrong_password_tells_of_those_that_were_refused_unblamed(desk: Desk) -> None:
    desk.checks._check_seconds = HANDSHAKE_SECONDS * 2  # one place in each line
    be_busy(desk)
    for number in range(3):
        desk.ask("1.1", f"guess {number}")
    assert [type(outcome) for outcome in desk.outcomes.values()] == [LimitError] * 2
    desk.order()
    desk.verdict("1.1", "again")
    assert desk.checks._standings.take_refused(IPv4Address("10.0.1.1")) == 0
    assert desk.failures["guess 0"] + desk.failures["again"] == 2 + 2


def test_a_suspect_whose_handshake_ends_meanwhile_is_blamed_too(desk: Desk) -> None:
    fail_twice(desk, "1.1")
    be_busy(desk)
    for source, kind in (("1.1", UncheckedError), ("2.1", DeadlineError)):
        with pytest.raises(kind) as caught, Deadline(0.01, "the handshake"):
            desk.checks.run(b"a", desk.door.check("a"), from_(source))
        assert type(caught.value) is kind
    assert desk.order() == []


# -- who leaves ---------------------------------------------------------------------------------


def test_whoever_is_interrupted_leaves_nothing_behind(desk: Desk) -> None:
    be_busy(desk)
    desk.ask("1.1", "a")
    desk.ask("1.2", "b")
    desk.asking["a"].kill(ShutdownError("the proxy stops"))
    settle()
    assert len(desk.checks._first) == 1
    assert desk.order() == ["b"]
    assert desk.checks._checks == {}


def test_the_check_of_one_that_leaves_goes_on_and_then_the_next_begins(desk: Desk) -> None:
    desk.ask("1.1", "a")
    until(lambda: desk.door.begun)
    desk.ask("1.2", "b")
    desk.asking["a"].kill(ShutdownError("the proxy stops"))
    settle()
    assert desk.door.begun == ["a"]
    assert desk.order() == ["a", "b"]


def test_whoever_is_interrupted_at_its_very_turn_passes_it_on(desk: Desk) -> None:
    be_busy(desk)
    desk.ask("1.1", "a")
    desk.ask("1.2", "b")
    asked = desk.checks._ask

    def ask_and_interrupt(entry: object) -> None:
        asked(entry)  # type: ignore[arg-type]
        if not desk.asking["a"].dead:
            desk.asking["a"].kill(ShutdownError("the proxy stops"), block=False)

    desk.checks._ask = ask_and_interrupt  # type: ignore[method-assign,assignment]
    assert desk.order()[-1] == "b"
    assert desk.checks._checks == {}


@pytest.fixture
def pair() -> Iterator[tuple[SocketStream, SocketStream]]:
    """A client and the worker's end of its connection."""
    client, stream = tcp_pair()
    yield client, stream
    client.close()
    stream.close()


def reset(client: SocketStream) -> None:
    client.send_all(b"a request, sent ahead")
    client.abort()


def close(client: SocketStream) -> None:
    client.close()


@pytest.mark.parametrize("leave", [reset, close])
def test_a_client_that_has_left_costs_no_check(
    desk: Desk,
    pair: tuple[SocketStream, SocketStream],
    leave: Callable[[SocketStream], None],
) -> None:
    client, stream = pair
    be_busy(desk)
    desk.ask("", "left", stream)
    desk.ask("1.2", "b")
    leave(client)
    assert desk.order() == ["b"]
    assert isinstance(desk.outcomes["left"], ResetError)


def test_a_client_that_closed_before_our_answer_to_its_greeting_costs_no_check(
    desk: Desk, pair: tuple[SocketStream, SocketStream]
) -> None:
    client, stream = pair
    client.send_all(b"everything at once")
    client.close()
    stream.wait_readable()
    stream.send_all(b"METHOD")  # the answer to this is a reset, behind what is not read yet
    be_busy(desk)
    desk.ask("", "left", stream)
    assert desk.order() == []
    assert isinstance(desk.outcomes["left"], ResetError)


def test_a_client_that_sent_all_it_had_to_say_and_its_end_is_checked(
    desk: Desk, pair: tuple[SocketStream, SocketStream]
) -> None:
    client, stream = pair
    client.send_all(b"a request")
    client.close_write()
    be_busy(desk)
    desk.ask("", "waits", stream, right=True)
    assert desk.order() == ["waits"]
    assert desk.outcomes["waits"] is True
    assert stream.recv(100) == b"a request", "which is there to be read still"


def test_of_several_sessions_one_that_has_left_takes_no_verdict_from_the_others(
    desk: Desk, pair: tuple[SocketStream, SocketStream]
) -> None:
    client, stream = pair
    be_busy(desk)
    results: list[object] = []

    def ask(one: Stream) -> None:
        try:
            results.append(desk.checks.run(b"a", desk.door.check("a", right=True), one))
        except ResetError:
            results.append("left")

    same = memory_pair(client=stream.peer)[1]
    with beside(lambda: ask(stream), lambda: ask(same)):
        settle()
        client.close()
        desk.door.let(1000)
    assert sorted(map(str, results)) == ["0", "left"]
