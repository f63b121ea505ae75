"""Streams over TCP and in memory: one suite of promises for both."""

import socket
from ipaddress import IPv4Address

import gevent
import pytest

from geproxy.net.sockopt import prepare_connection
from geproxy.net.stream import SocketStream
from geproxy.terms import Endpoint
from tests.support.conformance import CHECKS, Check, MakePair, check_stream, tcp_pair
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


def test_every_connection_is_prepared_for_silence_and_small_messages() -> None:
    with socket.socket() as sock:
        prepare_connection(sock)
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
