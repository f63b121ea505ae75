"""Whoever asks, and in whatever spelling: the one spelling is judged, logged and sent to a peer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.support import socks4
from tests.support.proxy import (
    SEALED_PASSWORD,
    Line,
    Proxy,
    Values,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.rules import with_rules
from tests.support.shadowsocks_twin import (
    READ_BYTES,
    Key,
    Sealed,
    opened,
    opened_datagram,
    sealed_datagram,
)
from tests.support.socks import BIND, Host, Tunnel, connect, reply_to
from tests.support.targets import target
from tests.support.udp_client import (
    Association,
    DatagramTarget,
    datagram_target,
    head,
    silent,
    udp_socket,
)

pytestmark = pytest.mark.slow

METHOD = "aes-256-gcm"
KEY = Key.from_password(METHOD, SEALED_PASSWORD)
LOOPBACK = "127.0.0.1"
PORT = 443
REP_DENIED = 2
WORDS = b"the first words"


@dataclass(frozen=True)
class World:
    """A proxy whose every way out is a peer, and what came to that peer."""

    proxy: Proxy
    streams: list[bytes]
    datagrams: DatagramTarget

    def at(self, listen: str) -> tuple[str, int]:
        return LOOPBACK, self.proxy.addresses(listen)[0][1]

    def heard(self) -> bytes:
        """What was sealed at the front of the one connection that the peer got."""
        wait_until(lambda: self.streams)
        return opened(KEY, self.streams.pop())

    def ended(self, since: int, listen: str) -> Line:
        return self.proxy.wait_for("session.end", since=since, listen=listen)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        streams: list[bytes] = []

        def hear(sock: socket.socket) -> None:
            streams.append(sock.recv(READ_BYTES))

        there = stack.enter_context(target(hear))
        datagrams = stack.enter_context(datagram_target(silent))
        listen: dict[str, Values] = {
            "socks": {"url": f"mixed://{LOOPBACK}:0", "via": "peer"},
            "sealed": {"url": ss_url(METHOD, (LOOPBACK, 0)), "via": "peer"},
            "udp": {"url": f"socks5://{LOOPBACK}:0", "via": "udp-peer"},
            "sealed-udp": {"url": ss_url(METHOD, (LOOPBACK, 0)), "via": "udp-peer"},
            "tunnel": {
                "url": f"tcp://{LOOPBACK}:0",
                "target": f"B\u00dcCHER.example:{PORT}",
                "via": "peer",
            },
            "direct": {"url": f"socks5://{LOOPBACK}:0"},
        }
        vias: dict[str, Values] = {
            "via.peer": {"url": ss_url(METHOD, (LOOPBACK, there.port))},
            "via.udp-peer": {"url": ss_url(METHOD, (LOOPBACK, datagrams.port))},
        }
        rule: Values = {"to": ["private", "*.sch\u00f6n.example"], "action": "deny"}
        config = with_rules(configuration(listen, **vias), rule)
        proxy = stack.enter_context(running(tmp_path_factory.mktemp("proxy"), config))
        yield World(proxy, streams, datagrams)


DENIED: list[Host] = [
    IPv4Address(LOOPBACK),
    LOOPBACK,
    "[127.0.0.1]",
    "[::1]",
    " 127.0.0.1",
    "127.0.0.1 ",
    "[10.0.0.1]",
    "127.1",
    "0x7f.1",
    "127.0.0.1.",
    "\uff11\uff12\uff17.0.0.1",
    "127\u30020\u30020\u30021",
    "127.0.0.\u00ad1",
    "[::ffff:10.0.0.1]",
    "www.sch\u00f6n.example",
    "WWW.SCH\u00d6N.EXAMPLE.",
    "www.xn--schn-7qa.example",
]
NO_HOSTS = [
    "",
    "a\0b",
    "localhost\0.example",
    "a b",
    "a..b",
    "fe80::1%lo",
    "%31%32%37.0.0.1",
    "127.0.0.08",
    "n" * 64,
    "n." * 126 + "nn",
]
SENT: list[tuple[Host, Host]] = [  # as it came, and as it goes on
    ("[2001:4860:4860::8888]", IPv6Address("2001:4860:4860::8888")),
    (IPv6Address("::ffff:9.9.9.9"), IPv4Address("9.9.9.9")),
    (" 9.9.9.9", IPv4Address("9.9.9.9")),
    ("0x09090909", IPv4Address("9.9.9.9")),
    ("B\u00dcCHER.Example", "xn--bcher-kva.example"),
    ("\u65e5\u672c\u8a9e\u3002jp", "xn--wgv71a119e.jp"),
    ("[Example.NET.]", "example.net."),
    ("n." * 126 + "n", "n." * 126 + "n"),
]


def written(host: Host, port: int = PORT) -> str:
    """How the log has a target."""
    return f"[{host}]:{port}" if isinstance(host, IPv6Address) else f"{host}:{port}"


# -- streams -------------------------------------------------------------------------------------


def ask_by_socks5(world: World, host: Host) -> str:
    """Ask the listener, whose name is returned; it must say REP 2 or grant."""
    assert reply_to(world.at("socks"), host, PORT) in (0, REP_DENIED)
    return "socks"


def ask_by_socks4a(world: World, host: Host) -> str:
    assert not isinstance(host, IPv6Address)
    with Tunnel.dial(world.at("socks")) as tunnel:
        tunnel.send(socks4.request(host, PORT))
        assert socks4.read_reply(tunnel)[0] in (socks4.GRANTED, socks4.REJECTED)
    return "socks"


def ask_sealed(world: World, host: Host) -> str:
    with Sealed.dial(world.at("sealed"), KEY, host, PORT, [WORDS]) as sealed:
        sealed.socket.recv(1)  # an end, for the peer of this world says nothing
    return "sealed"


Ask = Callable[[World, Host], str]
INBOUNDS: dict[str, Ask] = {
    "SOCKS5": ask_by_socks5,
    "SOCKS4A": ask_by_socks4a,
    "Shadowsocks": ask_sealed,
}
EVERY_INBOUND = pytest.mark.parametrize("ask", INBOUNDS.values(), ids=INBOUNDS)


@EVERY_INBOUND
@pytest.mark.parametrize("host", DENIED, ids=repr)
def test_what_a_rule_denies_reaches_no_peer_in_any_spelling(
    world: World, ask: Ask, host: Host
) -> None:
    since = world.proxy.mark()
    ended = world.ended(since, ask(world, host))
    assert (ended.fields["code"], ended.fields["address"]) == ("denied", "-")
    assert world.streams == []


NO_HOSTS_BY_INBOUND = [
    pytest.param(ask, host, id=f"{host!r:.40}-{inbound}")
    for inbound, ask in INBOUNDS.items()
    for host in NO_HOSTS
    if ask is not ask_by_socks4a or "\0" not in host  # which SOCKS4A has no way to write
]


@pytest.mark.parametrize(("ask", "host"), NO_HOSTS_BY_INBOUND)
def test_what_is_no_host_is_denied_before_any_way_out(world: World, ask: Ask, host: str) -> None:
    since = world.proxy.mark()
    ended = world.ended(since, ask(world, host))
    assert (ended.fields["code"], ended.fields["target"], ended.fields["via"]) == (
        "denied",
        "-",
        "-",
    )
    assert world.streams == []


SENT_BY_INBOUND = [
    pytest.param(ask, host, onward, id=f"{host!r:.40}-{inbound}")
    for inbound, ask in INBOUNDS.items()
    for host, onward in SENT
    if ask is not ask_by_socks4a or not isinstance(host, IPv6Address)  # which SOCKS4 has not
]


@pytest.mark.parametrize(("ask", "host", "onward"), SENT_BY_INBOUND)
def test_the_one_spelling_is_logged_and_sent_on(
    world: World, ask: Ask, host: Host, onward: Host
) -> None:
    since = world.proxy.mark()
    listen = ask(world, host)
    assert world.heard().startswith(head(onward, PORT))
    assert world.ended(since, listen).fields["target"] == written(onward)


def test_the_target_of_a_tunnel_is_sent_in_the_one_spelling(world: World) -> None:
    since = world.proxy.mark()
    with Tunnel.dial(world.at("tunnel")) as tunnel:
        tunnel.send(WORDS)
        assert world.heard() == head("xn--bcher-kva.example", PORT) + WORDS
    assert world.ended(since, "tunnel").fields["target"] == written("xn--bcher-kva.example")


@pytest.mark.parametrize("host", NO_HOSTS, ids=lambda host: repr(host)[:40])
@pytest.mark.parametrize("cmd", [1, BIND], ids=["CONNECT", "BIND"])
def test_what_is_no_host_is_rep_2_straight_out_too(world: World, cmd: int, host: str) -> None:
    since = world.proxy.mark()
    assert reply_to(world.at("direct"), host, PORT, cmd) == REP_DENIED
    assert world.ended(since, "direct").fields["code"] == "denied"


@pytest.mark.parametrize("host", ["[127.0.0.1]", " [::1]", "\uff11\uff12\uff17.1"], ids=repr)
def test_the_expected_peer_of_bind_is_judged_in_every_spelling(world: World, host: str) -> None:
    assert reply_to(world.at("direct"), host, PORT, BIND) == REP_DENIED


# -- datagrams -----------------------------------------------------------------------------------


def heads_of(world: World, count: int) -> list[bytes]:
    """Return what *count* datagrams to the peer had sealed, which are all that came."""
    wait_until(lambda: len(world.datagrams.seen) >= count)
    plain = [opened_datagram(KEY, data) for data in world.datagrams.data]
    assert len(plain) == count
    world.datagrams.seen.clear()
    return plain


def test_a_datagrams_head_is_judged_and_sent_on_in_the_one_spelling(world: World) -> None:
    refused = [*DENIED, *NO_HOSTS]
    with Association.open(world.at("udp")) as client:
        for host in refused:
            client.send(host, PORT, b"never")
            client.send(host, PORT, b"nor again")
        for host, _ in SENT:
            client.send(host, PORT, WORDS)
        expected = [head(onward, PORT) + WORDS for _, onward in SENT]
        assert sorted(heads_of(world, len(SENT))) == sorted(expected)
        client.close()
        ended = client.end(world.proxy)
    assert ended.fields["dropped"] == f"denied:{2 * len(refused)}"


def test_a_sealed_datagrams_head_is_too(world: World) -> None:
    with udp_socket() as sock:
        for host in (*DENIED, *NO_HOSTS):
            sock.sendto(sealed_datagram(KEY, head(host, PORT) + b"x"), world.at("sealed-udp"))
        for host, _ in SENT:
            sock.sendto(sealed_datagram(KEY, head(host, PORT) + WORDS), world.at("sealed-udp"))
        expected = [head(onward, PORT) + WORDS for _, onward in SENT]
        assert sorted(heads_of(world, len(SENT))) == sorted(expected)


def test_a_name_as_it_should_be_is_granted(world: World) -> None:
    with connect(world.at("socks"), "example.net", PORT) as tunnel:
        tunnel.send(WORDS)
        assert world.heard() == head("example.net", PORT) + WORDS
