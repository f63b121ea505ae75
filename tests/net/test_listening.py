"""UDP sockets on a wildcard address: an answer leaves from where the question came in.

The clients here are connected, and so hear nobody but the address that they asked.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest

from geproxy.net.datagram import DatagramSocket
from geproxy.net.deadline import Deadline
from geproxy.net.listening import WildcardSocket, listening_socket
from geproxy.terms import Endpoint
from tests.support.conformance import HARD_SECONDS
from tests.support.datagrams import CountedSocket, Peer, losses_of, udp_peer
from tests.support.hosts import CLIENT, PROXY, other_host, two_hosts

# All of 127.0.0.0/8 is this host; where the kernel may choose, it answers from 127.0.0.1.
ASKED = ["127.0.0.1", "127.0.0.2", "127.255.0.9"]
WILDCARDS = ["0.0.0.0", "::"]
BURST_BYTES = 64 * 100
IPV6 = ["fd77::9", "fd77::8"]
MORE_IPV6 = "".join(f"addr add {host}/128 dev lo nodad\n" for host in IPV6)


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


@contextmanager
def listening(host: str, sock: socket.socket | None = None) -> Iterator[DatagramSocket]:
    """A listener's socket at *host*; that of :: is dual stack."""
    if sock is None:
        sock = CountedSocket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    if ":" in host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((host, 0))
    listener = listening_socket(sock)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def asking(listener: DatagramSocket, host: str) -> Iterator[Peer]:
    """A client that asks at *host*."""
    with udp_peer("127.0.0.1") as client:
        client.connect(Endpoint(ip_address(host), listener.bound.port))
        yield client


def answer_all(listener: DatagramSocket) -> int:
    """Send back what has come, all of it together; returns how many datagrams that were."""
    count = 0
    while (received := listener.receive()) is not None:
        data, place = received
        listener.send(data, len(data), place)
        count += 1
    listener.flush()
    return count


@pytest.mark.parametrize("wildcard", WILDCARDS)
def test_an_answer_leaves_from_the_address_that_was_asked(wildcard: str) -> None:
    with listening(wildcard) as listener, ExitStack() as stack:
        clients = {host: stack.enter_context(asking(listener, host)) for host in ASKED}
        for host, client in clients.items():
            client.send(host.encode(), Endpoint(ip_address(host), listener.bound.port))
        assert answer_all(listener) == len(ASKED)
        for host, client in clients.items():
            source = Endpoint(ip_address(host), listener.bound.port)
            assert client.receive() == (host.encode(), source)


@pytest.mark.slow
def test_so_it_is_with_ipv6() -> None:
    with other_host() as host, ExitStack() as stack:
        host.configure(MORE_IPV6)
        made = host.make_socket(socket.AF_INET6, socket.SOCK_DGRAM)
        listener = stack.enter_context(listening("::", made))
        for asked in IPV6:
            client = stack.enter_context(host.udp("::1"))
            client.connect((asked, listener.bound.port))
            client.send(asked.encode())
            assert answer_all(listener) == 1
            assert client.recv(100) == asked.encode()


@pytest.mark.parametrize("wildcard", WILDCARDS)
def test_one_port_that_asks_at_two_addresses_is_two_clients(wildcard: str) -> None:
    with listening(wildcard) as listener, udp_peer("127.0.0.1") as client:
        places = []
        for host in ASKED:
            client.send(host.encode(), Endpoint(ip_address(host), listener.bound.port))
            received = listener.receive()
            assert received is not None
            places.append(received[1])
        assert len(set(places)) == len(ASKED)
        assert {listener.client(place) for place in places} == {client.endpoint}
        for host, place in reversed(list(zip(ASKED, places, strict=True))):  # in whatever order
            listener.send(host.encode(), 1, place)
            listener.flush()
            source = Endpoint(ip_address(host), listener.bound.port)
            assert client.receive() == (host.encode(), source)


@pytest.mark.parametrize("wildcard", WILDCARDS)
def test_bursts_stay_bursts_and_leave_from_the_address_that_was_asked(wildcard: str) -> None:
    sock = CountedSocket(socket.AF_INET6 if ":" in wildcard else socket.AF_INET)
    with listening(wildcard, sock) as listener, ExitStack() as stack:
        clients = {host: stack.enter_context(asking(listener, host)) for host in ASKED}
        data = os.urandom(BURST_BYTES)
        for host, client in clients.items():
            client.send_burst(data, 100, Endpoint(ip_address(host), listener.bound.port))
        assert answer_all(listener) == len(ASKED) * 64
        assert sock.together == [64] * len(ASKED)
        for client in clients.values():
            assert b"".join(client.receive()[0] for _ in range(64)) == data


@pytest.mark.parametrize("wildcard", WILDCARDS)
def test_what_is_known_of_a_client_survives_a_handover(wildcard: str) -> None:
    """The socket goes on in another process, and knows its clients by what JSON carries."""
    with listening(wildcard) as listener, asking(listener, ASKED[1]) as client:
        client.send(b"before", Endpoint(ip_address(ASKED[1]), listener.bound.port))
        received = listener.receive()
        assert received is not None
        known = json.loads(json.dumps(listener.describe(received[1])))
        heir = listening_socket(socket.socket(fileno=listener.duplicate()))
        try:
            assert heir.recall(known) == received[1]
            heir.send(b"after", 5, heir.recall(known))
            heir.flush()
            assert client.receive()[0] == b"after"
        finally:
            heir.close()


@pytest.mark.slow
def test_an_address_that_has_left_this_host_is_a_loss_and_no_end_of_bursts() -> None:
    with other_host() as host, ExitStack() as stack:
        host.configure("addr add 10.77.9.1/32 dev lo\naddr add 10.77.9.2/32 dev lo\n")
        made = host.make_socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener = stack.enter_context(listening("0.0.0.0", made))
        lost = losses_of(listener)
        places = []
        for asked in ("10.77.9.1", "10.77.9.2"):
            client = stack.enter_context(host.udp("127.0.0.1"))
            client.connect((asked, listener.bound.port))
            client.send(b"?")
            received = listener.receive()
            assert received is not None
            places.append(received[1])
        host.configure("addr del 10.77.9.1/32 dev lo\n")
        for place in places:
            for data in (b"one", b"two"):
                listener.send(data, len(data), place)
        listener.flush()
        assert [(code, place) for code, _, place in lost] == [("unreachable", places[0])] * 2
        assert [client.recv(100), client.recv(100)] == [b"one", b"two"]
        longest = listener._longest
        assert longest > 3, "datagrams of that size may still travel together"


@pytest.mark.slow
@pytest.mark.parametrize("wildcard", WILDCARDS)
def test_what_was_sent_to_everybody_is_answered_from_an_address_of_ours(wildcard: str) -> None:
    """A broadcast address is no source."""
    with two_hosts() as (here, there), ExitStack() as stack:
        family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
        made = here.make_socket(family, socket.SOCK_DGRAM)
        listener = stack.enter_context(listening(wildcard, made))
        client = stack.enter_context(there.udp(CLIENT))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(b"anybody?", ("10.77.0.255", listener.bound.port))
        listener.wait_readable()
        assert answer_all(listener) == 1
        assert client.recvfrom(100) == (b"anybody?", (PROXY, listener.bound.port))


def test_a_socket_at_one_address_is_told_nothing() -> None:
    with listening("127.0.0.2") as listener:
        assert not isinstance(listener, WildcardSocket)
