"""The port of an association: its client's alone, from the moment that client is known."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.errors import DeadlineError, DialError, DropError
from geproxy.net.clientport import ClientPort
from geproxy.net.deadline import Deadline
from geproxy.terms import Endpoint
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, settle
from tests.support.datagrams import (
    MAX_PAYLOAD_BYTES,
    Peer,
    closed_udp_port,
    send_nothing_more,
    udp_peer,
)

UNKNOWN = Endpoint(IPv4Address(0), 0)
HOSTS = ["127.0.0.1", "::1"]


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


@contextmanager
def port_for(
    client: str, announced: Endpoint = UNKNOWN, ports: range | None = None
) -> Iterator[ClientPort]:
    """A port at the loopback address of *client*'s family."""
    address = ip_address("::1" if ":" in client else "127.0.0.1")
    port = ClientPort(address, ports, ip_address(client), announced)
    try:
        yield port
    finally:
        port.close()


def taken(port: ClientPort) -> list[bytes | str]:
    """All that is there: datagrams, and for each that was dropped its code."""
    found: list[bytes | str] = []
    while True:
        try:
            data = port.receive()
        except DropError as error:
            found.append(error.code)
            continue
        if data is None:
            return found
        found.append(data)


def check_is_locked_to(port: ClientPort, client: Peer, *others: Peer) -> None:
    """The kernel itself drops all others, so that they cost us nothing."""
    for other in others:
        other.send(b"from another", port.bound)
    client.send(b"from the client", port.bound)
    assert taken(port) == [b"from the client"]
    port.send(b"for the client", 14)
    assert client.waiting() == [b"for the client"]
    assert all(other.waiting() == [] for other in others)


# -- whom it hears -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_the_first_that_speaks_from_the_clients_address_has_it(host: str) -> None:
    with port_for(host) as port, udp_peer(host) as client, udp_peer(host) as second:
        client.send(b"first", port.bound)
        assert taken(port) == [b"first"]
        check_is_locked_to(port, client, second)


def test_a_stranger_does_not_get_it_however_early() -> None:
    with port_for("127.0.0.1") as port, udp_peer() as client, udp_peer("127.0.0.2") as stranger:
        stranger.send(b"mine", port.bound)
        assert taken(port) == ["stranger"]
        with pytest.raises(DropError, match="early"):
            port.send(b"for nobody", 10)
        client.send(b"first", port.bound)
        assert taken(port) == [b"first"]
        check_is_locked_to(port, client, stranger)


def test_what_others_sent_before_the_client_spoke_is_dropped_one_by_one() -> None:
    """These are in the queue already when the port is locked."""
    with (
        port_for("127.0.0.1") as port,
        udp_peer() as client,
        udp_peer() as second,
        udp_peer("127.0.0.2") as stranger,
    ):
        stranger.send(b"1", port.bound)
        client.send(b"2", port.bound)
        second.send(b"3", port.bound)
        stranger.send(b"4", port.bound)
        client.send(b"5", port.bound)
        assert taken(port) == ["stranger", b"2", "stranger", "stranger", b"5"]
        assert second.waiting() == stranger.waiting() == []


ANNOUNCED = [
    pytest.param("127.0.0.1", "127.0.0.1", id="with the client's address"),
    pytest.param("127.0.0.1", "0.0.0.0", id="with 0.0.0.0"),
    pytest.param("127.0.0.1", "::", id="with the :: of a client that knows IPv6"),
    pytest.param("::1", "::1", id="with the client's IPv6 address"),
    pytest.param("::1", "::", id="with ::"),
    pytest.param("::1", "0.0.0.0", id="with 0.0.0.0 over IPv6"),
]


@pytest.mark.parametrize(("host", "announced"), ANNOUNCED)
def test_the_port_that_was_announced_has_it_from_the_start(host: str, announced: str) -> None:
    with udp_peer(host) as client, udp_peer(host) as other:
        there = Endpoint(ip_address(announced), client.endpoint.port)
        with port_for(host, there) as port:
            other.send(b"faster", port.bound)
            assert taken(port) == []
            port.send(b"unasked", 7)
            assert client.waiting() == [b"unasked"]
            check_is_locked_to(port, client, other)


@pytest.mark.parametrize(
    "announced",
    [
        pytest.param(Endpoint(IPv4Address(0), 0), id="nothing"),
        pytest.param(Endpoint(IPv4Address("127.0.0.1"), 0), id="an address without a port"),
        pytest.param(Endpoint(IPv4Address("10.0.0.7"), 9), id="an address behind NAT"),
        pytest.param(Endpoint(IPv4Address("127.0.0.2"), 9), id="a stranger's address"),
        pytest.param(Endpoint(IPv6Address("::1"), 9), id="an address of the other family"),
        pytest.param(Endpoint("client.example", 9), id="a name"),
    ],
)
def test_what_cannot_be_the_clients_port_binds_nobody(announced: Endpoint) -> None:
    with port_for("127.0.0.1", announced) as port, udp_peer() as client:
        client.send(b"first", port.bound)
        assert taken(port) == [b"first"]
        check_is_locked_to(port, client)


@pytest.mark.parametrize(("host", "announced"), ANNOUNCED)
def test_a_client_that_announces_the_port_it_is_given_does_not_have_it_hear_itself(
    host: str, announced: str
) -> None:
    """To guess it is easy where udp_ports are few."""
    with udp_peer(host) as gone:
        number = gone.endpoint.port
    there = Endpoint(ip_address(announced), number)
    ports = range(number, number + 1)
    with port_for(host, there, ports) as port, udp_peer(host) as client, udp_peer(host) as second:
        client.send(b"first", port.bound)
        assert taken(port) == [b"first"]
        check_is_locked_to(port, client, second)


# -- what it sends, and what becomes of it -------------------------------------------------------


def test_before_the_client_is_known_there_is_nobody_to_send_to() -> None:
    with port_for("127.0.0.1") as port:
        with pytest.raises(DropError) as caught:
            port.send(b"x", 1)
        assert caught.value.code == "early"


def test_what_is_too_large_is_dropped_for_its_size() -> None:
    with udp_peer() as client, port_for("127.0.0.1", client.endpoint) as port:
        with pytest.raises(DropError) as caught:
            port.send(bytes(MAX_PAYLOAD_BYTES + 1), 1)
        assert caught.value.code == "size"
        port.send(bytes(MAX_PAYLOAD_BYTES), 1)
        assert client.waiting() == [bytes(MAX_PAYLOAD_BYTES)]


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_whose_port_is_closed_for_a_while_ends_nothing(host: str) -> None:
    with closed_udp_port(host) as there, port_for(host, there) as port:
        lost: list[tuple[str, int]] = []
        port.on_loss(lambda code, size: lost.append((code, size)))
        for _ in range(5):
            port.send(b"lost", 4)
            settle()
            assert taken(port) == lost == []


@pytest.mark.parametrize("host", HOSTS)
def test_what_the_system_does_not_take_for_the_client_is_told(host: str) -> None:
    with udp_peer(host) as client, port_for(host, client.endpoint) as port:
        lost: list[tuple[str, int]] = []
        port.on_loss(lambda code, size: lost.append((code, size)))
        port.send(b"taken", 5)
        assert (client.waiting(), lost) == ([b"taken"], [])
        send_nothing_more(port._socket)
        for size in (7, 8, 9):
            port.send(b"with its head", size)
        assert client.waiting() == []
        assert lost == [("unreachable", size) for size in (7, 8, 9)]


def test_bursts_are_taken_apart_and_judged_one_by_one() -> None:
    with (
        port_for("127.0.0.1") as port,
        udp_peer() as client,
        udp_peer() as second,
        udp_peer("127.0.0.2") as stranger,
    ):
        stranger.send_burst(b"aab", 2, port.bound)
        client.send_burst(b"ccddeef", 2, port.bound)
        second.send_burst(b"gghh", 2, port.bound)
        client.send(b"ii", port.bound)
        expected: list[tuple[bytes | str, bool]] = [
            *((("stranger"), more) for more in (True, False)),
            *((data, data != b"f") for data in (b"cc", b"dd", b"ee", b"f")),
            *((("stranger"), more) for more in (True, False)),
            (b"ii", False),
        ]
        for what, more in expected:
            try:
                found: bytes | str | None = port.receive()
            except DropError as error:
                found = error.code
            assert (found, port.in_burst) == (what, more)
        assert taken(port) == []


@pytest.mark.parametrize("host", HOSTS)
def test_it_is_at_the_address_where_the_client_reached_us(host: str) -> None:
    with port_for(host) as port, udp_peer(host) as client:
        assert port.bound.host == ip_address(host)
        client.send(b"x", port.bound)
        assert taken(port) == [b"x"]
        port.send(b"y", 1)
        assert client.receive() == (b"y", port.bound)


def test_it_is_taken_from_the_range_and_given_back() -> None:
    with udp_peer() as free:
        ports = range(free.endpoint.port, free.endpoint.port + 1)
    address = IPv4Address("127.0.0.1")
    port = ClientPort(address, ports, address, UNKNOWN)
    assert port.bound.port == ports[0]
    with pytest.raises(DialError):
        ClientPort(address, ports, address, UNKNOWN)
    port.close()
    port.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", ports[0]))


def test_a_wait_ends_with_a_datagram() -> None:
    with port_for("127.0.0.1") as port, udp_peer() as client:
        with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a wait"):
            port.wait_readable()
        with beside(port.wait_readable):
            settle()
            client.send(b"x", port.bound)
        assert taken(port) == [b"x"]
