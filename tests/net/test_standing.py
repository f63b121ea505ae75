"""What is remembered of the sources of passwords, and what is not."""

import pytest

from geproxy.net import standing as module
from geproxy.net.standing import (
    ASKING_SOURCES,
    FORGET_SECONDS,
    HALF_LIFE_SECONDS,
    PROVEN_SECONDS,
    PROVEN_SOURCES,
    SUSPECT_PASSWORDS,
    SUSPECT_SECONDS,
    Standings,
)


class Clock:
    """Stands in for the clock of the module under test."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def standings(clock: Clock) -> Standings:
    return Standings()


def guess(standings: Standings, source: str, times: int = 1) -> None:
    for number in range(times):
        standings.ask(source, b"%d" % number)
        standings.fail(source)


def log_in(standings: Standings, source: str, password: bytes = b"right") -> None:
    standings.ask(source, password)
    standings.succeed(source)


def ask(standings: Standings, source: str) -> None:
    standings.ask(source, b"one")


def test_the_proven_stand_before_newcomers_and_those_before_guessers(standings: Standings) -> None:
    log_in(standings, "proven")
    ask(standings, "newcomer")
    guess(standings, "guesser", 2)
    sources = ["guesser", "newcomer", "proven"]
    assert sorted(sources, key=standings.rank) == ["proven", "newcomer", "guesser"]


def test_whoever_asks_counts_even_where_nothing_comes_of_it(standings: Standings) -> None:
    ask(standings, "newcomer")
    for _ in range(3):
        ask(standings, "greedy")
    assert standings.rank("newcomer") < standings.rank("greedy")


def test_a_right_password_takes_back_what_it_cost(standings: Standings) -> None:
    for number in range(100):
        log_in(standings, "office", b"%d" % number)
    assert standings.rank("office") == (False, 0)


def test_a_login_is_remembered_for_its_time(standings: Standings, clock: Clock) -> None:
    log_in(standings, "proven")
    clock.now += PROVEN_SECONDS - 1
    assert standings.rank("proven") < standings.rank("nobody")
    clock.now += 1
    assert standings.rank("proven") == standings.rank("nobody")


def test_one_mistake_is_a_slip_and_the_second_is_not(standings: Standings) -> None:
    guess(standings, "a")
    assert not standings.suspects("a")
    guess(standings, "a")
    assert standings.suspects("a")
    assert not standings.suspects("b")


def test_mistakes_are_forgiven_with_time(standings: Standings, clock: Clock) -> None:
    guess(standings, "a", 4)
    clock.now += HALF_LIFE_SECONDS
    assert standings.suspects("a")
    clock.now += HALF_LIFE_SECONDS
    assert not standings.suspects("a")


def test_who_was_right_once_is_a_suspect_all_the_same_when_it_guesses(standings: Standings) -> None:
    log_in(standings, "insider")
    guess(standings, "insider", 2)
    assert standings.suspects("insider")


def test_many_passwords_make_a_suspect_before_one_was_checked_until_one_is_right(
    standings: Standings, clock: Clock
) -> None:
    ask(standings, "office")
    clock.now += SUSPECT_SECONDS
    for number in range(int(SUSPECT_PASSWORDS)):
        assert not standings.suspects("office")
        standings.ask("office", b"%d" % number)
    assert standings.suspects("office")
    standings.succeed("office")
    assert not standings.suspects("office")


def test_the_same_password_again_and_again_is_a_client_that_was_refused(
    standings: Standings,
) -> None:
    for _ in range(100):
        ask(standings, "patient")
    assert not standings.suspects("patient")


def test_an_honest_client_answers_for_no_refusal(standings: Standings) -> None:
    ask(standings, "a")
    assert standings.refuse("a") == 0
    standings.succeed("a")
    guess(standings, "a", 2)
    assert standings.refuse("a") == 1, "those before it was right are forgiven"
    assert standings.refuse("nobody") == 0


def test_a_suspect_answers_for_its_refusals_from_before_it_was_one(standings: Standings) -> None:
    ask(standings, "a")
    assert [standings.refuse("a") for _ in range(3)] == [0, 0, 0]
    guess(standings, "a", 2)
    assert [standings.refuse("a") for _ in range(3)] == [4, 1, 1]


def test_an_office_that_comes_all_at_once_is_no_suspect_at_first(
    standings: Standings, clock: Clock
) -> None:
    for number in range(50):
        standings.ask("office", b"%d" % number)
    assert not standings.suspects("office")
    assert [standings.refuse("office") for _ in range(2)] == [0, 0]
    clock.now += SUSPECT_SECONDS
    assert standings.suspects("office")
    assert standings.refuse("office") == 3
    assert standings.refuse("office") == 1


def test_what_was_refused_is_told_of_once(standings: Standings) -> None:
    ask(standings, "a")
    standings.refuse("a")
    assert standings.take_refused("a") == 0
    guess(standings, "a", 2)
    assert [standings.take_refused("a") for _ in range(2)] == [1, 0]


def test_what_flooding_sources_fill_is_bounded_and_the_quietest_goes_first(
    standings: Standings,
) -> None:
    guess(standings, "quiet", 2)
    guess(standings, "loud", 2)
    log_in(standings, "proven")
    for number in range(ASKING_SOURCES):
        ask(standings, f"source {number}")
        if number % 1000 == 0:
            ask(standings, "loud")
    assert len(standings._accounts) == ASKING_SOURCES
    assert standings.suspects("loud")
    assert not standings.suspects("quiet")
    assert standings.rank("proven") == (False, 0), "no flood makes us forget who was right"


def test_what_logins_fill_is_bounded_too(standings: Standings) -> None:
    for number in range(PROVEN_SOURCES + 1):
        log_in(standings, f"source {number}")
    assert len(standings._proven) == PROVEN_SOURCES
    assert standings.rank("source 0")[0], "the oldest is forgotten"
    assert not standings.rank("source 1")[0]


def test_a_source_that_fell_silent_takes_no_room(standings: Standings, clock: Clock) -> None:
    for number in range(100):
        guess(standings, f"source {number}")
    clock.now += FORGET_SECONDS
    ask(standings, "newcomer")
    assert list(standings._accounts) == ["newcomer"]
