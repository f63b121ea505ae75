"""The spine of BIND, UDP ASSOCIATE and UDP listeners: sessions of a whole site over loopback."""

import dataclasses
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address
from typing import Any

import gevent
import gevent.socket
import pytest

from geproxy import session
from geproxy.config.load import from_urls
from geproxy.config.settings import Limits, Settings
from geproxy.datagram_session import serve_datagrams
from geproxy.errors import DeniedError, ShutdownError
from geproxy.inbound.tunnel import TunnelDatagrams
from geproxy.net.clientport import ClientPort
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import interrupt
from geproxy.net.sockopt import reset_on_close
from geproxy.net.stream import SocketStream
from geproxy.net.udp import open_towards_clients
from geproxy.observe.line import Lines
from geproxy.observe.log import Log
from geproxy.observe.sink import Sink
from geproxy.process.shared import Shared
from geproxy.seams import Listener
from geproxy.session import serve
from geproxy.site import Site
from geproxy.terms import Endpoint, Filtering, Offer
from geproxy.wire.address import encode_address
from tests.support.conformance import HARD_SECONDS, settle, until
from tests.support.datagrams import Peer, send_nothing_more, udp_peer

GREETING = b"\x05\x01\x00"
BIND, UDP_ASSOCIATE = 2, 3
UNKNOWN = Endpoint(IPv4Address(0), 0)
LOOPBACK = IPv4Address("127.0.0.1")
SUCCEEDED, NOT_ALLOWED, TTL_EXPIRED = 0, 2, 6

FIELDS = [
    *("time", "level", "event", "listen", "client", "user", "command", "target", "address", "via"),
    *("up", "down", "seconds", "connect_ms", "code"),
]
DATAGRAM_FIELDS = [*FIELDS, "up_datagrams", "down_datagrams", "dropped"]


class Written:
    """A log's channel that keeps everything."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes, /) -> int:
        self.data += data
        return len(data)

    def close(self) -> None:
        pass


class House:
    """A site, its sessions, and the log that they write."""

    def __init__(self, **limits: float) -> None:
        self.written = Written()
        sink = Sink("memory", self.written, Lines("json"))
        settings: Settings = from_urls(["socks5://127.0.0.1:0"])
        settings = dataclasses.replace(settings, limits=Limits(**limits))  # type: ignore[arg-type]
        self.site = Site(settings, [], [], Log(sink, sink, level="info"), Shared())
        self.listener = self.site.listeners["listen1"]
        self.held = ExitStack()

    def serve(self, request: bytes) -> "Control":
        """Begin a session with a client that sends *request*."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            far = socket.create_connection(listening.getsockname(), timeout=HARD_SECONDS)
            near, sockaddr = listening.accept()
        near.setblocking(False)
        client = self.held.enter_context(gevent.socket.socket(fileno=far.detach()))
        client.settimeout(HARD_SECONDS)
        client.sendall(GREETING + request)
        stream = SocketStream(near, Endpoint.from_sockaddr(sockaddr))
        control = Control(client, gevent.spawn(serve, stream, self.listener, self.site))
        assert control.read(2) == b"\x05\x00"
        return control

    def set(self, **fields: object) -> None:
        """Change the listener."""
        self.listener = dataclasses.replace(self.listener, **fields)  # type: ignore[arg-type]

    def lines(self, event: str = "session.end") -> list[dict[str, Any]]:
        every = [json.loads(line) for line in self.written.data.splitlines()]
        return [line for line in every if line["event"] == event]

    def line(self) -> dict[str, Any]:
        """Wait for the one session's line."""
        until(self.lines)
        (line,) = self.lines()
        return line


class Control:
    """A client's end of its TCP connection."""

    def __init__(self, sock: gevent.socket.socket, session: "gevent.Greenlet[..., None]") -> None:
        self.socket = sock
        self.session = session

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            assert piece, f"it ended after {data!r}"
            data += piece
        return data

    def reply(self) -> tuple[int, Endpoint]:
        """REP, and BND.ADDR with BND.PORT (RFC 1928 §6)."""
        _, rep, _, kind = self.read(4)
        host = ip_address(self.read({1: 4, 4: 16}[kind]))
        return rep, Endpoint(host, struct.unpack("!H", self.read(2))[0])

    def granted(self) -> Endpoint:
        rep, bound = self.reply()
        assert rep == SUCCEEDED
        return bound

    def is_over(self) -> bool:
        """Whether the session has closed or reset the connection; waits for it."""
        try:
            return bool(self.socket.recv(100) == b"")
        except ConnectionResetError:
            return True

    def leave(self) -> None:
        self.socket.close()
        self.session.get(timeout=HARD_SECONDS)


def request(command: int, target: Endpoint = UNKNOWN) -> bytes:
    return bytes((5, command, 0)) + encode_address(target)


def wrapped(target: Endpoint, data: bytes) -> bytes:
    """A datagram as its client writes it (RFC 1928 §7)."""
    return b"\0\0\0" + encode_address(target) + data


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


MakeHouse = Callable[..., House]


@pytest.fixture
def make_house(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeHouse]:
    """Make houses; afterwards all is closed, and nothing was printed."""
    monkeypatch.setenv("RES_OPTIONS", "")
    gevent.get_hub()
    houses: list[House] = []
    before = 0

    def make(**limits: float) -> House:
        nonlocal before
        houses.append(House(**limits))
        before = descriptors()  # a site has one of its own, as long as it is there
        return houses[-1]

    with Deadline(HARD_SECONDS, "a test"):
        yield make
        for house in houses:
            house.held.close()
        until(lambda: descriptors() <= before)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def house(target: Peer, client: Peer, make_house: MakeHouse) -> House:
    return make_house()


@pytest.fixture
def target() -> Iterator[Peer]:
    with udp_peer() as peer:
        yield peer


@pytest.fixture
def client() -> Iterator[Peer]:
    with udp_peer() as peer:
        yield peer


# -- UDP ASSOCIATE -------------------------------------------------------------------------------


def test_an_association_lives_with_its_connection_and_is_told_in_full(
    house: House, client: Peer, target: Peer
) -> None:
    control = house.serve(request(UDP_ASSOCIATE))
    port = control.granted()
    assert port.host == LOOPBACK, "the address at which the client reached us"
    client.send(wrapped(target.endpoint, b"question"), port)
    data, source = target.receive()
    assert data == b"question"
    target.send(b"the answer", source)
    assert client.receive() == (wrapped(target.endpoint, b"the answer"), port)
    client.send(b"\0\0\0", port)
    assert len(house.site.associations) == 1
    until(lambda: house.site.associations.totals().dropped == 1)
    control.leave()
    assert len(house.site.associations) == 0
    line = house.line()
    assert list(line) == DATAGRAM_FIELDS
    told = {key: line[key] for key in DATAGRAM_FIELDS if key not in ("time", "seconds", "client")}
    assert told == {
        "level": "info",
        "event": "session.end",
        "listen": "listen1",
        "user": None,
        "command": "udp",
        "target": "0.0.0.0:0",
        "address": str(port),
        "via": "direct",
        "up": 8,
        "down": 10,
        "connect_ms": None,
        "code": "ok",
        "up_datagrams": 1,
        "down_datagrams": 1,
        "dropped": "protocol:1",
    }


def test_the_port_is_free_as_soon_as_the_connection_has_ended(house: House) -> None:
    control = house.serve(request(UDP_ASSOCIATE))
    port = control.granted()
    control.leave()
    with udp_peer(str(port.host), port.port):
        pass


def test_a_client_that_leaves_with_its_first_datagram_leaves_nothing_behind(
    house: House, client: Peer, target: Peer
) -> None:
    for _ in range(20):
        control = house.serve(request(UDP_ASSOCIATE))
        port = control.granted()
        client.send(wrapped(target.endpoint, b"x"), port)
        control.leave()
    assert len(house.site.associations) == 0


def test_what_the_client_says_on_the_connection_changes_nothing(
    house: House, client: Peer, target: Peer
) -> None:
    control = house.serve(request(UDP_ASSOCIATE))
    port = control.granted()
    control.socket.sendall(b"keep me alive")
    settle()
    client.send(wrapped(target.endpoint, b"x"), port)
    assert target.receive()[0] == b"x"


def test_an_address_is_announced_where_there_is_one(house: House) -> None:
    public = IPv4Address("192.0.2.9")
    house.set(offer=Offer((public,), None))
    assert house.serve(request(UDP_ASSOCIATE)).granted().host == public


def test_ports_come_from_the_range_and_when_it_is_used_up_the_client_hears_so(
    house: House,
) -> None:
    with udp_peer() as free:
        port = free.endpoint.port
    house.set(offer=Offer((), range(port, port + 1)))
    assert house.serve(request(UDP_ASSOCIATE)).granted().port == port
    second = house.serve(request(UDP_ASSOCIATE))
    assert second.reply()[0] != SUCCEEDED
    second.leave()
    assert len(house.site.associations) == 1


def test_where_udp_is_off_the_client_hears_so(house: House) -> None:
    house.set(udp=False)
    control = house.serve(request(UDP_ASSOCIATE))
    assert control.reply() == (NOT_ALLOWED, UNKNOWN)
    control.leave()
    assert house.line()["code"] == "denied"


def test_a_target_that_is_denied_is_counted_and_ends_nothing(
    house: House, client: Peer, target: Peer
) -> None:
    house.set(loopback=False)
    control = house.serve(request(UDP_ASSOCIATE))
    port = control.granted()
    for _ in range(3):
        client.send(wrapped(target.endpoint, b"x"), port)
    until(lambda: house.site.associations.totals().dropped == 3)
    control.leave()
    assert target.waiting() == []
    line = house.line()
    assert (line["code"], line["dropped"], line["up_datagrams"]) == ("ok", "denied:3", 0)


def test_what_the_system_did_not_take_for_the_client_is_in_its_line(
    house: House, target: Peer, client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[ClientPort] = []

    class KnownPort(ClientPort):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            ports.append(self)

    monkeypatch.setattr(session, "ClientPort", KnownPort)
    control = house.serve(request(UDP_ASSOCIATE))
    bound = control.granted()
    client.send(wrapped(target.endpoint, b"question"), bound)
    _, source = target.receive()
    target.send(b"taken", source)
    assert client.receive()[0] == wrapped(target.endpoint, b"taken")
    send_nothing_more(ports[0]._socket)
    target.send_burst(b"aaaabb", 4, source)
    until(lambda: house.site.associations.totals().dropped == 2)
    control.leave()
    line = house.line()
    assert (line["down_datagrams"], line["down"]) == (1, 5)
    assert (line["up_datagrams"], line["up"]) == (1, 8)
    assert line["dropped"] == "unreachable:2"


def test_one_that_is_quiet_for_too_long_ends_as_idle(house: House) -> None:
    control = house.serve(request(UDP_ASSOCIATE))
    control.granted()
    house.site.associations.sweep(1000.0)
    house.site.associations.sweep(1000.0 + house.site.associations.idle_seconds)
    assert control.is_over()
    line = house.line()
    assert (line["code"], line["reason"]) == ("idle", "no datagram for 300 seconds")


def test_the_end_of_the_program_ends_it_with_its_counts(
    house: House, client: Peer, target: Peer
) -> None:
    control = house.serve(request(UDP_ASSOCIATE))
    client.send(wrapped(target.endpoint, b"x"), control.granted())
    target.receive()
    interrupt(control.session, ShutdownError("the proxy stops"))
    assert control.is_over()
    line = house.line()
    assert (line["code"], line["up_datagrams"]) == ("shutdown", 1)


def test_an_interruption_while_it_ends_does_not_lose_its_counts(
    house: House, client: Peer, target: Peer
) -> None:
    control = house.serve(request(UDP_ASSOCIATE))
    client.send(wrapped(target.endpoint, b"x"), control.granted())
    target.receive()
    end = house.site.associations.end

    def interrupted(*arguments: Any) -> None:
        interrupt(control.session, ShutdownError("the proxy stops"))
        end(*arguments)

    house.site.associations.end = interrupted  # type: ignore[method-assign]
    control.leave()
    line = house.line()
    assert (line["code"], line["up_datagrams"]) == ("shutdown", 1)


def test_a_bug_ends_its_association_alone_and_is_told(
    house: House, client: Peer, target: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = house.serve(request(UDP_ASSOCIATE))
    healthy.granted()

    def broken(*arguments: object) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr(house.site.policy, "decide", broken)
    control = house.serve(request(UDP_ASSOCIATE))
    port = control.granted()
    client.send(wrapped(target.endpoint, b"x"), port)
    assert control.is_over()
    line = house.line()
    assert (line["code"], line["reason"]) == ("internal", "KeyError")
    assert len(house.lines("session.fault")) == 1
    assert not healthy.session.dead


# -- BIND ----------------------------------------------------------------------------------------


def comes(house: House, source: str, to: Endpoint) -> gevent.socket.socket:
    sock = house.held.enter_context(gevent.socket.socket())
    sock.settimeout(HARD_SECONDS)
    sock.bind((source, 0))
    sock.connect(to.sockaddr)
    return sock


PEER = Endpoint(IPv4Address("127.0.0.2"), 21)


def test_bind_is_answered_twice_and_then_relays(house: House) -> None:
    control = house.serve(request(BIND, PEER))
    port = control.granted()
    peer = comes(house, "127.0.0.2", port)
    assert control.granted() == Endpoint.from_sockaddr(peer.getsockname())
    peer.sendall(b"data")
    assert control.read(4) == b"data"
    control.socket.sendall(b"thanks")
    assert peer.recv(10) == b"thanks"
    with pytest.raises(ConnectionRefusedError):
        comes(house, "127.0.0.2", port)
    peer.close()
    control.leave()
    line = house.line()
    assert list(line) == FIELDS
    assert (line["command"], line["target"], line["code"]) == ("bind", str(PEER), "ok")
    assert (line["via"], line["up"], line["down"]) == ("direct", 6, 4)
    assert line["address"].startswith("127.0.0.2:")
    assert line["connect_ms"] >= 0


def test_a_stranger_is_closed_and_the_peer_then_joins(house: House) -> None:
    control = house.serve(request(BIND, PEER))
    port = control.granted()
    strangers = [comes(house, "127.0.0.3", port) for _ in range(10)]
    peer = comes(house, "127.0.0.2", port)
    assert control.granted() == Endpoint.from_sockaddr(peer.getsockname())
    for stranger in strangers:
        try:
            assert stranger.recv(1) == b""
        except ConnectionResetError:
            pass


def test_what_the_client_sends_early_is_for_the_peer(house: House) -> None:
    control = house.serve(request(BIND, PEER) + b"at once")
    port = control.granted()
    control.socket.sendall(b" and later")
    settle()
    peer = comes(house, "127.0.0.2", port)
    control.granted()
    data = b""
    while len(data) < 17:
        data += peer.recv(100)
    assert data == b"at once and later"


def test_where_nobody_comes_the_client_hears_so(make_house: MakeHouse) -> None:
    house = make_house(bind_seconds=0.05)
    control = house.serve(request(BIND, PEER))
    port = control.granted()
    assert control.reply() == (TTL_EXPIRED, UNKNOWN)
    with pytest.raises(ConnectionRefusedError):
        comes(house, "127.0.0.2", port)
    control.leave()
    line = house.line()
    assert (line["code"], line["reason"]) == ("timeout", "nobody came within 0.05 seconds")


@pytest.mark.parametrize("how", ["end", "reset"])
def test_the_port_closes_with_the_control_connection(house: House, how: str) -> None:
    control = house.serve(request(BIND, PEER))
    port = control.granted()
    settle()
    if how == "reset":
        reset_on_close(control.socket)
    control.leave()
    with pytest.raises(ConnectionRefusedError):
        comes(house, "127.0.0.2", port)
    assert house.line()["code"] == "reset"


def test_anybody_is_waited_for_only_where_a_rule_says_so(house: House) -> None:
    control = house.serve(request(BIND))
    assert control.reply() == (NOT_ALLOWED, UNKNOWN)
    control.leave()
    assert house.line()["code"] == "denied"


def test_an_address_is_announced_for_the_peer_too(house: House) -> None:
    public = IPv4Address("192.0.2.9")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    house.set(offer=Offer((public,), range(port, port + 1)))
    assert house.serve(request(BIND, PEER)).granted() == Endpoint(public, port)


def test_the_end_of_the_program_ends_the_wait(house: House) -> None:
    control = house.serve(request(BIND, PEER))
    control.granted()
    settle()
    interrupt(control.session, ShutdownError("the proxy stops"))
    assert control.reply()[0] != SUCCEEDED
    control.leave()
    assert house.line()["code"] == "shutdown"


def test_a_peer_that_comes_as_the_client_leaves_is_not_left_open(house: House) -> None:
    for _ in range(20):
        control = house.serve(request(BIND, PEER))
        port = control.granted()
        settle()
        peer = comes(house, "127.0.0.2", port)
        reset_on_close(control.socket)
        control.leave()
        try:
            assert peer.recv(1) == b""
        except ConnectionResetError:
            pass


# -- UDP listeners -------------------------------------------------------------------------------


@pytest.fixture
def tunnel(house: House, target: Peer) -> Iterator[tuple[House, Endpoint, Any]]:
    """A UDP tunnel to *target*, where it is, and what it reads with."""
    codec = TunnelDatagrams(target.endpoint)
    house.set(target=target.endpoint, codec=codec, filtering=Filtering.PORT)
    listener: Listener = house.listener
    sock = open_towards_clients(LOOPBACK, None)
    where = sock.bound
    mappings = serve_datagrams(sock, listener, house.site)
    reading = gevent.spawn(mappings.run)
    yield house, where, mappings
    reading.kill()
    mappings.end_all(ShutdownError("the proxy stops"))
    until(lambda: not len(house.site.associations))
    mappings.close()


def test_a_client_of_a_udp_listener_is_a_session_that_ends_when_it_is_quiet(
    tunnel: tuple[House, Endpoint, Any], client: Peer, target: Peer
) -> None:
    house, where, mappings = tunnel
    client.send(b"question", where)
    data, source = target.receive()
    target.send(b"the answer", source)
    assert (data, client.receive()) == (b"question", (b"the answer", where))
    with udp_peer() as stranger:
        stranger.send(b"not asked for", source)
    until(lambda: house.site.associations.totals().dropped == 1)
    associations = house.site.associations
    associations.sweep(1000.0)
    associations.sweep(1000.0 + associations.idle_seconds)
    line = house.line()
    assert (len(mappings), len(associations)) == (0, 0)
    assert list(line) == DATAGRAM_FIELDS
    told = ("client", "command", "target", "address", "via", "up", "down", "code", "dropped")
    assert [line[key] for key in told] == [
        str(client.endpoint), "udp", str(target.endpoint), None, "direct", 8, 10, "ok",
        "filtered:1",
    ]  # fmt: skip
    client.send(b"again", where)
    assert target.receive()[0] == b"again"


def test_what_ends_a_udp_client_early_is_told(
    tunnel: tuple[House, Endpoint, Any], client: Peer, target: Peer
) -> None:
    house, where, mappings = tunnel
    client.send(b"x", where)
    target.receive()
    mappings.end_all(ShutdownError("the proxy stops"))
    line = house.line()
    assert (line["code"], line["reason"]) == ("shutdown", "the proxy stops")
    assert (line["up_datagrams"], line["down_datagrams"]) == (1, 0)


def test_a_bug_ends_one_udp_client_and_is_told(
    tunnel: tuple[House, Endpoint, Any],
    client: Peer,
    target: Peer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house, where, _ = tunnel

    def broken(*arguments: object) -> None:
        raise KeyError("of ours")

    client.send(b"x", where)
    target.receive()
    with udp_peer() as other:
        other.send(b"x", where)
        target.receive()
        (one, _) = list(house.site.associations._live)
        one.crew.spawn(broken)
        line = house.line()
        assert (line["code"], line["reason"]) == ("internal", "KeyError")
        assert len(house.lines("session.fault")) == 1
        assert len(house.site.associations) == 1


def test_where_policy_lets_nobody_in_there_is_no_session(
    tunnel: tuple[House, Endpoint, Any], client: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    house, where, mappings = tunnel

    def deny(subject: object) -> None:
        raise DeniedError("no")

    monkeypatch.setattr(house.site.policy, "admit", deny)
    client.send(b"x", where)
    until(lambda: mappings.dropped == {"denied": 1})
    assert (len(mappings), len(house.site.associations), house.lines()) == (0, 0, [])
