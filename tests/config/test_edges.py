"""Ports and networks as edges: what asking each of them one by one says."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geproxy.config.edges import Networks, Ports
from geproxy.config.network import PORT_MAX, Network
from geproxy.terms import Address

# Few addresses, so that networks meet: of IPv6 such as differ in either half.
NUMBERS_4 = st.integers(0, 7) | st.integers((1 << 32) - 8, (1 << 32) - 1)
NUMBERS_6 = st.builds(
    lambda upper, lower: upper << 64 | lower,
    st.sampled_from([0, 1, 2, (1 << 64) - 1]),
    st.sampled_from([0, 1, 2, 3, (1 << 64) - 2, (1 << 64) - 1]),
)
ADDRESSES = st.builds(IPv4Address, NUMBERS_4) | st.builds(IPv6Address, NUMBERS_6)


def network_of(address: Address, bits: int) -> Network:
    """The network of *address* that leaves *bits* of it free."""
    width = address.max_prefixlen
    return ip_network((int(address), max(width - bits, 0)), strict=False)


FREE_BITS = st.integers(0, 3) | st.sampled_from([31, 32, 63, 64, 65, 128])
NETWORKS = st.lists(st.builds(network_of, ADDRESSES, FREE_BITS), max_size=10)
EVERYTHING = [ip_network("0.0.0.0/0"), ip_network("::/0")]


@given(NETWORKS, st.lists(ADDRESSES, min_size=1, max_size=10))
@example(EVERYTHING, [IPv4Address("255.255.255.255"), IPv6Address((1 << 128) - 1)])
@example([ip_network("::/0")], [IPv4Address("0.0.0.0")])
@example([ip_network("0.0.0.0/0")], [IPv6Address("::"), IPv6Address("::ffff:1.1.1.1")])
def test_networks_agree_with_a_slow_obvious_twin(
    networks: list[Network], addresses: list[Address]
) -> None:
    found = Networks.of(networks)
    assert bool(found) is bool(networks)
    for address in addresses:
        assert (address in found) is any(address in network for network in networks), address


PORTS = st.integers(0, 9) | st.integers(PORT_MAX - 9, PORT_MAX)
RANGES = st.lists(
    st.builds(lambda one, other: range(min(one, other), max(one, other) + 1), PORTS, PORTS)
)


@given(RANGES, PORTS)
def test_ports_agree_with_a_slow_obvious_twin(ranges: list[range], port: int) -> None:
    assert (port in Ports.of(ranges)) is any(port in one for one in ranges)


@pytest.mark.parametrize("count", [10, 10_000])
def test_a_question_looks_at_a_few_edges_however_many_there_are(count: int) -> None:
    networks = [ip_network((number << 8, 25 if number % 2 else 24)) for number in range(count)]
    found = Networks.of(networks)
    assert IPv4Address((count - 1) << 8) in found
    assert IPv4Address(count << 8) not in found
    assert found == Networks.of(reversed(networks))
