"""The port of a BIND: the expected peer comes in, whoever else comes is closed."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import gevent.socket
import pytest

from geproxy.errors import DeadlineError, DialError
from geproxy.net import peerport
from geproxy.net.deadline import Deadline
from geproxy.net.peerport import PeerPort, address_towards
from geproxy.terms import Address, Endpoint
from tests.support.conformance import (
    HARD_SECONDS,
    SHORT_SECONDS,
    beside,
    read_exactly,
    settle,
    until,
)
from tests.support.floods import FEW, Flood, items_before_others

LOOPBACK = IPv4Address("127.0.0.1")
PEER = IPv4Address("127.0.0.2")
STRANGER = "127.0.0.3"


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


@contextmanager
def port_for(
    *expected: Address, address: Address = LOOPBACK, ports: range | None = None
) -> Iterator[PeerPort]:
    """A port for these; none at all is anybody."""
    port = PeerPort(address, ports, frozenset(expected) if expected else None)
    try:
        yield port
    finally:
        port.close()


@contextmanager
def coming(source: str, to: Endpoint) -> Iterator[gevent.socket.socket]:
    """A connection from *source*, which the kernel has accepted already."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with gevent.socket.socket(family) as sock:
        sock.settimeout(HARD_SECONDS)
        sock.bind((source, 0))
        sock.connect(to.sockaddr)
        yield sock


def is_closed(sock: gevent.socket.socket) -> bool:
    try:
        return bool(sock.recv(1) == b"")
    except ConnectionResetError:
        return True


# -- who joins -----------------------------------------------------------------------------------


def test_the_expected_peer_joins() -> None:
    with port_for(PEER) as port, coming(str(PEER), port.bound) as peer:
        stream = port.accept()
        assert stream.peer == Endpoint.from_sockaddr(peer.getsockname())
        assert stream.bound == port.bound
        peer.sendall(b"220 ready")
        assert read_exactly(stream, 9) == b"220 ready"
        stream.send_all(b"hello")
        assert peer.recv(100) == b"hello"
        stream.close()


def test_any_address_of_the_expected_peer_will_do() -> None:
    with port_for(PEER, LOOPBACK) as port, coming("127.0.0.1", port.bound):
        port.accept().close()


def test_strangers_are_closed_and_the_port_goes_on_waiting() -> None:
    with port_for(PEER) as port, beside(port.accept) as (accepting,), ExitStack() as held:
        for _ in range(100):
            assert is_closed(held.enter_context(coming(STRANGER, port.bound)))
        assert not accepting.dead
        peer = held.enter_context(coming(str(PEER), port.bound))
        stream = accepting.get()
        assert stream.peer == Endpoint.from_sockaddr(peer.getsockname())
        stream.close()


def test_many_strangers_who_came_first_do_not_keep_the_peer_out() -> None:
    with port_for(PEER) as port, ExitStack() as held:
        strangers = [
            held.enter_context(coming(STRANGER, port.bound)) for _ in range(peerport.BACKLOG // 2)
        ]
        held.enter_context(coming(str(PEER), port.bound))
        stream = port.accept()
        assert stream.peer.host == PEER
        assert all(is_closed(stranger) for stranger in strangers)
        stream.close()


def test_with_nobody_expected_anybody_joins() -> None:
    with port_for() as port, coming(STRANGER, port.bound):
        stream = port.accept()
        assert stream.peer.host == ip_address(STRANGER)
        stream.close()


def test_it_is_the_same_over_ipv6() -> None:
    loopback = IPv6Address("::1")
    with port_for(loopback, address=loopback) as port, coming("::1", port.bound):
        stream = port.accept()
        assert stream.peer.host == port.bound.host == loopback
        stream.close()


# -- waiting -------------------------------------------------------------------------------------


def test_a_wait_is_ended_by_what_is_thrown_in_and_can_be_begun_again() -> None:
    with port_for(PEER) as port:
        for _ in range(2):
            with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "BIND"):
                port.accept()
        with beside(port.accept) as (accepting,), coming(str(PEER), port.bound):
            accepting.get().close()


def test_without_descriptors_it_pauses_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []
    pause = peerport.sleep

    def count(seconds: float) -> None:
        pauses.append(seconds)
        pause(SHORT_SECONDS)

    monkeypatch.setattr(peerport, "sleep", count)
    with (
        port_for(PEER) as port,
        coming(str(PEER), port.bound),
        Hoard() as hoard,
        beside(port.accept) as (accepting,),
    ):
        until(lambda: len(pauses) >= 2)
        assert set(pauses) == {peerport.PAUSE_SECONDS}
        hoard.give_back()
        accepting.get().close()


class Hoard:
    """Every descriptor that this process may still have."""

    def __enter__(self) -> "Hoard":
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, self._limits[1]))
        self._held: list[int] = []
        try:
            while True:
                self._held.append(os.dup(0))
        except OSError as error:
            assert error.errno == errno.EMFILE
        return self

    def give_back(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        while self._held:
            os.close(self._held.pop())

    def __exit__(self, *_: object) -> None:
        self.give_back()


# -- the port ------------------------------------------------------------------------------------


def test_a_port_that_is_closed_takes_nobody() -> None:
    with port_for(PEER) as port:
        where = port.bound
        with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "BIND"):
            port.accept()
        port.close()
        port.close()
        with pytest.raises(ConnectionRefusedError), coming(str(PEER), where):
            pass


def test_a_port_of_the_range_can_be_had_again_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port_number = free.getsockname()[1]
    ports = range(port_number, port_number + 1)
    for _ in range(3):
        with port_for(PEER, ports=ports) as port, coming(str(PEER), port.bound) as peer:
            assert port.bound.port == port_number
            with pytest.raises(DialError):
                PeerPort(LOOPBACK, ports, None)
            port.accept().close()  # our side ends first, which leaves TIME-WAIT behind
            assert is_closed(peer)


def test_an_address_that_is_not_ours_cannot_be_listened_at() -> None:
    with pytest.raises(DialError):
        PeerPort(IPv4Address("192.0.2.1"), None, None)


def test_what_joins_is_a_connection_as_any_other() -> None:
    with port_for(PEER) as port, coming(str(PEER), port.bound):
        stream = port.accept()
        settle()
        assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert stream._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        stream.close()


# -- which address of ours -----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_address_towards_a_peer_is_the_one_that_it_can_reach(host: str) -> None:
    assert address_towards(ip_address(host)) == ip_address(host)


def test_where_no_way_leads_there_is_no_address() -> None:
    with pytest.raises(DialError) as caught:
        address_towards(IPv4Address("255.255.255.255"))
    assert caught.value.code == "unreachable"


def test_strangers_who_come_and_come_leave_others_their_turn() -> None:
    class Slow:
        """A listening socket for which each stranger is much work."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self.fileno, self.close = sock.fileno, sock.close

        def accept(self) -> tuple[socket.socket, object]:
            flood.item()
            return self._sock.accept()

    flood = Flood()
    with port_for(PEER) as port, ExitStack() as held:
        for _ in range(2 * FEW):
            held.enter_context(coming(STRANGER, port.bound))
        port._socket = Slow(port._socket)  # type: ignore[assignment]
        assert items_before_others(port.accept, flood) < FEW
