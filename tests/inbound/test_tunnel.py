"""Tunnels: nothing is said and nothing is waited for, and no failure looks like an answer."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from geproxy.errors import CommandError, ResetError
from geproxy.inbound.tunnel import TunnelDatagrams, TunnelInbound
from geproxy.net.deadline import Deadline
from geproxy.terms import Command, Endpoint, Outcome
from geproxy.wire.address import decode_address
from tests.support.conformance import HARD_SECONDS, read_exactly, tcp_pair
from tests.support.memory import memory_pair

BOUND = Endpoint(IPv4Address("192.0.2.9"), 40_000)
TARGETS = [
    pytest.param(Endpoint("example.net", 53), id="a name, which is not resolved here"),
    pytest.param(Endpoint(IPv4Address("192.0.2.7"), 53), id="IPv4"),
    pytest.param(Endpoint(IPv6Address("2001:db8::1"), 53), id="IPv6"),
]


@pytest.fixture(autouse=True)
def every_wait_ends() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


# -- TCP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_whoever_connects_asks_for_the_target_before_it_says_a_word(target: Endpoint) -> None:
    _, stream = memory_pair()
    request = TunnelInbound(target).negotiate(stream)
    assert (request.command, request.target) == (Command.CONNECT, target)
    assert (request.user, request.claimed) == (None, None)
    assert request.stream is stream


def test_what_the_client_sends_is_for_the_target_and_a_grant_says_nothing() -> None:
    client, stream = memory_pair()
    client.send_all(b"\x05\x01\x00 and more")
    request = TunnelInbound(Endpoint("example.net", 53)).negotiate(stream)
    request.grant(BOUND)
    assert client.unread_bytes == 0
    assert read_exactly(request.stream, 12) == b"\x05\x01\x00 and more"


@pytest.mark.parametrize("outcome", Outcome)
def test_a_refusal_is_a_reset_and_no_byte(outcome: Outcome) -> None:
    client, stream = memory_pair()
    TunnelInbound(Endpoint("example.net", 53)).negotiate(stream).refuse(outcome)
    assert client.unread_bytes == 0
    with pytest.raises(ResetError):
        client.recv(1)


@pytest.mark.parametrize("sent", [b"", b"a question"], ids=["a silent client", "one that asked"])
def test_over_tcp_a_refused_client_sees_a_reset_and_no_end(sent: bytes) -> None:
    client, stream = tcp_pair()
    try:
        if sent:
            client.send_all(sent)
        request = TunnelInbound(Endpoint("example.net", 53)).negotiate(stream)
        request.refuse(Outcome.REFUSED)
        stream.linger(HARD_SECONDS)  # what a session does after a refusal
        stream.close()
        with pytest.raises(ResetError):
            client.recv(1)
    finally:
        client.close()
        stream.close()


def test_a_connection_has_no_datagrams() -> None:
    _, stream = memory_pair()
    request = TunnelInbound(Endpoint("example.net", 53)).negotiate(stream)
    with pytest.raises(CommandError):
        _ = request.codec


# -- UDP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(b"", id="an empty one"),
        pytest.param(b"a", id="one byte"),
        pytest.param(b"\x00\x00\x01\x01\x7f\x00\x00\x01\x00\x35x", id="what SOCKS5 would read"),
        pytest.param(bytes(65_507), id="the largest"),
    ],
)
def test_a_datagram_is_data_for_the_target_whatever_it_holds(
    datagram: bytes, target: Endpoint
) -> None:
    head, data = TunnelDatagrams(target).read(datagram)
    assert decode_address(head, 0) == (target, len(head))
    assert data == datagram


@pytest.mark.parametrize("data", [b"", b"a", bytes(65_507)], ids=["empty", "a byte", "the largest"])
def test_the_client_gets_the_data_alone_whoever_sent_it(data: bytes) -> None:
    codec = TunnelDatagrams(Endpoint("example.net", 53))
    assert codec.write(b"\x01\xc0\x00\x02\x07\x00\x35", data) == data
