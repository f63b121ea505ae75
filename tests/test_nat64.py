"""IPv4 addresses inside IPv6 ones, and where a network says that it makes them."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geproxy.nat64 import LENGTHS, PREFIXES_MAX, WELL_KNOWN, Nat64, Prefix, prefixes_of
from geproxy.terms import Address

INSIDE = IPv4Address("192.0.2.33")
WANTED = IPv4Address("192.0.0.170")
OTHER_WANTED = IPv4Address("192.0.0.171")

# RFC 6052 §2.4
TEXTS = [
    (32, "2001:db8::", "2001:db8:c000:221::"),
    (40, "2001:db8:100::", "2001:db8:1c0:2:21::"),
    (48, "2001:db8:122::", "2001:db8:122:c000:2:2100::"),
    (56, "2001:db8:122:300::", "2001:db8:122:3c0:0:221::"),
    (64, "2001:db8:122:344::", "2001:db8:122:344:c0:2:2100::"),
    (96, "2001:db8:122:344::", "2001:db8:122:344::192.0.2.33"),
    (96, "64:ff9b::", "64:ff9b::192.0.2.33"),
]


@pytest.mark.parametrize(("bits", "prefix", "text"), TEXTS, ids=[row[2] for row in TEXTS])
def test_the_representations_of_the_document(bits: int, prefix: str, text: str) -> None:
    made = Prefix.of(IPv6Address(prefix), bits)
    assert made.around(INSIDE) == IPv6Address(text)
    number = int(IPv6Address(text))
    assert made.holds(number)
    assert made.inside(number) == INSIDE
    assert str(made) == f"{prefix}/{bits}"


@given(st.sampled_from(LENGTHS), st.ip_addresses(v=6), st.ip_addresses(v=4))
def test_what_is_put_inside_is_found_inside(
    bits: int, somewhere: IPv6Address, address: IPv4Address
) -> None:
    prefix = Prefix.of(somewhere, bits)
    around = prefix.around(address)
    assert prefix.holds(int(around))
    assert prefix.inside(int(around)) == address


@pytest.mark.parametrize(("bits", "prefix", "text"), TEXTS, ids=[row[2] for row in TEXTS])
def test_a_prefix_is_found_by_the_well_known_addresses(bits: int, prefix: str, text: str) -> None:
    made = Prefix.of(IPv6Address(prefix), bits)
    answer: list[Address] = [made.around(WANTED), made.around(OTHER_WANTED)]
    assert prefixes_of(answer) == (made,)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("2001:db8::1", id="nothing inside"),
        pytest.param("2001:db8::192.0.2.33", id="another address inside"),
        pytest.param("::192.0.0.170", id="IPv4-compatible"),
        pytest.param("::ffff:192.0.0.170", id="IPv4-mapped"),
        pytest.param("fe80::192.0.0.170", id="a link-local one"),
        pytest.param("192.0.0.170", id="the A record itself"),
        pytest.param("2001:db8:c000:aa::c000:aa", id="two ways to read it"),
    ],
)
def test_what_tells_of_no_prefix(text: str) -> None:

    assert prefixes_of([ip_address(text)]) == ()


def test_a_network_may_have_several_and_its_answer_replaces_the_last() -> None:
    first, second = (Prefix.of(IPv6Address(f"2001:db8:{n}::"), 96) for n in (1, 2))
    nat64 = Nat64()
    nat64.learn([first, second])
    assert nat64.around(INSIDE) == [first.around(INSIDE), second.around(INSIDE)]
    assert nat64.inside(second.around(INSIDE)) == (INSIDE,)
    nat64.learn([second])
    assert nat64.inside(first.around(INSIDE)) == ()
    assert nat64.inside(WELL_KNOWN.around(INSIDE)) == (INSIDE,)


def test_before_anything_is_learnt_the_well_known_prefix_is_read_and_not_dialed() -> None:
    nat64 = Nat64()
    assert nat64.inside(WELL_KNOWN.around(INSIDE)) == (INSIDE,)
    assert nat64.inside(INSIDE) == ()
    assert nat64.around(INSIDE) == []


def test_an_answer_full_of_prefixes_costs_no_more_than_a_few() -> None:
    nat64 = Nat64()
    nat64.learn(Prefix.of(IPv6Address(f"2001:db8:{n:x}::"), 96) for n in range(1000))
    assert len(nat64.learned) == PREFIXES_MAX
