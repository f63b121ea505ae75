"""Which clients are connections of our own."""

from __future__ import annotations

from typing import cast

import pytest

from geproxy.errors import DeniedError
from geproxy.net.ownways import LISTENERS, TABLE_BYTES, OwnWays
from geproxy.streams import Stream
from geproxy.terms import Endpoint


def place(port: int, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint.from_sockaddr((host, port))


class Connection:
    """One of its two ends."""

    def __init__(self, bound: Endpoint, peer: Endpoint) -> None:
        self.bound = bound
        self.peer = peer


def end(bound: Endpoint, peer: Endpoint) -> Stream:
    return cast(Stream, Connection(bound, peer))


class Kernel:
    """Knows which connections NAT has brought here."""

    def __init__(self) -> None:
        self.brought: set[tuple[Endpoint, Endpoint]] = set()
        memory = bytearray(TABLE_BYTES)
        self.own, self.sibling = (OwnWays(memory, "abc", self.brought_by_nat) for _ in range(2))

    def brought_by_nat(self, client: Endpoint, reached: Endpoint) -> bool:
        return (client, reached) in self.brought

    def led_to(self, client: Endpoint, reached: Endpoint, listener: str) -> int:
        found = self.own.led_to(end(reached, client), listener)
        assert self.sibling.led_to(end(reached, client), listener) == found
        return found


A, B, C = 1, 2, 4
OURS, PEER, ELSEWHERE = place(40000), place(8388), place(1080)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_a_connection_that_comes_back_is_refused_while_it_is_open(kernel: Kernel) -> None:
    way = end(OURS, PEER)
    note = kernel.own.add(way, A)
    mapped = Endpoint.from_sockaddr(("::ffff:127.0.0.1", OURS.port, 0, 0))
    assert kernel.led_to(mapped, PEER, "b") == A | B
    with pytest.raises(DeniedError, match="leads back"):
        kernel.led_to(mapped, PEER, "a")
    kernel.own.discard(note)
    assert kernel.led_to(mapped, PEER, "a") == A


def test_a_connection_that_comes_back_to_another_worker_is_refused(kernel: Kernel) -> None:
    kernel.own.add(end(OURS, PEER), A)
    with pytest.raises(DeniedError, match="leads back"):
        kernel.sibling.led_to(end(PEER, OURS), "a")


def test_a_way_over_several_listeners_is_known_at_each_of_them(kernel: Kernel) -> None:
    kernel.own.add(end(OURS, PEER), A | B)
    for listener in ("a", "b"):
        with pytest.raises(DeniedError, match="leads back"):
            kernel.led_to(OURS, PEER, listener)
    assert kernel.led_to(OURS, PEER, "c") == A | B | C


def test_a_peer_that_was_dialed_at_no_address_is_this_host(kernel: Kernel) -> None:
    kernel.own.add(end(OURS, place(PEER.port, "0.0.0.0")), A)
    with pytest.raises(DeniedError, match="leads back"):
        kernel.led_to(OURS, PEER, "a")


def test_another_program_that_has_the_same_port_is_served(kernel: Kernel) -> None:
    kernel.own.add(end(OURS, PEER), A)
    assert kernel.led_to(OURS, ELSEWHERE, "a") == A


def test_a_client_elsewhere_that_has_the_same_port_is_served(kernel: Kernel) -> None:
    kernel.own.add(end(OURS, PEER), A)
    assert kernel.led_to(place(OURS.port, "198.51.100.7"), ELSEWHERE, "a") == A


def test_a_connection_that_nat_has_brought_elsewhere_is_refused(kernel: Kernel) -> None:
    kernel.own.add(end(OURS, place(443, "192.0.2.7")), A)
    kernel.brought.add((OURS, ELSEWHERE))
    with pytest.raises(DeniedError, match="leads back"):
        kernel.led_to(OURS, ELSEWHERE, "a")


def test_of_two_connections_from_one_port_the_newer_is_known_until_it_is_closed(
    kernel: Kernel,
) -> None:
    first = kernel.own.add(end(OURS, PEER), A)
    second = kernel.own.add(end(OURS, ELSEWHERE), B)
    kernel.own.discard(first)
    assert kernel.led_to(OURS, ELSEWHERE, "a") == A | B
    kernel.own.discard(second)
    assert kernel.led_to(OURS, ELSEWHERE, "b") == B


def test_a_listener_too_many_has_no_bit_and_is_served(kernel: Kernel) -> None:
    names = [str(number) for number in range(LISTENERS + 1)]
    own = OwnWays(bytearray(TABLE_BYTES), names, kernel.brought_by_nat)
    way = end(OURS, PEER)
    for _ in range(2):
        listeners = own.led_to(end(PEER, OURS), names[-1])
        assert listeners == 0
        own.add(way, listeners)
