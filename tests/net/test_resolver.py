"""Names to addresses: inquiries shared, bounded, and kept when stale."""

import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import gevent
import pytest
from gevent.event import Event

from geproxy.errors import GeproxyError, LimitError, NoAnswerError, ResolveError
from geproxy.net import namecache
from geproxy.net import resolver as resolver_module
from geproxy.net.deadline import Deadline
from geproxy.net.lookup import ADDRESSES, Found, Question
from geproxy.net.resolver import WAITING_LIMIT, Resolver
from geproxy.terms import Address
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, settle, until
from tests.support.names import MOST

CLIENT, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
FOUND = (IPv4Address("198.51.100.1"), IPv6Address("2001:db8::1"))
LOOPBACK, LOOPBACK_6 = IPv4Address("127.0.0.1"), IPv6Address("::1")
UNREACHABLE = IPv6Address("fe80::1")  # without a scope, no interface leads there
V4, V6 = socket.AF_INET, socket.AF_INET6
PLACES = 96

NO_NAME = ResolveError("no such name")
SILENT = NoAnswerError("nobody answered")
OURS = LimitError("no descriptor")
FAILURES = [pytest.param(SILENT, id="no answer"), pytest.param(OURS, id="a failure of our own")]


class Names:
    """A LookUp that notes what it was asked, and waits where it is held."""

    places = PLACES

    def __init__(self, *families: int) -> None:
        self.families = families
        self.questions: list[Question] = []
        self.answers: dict[int, Found | GeproxyError] = dict.fromkeys(families, FOUND)
        self.gates = {family: Event() for family in families}
        self.release()

    @property
    def asked(self) -> list[str]:
        """The names, without the questions for the second family."""
        return [one.name for one in self.questions if one.family == self.families[0]]

    def hold(self) -> None:
        """Let every question wait from now on."""
        for gate in self.gates.values():
            gate.clear()

    def release(self) -> None:
        """Answer every question."""
        for gate in self.gates.values():
            gate.set()

    def answer(self, family: int, answer: Found | GeproxyError) -> None:
        """Give *answer* to whoever asked for *family*, and to all who will."""
        self.answers[family] = answer
        self.gates[family].set()

    def ask(self, question: Question) -> Found:
        self.questions.append(question)
        assert self.gates[question.family].wait(HARD_SECONDS)
        answer = self.answers[question.family]
        if isinstance(answer, GeproxyError):
            raise answer
        return answer


@pytest.fixture
def names() -> Iterator[Names]:
    """Names with one question each; the answer holds both families."""
    made = Names(V4)
    yield made
    made.release()  # a question that nobody waits for any more would outlive its test


@pytest.fixture
def both() -> Iterator[Names]:
    """Names that are asked for in both families, and held."""
    made = Names(V6, V4)
    made.hold()
    yield made
    made.release()


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


Make = Callable[..., Resolver]


@pytest.fixture
def make(names: Names) -> Make:
    def make_resolver(
        timeout_seconds: float = 15.0, cache_seconds: float = 60.0, of: Names = names
    ) -> Resolver:
        return Resolver(of, timeout_seconds, cache_seconds)

    return make_resolver


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass for what is remembered, without waiting for them."""
    ahead = 0.0
    real = time.monotonic

    def skip(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return real() + ahead

    monkeypatch.setattr(resolver_module, "time", Clock)
    monkeypatch.setattr(namecache, "time", Clock)
    return skip


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale answers are used soon."""
    monkeypatch.setattr(resolver_module, "STALE_AFTER_SECONDS", SHORT_SECONDS)


def test_an_address_is_its_own_answer_and_a_mapped_one_becomes_ipv4(
    make: Make, names: Names
) -> None:
    resolver = make()
    assert resolver.resolve(OTHER, CLIENT) == (OTHER,)
    assert resolver.resolve(IPv6Address("2001:db8::1"), CLIENT) == (IPv6Address("2001:db8::1"),)
    assert resolver.resolve(IPv6Address("::ffff:127.0.0.1"), CLIENT) == (LOOPBACK,)
    assert names.asked == []


# -- remembering --------------------------------------------------------------------------------


def test_an_answer_is_remembered_for_every_client(make: Make, names: Names) -> None:
    resolver = make()
    for client in (CLIENT, OTHER, CLIENT):
        assert resolver.resolve("example.net", client) == FOUND
    assert names.asked == ["example.net"]


def test_another_name_is_another_question(make: Make, names: Names) -> None:
    resolver = make()
    for host in ("a.example", "b.example"):
        resolver.resolve(host, CLIENT)
    assert names.asked == ["a.example", "b.example"]


def test_an_answer_is_asked_for_again_after_its_time(make: Make, names: Names) -> None:
    resolver = make(cache_seconds=0.02)
    until(lambda: resolver.resolve("example.net", CLIENT) and len(names.asked) == 3)


def test_without_a_cache_every_question_is_asked(make: Make, names: Names) -> None:
    resolver = make(cache_seconds=0)
    for _ in range(3):
        assert resolver.resolve("example.net", CLIENT) == FOUND
    assert len(names.asked) == 3


@pytest.mark.parametrize("failure", [NO_NAME, SILENT], ids=["no such name", "no answer"])
def test_a_failure_is_remembered_for_a_moment(
    make: Make, names: Names, failure: ResolveError, clock: Callable[[float], None]
) -> None:
    resolver = make()
    names.answer(V4, failure)
    for _ in range(3):
        with pytest.raises(type(failure), match=str(failure)):
            resolver.resolve("example.net", CLIENT)
    assert names.asked == ["example.net"]
    names.answer(V4, FOUND)
    clock(5.1)
    assert resolver.resolve("example.net", CLIENT) == FOUND


def test_a_failure_of_our_own_is_not_remembered(make: Make, names: Names) -> None:
    resolver = make()
    names.answer(V4, OURS)
    with pytest.raises(LimitError, match="no descriptor"):
        resolver.resolve("example.net", CLIENT)
    names.answer(V4, FOUND)
    assert resolver.resolve("example.net", CLIENT) == FOUND


def test_a_name_without_an_address_is_a_failure(make: Make, names: Names) -> None:
    resolver = make()
    names.answer(V4, ())
    for _ in range(2):
        with pytest.raises(ResolveError, match="no address"):
            resolver.resolve("example.net", CLIENT)
    assert names.asked == ["example.net"]


def test_the_names_that_are_known_are_bounded_stale_ones_too(
    make: Make, names: Names, monkeypatch: pytest.MonkeyPatch, clock: Callable[[float], None]
) -> None:
    monkeypatch.setattr(namecache, "CACHE_NAMES", 10)
    resolver = make()
    for number in range(20):
        resolver.resolve(f"n{number}.example", CLIENT)
    clock(61)
    for number in range(15, 30):
        resolver.resolve(f"n{number}.example", CLIENT)
    assert len(resolver.cache._entries) == 10
    assert len(names.asked) == 35
    resolver.resolve("n20.example", CLIENT)
    assert len(names.asked) == 35, "the last ten are known"


def test_a_look_up_that_breaks_off_is_a_failure_and_leaves_the_name_usable(
    make: Make, names: Names, capfd: pytest.CaptureFixture[str]
) -> None:
    made = make()
    names.answers.clear()  # a KeyError stands for any bug
    with pytest.raises(LimitError, match="broke off"):
        made.resolve("example.net", CLIENT)
    assert "KeyError" in capfd.readouterr().err
    names.answer(V4, FOUND)
    assert made.resolve("example.net", CLIENT) == FOUND


# -- stale ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_brings_back_what_was_known(
    make: Make, names: Names, failure: GeproxyError, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    names.answer(V4, failure)
    clock(61)
    assert resolver.resolve("example.net", CLIENT) == FOUND
    assert len(names.asked) == 2


def test_after_a_failure_the_name_is_asked_for_every_30_seconds(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    names.answer(V4, SILENT)
    clock(61)
    for count in range(2, 6):
        for _ in range(3):
            assert resolver.resolve("example.net", CLIENT) == FOUND
            clock(9.9)
        assert len(names.asked) == count
        clock(0.4)


def test_what_is_stale_for_an_hour_is_not_used(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    names.answer(V4, SILENT)
    clock(60 + 3590)
    assert resolver.resolve("example.net", CLIENT) == FOUND
    clock(10)
    with pytest.raises(NoAnswerError):
        resolver.resolve("example.net", CLIENT)


def test_that_a_name_is_gone_replaces_what_was_known(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    names.answer(V4, NO_NAME)
    clock(61)
    with pytest.raises(ResolveError, match="no such name"):
        resolver.resolve("example.net", CLIENT)
    names.answer(V4, SILENT)
    clock(6)
    with pytest.raises(NoAnswerError):
        resolver.resolve("example.net", CLIENT)


def test_a_fresh_answer_is_preferred_to_a_stale_one(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    names.answer(V4, (LOOPBACK,))
    clock(61)
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK,)


@pytest.mark.usefixtures("impatience")
def test_stale_addresses_are_used_when_an_answer_lets_wait_and_it_counts_when_it_comes(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    clock(61)
    names.hold()
    results: list[Found] = []
    ask = partial(resolver.resolve, "example.net", CLIENT)
    with beside(*[lambda: results.append(ask())] * 5):
        pass
    assert results == [FOUND] * 5
    begun = time.monotonic()
    assert ask() == FOUND, "at once, for the answer has been waited for long enough"
    assert time.monotonic() - begun < SHORT_SECONDS
    assert len(names.asked) == 2, "one question for all"
    names.answer(V4, (LOOPBACK,))
    until(lambda: ask() == (LOOPBACK,))
    assert len(names.asked) == 2


def test_stale_addresses_wait_no_longer_than_any_look_up(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make(timeout_seconds=SHORT_SECONDS)
    resolver.resolve("example.net", CLIENT)
    clock(61)
    names.hold()
    assert resolver.resolve("example.net", CLIENT) == FOUND


@pytest.mark.parametrize("failure", FAILURES)
def test_without_a_cache_nothing_is_stale(make: Make, names: Names, failure: GeproxyError) -> None:
    resolver = make(cache_seconds=0)
    resolver.resolve("example.net", CLIENT)
    names.answer(V4, failure)
    with pytest.raises(type(failure)):
        resolver.resolve("example.net", CLIENT)


def test_a_full_queue_brings_back_what_was_known(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    clock(61)
    names.hold()
    with beside(*ask_many(resolver, MOST + WAITING_LIMIT, CLIENT)):
        until(lambda: len(names.asked) == MOST + 1)
        settle()
        assert resolver.resolve("example.net", CLIENT) == FOUND
        names.release()


# -- the two families -----------------------------------------------------------------------------


def test_both_families_are_asked_for_side_by_side(make: Make, both: Names) -> None:
    resolver = make(of=both)
    with beside(lambda: resolver.resolve("example.net", CLIENT)) as (asking,):
        until(lambda: len(both.questions) == 2)
        assert {one.family for one in both.questions} == {V4, V6}
        both.answer(V4, (LOOPBACK,))
        both.answer(V6, (LOOPBACK_6,))
        assert asking.get() == (LOOPBACK_6, LOOPBACK)


@pytest.mark.parametrize(
    ("family", "address"),
    [pytest.param(V4, LOOPBACK, id="A"), pytest.param(V6, LOOPBACK_6, id="AAAA")],
)
def test_what_never_comes_in_one_family_holds_up_the_other_for_50_ms(
    make: Make, both: Names, family: int, address: Address
) -> None:
    resolver = make(of=both)
    both.answer(family, (address,))
    begun = time.monotonic()
    assert resolver.resolve("example.net", CLIENT) == (address,)
    assert 0.045 < time.monotonic() - begun < 1
    assert resolver.resolve("example.net", OTHER) == (address,)
    assert len(both.questions) == 2
    assert all(one.enough for one in both.questions), "it is not tried again and again"


def test_what_comes_after_50_ms_serves_the_next_who_asks(make: Make, both: Names) -> None:
    resolver = make(of=both)
    both.answer(V4, (LOOPBACK,))
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK,)
    both.answer(V6, (LOOPBACK_6,))
    until(lambda: len(resolver.resolve("example.net", CLIENT)) == 2)
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK_6, LOOPBACK)
    assert len(both.questions) == 2


@pytest.mark.parametrize("late", [NO_NAME, SILENT, OURS, ()], ids=repr)
def test_a_failure_that_comes_after_50_ms_changes_nothing(
    make: Make, both: Names, late: Found | GeproxyError
) -> None:
    resolver = make(of=both)
    both.answer(V4, (LOOPBACK,))
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK,)
    both.answer(V6, late)
    settle()
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK,)
    assert len(both.questions) == 2


def test_what_comes_late_is_not_kept_without_a_cache(make: Make, both: Names) -> None:
    resolver = make(of=both, cache_seconds=0)
    both.answer(V4, (LOOPBACK,))
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK,)
    both.answer(V6, ())
    settle()
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK,)
    assert len(both.questions) == 4


def test_an_address_that_leads_nowhere_is_no_reason_to_go_on_without_the_other_family(
    make: Make, both: Names
) -> None:
    """A host without IPv6 hears of AAAA first, and of A 80 ms later."""
    resolver = make(of=both)
    both.answer(V6, (UNREACHABLE,))
    with beside(lambda: resolver.resolve("example.net", CLIENT)) as (asking,):
        gevent.sleep(0.08)
        assert not asking.ready()
        both.answer(V4, (LOOPBACK,))
        assert asking.get() == (LOOPBACK, UNREACHABLE)


def test_addresses_that_lead_nowhere_are_kept_for_a_moment_if_the_others_did_not_come(
    make: Make, both: Names, clock: Callable[[float], None]
) -> None:
    resolver = make(of=both)
    both.answer(V6, (UNREACHABLE,))
    both.answer(V4, SILENT)
    for _ in range(2):
        assert resolver.resolve("example.net", CLIENT) == (UNREACHABLE,)
    assert len(both.questions) == 2
    both.answer(V4, (LOOPBACK,))
    clock(5.1)
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK, UNREACHABLE)
    both.answer(V4, SILENT)
    clock(61)
    assert resolver.resolve("example.net", CLIENT) == (LOOPBACK, UNREACHABLE), "stale, of use"


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        pytest.param(NO_NAME, (), ResolveError, id="nothing in either"),
        pytest.param((), SILENT, NoAnswerError, id="nothing, and no answer"),
        pytest.param(SILENT, NO_NAME, NoAnswerError, id="no answer, and nothing"),
        pytest.param(OURS, NO_NAME, LimitError, id="our failure, and nothing"),
        pytest.param(SILENT, OURS, LimitError, id="no answer, and our failure"),
    ],
)
def test_a_name_is_unknown_only_if_both_families_say_so(
    make: Make,
    both: Names,
    first: Found | GeproxyError,
    second: Found | GeproxyError,
    told: type[GeproxyError],
) -> None:
    both.answer(V6, first)
    both.answer(V4, second)
    with pytest.raises(told) as caught:
        make(of=both).resolve("example.net", CLIENT)
    assert type(caught.value) is told


def test_many_addresses_of_one_family_hide_none_of_the_other(make: Make, both: Names) -> None:
    many_6 = tuple(IPv6Address(f"2001:db8::{number:x}") for number in range(ADDRESSES))
    many_4 = tuple(IPv4Address(f"192.0.2.{number}") for number in range(ADDRESSES))
    both.answer(V6, many_6)
    both.answer(V4, many_4)
    found = make(of=both).resolve("many.example", CLIENT)
    assert len(found) == ADDRESSES
    assert {one for one in found if one.version == 4} == set(many_4[: ADDRESSES // 2])


def test_half_an_answer_is_one(make: Make, both: Names) -> None:
    both.answer(V6, NO_NAME)
    both.answer(V4, (LOOPBACK,))
    assert make(of=both).resolve("example.net", CLIENT) == (LOOPBACK,)


# -- sharing --------------------------------------------------------------------------------------


def test_many_who_ask_for_one_name_share_one_look_up(make: Make, names: Names) -> None:
    resolver = make()
    names.hold()
    results = []
    clients = [IPv4Address(number) for number in range(20)] * 3
    with beside(
        *[
            lambda client=client: results.append(resolver.resolve("example.net", client))
            for client in clients
        ]
    ):
        until(lambda: names.asked)
        settle()
        names.release()
    assert results == [FOUND] * 60
    assert names.asked == ["example.net"]


def test_a_look_up_that_takes_too_long_is_a_resolve_error(make: Make, names: Names) -> None:
    resolver = make(timeout_seconds=0.02)
    names.hold()
    with pytest.raises(NoAnswerError, match=r"example\.net: not resolved in 0\.02 seconds"):
        resolver.resolve("example.net", CLIENT)


def test_an_answer_that_comes_too_late_serves_the_next_one(make: Make, names: Names) -> None:
    resolver = make(timeout_seconds=0.02)
    names.hold()
    with pytest.raises(ResolveError):
        resolver.resolve("example.net", CLIENT)
    names.release()
    until(lambda: resolver.cache.get("example.net"))
    assert resolver.resolve("example.net", CLIENT) == FOUND
    assert names.asked == ["example.net"]


def ask_many(resolver: Resolver, count: int, client: Address) -> list[Callable[[], object]]:
    """So many questions of one client, each for a name of its own."""
    return [
        lambda number=number: resolver.resolve(f"n{number}.c{int(client)}.example", client)
        for number in range(count)
    ]


def refused(question: Callable[[], object], code: str, told: list[str]) -> Callable[[], None]:
    """Ask, and note it when the answer is the failure *code*."""

    def ask() -> None:
        try:
            question()
        except GeproxyError as error:
            assert error.code == code
            told.append(str(error))

    return ask


def test_one_client_may_use_what_is_idle_and_others_are_answered_all_the_same(
    make: Make, names: Names
) -> None:
    resolver = make()
    names.hold()
    with beside(*ask_many(resolver, PLACES, CLIENT)):
        until(lambda: len(names.asked) == MOST)
        settle()
        assert len(names.asked) == MOST
        with beside(*ask_many(resolver, 4, OTHER)):
            until(lambda: len(names.asked) == MOST + 4)
            names.release()
    assert len(names.asked) == PLACES + 4


def test_a_name_that_a_greedy_client_waits_for_comes_no_later_for_others(
    make: Make, names: Names
) -> None:
    resolver = make()
    names.hold()
    with beside(*ask_many(resolver, PLACES * 2, CLIENT)):
        until(lambda: len(names.asked) == MOST)
        settle()
        last = f"n{PLACES * 2 - 1}.c{int(CLIENT)}.example"
        with beside(lambda: resolver.resolve(last, OTHER)):
            until(lambda: last in names.asked)
            names.release()
    assert names.asked.count(last) == 1


def test_a_dead_look_up_counts_until_it_ends(make: Make, names: Names) -> None:
    resolver = make(timeout_seconds=0.03)
    names.hold()
    told: list[str] = []
    with beside(*[refused(one, "resolve", told) for one in ask_many(resolver, MOST, CLIENT)]):
        pass
    assert len(told) == len(names.asked) == MOST
    with pytest.raises(LimitError, match="too many look-ups came first"):
        resolver.resolve("one-more.example", CLIENT)
    assert "one-more.example" not in names.asked
    names.release()
    settle()
    assert resolver.resolve("one-more.example", CLIENT) == FOUND


def test_what_nobody_waits_for_any_more_is_not_looked_up(make: Make, names: Names) -> None:
    resolver = make(timeout_seconds=0.03)
    names.hold()
    late: list[str] = []
    asking = ask_many(resolver, MOST + 50, CLIENT)
    codes = ["resolve"] * MOST + ["limit"] * 50
    with beside(*[refused(*one, late) for one in zip(asking, codes, strict=True)]):
        pass
    assert len(late) == MOST + 50
    names.release()
    settle()
    assert len(names.asked) == MOST
    assert not resolver._under_way


@pytest.mark.usefixtures("impatience")
def test_a_stale_name_that_has_no_turn_keeps_nobody_waiting_twice(
    make: Make, names: Names, clock: Callable[[float], None]
) -> None:
    resolver = make()
    resolver.resolve("example.net", CLIENT)
    clock(61)
    names.hold()
    with beside(*ask_many(resolver, MOST + 1, CLIENT)):
        until(lambda: len(names.asked) == MOST + 1)
        settle()
        assert resolver.resolve("example.net", CLIENT) == FOUND
        entry = resolver.cache.get("example.net")
        assert entry is not None
        assert entry.expires > resolver_module.time.monotonic() + 25
        names.release()


def test_a_full_queue_refuses_the_newest_of_the_greediest(make: Make, names: Names) -> None:
    resolver = make()
    names.hold()
    told: list[str] = []
    asking = ask_many(resolver, MOST + WAITING_LIMIT, CLIENT)
    with beside(*[refused(one, "limit", told) for one in asking]):
        until(lambda: len(names.asked) == MOST)
        settle()
        with pytest.raises(LimitError, match="too many look-ups at once"):
            resolver.resolve("one-more.example", CLIENT)
        others = [IPv4Address(number) for number in range(PLACES - MOST + 5)]
        with beside(*[partial(resolver.resolve, f"{int(one)}.example", one) for one in others]):
            until(lambda: len(names.asked) == PLACES)
            until(lambda: len(told) == 5)
            names.release()
    assert told == ["too many look-ups at once"] * 5
    assert resolver.resolve("one-more.example", CLIENT) == FOUND


# -- before the first client ----------------------------------------------------------------------


def test_an_exercise_looks_up_a_name_that_is_always_there_in_each_family(
    make: Make, both: Names
) -> None:
    both.release()
    make(of=both).exercise()
    assert [(one.name, one.family) for one in both.questions] == [
        ("localhost", V6),
        ("localhost", V4),
    ]


@pytest.mark.parametrize("failure", [NO_NAME, SILENT, OURS], ids=repr)
def test_an_exercise_that_finds_nothing_is_one_all_the_same(
    make: Make, names: Names, failure: GeproxyError
) -> None:
    names.answer(V4, failure)
    make().exercise()
    assert names.asked == ["localhost"]


def test_an_exercise_does_not_wait_for_name_servers_that_are_silent(
    make: Make, names: Names
) -> None:
    names.hold()
    make(timeout_seconds=0.01).exercise()
    names.release()
