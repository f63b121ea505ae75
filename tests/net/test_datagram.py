"""UDP sockets: every size passes whole, sending never waits, and ICMP ends nothing."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.errors import DeadlineError, DialError, DropError, ProtocolError
from geproxy.net import datagram
from geproxy.net.datagram import (
    DatagramSocket,
    adopted,
    open_outwards,
    open_towards,
    open_towards_clients,
    target_of,
)
from geproxy.net.deadline import Deadline
from geproxy.terms import Endpoint
from geproxy.wire.address import encode_address
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, noise, settle
from tests.support.datagrams import MAX_PAYLOAD_BYTES, SIZES, closed_udp_port, udp_peer

LOOPBACK = IPv4Address("127.0.0.1")
LOOPBACK_6 = IPv6Address("::1")
HOSTS = ["127.0.0.1", "::1"]


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


@contextmanager
def opened(make: Callable[[], DatagramSocket]) -> Iterator[DatagramSocket]:
    sock = make()
    try:
        yield sock
    finally:
        sock.close()


@contextmanager
def outwards() -> Iterator[DatagramSocket]:
    with opened(open_outwards) as sock:
        yield sock


@contextmanager
def at(host: str) -> Iterator[DatagramSocket]:
    with opened(lambda: open_towards_clients(ip_address(host), None)) as sock:
        yield sock


@contextmanager
def towards(peer: Endpoint) -> Iterator[DatagramSocket]:
    with opened(lambda: open_towards(peer)) as sock:
        yield sock


def send_to(sock: DatagramSocket, data: bytes, to: Endpoint) -> None:
    sock.send_to(data, sock.place(to))


def received(sock: DatagramSocket) -> bytes:
    while (found := sock.receive()) is None:
        sock.wait_readable()
    return found[0]


# -- what passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("size_bytes", SIZES)
def test_every_size_passes_whole_in_both_directions(host: str, size_bytes: int) -> None:
    data = noise(size_bytes)
    with at(host) as sock, udp_peer(host) as peer:
        peer.send(data, sock.bound)
        found = sock.receive()
        assert found is not None
        assert (found[0], Endpoint.from_sockaddr(found[1])) == (data, peer.endpoint)
        send_to(sock, data, peer.endpoint)
        assert peer.receive() == (data, sock.bound)


@pytest.mark.parametrize("size_bytes", [MAX_PAYLOAD_BYTES + 1, 65_535, 70_000])
def test_what_is_too_large_for_udp_is_dropped_for_its_size(size_bytes: int) -> None:
    with outwards() as sock, udp_peer() as peer:
        with pytest.raises(DropError) as caught:
            send_to(sock, bytes(size_bytes), peer.endpoint)
        assert caught.value.code == "size"
        send_to(sock, b"next", peer.endpoint)
        assert peer.waiting() == [b"next"]
    with udp_peer() as peer, towards(peer.endpoint) as sock:
        with pytest.raises(DropError) as caught:
            sock.send(bytes(size_bytes))
        assert caught.value.code == "size"
        sock.send(b"next")
        assert peer.waiting() == [b"next"]


def test_nothing_there_is_none_and_no_wait() -> None:
    with outwards() as sock:
        assert sock.receive() is None


def test_datagrams_stay_apart_and_in_order() -> None:
    sent = [bytes((number,)) * number for number in range(100)]
    with at("127.0.0.1") as sock, udp_peer() as peer:
        for data in sent:
            peer.send(data, sock.bound)
        assert [received(sock) for _ in sent] == sent
        assert sock.receive() is None


def test_a_wait_ends_with_a_datagram_and_with_an_error_thrown_in() -> None:
    with at("127.0.0.1") as sock, udp_peer() as peer:
        for _ in range(2):
            with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a wait"):
                sock.wait_readable()
            with beside(sock.wait_readable):
                settle()
                peer.send(b"x", sock.bound)
            assert received(sock) == b"x"


def test_a_socket_that_was_waited_on_can_be_closed_twice() -> None:
    sock = open_towards_clients(LOOPBACK, None)
    with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a wait"):
        sock.wait_readable()
    sock.close()
    sock.close()


# -- ICMP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_closed_port_is_no_error_of_an_unconnected_socket(host: str) -> None:
    with outwards() as sock, udp_peer(host) as peer, closed_udp_port(host) as nobody:
        for _ in range(5):
            send_to(sock, b"lost", nobody)
            assert sock.receive() is None
            send_to(sock, b"found", peer.endpoint)
        assert peer.waiting() == [b"found"] * 5


@pytest.mark.parametrize("host", HOSTS)
def test_what_icmp_told_does_not_end_receiving_from_a_peer_that_came_late(host: str) -> None:
    with closed_udp_port(host) as nobody, towards(nobody) as sock:
        for _ in range(3):
            sock.send(b"lost")
            assert sock.receive() is None


@pytest.mark.parametrize("host", HOSTS)
def test_what_icmp_told_of_one_datagram_does_not_cost_the_next(host: str) -> None:
    """The kernel reports it on the next call, which may be the send of another datagram."""
    with udp_peer(host) as early:
        port = early.endpoint.port
        with towards(early.endpoint) as sock:
            early.connect(Endpoint(ip_address(host), 9))  # it hears us no longer
            sock.send(b"lost")
            early.connect(sock.bound)
            sock.send(b"found")
            assert early.waiting() == [b"found"]
            assert early.endpoint.port == port


def test_an_error_of_the_socket_itself_is_raised() -> None:
    sock = open_outwards()
    sock.close()
    with pytest.raises(OSError) as caught:
        sock.receive()
    assert caught.value.errno == errno.EBADF


# -- what the system does not take ---------------------------------------------------------------


def test_a_send_never_waits_and_a_full_buffer_is_a_drop() -> None:
    """A queue of Unix datagrams is the one that fills without a second machine."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    sock = DatagramSocket(near)
    with pytest.raises(DropError) as caught:
        for _ in range(100_000):
            sock.send(bytes(1000))
    assert caught.value.code == "full"
    assert far.recv(2000) == bytes(1000)
    sock.send(b"there is room again")
    sock.close()
    far.close()


def test_what_the_kernel_forbids_is_a_drop() -> None:
    """A broadcast, for which nobody has asked it."""
    with outwards() as sock:
        with pytest.raises(DropError) as caught:
            send_to(sock, b"x", Endpoint(IPv4Address("255.255.255.255"), 9))
        assert caught.value.code == "unreachable"
        assert sock.receive() is None


# -- sockets for each purpose --------------------------------------------------------------------


def test_one_socket_reaches_both_families_from_one_port() -> None:
    with outwards() as sock, udp_peer() as four, udp_peer("::1") as six:
        send_to(sock, b"4", four.endpoint)
        send_to(sock, b"6", six.endpoint)
        data, seen_by_4 = four.receive()
        assert (data, seen_by_4.host) == (b"4", LOOPBACK)
        data, seen_by_6 = six.receive()
        assert (data, seen_by_6.host) == (b"6", LOOPBACK_6)
        assert seen_by_4.port == seen_by_6.port == sock.bound.port
        four.send(b"four", seen_by_4)
        six.send(b"six", seen_by_6)
        for peer in (four, six):
            found = sock.receive()
            assert found is not None
            assert Endpoint.from_sockaddr(found[1]) == peer.endpoint


def test_where_the_kernel_has_no_ipv6_there_is_a_socket_of_ipv4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = datagram._make

    def without_ipv6(family: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family)

    monkeypatch.setattr(datagram, "_make", without_ipv6)
    with outwards() as sock, udp_peer() as peer:
        send_to(sock, b"x", peer.endpoint)
        assert peer.waiting() == [b"x"]
        with pytest.raises(DropError) as caught:
            send_to(sock, b"x", Endpoint(LOOPBACK_6, 9))
        assert caught.value.code == "unreachable"


def test_a_socket_outwards_is_not_bound_before_it_sends() -> None:
    with outwards() as sock, udp_peer() as peer:
        assert sock.bound.port == 0
        send_to(sock, b"x", peer.endpoint)
        assert sock.bound.port != 0


@pytest.mark.parametrize("host", HOSTS)
def test_a_socket_towards_a_peer_hears_nobody_else(host: str) -> None:
    with udp_peer(host) as peer, udp_peer(host) as stranger, towards(peer.endpoint) as sock:
        stranger.send(b"stranger", sock.bound)
        peer.send(b"peer", sock.bound)
        assert received(sock) == b"peer"
        assert sock.receive() is None


@pytest.mark.parametrize("host", HOSTS)
def test_after_connect_nobody_else_is_heard_but_what_came_before_is_there(host: str) -> None:
    with at(host) as sock, udp_peer(host) as client, udp_peer(host) as stranger:
        stranger.send(b"before", sock.bound)
        place = sock.connect(client.endpoint.sockaddr)
        stranger.send(b"after", sock.bound)
        client.send(b"client", sock.bound)
        assert received(sock) == b"before"
        found = sock.receive()
        assert found == (b"client", place), "what connect() gives is what receive() shows"
        assert sock.receive() is None


def test_a_port_towards_clients_is_no_one_elses() -> None:
    with at("127.0.0.1") as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            thief.bind(sock.bound.sockaddr)


def test_a_port_towards_clients_is_taken_from_the_range() -> None:
    with udp_peer() as free:
        port = free.endpoint.port
    with opened(lambda: open_towards_clients(LOOPBACK, range(port, port + 1))) as sock:
        assert sock.bound == Endpoint(LOOPBACK, port)
        with pytest.raises(DialError):
            open_towards_clients(LOOPBACK, range(port, port + 1))


def test_an_address_that_is_not_ours_cannot_be_listened_at() -> None:
    with pytest.raises(DialError):
        open_towards_clients(IPv4Address("192.0.2.1"), None)


def test_a_link_local_address_has_a_port_of_every_interface() -> None:
    with opened(lambda: open_towards_clients(IPv6Address("fe80::1"), None)) as sock:
        assert sock.bound.port != 0


def test_a_duplicate_is_the_same_socket_for_another_owner() -> None:
    sock = open_towards_clients(LOOPBACK, None)
    where = sock.bound
    with opened(lambda: adopted(sock.duplicate())) as heir, udp_peer() as peer:
        sock.close()
        assert heir.bound == where
        peer.send(b"x", where)
        assert received(heir) == b"x"
        assert heir.receive() is None, "it never blocks"


def test_where_there_is_no_descriptor_left_it_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(family: int) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(datagram, "_make", full)
    for attempt in (
        open_outwards,
        lambda: open_towards(Endpoint(LOOPBACK, 9)),
        lambda: open_towards_clients(LOOPBACK, None),
    ):
        with pytest.raises(DialError) as caught:
            attempt()
        assert caught.value.code == "limit"


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [Endpoint(LOOPBACK, 53), Endpoint(LOOPBACK_6, 53), Endpoint("target.example", 53)],
    ids=str,
)
def test_a_head_names_its_target(endpoint: Endpoint) -> None:
    head = encode_address(endpoint)
    assert target_of(head) == endpoint
    for cut in range(len(head)):
        with pytest.raises(ProtocolError):
            target_of(head[:cut])


def test_an_impossible_head_is_a_protocol_error() -> None:
    for head in (b"\x02\0\0\0\0\0\0", b"\x03\0\0\x35", b"\x03\x01\0\0\x35"):
        with pytest.raises(ProtocolError):
            target_of(head)
