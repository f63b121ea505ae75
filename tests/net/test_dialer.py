"""From a name to a connection: every address is judged, and the one that was judged is dialed."""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from gevent.event import Event

from geproxy.errors import DeadlineError, DeniedError, DialError, ResolveError
from geproxy.nat64 import WELL_KNOWN, Nat64
from geproxy.net.deadline import Deadline
from geproxy.net.dialer import Dialer
from geproxy.seams import Permit
from geproxy.terms import Address, Endpoint, Outcome
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, until
from tests.support.names import MOST, knowing
from tests.support.nobody import black_hole, refusing

CLIENT = IPv4Address("192.0.2.1")
LOOPBACK = IPv4Address("127.0.0.1")
OTHER = IPv4Address("127.0.0.2")

LookUp = Callable[[str], tuple[Address, ...]]


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


class Judge:
    """A permit that notes what it was asked, and denies some hosts."""

    def __init__(self, *denied: str) -> None:
        self._denied = {ip_address(host) for host in denied}
        self.asked: list[Endpoint] = []

    def __call__(self, endpoint: Endpoint) -> None:
        self.asked.append(endpoint)
        if endpoint.host in self._denied:
            raise DeniedError(f"{endpoint.host} is denied")


class Zone:
    """A look-up whose answers come one after another, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = [tuple(ip_address(text) for text in answer) for answer in answers]
        self.asked: list[str] = []

    def __call__(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


def nobody_is_asked(name: str) -> tuple[Address, ...]:
    raise AssertionError(f"{name} was looked up")


def dialer(look_up: LookUp = nobody_is_asked, connect_seconds: float = HARD_SECONDS) -> Dialer:
    return Dialer(knowing(look_up), connect_seconds)


@contextmanager
def listening(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as sock:
        sock.settimeout(HARD_SECONDS)
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def was_dialed(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


# -- what is dialed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "dialed"),
    [
        pytest.param(LOOPBACK, "127.0.0.1", id="an address"),
        pytest.param(IPv6Address("::1"), "::1", id="an IPv6 address"),
        pytest.param(IPv6Address("::ffff:127.0.0.1"), "127.0.0.1", id="a mapped one"),
    ],
)
def test_an_address_is_judged_as_the_one_that_is_dialed_and_looked_up_nowhere(
    host: Address, dialed: str
) -> None:
    judge = Judge()
    with listening(dialed) as sock:
        stream = dialer().connect(Endpoint(host, port_of(sock)), judge, CLIENT)
        expected = Endpoint(ip_address(dialed), port_of(sock))
        assert judge.asked == [expected]
        assert stream.peer == expected
        assert was_dialed(sock)
        stream.close()
    denying = Judge(dialed)
    with listening(dialed) as sock:
        with pytest.raises(DeniedError):
            dialer().connect(Endpoint(host, port_of(sock)), denying, CLIENT)
        assert not was_dialed(sock)


def test_a_name_is_dialed_at_its_address() -> None:
    zone, judge = Zone(["127.0.0.1"]), Judge()
    with listening() as sock:
        stream = dialer(zone).connect(Endpoint("target.example", port_of(sock)), judge, CLIENT)
        assert zone.asked == ["target.example"]
        assert judge.asked == [Endpoint(LOOPBACK, port_of(sock))]
        assert stream.peer == Endpoint(LOOPBACK, port_of(sock))
        stream.close()


def test_the_address_that_was_judged_is_the_one_dialed_whatever_the_name_says_next() -> None:
    zone, judge = Zone(["127.0.0.2"], ["127.0.0.1"]), Judge("127.0.0.1")
    with listening("127.0.0.2") as sock:
        stream = dialer(zone).connect(Endpoint("rebinding.example", port_of(sock)), judge, CLIENT)
        assert stream.peer.host == OTHER
        assert len(zone.asked) == 1
        stream.close()


def test_a_denied_address_is_passed_over_and_the_next_one_dialed() -> None:
    zone, judge = Zone(["127.0.0.1", "127.0.0.2"]), Judge("127.0.0.1")
    with listening("127.0.0.1") as denied, listening("127.0.0.2", port_of(denied)) as good:
        stream = dialer(zone).connect(Endpoint("target.example", port_of(good)), judge, CLIENT)
        assert stream.peer.host == OTHER
        assert [endpoint.host for endpoint in judge.asked] == [LOOPBACK, OTHER]
        assert not was_dialed(denied)
        stream.close()


def test_where_every_address_is_denied_nothing_is_dialed() -> None:
    zone, judge = Zone(["127.0.0.1", "127.0.0.2"]), Judge("127.0.0.1", "127.0.0.2")
    with listening("127.0.0.1") as sock:
        with pytest.raises(DeniedError) as caught:
            dialer(zone).connect(Endpoint("target.example", port_of(sock)), judge, CLIENT)
        assert len(judge.asked) == 2
        assert not was_dialed(sock)
    assert caught.value.outcome is Outcome.DENIED


def test_both_families_are_judged_and_dialed_in_turn() -> None:
    zone, judge = Zone(["::1", "::2", "127.0.0.1"]), Judge()
    with listening() as sock:
        target = Endpoint("target.example", port_of(sock))
        stream = dialer(zone).connect(target, judge, CLIENT)
        assert [str(endpoint.host) for endpoint in judge.asked] == ["::1", "127.0.0.1", "::2"]
        assert stream.peer.host == LOOPBACK
        stream.close()


# -- what fails ----------------------------------------------------------------------------------


def test_a_refusal_is_told_as_one() -> None:
    with refusing() as bad, pytest.raises(DialError) as caught:
        dialer().connect(bad, Judge(), CLIENT)
    assert (caught.value.code, caught.value.outcome) == ("refused", Outcome.REFUSED)


def test_where_what_is_allowed_fails_the_failure_is_told_and_not_the_denial() -> None:
    zone = Zone(["127.0.0.2", "127.0.0.1"])
    with refusing() as bad, pytest.raises(DialError) as caught:
        dialer(zone).connect(Endpoint("target.example", bad.port), Judge("127.0.0.2"), CLIENT)
    assert caught.value.code == "refused"


def test_silence_is_a_timeout_that_names_the_target_and_the_time() -> None:
    with black_hole() as silent, pytest.raises(DialError) as caught:
        zone = Zone([str(silent.host)])
        target = Endpoint("target.example", silent.port)
        dialer(zone, SHORT_SECONDS).connect(target, Judge(), CLIENT)
    assert (caught.value.code, caught.value.outcome) == ("timeout", Outcome.TIMED_OUT)
    text = f"target.example:{silent.port}: no connection in {SHORT_SECONDS:g} seconds"
    assert str(caught.value) == text


def test_a_deadline_around_it_stays_a_deadline() -> None:
    with black_hole() as silent, pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "all"):
        dialer().connect(silent, Judge(), CLIENT)


def test_a_name_without_an_address_is_judged_by_nobody() -> None:
    judge = Judge()
    with pytest.raises(ResolveError) as caught:
        dialer(Zone([])).connect(Endpoint("target.example", 80), judge, CLIENT)
    assert (caught.value.code, caught.value.outcome) == ("resolve", Outcome.HOST_UNREACHABLE)
    assert judge.asked == []


# -- NAT64 ---------------------------------------------------------------------------------------


# tcp(7) has no broadcast: Linux says that its network is unreachable.
NO_WAY = Endpoint(IPv4Address("255.255.255.255"), 80)
THROUGH = Endpoint(IPv6Address("64:ff9b::ffff:ffff"), 80)


def dialer_with_nat64() -> Dialer:
    nat64 = Nat64()
    nat64.learn([WELL_KNOWN])
    return Dialer(knowing(nobody_is_asked), HARD_SECONDS, nat64)


def test_the_way_through_nat64_is_judged_and_a_denial_leaves_the_first_failure() -> None:
    judge = Judge(str(THROUGH.host))
    with pytest.raises(DialError) as caught:
        dialer_with_nat64().connect(NO_WAY, judge, CLIENT)
    assert judge.asked == [NO_WAY, THROUGH]
    assert caught.value.outcome is Outcome.NETWORK_UNREACHABLE
    assert "255.255.255.255" in str(caught.value)


def test_nobody_goes_through_nat64_where_no_prefix_was_learned() -> None:
    judge = Judge()
    with pytest.raises(DialError):
        dialer().connect(NO_WAY, judge, CLIENT)
    assert judge.asked == [NO_WAY]


def test_nobody_goes_through_nat64_to_a_target_that_has_answered() -> None:
    judge = Judge()
    with refusing() as bad, pytest.raises(DialError) as caught:
        dialer_with_nat64().connect(bad, judge, CLIENT)
    assert judge.asked == [bad]
    assert caught.value.outcome is Outcome.REFUSED


# -- permitted -----------------------------------------------------------------------------------


NAME = Endpoint("target.example", 80)


def permitted(hosts: list[str], permit: Permit) -> list[Endpoint]:
    """What *permit* leaves of a name with these addresses."""
    return dialer(Zone(hosts)).permitted(NAME, permit, CLIENT)


def test_what_is_permitted_keeps_its_order() -> None:
    hosts = [f"192.0.2.{number}" for number in range(5)]
    endpoints = [Endpoint(ip_address(host), 80) for host in hosts]
    assert permitted(hosts, Judge()) == endpoints
    left = permitted(hosts, Judge("192.0.2.0", "192.0.2.3"))
    assert left == [endpoints[number] for number in (1, 2, 4)]


def test_what_is_permitted_takes_the_families_in_turn() -> None:
    endpoints = permitted(["::1", "::2", "127.0.0.1"], Judge())
    assert [str(endpoint.host) for endpoint in endpoints] == ["::1", "127.0.0.1", "::2"]


def test_an_address_is_judged_and_looked_up_nowhere() -> None:
    judge = Judge()
    there = Endpoint(LOOPBACK, 80)
    assert dialer().permitted(there, judge, CLIENT) == [there]
    assert judge.asked == [there]


def test_of_many_denials_the_last_is_told() -> None:
    with pytest.raises(DeniedError, match=r"192\.0\.2\.2 is denied"):
        permitted(["192.0.2.1", "192.0.2.2"], Judge("192.0.2.1", "192.0.2.2"))


def test_a_look_up_is_at_the_expense_of_the_client_that_asks() -> None:
    """As many as one client may have under way hang; another's is answered all the same."""
    hanging: list[str] = []
    go_on = Event()

    def hang(name: str) -> tuple[Address, ...]:
        if name.startswith("slow"):
            hanging.append(name)
            assert go_on.wait(HARD_SECONDS)
        return (LOOPBACK,)

    ours = dialer(hang)

    def ask(name: str, client: Address) -> list[Endpoint]:
        return ours.permitted(Endpoint(name, 80), Judge(), client)

    slow = [partial(ask, f"slow{number}.example", CLIENT) for number in range(MOST)]
    with beside(*slow):
        until(lambda: len(hanging) == MOST)
        with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "its turn"):
            ask("quick.example", CLIENT)
        assert ask("quick.example", OTHER) == [Endpoint(LOOPBACK, 80)]
        go_on.set()


def test_a_bug_of_the_judge_is_no_denial() -> None:
    def broken(endpoint: Endpoint) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        permitted(["127.0.0.1"], broken)
