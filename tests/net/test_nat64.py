"""Which prefixes the network has is asked for, now and then."""

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from geproxy.errors import LimitError, NoAnswerError, ResolveError
from geproxy.nat64 import Nat64, Prefix
from geproxy.net.deadline import Deadline
from geproxy.net.lookup import Found, Question
from geproxy.net.nat64 import AGAIN_SECONDS, NAME, RETRY_SECONDS, Discovery
from tests.support.conformance import HARD_SECONDS

PREFIX = Prefix.of(IPv6Address("2001:db8:64::"), 96)
ANSWER = (PREFIX.around(IPv4Address("192.0.0.170")), PREFIX.around(IPv4Address("192.0.0.171")))


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


class Names:
    """A look-up that says the one thing."""

    families: tuple[int, ...] = (socket.AF_INET6, socket.AF_INET)
    places = 1

    def __init__(self, says: Found | Exception) -> None:
        self.says = says
        self.asked: list[tuple[str, int]] = []

    def ask(self, question: Question) -> Found:
        self.asked.append((question.name, question.family))
        if isinstance(self.says, Exception):
            raise self.says
        return self.says


def test_aaaa_records_tell_and_nothing_else_is_asked_for() -> None:
    nat64, names = Nat64(), Names(ANSWER)
    assert Discovery(names, nat64).ask() == AGAIN_SECONDS
    assert nat64.learned == (PREFIX,)
    assert names.asked == [(NAME, socket.AF_INET6)]


@pytest.mark.parametrize("says", [(), ResolveError("no AAAA")], ids=["nothing", "no such record"])
def test_a_network_without_dns64_has_none_and_is_not_asked_soon(says: Found | Exception) -> None:
    nat64 = Nat64()
    nat64.learn([PREFIX])
    assert Discovery(Names(says), nat64).ask() == AGAIN_SECONDS
    assert nat64.learned == ()


@pytest.mark.parametrize("says", [NoAnswerError("silence"), LimitError("no descriptor")])
def test_where_nobody_answers_what_is_known_stays_and_it_is_asked_again_soon(
    says: Exception,
) -> None:
    nat64 = Nat64()
    nat64.learn([PREFIX])
    assert Discovery(Names(says), nat64).ask() == RETRY_SECONDS
    assert nat64.learned == (PREFIX,)


def test_where_ipv6_is_not_wanted_nothing_is_asked() -> None:
    names = Names(ANSWER)
    names.families = (socket.AF_INET,)
    Discovery(names, Nat64()).run()
    assert names.asked == []
