"""Streams over TCP and in memory: one suite of promises for both."""

import socket
from ipaddress import IPv4Address

import gevent
import pytest

from geproxy.errors import DeadlineError, ProtocolError
from geproxy.net.deadline import Deadline
from geproxy.net.messages import peek, read_to_end
from geproxy.net.sockopt import prepare_listening
from geproxy.net.stream import SocketStream
from geproxy.terms import Endpoint
from tests.support.conformance import (
    CHECKS,
    HARD_SECONDS,
    SHORT_SECONDS,
    TOO_MUCH_BYTES,
    Check,
    MakePair,
    beside,
    check_stream,
    read_exactly,
    settle,
    tcp_pair,
)
from tests.support.memory import memory_pair

MAKERS = [
    pytest.param(tcp_pair, id="TCP"),
    pytest.param(lambda: tcp_pair("::1"), id="TCP over IPv6"),
    pytest.param(memory_pair, id="memory"),
    pytest.param(lambda: memory_pair(1000), id="memory, little of it"),
]


@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__ for check in CHECKS])
@pytest.mark.parametrize("make_pair", MAKERS)
def test_a_stream_keeps_its_promises(make_pair: MakePair, check: Check) -> None:
    check_stream(make_pair, check)


@pytest.mark.parametrize("make_pair", MAKERS)
def test_the_first_byte_is_looked_at_and_not_used(make_pair: MakePair) -> None:
    near, far = make_pair()
    with Deadline(HARD_SECONDS, "a test"):
        for number in range(256):
            near.send_all(bytes((number,)) + b"tail")
            assert peek(far) == peek(far) == number
            assert read_exactly(far, 5) == bytes((number,)) + b"tail"
        near.close_write()
        with pytest.raises(ProtocolError):
            peek(far)
    near.close()
    far.close()


@pytest.mark.parametrize("make_pair", MAKERS)
def test_a_peek_waits_for_the_first_byte(make_pair: MakePair) -> None:
    near, far = make_pair()
    with Deadline(HARD_SECONDS, "a test"):
        with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a peek"):
            peek(far)
        with beside(lambda: peek(far)) as (looking,):
            near.send_all(b"x")
        assert looking.value == ord("x")
    near.close()
    far.close()


@pytest.mark.parametrize("make_pair", MAKERS)
def test_reading_to_the_end_drops_what_comes_and_returns_with_the_end(make_pair: MakePair) -> None:
    near, far = make_pair()
    with Deadline(HARD_SECONDS, "a test"), beside(lambda: read_to_end(far)) as (reading,):
        near.send_all(bytes(TOO_MUCH_BYTES))
        settle()
        assert not reading.dead
        near.close_write()
    near.close()
    far.close()


def test_every_connection_is_prepared_for_silence_and_small_messages() -> None:
    with socket.socket() as sock:
        prepare_listening(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        # It would end connections whose other side is well and only reads nothing for a while.
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


def test_a_mapped_client_is_known_by_its_ipv4_address() -> None:
    with socket.socket(socket.AF_INET6) as listening:
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.bind(("::", 0))
        listening.listen()
        with socket.create_connection(("127.0.0.1", listening.getsockname()[1])) as client:
            accepted, sockaddr = listening.accept()
            stream = SocketStream(accepted, Endpoint.from_sockaddr(sockaddr))
            assert stream.bound == Endpoint(IPv4Address("127.0.0.1"), listening.getsockname()[1])
            assert stream.peer == Endpoint.from_sockaddr(client.getsockname())
            stream.close()


def test_lingering_before_a_flood_lets_others_have_their_turn() -> None:
    class Flooded(SocketStream):
        """A connection on which more comes than anybody can read."""

        __slots__ = ()

        def recv(self, size_bytes: int) -> bytes:
            return b"x"

    turns = 0

    def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    near, far = tcp_pair()
    stream = Flooded(near._socket, near.peer)
    stream.send_all(b"the last reply")
    other = gevent.spawn(others)
    stream.linger(0.02)
    other.kill()
    assert turns > 1
    stream.close()
    far.close()
