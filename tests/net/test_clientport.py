"""The port of an association: its client's alone, from the moment that client is known."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import SimpleNamespace

import pytest

from geproxy.errors import DeadlineError, DialError, DropError, GeproxyError, ProtocolError
from geproxy.inbound.socks5 import Socks5Datagrams
from geproxy.net import clientport
from geproxy.net.clientport import ClientPort
from geproxy.net.datagram import Sockaddr
from geproxy.net.deadline import Deadline
from geproxy.net.owners import Identity
from geproxy.seams import DatagramCodec
from geproxy.terms import Endpoint
from geproxy.wire.address import encode_address
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, settle, until
from tests.support.datagrams import (
    MAX_PAYLOAD_BYTES,
    Peer,
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


class Text:
    """A codec for which all is right but what begins with a question mark."""

    def read(self, datagram: bytes) -> tuple[bytes, bytes]:
        if datagram.startswith(b"?"):
            raise ProtocolError("garbage")
        return b"", datagram

    def write(self, head: bytes, data: bytes) -> bytes:
        return head + data


@contextmanager
def port_for(
    client: str,
    announced: Endpoint = UNKNOWN,
    ports: range | None = None,
    *,
    codec: Callable[[], DatagramCodec] = Text,
    owns: Callable[[Sockaddr, Endpoint], bool] | None = None,
    rebind_seconds: float = 0.0,
) -> Iterator[ClientPort]:
    """A port at the loopback address of *client*'s family."""
    address = ip_address("::1" if ":" in client else "127.0.0.1")
    identity = Identity(ip_address(client), 0, owns)
    port = ClientPort(address, ports, identity, announced, codec, rebind_seconds)
    try:
        yield port
    finally:
        port.close()


def taken(port: ClientPort) -> list[bytes | str]:
    """All that is there: data, and for each that was dropped its code; fragments are not shown."""
    found: list[bytes | str] = []
    while True:
        try:
            datagram = port.receive()
            if datagram is None:
                return found
            message = port.codec.read(datagram)
        except GeproxyError as error:
            found.append(error.code)
            continue
        if message is not None:
            found.append(message[1])


def speak(client: Peer, port: ClientPort) -> None:
    """Make *client* the one who has the port."""
    client.send(b"first", port.bound)
    assert taken(port) == [b"first"]


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
def test_the_port_that_was_announced_has_it_for_good_once_it_has_spoken(
    host: str, announced: str
) -> None:
    with udp_peer(host) as client, udp_peer(host) as other:
        there = Endpoint(ip_address(announced), client.endpoint.port)
        with port_for(host, there) as port:
            with pytest.raises(DropError, match="early"):
                port.send(b"for a port that has only been named", 1)
            client.send(b"first", port.bound)
            assert taken(port) == [b"first"]
            check_is_locked_to(port, client, other)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(9, id="that never speaks"),
        pytest.param(None, id="of the control connection, or of the target"),
    ],
)
def test_a_client_that_announced_a_wrong_port_is_served(host: str, wrong: int | None) -> None:
    """Most clients with a mistake announce a port that somebody else has."""
    with udp_peer(host) as client, udp_peer(host) as other, udp_peer(host) as third:
        announced = Endpoint(ip_address(host), wrong or other.endpoint.port)
        with port_for(host, announced) as port:
            client.send(b"first", port.bound)
            third.send(b"second", port.bound)
            client.send(b"third", port.bound)
            assert taken(port) == [b"first", "stranger", b"third"]
            port.send(b"for the client", 14)
            assert client.waiting() == [b"for the client"]
            assert other.waiting() == third.waiting() == []


@pytest.mark.parametrize("host", HOSTS)
def test_the_announced_port_takes_the_place_of_one_that_was_first(host: str) -> None:
    with (
        udp_peer(host) as client,
        udp_peer(host) as other,
        port_for(host, client.endpoint) as port,
    ):
        other.send(b"faster", port.bound)
        client.send(b"?", port.bound)
        other.send(b"still", port.bound)
        client.send(b"the announced one", port.bound)
        other.send(b"too late", port.bound)  # in the queue before the kernel drops for us
        assert taken(port) == [b"faster", "protocol", b"still", b"the announced one", "stranger"]
        check_is_locked_to(port, client, other)


def test_what_does_not_parse_locks_nobody() -> None:
    with port_for("127.0.0.1") as port, udp_peer() as client, udp_peer() as garbler:
        garbler.send(b"?", port.bound)
        assert taken(port) == ["protocol"]
        with pytest.raises(DropError, match="early"):
            port.send(b"for nobody", 10)
        client.send(b"first", port.bound)
        assert taken(port) == [b"first"]
        check_is_locked_to(port, client, garbler)


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


# -- an account of this host ----------------------------------------------------------------------


class Account:
    """Which ports are the client's, and how often that was asked."""

    def __init__(self, *own: Peer) -> None:
        self.ports = {peer.endpoint.port for peer in own}
        self.asked: list[int] = []

    def owns(self, source: Sockaddr, port: Endpoint) -> bool:
        self.asked.append(source[1])
        return source[1] in self.ports


def test_another_accounts_port_does_not_get_it_on_this_host() -> None:
    with udp_peer() as client, udp_peer() as foreign:
        account = Account(client)
        with port_for("127.0.0.1", foreign.endpoint, owns=account.owns) as port:
            foreign.send(b"first", port.bound)
            client.send(b"second", port.bound)
            foreign.send(b"third", port.bound)
            client.send(b"fourth", port.bound)
            assert taken(port) == ["stranger", b"second", "stranger", b"fourth"]
            port.send(b"for the client", 14)
            assert client.waiting() == [b"for the client"]
            assert foreign.waiting() == []


def test_the_kernel_is_asked_once_for_a_flood_and_never_for_the_locked_port() -> None:
    with udp_peer() as client, udp_peer() as foreign:
        account = Account(client)
        with port_for("127.0.0.1", owns=account.owns) as port:
            for _ in range(20):
                foreign.send(b"mine", port.bound)
                foreign.send(b"?", port.bound)
            assert taken(port) == ["stranger"] * 40
            for _ in range(20):
                client.send(b"x", port.bound)
            assert taken(port) == [b"x"] * 20
            assert account.asked == [foreign.endpoint.port, client.endpoint.port]


def test_a_port_that_changes_its_account_is_asked_about_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clientport, "REFUSED_SECONDS", SHORT_SECONDS)
    with udp_peer() as client:
        account = Account()
        with port_for("127.0.0.1", owns=account.owns) as port:
            client.send(b"first", port.bound)
            assert taken(port) == ["stranger"]
            account.ports.add(client.endpoint.port)

            def is_served() -> bool:
                client.send(b"again", port.bound)
                return taken(port) == [b"again"]

            until(is_served)


def test_what_is_remembered_of_refused_ports_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clientport, "REFUSED_PLACES", 3)
    account = Account()
    with port_for("127.0.0.1", owns=account.owns) as port, ExitStack() as held:
        for _ in range(10):
            held.enter_context(udp_peer()).send(b"mine", port.bound)
        assert taken(port) == ["stranger"] * 10
        assert len(port._refused) <= 3


# -- another port after a silence -----------------------------------------------------------------


def silent_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what moves the clock by which silence is measured."""
    began, passed = time.monotonic(), [0.0]
    monkeypatch.setattr(clientport, "time", SimpleNamespace(monotonic=lambda: began + passed[0]))

    def let_pass(seconds: float) -> None:
        passed[0] += seconds

    return let_pass


@pytest.mark.parametrize("announced", [True, False])
def test_another_port_takes_over_after_the_silence_and_gives_back(
    announced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_pass = silent_for(monkeypatch)
    with udp_peer() as client, udp_peer() as second, udp_peer() as third:
        there = client.endpoint if announced else UNKNOWN
        with port_for("127.0.0.1", there, rebind_seconds=10) as port:
            speak(client, port)
            let_pass(9.0)
            second.send(b"too early", port.bound)
            client.send(b"here", port.bound)  # which begins the silence anew
            assert taken(port) == ["stranger", b"here"]
            let_pass(9.9)
            second.send(b"too early", port.bound)
            assert taken(port) == ["stranger"]
            let_pass(0.1)
            second.send(b"?", port.bound)
            second.send(b"instead", port.bound)
            third.send(b"another", port.bound)
            assert taken(port) == ["protocol", b"instead", "stranger"]
            port.send(b"to the second", 13)
            assert (client.waiting(), second.waiting()) == ([], [b"to the second"])
            client.send(b"back", port.bound)
            second.send(b"now a stranger", port.bound)
            assert taken(port) == [b"back", "stranger"]
            port.send(b"to the first", 12)
            assert (client.waiting(), second.waiting()) == ([b"to the first"], [])


def test_without_the_setting_silence_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    let_pass = silent_for(monkeypatch)
    with udp_peer() as client, udp_peer() as second, port_for("127.0.0.1") as port:
        speak(client, port)
        let_pass(1e6)
        check_is_locked_to(port, client, second)


def test_a_silence_lets_no_other_address_in(monkeypatch: pytest.MonkeyPatch) -> None:
    let_pass = silent_for(monkeypatch)
    with (
        udp_peer() as client,
        udp_peer("127.0.0.2") as stranger,
        port_for("127.0.0.1", rebind_seconds=10) as port,
    ):
        speak(client, port)
        let_pass(1e6)
        stranger.send(b"x", port.bound)
        assert taken(port) == ["stranger"]


# -- fragments ------------------------------------------------------------------------------------

TARGET = encode_address(Endpoint(IPv4Address("192.0.2.1"), 53))


def fragment(frag: int, data: bytes) -> bytes:
    return bytes((0, 0, frag)) + TARGET + data


def test_a_strangers_fragments_do_not_touch_the_clients() -> None:
    with (
        udp_peer() as client,
        udp_peer() as other,
        udp_peer() as announced,
        udp_peer("127.0.0.2") as stranger,
        port_for("127.0.0.1", announced.endpoint, codec=Socks5Datagrams) as port,
    ):
        client.send(fragment(1, b"in "), port.bound)
        for peer in (other, stranger):
            peer.send(fragment(1, b"foreign "), port.bound)
        announced.send(fragment(2, b"of nothing "), port.bound)
        client.send(fragment(0x82, b"pieces"), port.bound)
        assert taken(port) == ["stranger", "stranger", "fragment", b"in pieces"]


def test_a_port_that_takes_over_begins_its_fragments_with_the_first() -> None:
    with (
        udp_peer() as client,
        udp_peer() as other,
        port_for("127.0.0.1", client.endpoint, codec=Socks5Datagrams) as port,
    ):
        other.send(fragment(1, b"never "), port.bound)
        client.send(fragment(1, b"in "), port.bound)
        client.send(fragment(0x82, b"pieces"), port.bound)
        other.send(fragment(0x82, b"ended"), port.bound)
        assert taken(port) == [b"in pieces", "stranger"]


# -- what it sends, and what becomes of it -------------------------------------------------------


def test_before_the_client_is_known_there_is_nobody_to_send_to() -> None:
    with port_for("127.0.0.1") as port:
        with pytest.raises(DropError) as caught:
            port.send(b"x", 1)
        assert caught.value.code == "early"


def test_what_is_too_large_is_dropped_for_its_size() -> None:
    with udp_peer() as client, port_for("127.0.0.1") as port:
        speak(client, port)
        with pytest.raises(DropError) as caught:
            port.send(bytes(MAX_PAYLOAD_BYTES + 1), 1)
        assert caught.value.code == "size"
        port.send(bytes(MAX_PAYLOAD_BYTES), 1)
        assert client.waiting() == [bytes(MAX_PAYLOAD_BYTES)]


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_whose_port_is_closed_for_a_while_ends_nothing(host: str) -> None:
    with udp_peer(host) as client, port_for(host) as port:
        speak(client, port)
        client.connect(Endpoint(ip_address(host), 9))  # ICMP says of it that nobody is there
        lost: list[tuple[str, int]] = []
        port.on_loss(lambda code, size: lost.append((code, size)))
        for _ in range(5):
            port.send(b"lost", 4)
            settle()
            assert taken(port) == lost == []


@pytest.mark.parametrize("host", HOSTS)
def test_what_the_system_does_not_take_for_the_client_is_told(host: str) -> None:
    with udp_peer(host) as client, port_for(host) as port:
        speak(client, port)
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
    port = ClientPort(address, ports, Identity(address), UNKNOWN, Text)
    assert port.bound.port == ports[0]
    with pytest.raises(DialError):
        ClientPort(address, ports, Identity(address), UNKNOWN, Text)
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
