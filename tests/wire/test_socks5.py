"""Every message of RFC 1928: as a table of octets, and as properties."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.terms import Endpoint, Outcome
from geproxy.wire.socks5 import (
    MAX_GREETING_BYTES,
    MAX_REQUEST_BYTES,
    Cmd,
    Greeting,
    Method,
    MethodSelection,
    Rep,
    Reply,
    SocksRequest,
)
from tests.support.codec import Codec, check_any_bytes, check_codec, check_cuts, check_refused
from tests.vectors.rfc1928 import (
    ADDRESSES,
    COMMANDS,
    GREETINGS,
    IMPOSSIBLE_ADDRESSES,
    KINDS,
    NOT_FIVE,
    REPLIES,
    SELECTIONS,
)

REQUEST_ROWS = [
    pytest.param(SocksRequest(cmd, endpoint), front + wire, id=f"{command}, {address}")
    for command, cmd, front in COMMANDS
    for address, endpoint, wire in ADDRESSES
]
REPLY_ROWS = [
    pytest.param(Reply(rep, endpoint), front + wire, id=f"{reply}, {address}")
    for reply, rep, front in REPLIES
    for address, endpoint, wire in ADDRESSES
]

octets = st.integers(0, 255)
names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
ports = st.integers(0, 65535)
endpoints = st.one_of(
    st.builds(Endpoint, st.ip_addresses(), ports),
    st.builds(Endpoint.from_name, names, ports),
)
messages = st.one_of(
    st.builds(Greeting, st.binary(min_size=1, max_size=255)),
    st.builds(MethodSelection, octets),
    st.builds(SocksRequest, octets, endpoints),
    st.builds(Reply, octets, endpoints),
)


@pytest.mark.parametrize(
    ("message", "wire"), [pytest.param(*row[1:], id=row[0]) for row in GREETINGS + SELECTIONS]
)
def test_the_method_negotiation_is_read_and_written(message: Codec, wire: bytes) -> None:
    check_codec(message, wire)


@pytest.mark.parametrize(("message", "wire"), REQUEST_ROWS)
def test_a_request_is_read_and_written(message: SocksRequest, wire: bytes) -> None:
    check_codec(message, wire)


@pytest.mark.parametrize(("message", "wire"), REPLY_ROWS)
def test_a_reply_is_read_and_written(message: Reply, wire: bytes) -> None:
    check_codec(message, wire)


@pytest.mark.parametrize("version", NOT_FIVE)
@pytest.mark.parametrize("kind", KINDS)
def test_another_version_is_refused_at_its_first_octet(kind: type[Codec], version: int) -> None:
    check_refused(kind, bytes((version,)), Outcome.FAILED)


def test_a_greeting_that_offers_nothing_is_refused() -> None:
    check_refused(Greeting, b"\x05\x00", Outcome.FAILED)


@pytest.mark.parametrize("kind", [SocksRequest, Reply])
@pytest.mark.parametrize(
    ("wire", "outcome"), [pytest.param(*row[1:], id=row[0]) for row in IMPOSSIBLE_ADDRESSES]
)
def test_an_impossible_address_is_refused(kind: type[Codec], wire: bytes, outcome: Outcome) -> None:
    check_refused(kind, b"\x05\x01\x00" + wire, outcome)


@pytest.mark.parametrize("reserved", [0x01, 0x05, 0x80, 0xFF])
def test_whatever_stands_in_rsv_is_read_and_never_sent(reserved: int) -> None:
    address = b"\x01\x7f\x00\x00\x01\x00\x50"
    for kind in (SocksRequest, Reply):
        wire = bytes((5, 1, reserved)) + address
        found = kind.decode(wire)
        assert found is not None
        assert found[1] == len(wire)
        assert found[0].encode() == b"\x05\x01\x00" + address
        check_cuts(kind, wire)


def test_the_codes_are_those_of_the_document() -> None:
    assert {name: int(value) for name, value in Cmd.__members__.items()} == {
        "CONNECT": 1,
        "BIND": 2,
        "UDP_ASSOCIATE": 3,
    }
    assert [int(rep) for rep in Rep] == list(range(9))
    assert (Method.NO_AUTHENTICATION, Method.USERNAME_PASSWORD, Method.NO_ACCEPTABLE) == (0, 2, 255)


def test_the_limits_are_the_lengths_of_the_longest_messages() -> None:
    longest = Endpoint("n" * 255, 65535)
    assert len(Greeting(bytes(255)).encode()) == MAX_GREETING_BYTES == 257
    assert len(SocksRequest(1, longest).encode()) == MAX_REQUEST_BYTES == 262
    assert len(Reply(0, longest).encode()) == MAX_REQUEST_BYTES


@settings(max_examples=100, deadline=None)
@given(messages)
def test_any_message_comes_back_as_it_left_and_no_part_of_it_does(message: Codec) -> None:
    check_codec(message, message.encode())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_none_or_a_protocol_error(kind: type[Codec], data: bytes) -> None:
    check_any_bytes(kind, data)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=2, max_size=2),
    st.sampled_from([b"\x01", b"\x03", b"\x04"]),
    st.binary(max_size=300),
)
def test_bytes_that_begin_well_do_so_too(
    kind: type[Codec], middle: bytes, address_type: bytes, rest: bytes
) -> None:
    check_any_bytes(kind, b"\x05" + middle + address_type + rest)
