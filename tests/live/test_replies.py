"""What clients are told, and what the log says of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.support.proxy import Proxy, command, configuration, running
from tests.support.socks import (
    Host,
    LoginError,
    Tunnel,
    connect,
    credentials,
    greeting,
    reply_to,
    request,
)
from tests.support.targets import echo, refused_port, silent, target

pytestmark = pytest.mark.slow

USER, PASSWORD = "alice", "correct horse battery"
LOCAL, ANYWHERE, MEMBERS = "local", "anywhere", "members"
LISTEN = {
    LOCAL: {"url": "socks5://127.0.0.1:0"},
    ANYWHERE: {"url": "socks5://0.0.0.0:0", "open": True},
    MEMBERS: {"url": "socks5://127.0.0.1:0", "users": "users"},
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    assert command("passwd", "users", USER, folder=folder, given=PASSWORD).returncode == 0
    with running(folder, configuration(LISTEN, resolver={"timeout_seconds": 3})) as served:
        yield served


def at(proxy: Proxy, listen: str) -> tuple[str, int]:
    """An address by which a client on this host reaches the listener."""
    return "127.0.0.1", proxy.addresses(listen)[0][1]


def test_the_right_password_works(proxy: Proxy) -> None:
    since = proxy.mark()
    with target(echo) as there:
        with connect(at(proxy, MEMBERS), there.host, there.port, USER, PASSWORD) as tunnel:
            tunnel.send(b"hello")
            assert tunnel.receive(5) == b"hello"
            host, port = tunnel.address
        ended = proxy.wait_for("session.end", since=since, client=f"{host}:{port}")
    assert ended.fields["user"] == USER
    assert ended.fields["target"] == f"127.0.0.1:{there.port}"
    assert ended.fields["address"] == f"127.0.0.1:{there.port}"
    assert ended.fields["code"] == "ok"
    assert (ended.fields["up"], ended.fields["down"]) == ("5", "5")


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        pytest.param(USER, "not the password", "wrong password", id="a wrong password"),
        pytest.param(USER, "", "wrong password", id="an empty password"),
        pytest.param("mallory", PASSWORD, "unknown user", id="an unknown user"),
    ],
)
def test_who_does_not_prove_who_it_is_gets_nowhere_and_is_logged(
    proxy: Proxy, user: str, password: str, reason: str
) -> None:
    since = proxy.mark()
    with Tunnel.dial(at(proxy, MEMBERS)) as tunnel:
        host, port = tunnel.address
        with pytest.raises(LoginError, match="STATUS"):
            tunnel.log_in(user, password)
        refused = time.monotonic()
        assert tunnel.receive_all() == b""
    line = proxy.wait_for("auth.fail", since=since, client=f"{host}:{port}")
    assert line.arrived - refused < 1
    assert (line.level, line.fields["user"]) == ("warning", user)
    assert line.fields["reason"] == reason
    assert line.fields["listen"] == MEMBERS
    proxy.wait_for("session.end", since=since, client=f"{host}:{port}", code="auth")


def test_who_offers_no_password_gets_no_method_and_is_logged(proxy: Proxy) -> None:
    since = proxy.mark()
    with Tunnel.dial(at(proxy, MEMBERS)) as tunnel:
        host, port = tunnel.address
        with pytest.raises(LoginError, match="no acceptable method"):
            tunnel.log_in()
        assert tunnel.receive_all() == b""
    proxy.wait_for("auth.fail", since=since, client=f"{host}:{port}", user="-")
    proxy.wait_for("session.end", since=since, client=f"{host}:{port}", code="auth")


def test_a_user_with_the_wrong_password_cannot_go_on_regardless(proxy: Proxy) -> None:
    with target(echo) as there, Tunnel.dial(at(proxy, MEMBERS)) as tunnel:
        asked = request(there.host, there.port)
        tunnel.send(greeting(2) + credentials(USER, "guess") + asked + b"data")
        tunnel.finish()
        assert tunnel.receive_all() == b"\x05\x02\x01\x01"
        assert there.seen == []


def test_no_password_stands_in_the_log(proxy: Proxy) -> None:
    since = proxy.mark()
    for password in (PASSWORD, "another password"):
        with Tunnel.dial(at(proxy, MEMBERS)) as tunnel:
            try:
                tunnel.log_in(USER, password)
            except LoginError:
                proxy.wait_for("auth.fail", since=since)
    proxy.wait_for("session.end", since=since, code="protocol")
    assert PASSWORD not in proxy.log
    assert "another password" not in proxy.log


def test_a_hostile_user_name_cannot_forge_a_line(proxy: Proxy) -> None:
    since = proxy.mark()
    name = "x\n2026-01-01T00:00:00.000Z info session.end listen=forged"
    with Tunnel.dial(at(proxy, MEMBERS)) as tunnel, pytest.raises(LoginError):
        tunnel.log_in(name, "secret")
    proxy.wait_for("auth.fail", since=since)
    assert not [line for line in proxy.lines if line.fields.get("listen") == "forged"]


def test_a_protocol_fault_is_told_and_logged(proxy: Proxy) -> None:
    since = proxy.mark()
    with Tunnel.dial(at(proxy, LOCAL)) as tunnel:
        tunnel.send(b"GET / HTTP/1.1\r\n\r\n")
        tunnel.finish()
        assert tunnel.receive_all() == b""
    proxy.wait_for("session.end", since=since, code="protocol")


def test_an_unknown_host_is_rep_4(proxy: Proxy) -> None:
    since = proxy.mark()
    assert reply_to(at(proxy, LOCAL), "name.invalid", 80) == 4
    proxy.wait_for("session.end", since=since, code="resolve", target="name.invalid:80")


def test_a_refused_port_is_rep_5(proxy: Proxy) -> None:
    since = proxy.mark()
    assert reply_to(at(proxy, LOCAL), IPv4Address("127.0.0.1"), refused_port()) == 5
    proxy.wait_for("session.end", since=since, code="refused")


@pytest.mark.parametrize("cmd", [0, 4, 255])
def test_a_command_that_no_document_has_is_rep_7(proxy: Proxy, cmd: int) -> None:
    since = proxy.mark()
    assert reply_to(at(proxy, LOCAL), IPv4Address(0), 0, cmd) == 7
    proxy.wait_for("session.end", since=since, code="command")


def test_an_unknown_address_type_is_rep_8(proxy: Proxy) -> None:
    with Tunnel.dial(at(proxy, LOCAL)) as tunnel:
        tunnel.log_in()
        tunnel.send(b"\x05\x01\x00\x02")
        assert tunnel.receive_all()[:2] == b"\x05\x08"


@pytest.mark.parametrize("port", [pytest.param(25, id="mail"), pytest.param(0, id="port 0")])
@pytest.mark.parametrize("listen", [LOCAL, ANYWHERE])
def test_a_port_that_nobody_may_ask_for_is_rep_2(proxy: Proxy, listen: str, port: int) -> None:
    since = proxy.mark()
    for host in (IPv4Address("127.0.0.1"), IPv4Address("192.0.0.9"), "name.invalid"):
        assert reply_to(at(proxy, listen), host, port) == 2
    proxy.wait_for("session.end", since=since, code="denied", listen=listen)


LOOPBACK_SPELLINGS: list[Host] = [
    IPv4Address("127.0.0.1"),
    IPv6Address("::ffff:127.0.0.1"),
    IPv4Address("0.0.0.0"),
    IPv6Address("::"),
    IPv6Address("::ffff:0.0.0.0"),
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "2130706433",
    "localhost",
    "LOCALHOST",
    "0.0.0.0",
    "0",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::",
]


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS, ids=repr)
def test_the_proxy_is_no_target_of_itself(proxy: Proxy, host: Host) -> None:
    for through in LISTEN:
        for listen in LISTEN:
            port = proxy.addresses(listen)[0][1]
            if through != MEMBERS:
                assert reply_to(at(proxy, through), host, port) == 2


@pytest.mark.parametrize("host", [IPv4Address("127.0.0.2"), "127.0.0.2", "127.9.9.9"], ids=repr)
def test_a_listener_on_every_address_is_refused_on_all_of_them(proxy: Proxy, host: Host) -> None:
    port = proxy.addresses(ANYWHERE)[0][1]
    assert reply_to(at(proxy, LOCAL), host, port) == 2


def test_a_neighbour_of_our_own_address_is_no_port_of_ours(proxy: Proxy) -> None:
    port = proxy.addresses(LOCAL)[0][1]
    assert reply_to(at(proxy, LOCAL), IPv4Address("127.0.0.2"), port) == 5


PRIVATE: list[Host] = [
    *LOOPBACK_SPELLINGS,
    IPv6Address("::1"),
    "::1",
    IPv4Address("10.0.0.1"),
    IPv4Address("192.168.1.1"),
    IPv4Address("169.254.169.254"),
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    IPv6Address("fe80::1"),
    IPv6Address("fd00::1"),
    IPv6Address("64:ff9b::7f00:1"),
    IPv6Address("2002:7f00:1::"),
]


@pytest.mark.parametrize("host", PRIVATE, ids=repr)
def test_a_client_from_elsewhere_reaches_nothing_private(proxy: Proxy, host: Host) -> None:
    with target(silent) as there:
        assert reply_to(at(proxy, ANYWHERE), host, there.port) == 2
        assert there.seen == []


def test_a_client_of_this_host_reaches_loopback_however_it_is_spelled(proxy: Proxy) -> None:
    with target(silent) as there:
        for host in LOOPBACK_SPELLINGS:
            rep = reply_to(at(proxy, LOCAL), host, there.port)
            assert rep == 0 or host in ("::", IPv6Address("::")), host


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
def test_bnd_addr_is_what_the_target_sees(proxy: Proxy, family: str) -> None:
    with (
        target(echo, family) as there,
        connect(at(proxy, LOCAL), there.host, there.port) as tunnel,
    ):
        tunnel.send(b"x")
        tunnel.receive(1)
        assert there.seen == [tunnel.bound]


def test_every_address_of_a_name_is_tried(proxy: Proxy) -> None:
    """localhost has ::1 as well on most hosts; the target listens on 127.0.0.1 alone."""
    with target(echo) as there, connect(at(proxy, LOCAL), "localhost", there.port) as tunnel:
        tunnel.send(b"x")
        assert tunnel.receive(1) == b"x"
