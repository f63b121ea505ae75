"""Both messages of SOCKS4 and 4A: as a table of octets, and as properties."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.terms import Endpoint, Outcome
from geproxy.wire.socks4 import (
    MAX_REQUEST_BYTES,
    CommandCode,
    Reply,
    ResultCode,
    SocksRequest,
)
from tests.support.codec import Codec, check_any_bytes, check_codec, check_cuts, check_refused
from tests.vectors.socks4 import IMPOSSIBLE_REQUESTS, NOT_FOUR, NOT_ZERO, REPLIES, REQUESTS

octets = st.integers(0, 255)
ports = st.integers(0, 65535)
addresses = st.ip_addresses(v=4)
# 0.0.0.1 to 0.0.0.255 announce a name: as a target that is an address there is no way to say them.
sayable = addresses.filter(lambda address: not 0 < int(address) < 256)
without_nul = st.binary(max_size=255).map(lambda data: data.replace(b"\0", b"\1"))
targets = st.one_of(
    st.builds(Endpoint, sayable, ports),
    st.builds(Endpoint.from_name, without_nul.filter(bool), ports),
)
messages = st.one_of(
    st.builds(SocksRequest, octets, targets, without_nul),
    st.builds(Reply, octets, st.builds(Endpoint, addresses, ports)),
)


@pytest.mark.parametrize(
    ("message", "wire"), [pytest.param(*row[1:], id=row[0]) for row in REQUESTS + REPLIES]
)
def test_a_message_is_read_and_written(message: Codec, wire: bytes) -> None:
    check_codec(message, wire)


@pytest.mark.parametrize("version", NOT_FOUR)
def test_a_request_of_another_version_is_refused_at_its_first_octet(version: int) -> None:
    check_refused(SocksRequest, bytes((version,)), Outcome.FAILED)


@pytest.mark.parametrize("version", NOT_ZERO)
def test_a_reply_of_another_version_is_refused_at_its_first_octet(version: int) -> None:
    check_refused(Reply, bytes((version,)), Outcome.FAILED)


@pytest.mark.parametrize("wire", [pytest.param(row[1], id=row[0]) for row in IMPOSSIBLE_REQUESTS])
def test_a_request_that_cannot_be_is_refused_at_the_octet_that_says_so(wire: bytes) -> None:
    check_refused(SocksRequest, wire, Outcome.FAILED)


@pytest.mark.parametrize("last", [1, 2, 127, 128, 254, 255])
def test_any_address_from_0_0_0_1_to_0_0_0_255_announces_a_name(last: int) -> None:
    wire = b"\x04\x01\x00\x50\x00\x00\x00" + bytes((last,)) + b"alice\0example.net\0"
    message = SocksRequest(1, Endpoint("example.net", 80), b"alice")
    assert SocksRequest.decode(wire) == (message, len(wire))
    assert SocksRequest.decode(wire + b"tail") == (message, len(wire))
    check_cuts(SocksRequest, wire)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param(IPv6Address("2001:db8::1"), b"2001:db8::1", id="IPv6"),
        pytest.param(IPv4Address("0.0.0.1"), b"0.0.0.1", id="the first that announces a name"),
        pytest.param(IPv4Address("0.0.0.255"), b"0.0.0.255", id="the last that announces a name"),
    ],
)
def test_a_target_that_dstip_cannot_hold_is_written_as_a_name(
    host: IPv4Address | IPv6Address, name: bytes
) -> None:
    wire = SocksRequest(1, Endpoint(host, 80), b"").encode()
    assert wire == b"\x04\x01\x00\x50\0\0\0\x01\0" + name + b"\0"


def test_of_an_ipv6_address_a_reply_says_the_port_alone() -> None:
    bound = Endpoint(IPv6Address("2001:db8::1"), 40_000)
    assert Reply(90, bound).encode() == b"\x00\x5a\x9c\x40\x00\x00\x00\x00"


def test_the_codes_are_those_of_the_document() -> None:
    assert [(code.name, int(code)) for code in CommandCode] == [("CONNECT", 1), ("BIND", 2)]
    assert [int(code) for code in ResultCode] == [90, 91, 92, 93]
    assert (ResultCode.GRANTED, ResultCode.REJECTED) == (90, 91)


def test_the_limit_is_the_length_of_the_longest_request() -> None:
    longest = SocksRequest(1, Endpoint("n" * 255, 65535), b"u" * 255)
    assert len(longest.encode()) == MAX_REQUEST_BYTES == 520


@settings(max_examples=100, deadline=None)
@given(messages)
def test_any_message_comes_back_as_it_left_and_no_part_of_it_does(message: Codec) -> None:
    check_codec(message, message.encode())


@pytest.mark.parametrize("kind", [SocksRequest, Reply])
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_give_a_message_none_or_a_protocol_error(kind: type[Codec], data: bytes) -> None:
    check_any_bytes(kind, data)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(min_size=3, max_size=3),
    st.sampled_from([b"\0\0\0\x01", b"\0\0\0\xff", b"\0\0\0\0", b"\x7f\0\0\x01"]),
    st.lists(without_nul, max_size=3),
)
def test_bytes_that_begin_well_do_so_too(
    middle: bytes, address: bytes, fields: list[bytes]
) -> None:
    check_any_bytes(SocksRequest, b"\x04" + middle + address + b"\0".join(fields))
