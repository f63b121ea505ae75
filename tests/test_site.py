"""Settings become what a worker serves with: every listener with its own users and rules."""

import dataclasses
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address

import gevent
import pytest

from geproxy.config.destinations import To
from geproxy.config.load import from_urls
from geproxy.config.settings import Limits, Rule, Settings
from geproxy.config.url import LISTEN_SCHEMES, PEER_SCHEMES, ListenUrl
from geproxy.errors import AuthenticationError, DeniedError
from geproxy.net import owners
from geproxy.net.stream import SocketStream
from geproxy.net.systemlookup import RES_OPTIONS
from geproxy.observe.line import Lines
from geproxy.observe.log import Log
from geproxy.observe.sink import Descriptor, Sink
from geproxy.policy import gate
from geproxy.process.shared import Shared
from geproxy.seams import Listener, Request, Subject
from geproxy.site import CODECS, INBOUNDS, OUTBOUNDS, Site
from geproxy.terms import Command, Endpoint, plain_address

WAIT_SECONDS = 10.0
LOOPBACK = IPv4Address("127.0.0.1")

GREETING = b"\x05\x02\x00\x02"  # RFC 1928 §3: both methods are offered
TARGET = Endpoint(IPv4Address("93.184.216.34"), 443)
CONNECT = b"\x05\x01\x00\x01\x5d\xb8\xd8\x22\x01\xbb"  # RFC 1928 §4: 93.184.216.34:443


@pytest.fixture
def told() -> Iterator[tuple[Log, socket.socket]]:
    """A log, and where its lines come out."""
    read, write = socket.socketpair()
    sink = Sink("memory", Descriptor(write.detach()), Lines("text"))
    log = Log(sink, sink, level="info")
    yield log, read
    log.close()
    read.close()


@pytest.fixture
def log(told: tuple[Log, socket.socket]) -> Log:
    return told[0]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a site sets for the look-ups of its process is undone."""
    monkeypatch.setenv("RES_OPTIONS", "")


def make_site(log: Log, *urls: str, listening: tuple[str, ...] = ()) -> Site:
    settings = from_urls(list(urls))
    endpoints = [Endpoint(plain_address(host), 1080) for host in listening]
    return Site(settings, endpoints, endpoints, log, Shared())


def negotiate(site: Site, name: str, sent: bytes) -> tuple[Request, bytes]:
    """Send *sent* to a listener's inbound; returns its request and what it answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname(), timeout=WAIT_SECONDS)
        near, sockaddr = listening.accept()
    near.setblocking(False)
    stream = SocketStream(near, Endpoint.from_sockaddr(sockaddr))
    try:
        client.sendall(sent)
        with gevent.Timeout(WAIT_SECONDS):
            request = site.listeners[name].inbound.negotiate(stream)
        return request, client.recv(100)
    finally:
        stream.close()
        client.close()


def connecting(listener: Listener) -> Subject:
    """A client of *listener* that asks for a connection."""
    return Subject(listener, LOOPBACK, None, Command.CONNECT)


def credentials(user: bytes, password: bytes) -> bytes:
    """RFC 1929 §2."""
    return bytes((1, len(user))) + user + bytes((len(password),)) + password


def test_every_scheme_that_can_be_configured_has_an_inbound() -> None:
    assert set(INBOUNDS) == set(LISTEN_SCHEMES)


def test_every_scheme_that_has_udp_sockets_has_a_codec_for_them() -> None:
    with_udp = {
        scheme
        for scheme in LISTEN_SCHEMES
        if "UDP" in ListenUrl(scheme, (LOOPBACK,), 1).transports(udp=True)
    }
    assert set(CODECS) == with_udp == {"ss", "udp"}


def test_every_scheme_of_a_way_out_has_an_outbound() -> None:
    assert set(OUTBOUNDS) == set(PEER_SCHEMES)


def test_there_is_a_listener_for_each_that_is_configured(log: Log) -> None:
    site = make_site(log, "socks5://127.0.0.1:0", "socks5://alice:secret@0.0.0.0:0")
    assert list(site.listeners) == ["listen1", "listen2"]
    first, second = site.listeners.values()
    assert (first.name, first.loopback, first.via) == ("listen1", True, "direct")
    assert (second.name, second.loopback, second.via) == ("listen2", False, "direct")


def test_a_listener_without_users_asks_for_no_password(log: Log) -> None:
    site = make_site(log, "socks5://127.0.0.1:0")
    request, answer = negotiate(site, "listen1", GREETING + CONNECT)
    assert answer == b"\x05\x00"
    assert (request.user, request.command) == (None, Command.CONNECT)
    assert str(request.target) == "93.184.216.34:443"


def test_a_listener_with_users_lets_them_in(log: Log) -> None:
    site = make_site(log, "socks5://alice:secret@127.0.0.1:0")
    request, answer = negotiate(
        site, "listen1", GREETING + credentials(b"alice", b"secret") + CONNECT
    )
    assert answer == b"\x05\x02\x01\x00"
    assert request.user == "alice"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        pytest.param(b"alice", b"Secret", id="a wrong password"),
        pytest.param(b"bob", b"secret", id="an unknown user"),
        pytest.param(b"bob", b"hunter2", id="a user of another listener"),
    ],
)
def test_a_listener_with_users_lets_nobody_else_in(log: Log, user: bytes, password: bytes) -> None:
    site = make_site(log, "socks5://alice:secret@127.0.0.1:0", "socks5://bob:hunter2@127.0.0.1:0")
    with pytest.raises(AuthenticationError):
        negotiate(site, "listen1", GREETING + credentials(user, password) + CONNECT)


def test_users_that_are_none_are_not_the_same_as_no_users(log: Log) -> None:
    """An empty users file locks everybody out; it does not open the door."""
    settings = from_urls(["socks5://127.0.0.1:0"])
    listen = dataclasses.replace(settings.listen[0], users={})
    site = Site(dataclasses.replace(settings, listen=(listen,)), [], [], log, Shared())
    with pytest.raises(AuthenticationError):
        negotiate(site, "listen1", GREETING + credentials(b"", b"") + CONNECT)
    with pytest.raises(AuthenticationError):
        negotiate(site, "listen1", b"\x05\x01\x00" + CONNECT)


def test_nothing_of_the_rules_is_left_to_be_made_by_a_client(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = from_urls(["socks5://127.0.0.1:0"])
    to = To.of(f"*.host{number}.example" for number in range(1000))
    rule = Rule("deny", to=(to,))
    site = Site(dataclasses.replace(settings, rule=(rule,)), [], [], log, Shared())
    for made in ("Page", "numbered"):
        monkeypatch.delattr(gate, made)
    who = connecting(site.listeners["listen1"])
    site.policy.admit(who)
    with pytest.raises(DeniedError):
        site.policy.decide(who, Endpoint("www.host7.example", 443))
    assert site.policy.decide(who, Endpoint("host7.example", 443)).outbound.name == "direct"


def test_the_proxys_own_ports_are_closed_on_every_listener(log: Log) -> None:
    site = make_site(
        log, "socks5://127.0.0.1:0", "socks5://a:b@0.0.0.0:0", listening=("127.0.0.1", "::1")
    )
    for listener in site.listeners.values():
        route = site.policy.decide(connecting(listener), TARGET)
        for host in ("127.0.0.1", "::1", "0.0.0.0"):
            with pytest.raises(DeniedError):
                route.permit(Endpoint(plain_address(host), 1080))


def test_local_clients_reach_this_host_and_others_do_not(log: Log) -> None:
    site = make_site(log, "socks5://127.0.0.1:0", "socks5://a:b@0.0.0.0:0")
    listeners = site.listeners.values()
    local, foreign = (site.policy.decide(connecting(one), TARGET) for one in listeners)
    inside = Endpoint(plain_address("127.0.0.1"), 80)
    local.permit(inside)
    with pytest.raises(DeniedError):
        foreign.permit(inside)


def test_the_limits_are_those_of_the_settings(log: Log) -> None:
    settings: Settings = from_urls(["socks5://127.0.0.1:0"])
    limits = Limits(handshake_seconds=3.0, idle_seconds=8.0, half_close_seconds=4.0)
    site = Site(dataclasses.replace(settings, limits=limits), [], [], log, Shared())
    assert site.handshake_seconds == 3.0
    assert site.relays.sweep_seconds == 1.0
    assert site.log is log


def test_the_resolver_is_told_not_to_outlast_its_deadline(log: Log) -> None:
    make_site(log, "socks5://127.0.0.1:0")
    assert os.environ["RES_OPTIONS"] == RES_OPTIONS


@pytest.mark.parametrize(
    ("url", "said"),
    [
        pytest.param("socks5://127.0.0.1:0", 1, id="SOCKS5"),
        pytest.param("mixed://127.0.0.1:0", 1, id="both versions of SOCKS"),
        pytest.param("socks4://127.0.0.1:0", 0, id="SOCKS4, which has no UDP"),
    ],
)
def test_a_kernel_that_cannot_tell_whose_a_socket_is_is_told_of_at_the_start(
    told: tuple[Log, socket.socket], url: str, said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or nobody would know why clients on this host get no association."""
    monkeypatch.setattr(owners, "NETLINK_SOCK_DIAG", 31)  # a protocol that no kernel has
    log, read = told
    make_site(log, url)
    log.info("end")
    log.flush()
    lines = read.recv(1 << 16).decode()
    assert "end" in lines
    assert lines.count("owners.fail reason=") == said


def test_an_exercise_uses_the_resolver_and_the_hash_thread(log: Log) -> None:
    with gevent.Timeout(WAIT_SECONDS):
        make_site(log, "socks5://127.0.0.1:0").exercise()
