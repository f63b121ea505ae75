"""ATYP, address and port: every kind, every cut, every octet that cannot be."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.errors import ProtocolError
from geproxy.terms import Endpoint, Outcome
from geproxy.wire.address import AddressType, decode_address, encode_address, split_address
from tests.vectors.rfc1928 import ADDRESSES, IMPOSSIBLE_ADDRESSES

names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
ports = st.integers(0, 65535)
endpoints = st.one_of(
    st.builds(Endpoint, st.ip_addresses(), ports),
    st.builds(Endpoint.from_name, names, ports),
)
STARTS = [
    pytest.param(0, id="at the front"),
    pytest.param(3, id="behind three octets"),
]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("endpoint", "wire"), [pytest.param(*row[1:], id=row[0]) for row in ADDRESSES]
)
def test_an_address_is_read_and_written(endpoint: Endpoint, wire: bytes, start: int) -> None:
    before = b"\x05\x01\x00"[:start]
    end = start + len(wire)
    assert encode_address(endpoint) == wire
    assert decode_address(before + wire, start) == (endpoint, end)
    assert decode_address(before + wire + b"tail", start) == (endpoint, end)
    for cut in range(end):
        assert decode_address((before + wire)[:cut], start) is None, f"from {cut} octets"


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("wire", "outcome"), [pytest.param(*row[1:], id=row[0]) for row in IMPOSSIBLE_ADDRESSES]
)
def test_an_octet_that_cannot_be_is_refused(wire: bytes, outcome: Outcome, start: int) -> None:
    data = b"\x05\x01\x00"[:start] + wire
    for cut in range(len(data)):
        assert decode_address(data[:cut], start) is None, f"from {cut} octets"
    for tail in (b"", b"\0", b"tail"):
        with pytest.raises(ProtocolError) as caught:
            decode_address(data + tail, start)
        assert caught.value.outcome is outcome


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("data", [b"", b"x", b"data of a datagram"])
@pytest.mark.parametrize(
    ("endpoint", "wire"), [pytest.param(*row[1:], id=row[0]) for row in ADDRESSES]
)
def test_a_datagram_is_cut_behind_its_address(
    endpoint: Endpoint, wire: bytes, data: bytes, start: int
) -> None:
    before = b"\0\0\0"[:start]
    assert split_address(before + wire + data, start) == (wire, data)
    for cut in range(start + len(wire)):
        with pytest.raises(ProtocolError):
            split_address((before + wire)[:cut], start)


@settings(max_examples=150, deadline=None)
@given(
    st.builds(bytes.__add__, st.sampled_from([b"", b"\x01", b"\x03", b"\x04"]), st.binary()),
    st.integers(0, 8),
)
def test_any_datagram_is_cut_where_its_address_ends_or_is_a_protocol_error(
    data: bytes, start: int
) -> None:
    """What decode_address() reads is what split_address() cuts off, byte by byte."""
    try:
        head, rest = split_address(data, start)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            if decode_address(data, start) is None:
                raise ProtocolError("cut off") from None
        return
    assert head + rest == data[start:]
    try:
        found = decode_address(data, start)
    except ProtocolError:
        return  # an empty name, or one with a NUL: seen when the head is met for the first time
    assert found is not None
    assert found[1] == start + len(head)


def test_only_three_address_types_are_known() -> None:
    known = {kind for kind in range(256) if _accepts(kind)}
    assert known == {1, 3, 4} == set(AddressType)


def _accepts(kind: int) -> bool:
    try:
        return decode_address(bytes((kind,)), 0) is None
    except ProtocolError:
        return False


def test_the_host_is_an_address_or_a_name_never_a_mixture() -> None:
    hosts = {type(endpoint.host) for _, endpoint, _ in ADDRESSES}
    assert hosts == {IPv4Address, IPv6Address, str}


@settings(max_examples=80, deadline=None)
@given(endpoints)
def test_any_endpoint_comes_back_as_it_left(endpoint: Endpoint) -> None:
    wire = encode_address(endpoint)
    assert decode_address(wire, 0) == (endpoint, len(wire))


@settings(max_examples=80, deadline=None)
@given(names, ports)
def test_a_name_leaves_with_the_octets_it_came_with(name: bytes, port: int) -> None:
    wire = b"\x03" + bytes((len(name),)) + name + port.to_bytes(2, "big")
    found = decode_address(wire, 0)
    assert found is not None
    assert encode_address(found[0]) == wire


@settings(max_examples=150, deadline=None)
@given(
    st.builds(bytes.__add__, st.sampled_from([b"", b"\x01", b"\x03", b"\x04"]), st.binary()),
    st.integers(0, 8),
)
def test_any_bytes_give_an_endpoint_none_or_a_protocol_error(data: bytes, start: int) -> None:
    try:
        found = decode_address(data, start)
    except ProtocolError:
        return
    if found is not None:
        endpoint, end = found
        assert start < end <= len(data)
        assert encode_address(endpoint) == data[start:end]
