"""SOCKS4 and 4A, on a listener of their own and beside SOCKS5."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.peers import Nginx, find, nginx
from tests.support.proxy import Address, Proxy, command, configuration, running, ss_url, wait_until
from tests.support.rules import with_rules
from tests.support.socks import TIMEOUT_SECONDS, Tunnel, connect, greeting
from tests.support.socks4 import BIND, CONNECT, GRANTED, REJECTED, read_reply, request
from tests.support.targets import echo, refused_port, target

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
PEER, STRANGER = "127.0.0.2", "127.0.0.3"
NOWHERE = ("0.0.0.0", 0)
LISTENERS = ["mixed", "socks4"]
USER, PASSWORD = "alice", "correct horse battery"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    listen: dict[str, dict[str, object]] = {
        "mixed": {"url": f"mixed://{HOST}:0"},
        "socks4": {"url": f"socks4://{HOST}:0"},
        "members": {"url": f"mixed://{HOST}:0", "users": "users"},
        "anywhere": {"url": "socks4://0.0.0.0:0", "open": True},
        "sealed": {"url": f"socks4://{HOST}:0", "via": "peer"},
        "anybody": {"url": f"socks4://{HOST}:0"},
    }
    folder = tmp_path_factory.mktemp("proxy")
    assert command("passwd", "users", USER, folder=folder, given=PASSWORD).returncode == 0
    via = {"url": ss_url("aes-128-gcm", (HOST, 9))}
    lets_anybody = {"listen": ["anybody"], "to": ["0.0.0.0"], "action": "direct"}
    config = configuration(listen, limits={"bind_seconds": 60}, **{"via.peer": via})
    with running(folder, with_rules(config, lets_anybody)) as served:
        yield served


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("nginx")) as served:
        (served.files / "page").write_bytes(b"a page")
        yield served


def at(proxy: Proxy, listen: str) -> Address:
    return HOST, proxy.addresses(listen)[0][1]


@pytest.mark.parametrize("listen", LISTENERS)
@pytest.mark.parametrize(
    ("option", "asked_for"),
    [pytest.param("--socks4", HOST, id="4"), pytest.param("--socks4a", "localhost", id="4A")],
)
def test_curl_fetches_a_page(
    proxy: Proxy, site: Nginx, listen: str, option: str, asked_for: str
) -> None:
    since = proxy.mark()
    host, port = at(proxy, listen)
    done = subprocess.run(
        [find("curl"), "-sS", "--fail", "--noproxy", "", "--max-time", "50"]
        + [option, f"bob@{host}:{port}", site.url("http", "page")],
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, b"a page"), done.stderr
    fields = proxy.wait_for("session.end", since=since, listen=listen).fields
    assert fields["target"] == f"{asked_for}:{site.ports['http']}"
    assert (fields["command"], fields["code"]) == ("connect", "ok")
    assert (fields["user"], fields["claimed"]) == ("-", "bob")


@pytest.mark.parametrize("listen", LISTENERS)
@pytest.mark.parametrize("host", [IPv4Address(HOST), "localhost"], ids=["an address", "a name"])
def test_bytes_go_both_ways(proxy: Proxy, listen: str, host: str | IPv4Address) -> None:
    with target(echo) as there, Tunnel.dial(at(proxy, listen)) as client:
        client.send(request(host, there.port) + b"in the same segment")
        code, bound = read_reply(client)
        assert code == GRANTED
        assert client.receive(19) == b"in the same segment"
        assert there.seen == [bound]
        client.finish()
        assert client.receive_all() == b""


def test_both_versions_of_socks_come_in_by_a_mixed_port(proxy: Proxy) -> None:
    with (
        target(echo) as there,
        Tunnel.dial(at(proxy, "mixed")) as fourth,
        connect(at(proxy, "mixed"), there.host, there.port) as fifth,
    ):
        fourth.send(request(IPv4Address(HOST), there.port))
        assert read_reply(fourth)[0] == GRANTED
        for client in (fourth, fifth):
            client.send(b"x")
            assert client.receive(1) == b"x"


REFUSED = [
    pytest.param("socks4", IPv4Address(HOST), 0, CONNECT, "denied", id="port 0"),
    pytest.param("socks4", "name.invalid", 80, CONNECT, "resolve", id="an unknown name"),
    pytest.param("socks4", IPv4Address(HOST), 80, 3, "command", id="an unknown command"),
    pytest.param("socks4", IPv4Address(0), 0, BIND, "denied", id="BIND for anybody"),
    pytest.param("sealed", IPv4Address(PEER), 21, BIND, "command", id="BIND through a peer"),
    pytest.param("anywhere", IPv4Address(HOST), 80, CONNECT, "denied", id="loopback"),
    pytest.param("anywhere", "127.1", 80, CONNECT, "denied", id="loopback, spelled oddly"),
    pytest.param("anywhere", IPv4Address(HOST), 21, BIND, "denied", id="a peer on loopback"),
]


@pytest.mark.parametrize(("listen", "host", "port", "cd", "code"), REFUSED)
def test_every_refusal_is_91_and_the_log_says_why(
    proxy: Proxy, listen: str, host: str | IPv4Address, port: int, cd: int, code: str
) -> None:
    since = proxy.mark()
    with Tunnel.dial(at(proxy, listen)) as client:
        client.send(request(host, port, cd))
        assert read_reply(client) == (REJECTED, NOWHERE)
        assert client.receive_all() == b""
    proxy.wait_for("session.end", since=since, listen=listen, code=code)


def test_a_refused_connection_is_91(proxy: Proxy) -> None:
    with Tunnel.dial(at(proxy, "socks4")) as client:
        client.send(request(IPv4Address(HOST), refused_port()))
        assert read_reply(client) == (REJECTED, NOWHERE)


# -- BIND -----------------------------------------------------------------------------------------


def came_from(source: str, address: Address) -> socket.socket:
    return socket.create_connection(address, TIMEOUT_SECONDS, (source, 0))


@pytest.mark.parametrize("listen", LISTENERS)
def test_a_bind_is_answered_twice_and_joined_by_the_peer_alone(proxy: Proxy, listen: str) -> None:
    since = proxy.mark()
    with Tunnel.dial(at(proxy, listen)) as client:
        client.send(request(IPv4Address(PEER), 21, BIND, b"bob"))
        code, address = read_reply(client)
        assert (code, address[0]) == (GRANTED, HOST)
        with came_from(STRANGER, address) as stranger:
            assert stranger.recv(1) == b""
        with came_from(PEER, address) as peer:
            assert read_reply(client) == (GRANTED, peer.getsockname())
            peer.sendall(b"down")
            assert client.receive(4) == b"down"
            client.send(b"up")
            assert peer.recv(2) == b"up"
    proxy.wait_for("session.end", since=since, listen=listen, command="bind", claimed="bob")


def test_a_bind_for_anybody_is_joined_by_anybody_where_a_rule_allows_it(proxy: Proxy) -> None:
    with Tunnel.dial(at(proxy, "anybody")) as client:
        client.send(request(IPv4Address(0), 0, BIND))
        code, address = read_reply(client)
        assert code == GRANTED
        with came_from(STRANGER, address) as peer:
            assert read_reply(client) == (GRANTED, peer.getsockname())


# -- who they are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", ["alice", ""], ids=["the name of a user", "no name"])
def test_a_listener_with_users_has_91_for_all_of_socks4(proxy: Proxy, claimed: str) -> None:
    since = proxy.mark()
    with target(echo) as there:
        with Tunnel.dial(at(proxy, "members")) as client:
            client.send(request(IPv4Address(HOST), there.port, user_id=claimed.encode()))
            assert read_reply(client) == (REJECTED, NOWHERE)
            assert client.receive_all() == b""
            host, port = client.address
        assert there.seen == []
        with connect(at(proxy, "members"), there.host, there.port, USER, PASSWORD):
            pass  # whoever proves it comes in by the same port
    line = proxy.wait_for("auth.fail", since=since, client=f"{host}:{port}")
    assert (line.level, line.fields["listen"]) == ("warning", "members")
    assert line.fields["user"] == (claimed or "-")
    proxy.wait_for("session.end", since=since, client=f"{host}:{port}", code="auth")


HOSTILE = [  # USERIDs
    b"x\n2026-01-01T00:00:00.000Z info session.end listen=forged code=ok",
    b"x listen=forged",
    b'x" listen=forged y="',
    b"x\r\x1b[2Jlisten=forged",
    bytes(range(1, 256)),
]


@pytest.mark.parametrize("users", [False, True], ids=["claimed", "refused"])
def test_no_user_id_forges_a_line_or_a_field(tmp_path: Path, users: bool) -> None:
    assert command("passwd", "users", USER, folder=tmp_path, given=PASSWORD).returncode == 0
    listen = {"real": {"url": f"mixed://{HOST}:0", "users": "users" if users else ""}}
    events = ["auth.fail", "session.end"] if users else ["session.end"]
    with running(tmp_path, configuration(listen)) as proxy:
        since = proxy.mark()
        for user_id in HOSTILE:
            with Tunnel.dial(proxy.address) as client:
                client.send(request(IPv4Address(HOST), 0, user_id=user_id))
                assert read_reply(client) == (REJECTED, NOWHERE)
        wait_until(lambda: len(proxy.lines) >= since + len(events) * len(HOSTILE))
        said = proxy.lines[since:]
        assert sorted(line.event for line in said) == sorted(events * len(HOSTILE))
        for line in said:
            assert line.fields["listen"] == "real"
            assert line.text.isascii()
            assert line.text.isprintable()


def test_a_user_id_that_is_too_long_is_91(proxy: Proxy) -> None:
    with Tunnel.dial(at(proxy, "socks4")) as client:
        client.send(request(IPv4Address(HOST), 80, user_id=b"u" * 256)[:-1])
        assert read_reply(client) == (REJECTED, NOWHERE)


def test_a_socks4_listener_knows_no_socks5(proxy: Proxy) -> None:
    since = proxy.mark()
    with Tunnel.dial(at(proxy, "socks4")) as client:
        client.send(greeting(0))
        client.finish()
        client.receive_all()
    proxy.wait_for("session.end", since=since, listen="socks4", code="protocol")
