"""Names to addresses: literals judged as such, look-ups shared, bounded and off the loop."""

import sys
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.errors import LimitError, ResolveError
from geproxy.net.deadline import Deadline
from geproxy.net.resolver import (
    SHARE,
    THREADS,
    WAITING_LIMIT,
    Resolver,
    literal,
    system_look_up,
)
from geproxy.terms import Address
from tests.support.conformance import HARD_SECONDS, beside, settle, until

CLIENT, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
FOUND = (IPv4Address("198.51.100.1"), IPv6Address("2001:db8::1"))
LOOPBACK = IPv4Address("127.0.0.1")


class Names:
    """A look-up that counts, and blocks its thread while it is held."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: tuple[Address, ...] = FOUND
        self.error: Exception | None = None
        self.released = threading.Event()
        self.released.set()

    def hold(self) -> None:
        """Block every look-up from now on."""
        self.released.clear()

    def __call__(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        assert self.released.wait(HARD_SECONDS)
        if self.error is not None:
            raise self.error
        return self.answer


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.released.set()


Make = Callable[..., Resolver]


@pytest.fixture
def make(names: Names) -> Iterator[Make]:
    """Make resolvers over *names*; their threads end with the test."""
    made: list[Resolver] = []

    def make_resolver(timeout_seconds: float = 15.0, cache_seconds: float = 60.0) -> Resolver:
        made.append(Resolver(names, timeout_seconds, cache_seconds))
        return made[-1]

    with Deadline(HARD_SECONDS, "a test"):
        yield make_resolver
    names.released.set()
    for resolver in made:
        resolver._offload._pool.kill()


# -- what is no name ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spelling",
    [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "0x7f000001",
        "0X7F000001",
        "0x7f.1",
        "0x7f.0x0.0x0.0x1",
        "0177.0.0.1",
        "0177.1",
        "017700000001",
        "2130706433",
        "127.0x0.00.01",
        "::ffff:127.0.0.1",
        "::FFFF:7f00:1",
        "0:0:0:0:0:ffff:127.0.0.1",
    ],
)
def test_an_odd_spelling_of_an_address_is_that_address(
    make: Make, names: Names, spelling: str
) -> None:
    assert literal(spelling) == LOOPBACK
    assert make().resolve(spelling, CLIENT) == (LOOPBACK,)
    assert names.asked == []


@pytest.mark.parametrize(
    ("spelling", "address"),
    [
        ("0", "0.0.0.0"),
        ("4294967295", "255.255.255.255"),
        ("1.2", "1.0.0.2"),
        ("::1", "::1"),
        ("::", "::"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::127.0.0.1", "::7f00:1"),
        ("64:ff9b::7f00:1", "64:ff9b::7f00:1"),
    ],
)
def test_a_spelled_address_is_read(make: Make, names: Names, spelling: str, address: str) -> None:
    assert make().resolve(spelling, CLIENT) == (ip_address(address),)
    assert names.asked == []


def test_an_address_is_its_own_answer_and_a_mapped_one_becomes_ipv4(
    make: Make, names: Names
) -> None:
    resolver = make()
    assert resolver.resolve(OTHER, CLIENT) == (OTHER,)
    assert resolver.resolve(IPv6Address("2001:db8::1"), CLIENT) == (IPv6Address("2001:db8::1"),)
    assert resolver.resolve(IPv6Address("::ffff:127.0.0.1"), CLIENT) == (LOOPBACK,)
    assert names.asked == []


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("\uff11\uff12\uff17.0.0.1", id="full-width digits"),
        pytest.param("\u0661\u0662\u0667.0.0.1", id="Arabic digits"),
        pytest.param("127\u30020\u30020\u30021", id="ideographic full stops"),
        pytest.param("\u2460.example", id="a circled digit"),
        pytest.param("b\u00fccher.example", id="an umlaut"),
        pytest.param("\u212aelvin.example", id="the Kelvin sign, a k in lower case"),
        pytest.param("\udcff\udcfe", id="bytes that are no text"),
        pytest.param("a b.example", id="a blank"),
        pytest.param("127.0.0.1 example.net", id="an address and a blank"),
        pytest.param("example.net\n", id="a line end"),
        pytest.param("example.net\t", id="a tab"),
        pytest.param("a/b", id="a slash"),
        pytest.param("user@example.net", id="an at sign"),
        pytest.param("[::1]", id="brackets"),
        pytest.param("::1%lo", id="a scope"),
        pytest.param("fe80::1%1", id="a scope by number"),
        pytest.param("1::2::3", id="colons that are no address"),
        pytest.param("example.net:80", id="a port"),
        pytest.param("%31", id="percent"),
        pytest.param("*", id="a star"),
        pytest.param("", id="nothing"),
        pytest.param("a" * 254, id="254 letters"),
        pytest.param("a." * 127 + "aa", id="256 letters and dots"),
    ],
)
def test_what_is_no_host_name_is_never_looked_up(make: Make, names: Names, host: str) -> None:
    resolver = make()
    with pytest.raises(ResolveError):
        resolver.resolve(host, CLIENT)
    assert names.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "example.net",
        "a",
        "xn--bcher-kva.example",
        "_dns.example.net",
        "-odd-.example",
        "example.net.",
        "cafe.de",
        "1.2.3.256",
        "1.2.3.4.5",
        "a" * 253,
        "a" * 253 + ".",
    ],
)
def test_a_host_name_is_looked_up(make: Make, names: Names, host: str) -> None:
    assert make().resolve(host, CLIENT) == FOUND
    assert names.asked == [host]


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("a" * 64, id="a label of 64"),
        pytest.param("a" * 253, id="a label of 253"),
        pytest.param("www." + "b" * 64 + ".example", id="a long label in the middle"),
        pytest.param("a..b", id="an empty label"),
        pytest.param("..", id="nothing but dots"),
        pytest.param("." * 255, id="as many dots as a request can hold"),
    ],
)
def test_a_name_that_no_zone_can_hold_is_a_resolve_error_for_the_system_too(host: str) -> None:
    with pytest.raises(ResolveError):
        system_look_up("both")(host)


@pytest.mark.parametrize(
    ("family", "kinds"), [("ipv4", {IPv4Address}), ("both", {IPv4Address, IPv6Address})]
)
def test_the_system_knows_localhost(family: str, kinds: set[type[Address]]) -> None:
    found = system_look_up(family)("localhost")
    assert found
    assert len(set(found)) == len(found)
    assert {type(address) for address in found} <= kinds
    assert all(address.is_loopback for address in found)


# -- remembering --------------------------------------------------------------------------------


def test_an_answer_is_remembered_for_every_spelling_and_client(make: Make, names: Names) -> None:
    resolver = make()
    for host, client in (("Example.NET", CLIENT), ("example.net", OTHER), ("EXAMPLE.net", CLIENT)):
        assert resolver.resolve(host, client) == FOUND
    assert names.asked == ["example.net"]


def test_another_name_is_another_question(make: Make, names: Names) -> None:
    resolver = make()
    for host in ("a.example", "b.example"):
        resolver.resolve(host, CLIENT)
    assert names.asked == ["a.example", "b.example"]


def test_an_answer_is_forgotten_after_its_time(make: Make, names: Names) -> None:
    resolver = make(cache_seconds=0.02)
    until(lambda: resolver.resolve("example.net", CLIENT) and len(names.asked) == 3)


def test_without_a_cache_every_question_is_asked(make: Make, names: Names) -> None:
    resolver = make(cache_seconds=0)
    for _ in range(3):
        assert resolver.resolve("example.net", CLIENT) == FOUND
    assert len(names.asked) == 3


def test_a_failure_is_remembered_too(make: Make, names: Names) -> None:
    resolver = make()
    names.error = ResolveError("example.net: no such name")
    for _ in range(3):
        with pytest.raises(ResolveError, match="no such name"):
            resolver.resolve("example.net", CLIENT)
    assert names.asked == ["example.net"]


def test_a_name_without_an_address_is_a_failure(make: Make, names: Names) -> None:
    resolver = make()
    names.answer = ()
    for _ in range(2):
        with pytest.raises(ResolveError, match="no address"):
            resolver.resolve("example.net", CLIENT)
    assert names.asked == ["example.net"]


def test_many_threads_remember_at_once_without_harm(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up's answer is remembered on its thread: let those change places anywhere."""
    monkeypatch.setattr("geproxy.net.resolver.CACHE_NAMES", 10)
    resolver = make()
    errors: list[Exception] = []

    def remember(thread: int) -> None:
        try:
            for number in range(3000):
                resolver._ask(f"n{number}.t{thread}.example")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=remember, args=(number,)) for number in range(8)]
    usual_seconds = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HARD_SECONDS)
    finally:
        sys.setswitchinterval(usual_seconds)
    assert errors == []
    assert len(resolver._cache) <= 10


# -- sharing ------------------------------------------------------------------------------------


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
        names.released.set()
    assert results == [FOUND] * 60
    assert names.asked == ["example.net"]


def test_a_look_up_that_takes_too_long_is_a_resolve_error(make: Make, names: Names) -> None:
    resolver = make(timeout_seconds=0.02)
    names.hold()
    with pytest.raises(ResolveError, match=r"example\.net: not resolved in 0\.02 seconds"):
        resolver.resolve("example.net", CLIENT)


def test_an_answer_that_comes_too_late_serves_the_next_one(make: Make, names: Names) -> None:
    resolver = make(timeout_seconds=0.02)
    names.hold()
    with pytest.raises(ResolveError):
        resolver.resolve("example.net", CLIENT)
    names.released.set()
    until(lambda: resolver._cached("example.net"))
    assert resolver.resolve("example.net", CLIENT) == FOUND
    assert names.asked == ["example.net"]


def ask_many(resolver: Resolver, count: int, client: Address) -> list[Callable[[], object]]:
    """So many questions of one client, each for a name of its own."""
    return [
        lambda number=number: resolver.resolve(f"n{number}.c{int(client)}.example", client)
        for number in range(count)
    ]


def test_one_client_has_few_look_ups_under_way_and_the_others_go_on(
    make: Make, names: Names
) -> None:
    resolver = make()
    names.hold()
    with beside(*ask_many(resolver, SHARE * 3, CLIENT)):
        until(lambda: len(names.asked) >= SHARE)
        settle()
        assert len(names.asked) == SHARE
        with beside(*ask_many(resolver, 1, OTHER)):
            until(lambda: len(names.asked) == SHARE + 1)
            names.released.set()
    assert len(names.asked) == SHARE * 3 + 1
    assert not resolver._shares


def test_a_name_that_was_found_meanwhile_is_not_asked_for_again(make: Make, names: Names) -> None:
    resolver = make()
    names.hold()
    with beside(
        *ask_many(resolver, SHARE, CLIENT),
        *[lambda: resolver.resolve("same.example", CLIENT)] * 10,
    ):
        until(lambda: len(names.asked) == SHARE)
        settle()
        names.released.set()
    assert names.asked.count("same.example") == 1
    assert not resolver._shares


def test_a_stuck_look_up_counts_until_its_thread_is_free(make: Make, names: Names) -> None:
    resolver = make(timeout_seconds=0.03)
    names.hold()

    def fail(question: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with pytest.raises(ResolveError, match="not resolved"):
                question()

        return run

    with beside(*[fail(question) for question in ask_many(resolver, SHARE, CLIENT)]):
        pass
    assert len(names.asked) == SHARE
    fail(lambda: resolver.resolve("one-more.example", CLIENT))()
    assert len(names.asked) == SHARE, "a ninth thread for one client"
    names.released.set()
    until(lambda: not resolver._shares)
    assert resolver.resolve("one-more.example", CLIENT) == FOUND


def test_there_is_a_limit_to_how_many_wait_in_all(make: Make, names: Names) -> None:
    resolver = make()
    names.hold()
    clients = [IPv4Address(number) for number in range((THREADS + WAITING_LIMIT) // SHARE)]
    with beside(*[one for client in clients for one in ask_many(resolver, SHARE, client)]):
        until(lambda: len(names.asked) == THREADS)
        settle()
        with pytest.raises(LimitError, match="too many look-ups at once"):
            resolver.resolve("one-more.example", OTHER)
        assert len(names.asked) == THREADS
        names.released.set()
    assert resolver.resolve("one-more.example", OTHER) == FOUND
    assert not resolver._shares


def test_an_exercise_looks_up_a_name_that_is_always_there(make: Make, names: Names) -> None:
    make().exercise()
    assert names.asked == ["localhost"]


def test_an_exercise_that_finds_nothing_is_one_all_the_same(make: Make, names: Names) -> None:
    names.error = ResolveError("localhost: no address of the family wanted")
    make().exercise()
    assert names.asked == ["localhost"]


def test_an_exercise_does_not_wait_for_name_servers_that_are_silent(
    make: Make, names: Names
) -> None:
    names.hold()
    make(timeout_seconds=0.01).exercise()
    names.released.set()
