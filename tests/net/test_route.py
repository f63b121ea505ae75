"""This host's own addresses, as the kernel knows them."""

import os
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from geproxy.net.route import OwnAddresses


@pytest.fixture
def own() -> Iterator[OwnAddresses]:
    made = OwnAddresses()
    yield made
    made.close()


@pytest.mark.parametrize("text", ["127.0.0.1", "127.255.0.1", "::1"])
def test_the_loopback_addresses_are_ours(own: OwnAddresses, text: str) -> None:
    assert ip_address(text) in own


@pytest.mark.parametrize("text", ["192.0.2.1", "198.51.100.7", "2001:db8::1", "::ffff:192.0.2.1"])
def test_other_addresses_are_not(own: OwnAddresses, text: str) -> None:
    assert ip_address(text) not in own


def test_every_question_gets_its_own_answer(own: OwnAddresses) -> None:
    ours, other = ip_address("127.0.0.1"), ip_address("192.0.2.1")
    assert [address in own for address in (ours, other) * 50] == [True, False] * 50


def test_the_socket_is_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = OwnAddresses()
    made.close()
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
