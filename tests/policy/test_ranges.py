"""Public addresses: every range at its edges, every embedding, and a slow obvious twin."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from geproxy.policy.ranges import is_loopback, is_public
from geproxy.terms import Address

F4 = "ffff:ffff:ffff:ffff"

# Name, the public neighbour below, first, last, the public neighbour above
NON_PUBLIC = [
    ("this network", None, "0.0.0.0", "0.255.255.255", "1.0.0.0"),
    ("private 10/8", "9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
    ("carrier-grade NAT", "100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
    ("loopback", "126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
    ("link-local", "169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
    ("private 172.16/12", "172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
    ("protocol assignments", "191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
    ("TEST-NET-1", "192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
    ("6to4 relays", "192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
    ("private 192.168/16", "192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
    ("benchmarking", "198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
    ("TEST-NET-2", "198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
    ("TEST-NET-3", "203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
    ("IPv4 multicast", "223.255.255.255", "224.0.0.0", "239.255.255.255", None),
    ("reserved 240/4", None, "240.0.0.0", "255.255.255.255", None),
    ("IPv6 below global unicast", None, "::", f"1fff:ffff:ffff:ffff:{F4}", "2000::"),
    (
        "IPv6 protocol assignments",
        f"2000:ffff:ffff:ffff:{F4}",
        "2001::",
        f"2001:1ff:ffff:ffff:{F4}",
        "2001:200::",
    ),
    ("Teredo", None, "2001::", f"2001:0:ffff:ffff:{F4}", None),
    ("IPv6 benchmarking", None, "2001:2::", f"2001:2:0:ffff:{F4}", None),
    ("the former ORCHID", None, "2001:10::", f"2001:1f:ffff:ffff:{F4}", "2001:20::"),
    (
        "IPv6 documentation",
        f"2001:db7:ffff:ffff:{F4}",
        "2001:db8::",
        f"2001:db8:ffff:ffff:{F4}",
        "2001:db9::",
    ),
    ("6to4", f"2001:ffff:ffff:ffff:{F4}", "2002::", f"2002:ffff:ffff:ffff:{F4}", "2003::"),
    (
        "the newer IPv6 documentation",
        f"3ffe:ffff:ffff:ffff:{F4}",
        "3fff::",
        f"3fff:fff:ffff:ffff:{F4}",
        "3fff:1000::",
    ),
    (
        "IPv6 above global unicast",
        f"3fff:ffff:ffff:ffff:{F4}",
        "4000::",
        f"ffff:ffff:ffff:ffff:{F4}",
        None,
    ),
    ("IPv4-compatible", None, "::", "::255.255.255.255", None),
    ("IPv4-translated", None, "::ffff:0:0:0", "::ffff:0:ffff:ffff", None),
    ("NAT64", None, "64:ff9b::", "64:ff9b::255.255.255.255", None),
    ("local NAT64", None, "64:ff9b:1::", f"64:ff9b:1:ffff:{F4}", None),
    ("discard-only", None, "100::", f"100::{F4}", None),
    ("the dummy prefix", None, "100:0:0:1::", f"100:0:0:1:{F4}", None),
    ("SRv6", None, "5f00::", f"5f00:ffff:ffff:ffff:{F4}", None),
    ("unique local", None, "fc00::", f"fdff:ffff:ffff:ffff:{F4}", None),
    ("IPv6 link-local", None, "fe80::", f"febf:ffff:ffff:ffff:{F4}", None),
    ("site-local", None, "fec0::", f"feff:ffff:ffff:ffff:{F4}", None),
    ("IPv6 multicast", None, "ff00::", f"ffff:ffff:ffff:ffff:{F4}", None),
]

# Name, the non-public neighbour below, first, last, the non-public neighbour above
PUBLIC_WITHIN = [
    ("PCP and TURN anycast", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.11"),
    ("the IPv6 anycasts", "2001:1::", "2001:1::1", "2001:1::3", "2001:1::4"),
    ("AMT", f"2001:2:ffff:ffff:{F4}", "2001:3::", f"2001:3:ffff:ffff:{F4}", "2001:4::"),
    ("AS112-v6", f"2001:4:111:ffff:{F4}", "2001:4:112::", f"2001:4:112:ffff:{F4}", "2001:4:113::"),
    (
        "ORCHIDv2",
        f"2001:1f:ffff:ffff:{F4}",
        "2001:20::",
        f"2001:2f:ffff:ffff:{F4}",
        None,
    ),
    ("drone remote ID", None, "2001:30::", f"2001:3f:ffff:ffff:{F4}", "2001:40::"),
]

# {} is an IPv4 address. Teredo's is inverted, but a range that is refused whole needs no inverting.
EMBEDDINGS = {
    "IPv4-compatible": "::{}",
    "IPv4-translated": "::ffff:0:{}",
    "in local NAT64": "64:ff9b:1::{}",
    "in Teredo": "2001:0:4136:e378:8000:63bf:{}",
    "in ISATAP": "2600:1f18::5efe:{}",
    "in ISATAP with the universal bit": "2600:1f18::200:5efe:{}",
    "in ISATAP, link-local": "fe80::5efe:{}",
}
INSIDES = {
    "127.0.0.1": False,
    "0.0.0.0": False,
    "10.0.0.1": False,
    "169.254.169.254": False,
    "192.0.0.9": True,
    "8.8.8.8": True,
}

PLAIN = [
    ("a public resolver is public", "8.8.8.8", True),
    ("an AS112 server is public", "192.175.48.1", True),
    ("the older AS112 delegation is public", "192.31.196.1", True),
    ("the older AMT relay is public", "192.52.193.1", True),
    ("the clouds' metadata is not public", "169.254.169.254", False),
    ("limited broadcast is not public", "255.255.255.255", False),
    ("the address for NAT64 discovery is not public", "192.0.0.170", False),
    ("a public IPv6 resolver is public", "2001:4860:4860::8888", True),
    ("AS112 in IPv6 is public", "2620:4f:8000::1", True),
    ("the IPv6 metadata of a cloud is not public", "fd00:ec2::254", False),
    ("the unspecified address is not public", "::", False),
    ("IPv6 loopback is not public", "::1", False),
    ("a link-local address with its scope is not public", "fe80::1%eth0", False),
    ("multicast of global scope is not public", "ff0e::1", False),
    ("6to4 around loopback is not public", "2002:7f00:1::", False),
    ("6to4 around a public address is not public", "2002:808:808::1", False),
    ("what follows NAT64 is not public", "64:ff9b::1:0:0", False),
    ("the block after NAT64's is not public either", "64:ff9c::1", False),
    ("what follows IPv4-mapped is not public either", "::1:0:0:0", False),
    ("an identifier just below ISATAP is public", "2600:1f18::5efd:ffff:ffff", True),
    ("an identifier just above ISATAP is public", "2600:1f18::5eff:0:0", True),
    ("an identifier with the group bit is no ISATAP", "2600:1f18::100:5efe:7f00:1", True),
    ("5efe in another place is no ISATAP", "2600:1f18:0:5efe::7f00:1", True),
]


def rows() -> Iterator[object]:
    for name, below, first, last, above in NON_PUBLIC:
        yield from edges(name, below, first, last, above, within=False)
    for name, below, first, last, above in PUBLIC_WITHIN:
        yield from edges(name, below, first, last, above, within=True)
    for inside, public in INSIDES.items():
        yield pytest.param(f"::ffff:{inside}", public, id=f"mapped {inside} is judged as IPv4")
        yield pytest.param(f"64:ff9b::{inside}", public, id=f"{inside} in NAT64 is judged as IPv4")
        for name, form in EMBEDDINGS.items():
            yield pytest.param(form.format(inside), False, id=f"{inside} {name} is not public")
    for name, text, public in PLAIN:
        yield pytest.param(text, public, id=name)


def edges(
    name: str, below: str | None, first: str, last: str, above: str | None, *, within: bool
) -> Iterator[object]:
    said = "is public" if within else "is not public"
    yield pytest.param(first, within, id=f"the first of {name} {said}")
    yield pytest.param(last, within, id=f"the last of {name} {said}")
    said = "is not public" if within else "is public"
    if below:
        yield pytest.param(below, not within, id=f"one below {name} {said}")
    if above:
        yield pytest.param(above, not within, id=f"one above {name} {said}")


@pytest.mark.parametrize(("text", "public"), list(rows()))
def test_every_range_and_every_embedding(text: str, public: bool) -> None:
    assert is_public(ip_address(text)) is public


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        pytest.param("127.0.0.0", True, id="the first of 127/8"),
        pytest.param("127.255.255.255", True, id="the last of 127/8"),
        pytest.param("126.255.255.255", False, id="one below 127/8"),
        pytest.param("128.0.0.0", False, id="one above 127/8"),
        pytest.param("::1", True, id="IPv6 loopback"),
        pytest.param("::1%lo", True, id="IPv6 loopback with its scope"),
        pytest.param("::", False, id="every IPv6 address"),
        pytest.param("::2", False, id="one above IPv6 loopback"),
        pytest.param("0.0.0.0", False, id="every IPv4 address"),
        pytest.param("0.0.0.1", False, id="an IPv4 address with IPv6 loopback's number"),
        pytest.param("::ffff:127.0.0.0", True, id="the first, mapped"),
        pytest.param("::ffff:127.255.255.255", True, id="the last, mapped"),
        pytest.param("::ffff:126.255.255.255", False, id="one below, mapped"),
        pytest.param("::ffff:128.0.0.0", False, id="one above, mapped"),
        pytest.param("::127.0.0.1", False, id="IPv4-compatible, which no kernel unpacks"),
        pytest.param("::1:ffff:127.0.0.1", False, id="nearly mapped"),
        pytest.param("10.0.0.1", False, id="a private address"),
        pytest.param("2001:4860:4860::8888", False, id="a public address"),
    ],
)
def test_loopback(text: str, loopback: bool) -> None:
    assert is_loopback(ip_address(text)) is loopback


# The twin: what each registry says, row by row, and the longest prefix wins.
TWIN: dict[str, bool] = {
    "0.0.0.0/0": True,
    "0.0.0.0/8": False,
    "0.0.0.0/32": False,
    "10.0.0.0/8": False,
    "100.64.0.0/10": False,
    "127.0.0.0/8": False,
    "169.254.0.0/16": False,
    "172.16.0.0/12": False,
    "192.0.0.0/24": False,
    "192.0.0.0/29": False,
    "192.0.0.8/32": False,
    "192.0.0.9/32": True,
    "192.0.0.10/32": True,
    "192.0.0.170/31": False,
    "192.0.2.0/24": False,
    "192.31.196.0/24": True,
    "192.52.193.0/24": True,
    "192.88.99.0/24": False,
    "192.168.0.0/16": False,
    "192.175.48.0/24": True,
    "198.18.0.0/15": False,
    "198.51.100.0/24": False,
    "203.0.113.0/24": False,
    "224.0.0.0/4": False,
    "240.0.0.0/4": False,
    "255.255.255.255/32": False,
    "::/0": False,
    "2000::/3": True,
    "2001::/23": False,
    "2001::/32": False,
    "2001:1::1/128": True,
    "2001:1::2/128": True,
    "2001:1::3/128": True,
    "2001:2::/48": False,
    "2001:3::/32": True,
    "2001:4:112::/48": True,
    "2001:10::/28": False,
    "2001:20::/28": True,
    "2001:30::/28": True,
    "2001:db8::/32": False,
    "2002::/16": False,
    "2620:4f:8000::/48": True,
    "3fff::/20": False,
}
NAT64 = IPv6Network("64:ff9b::/96")
NETWORKS = [(ip_network(text), public) for text, public in TWIN.items()]
NETWORKS.sort(key=lambda row: row[0].prefixlen, reverse=True)
TWIN_IPV4 = [row for row in NETWORKS if isinstance(row[0], IPv4Network)]
TWIN_IPV6 = [row for row in NETWORKS if isinstance(row[0], IPv6Network)]


def is_public_to_the_twin(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public_to_the_twin(address.ipv4_mapped)
        if address in NAT64:
            return is_public_to_the_twin(IPv4Address(address.packed[12:]))
        if address.packed[8:12] in (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe"):
            return False
        return next(public for network, public in TWIN_IPV6 if address in network)
    return next(public for network, public in TWIN_IPV4 if address in network)


def addresses_near_edges(chance: random.Random, count: int) -> Iterator[Address]:
    """Yield addresses at most 2 from a row's edge: plain, mapped, NAT64's, or ISATAP's."""
    marks = [(type(n[0]), int(end)) for n, _ in NETWORKS for end in (n[0], n[-1])]
    for _ in range(count):
        kind, mark = chance.choice(marks)
        number = mark + chance.randint(-2, 2)
        if kind is IPv4Address:
            number %= 1 << 32
            mapped = IPv6Address(0xFFFF << 32 | number)
            yield chance.choice((IPv4Address(number), mapped, NAT64[number]))
        else:
            number %= 1 << 128
            if chance.random() < 0.2:
                bits = chance.choice((0x0000_5EFE, 0x0200_5EFE, 0x0100_5EFE, 0x0000_5EFF))
                number = number >> 64 << 64 | bits << 32 | number & 0xFFFF_FFFF
            yield IPv6Address(number)


def random_addresses(chance: random.Random, count: int) -> Iterator[Address]:
    """Yield addresses of both families, and of each kind that is judged in a way of its own."""
    for _ in range(count // 5):
        yield IPv4Address(chance.getrandbits(32))
        yield IPv6Address(0xFFFF << 32 | chance.getrandbits(32))
        yield NAT64[chance.getrandbits(32)]
        yield IPv6Address(chance.getrandbits(128))
        yield IPv6Address(1 << 125 | chance.getrandbits(125))


@pytest.mark.slow
@pytest.mark.parametrize(
    "generate",
    [
        pytest.param(addresses_near_edges, id="near the edges"),
        pytest.param(random_addresses, id="anywhere"),
    ],
)
def test_agrees_with_a_slow_obvious_twin(
    generate: Callable[[random.Random, int], Iterator[Address]],
) -> None:
    for address in generate(random.Random(1928), 20_000):
        assert is_public(address) is is_public_to_the_twin(address), address
