"""What waits for readers that stopped: whose it is, and which of it goes when there is too much."""

from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace
from typing import Any

import pytest

from geproxy.relay.stuck import LOOKS, SLOW_BYTES, StuckReaders
from geproxy.terms import Address, Endpoint

GREEDY, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")


class Side:
    """One connection, and what the kernel has of it."""

    def __init__(self, client: Address, memory_bytes: int) -> None:
        self.peer = Endpoint(client, 40000)
        self.kernel = self
        self.blocked = True
        self.memory_bytes = memory_bytes
        self.capped = False

    def cap(self) -> None:
        assert not self.capped
        self.capped = True

    def uncap(self) -> None:
        self.capped = False


def relay(client: Address, memory_bytes: int) -> Any:
    """A relay whose client takes nothing, with *memory_bytes* in all."""
    target = Side(OTHER, 0)
    target.blocked = False
    return SimpleHashable(client=Side(client, memory_bytes), target=target, stuck_looks=0)


class SimpleHashable(SimpleNamespace):
    """A namespace that is a key, as the thing that it is."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def watch(stuck: StuckReaders, *relays: Any) -> None:
    """Look at each until it counts."""
    for one in relays:
        for _ in range(LOOKS):
            stuck.look(one, 0)


def test_the_source_that_takes_most_loses_what_is_largest() -> None:
    stuck = StuckReaders(1000)
    greedy = [relay(GREEDY, size) for size in (300, 200, 400)]
    other = relay(OTHER, 500)
    watch(stuck, *greedy, other)
    assert stuck.excess() == [greedy[2]]
    assert stuck.excess() == []


def test_sources_take_turns_as_they_become_the_greediest() -> None:
    stuck = StuckReaders(700)
    greedy = [relay(GREEDY, 300) for _ in range(3)]
    other = [relay(OTHER, 350) for _ in range(2)]
    watch(stuck, *greedy, *other)
    assert stuck.excess() == [greedy[2], other[1], greedy[1]]


def test_all_addresses_of_a_64_are_one_source() -> None:
    stuck = StuckReaders(1000)
    host = [relay(IPv6Address(f"2001:db8::{number:x}"), 100) for number in range(6)]
    other = relay(OTHER, 500)
    watch(stuck, *host, other)
    assert stuck.excess() == [host[5]]


def test_one_source_alone_may_have_all() -> None:
    stuck = StuckReaders(1000)
    watch(stuck, *(relay(GREEDY, 100) for _ in range(10)))
    assert stuck.excess() == []


@pytest.mark.parametrize("how", ["it reads", "it moves"])
def test_who_reads_again_is_no_longer_stuck(how: str) -> None:
    stuck = StuckReaders(100)
    one = relay(GREEDY, 500)
    watch(stuck, one)
    assert one.client.capped and one.target.capped
    if how == "it reads":
        one.client.blocked = False
    stuck.look(one, SLOW_BYTES if how == "it moves" else 0)
    assert not one.client.capped and not one.target.capped
    assert stuck.excess() == []
    one.client.blocked = True
    watch(stuck, one)
    assert stuck.excess() == [one]


def test_what_ended_counts_no_more() -> None:
    stuck = StuckReaders(100)
    one = relay(GREEDY, 500)
    watch(stuck, one)
    stuck.forget(one)
    assert stuck.excess() == []
    assert not stuck._by_share


def test_what_waits_is_asked_for_anew_at_each_look() -> None:
    stuck = StuckReaders(100)
    one = relay(GREEDY, 500)
    watch(stuck, one)
    one.client.memory_bytes = 90
    stuck.look(one, 0)
    assert stuck.excess() == []
