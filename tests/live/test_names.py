"""Names while name servers misbehave: lost packets, silence, and clients with dead names."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.hosts import OtherHost, other_host, with_files
from tests.support.nameserver import AAAA, RESOLV_CONF, A, NameServer, name_server
from tests.support.proxy import Proxy, Values, configuration, running, ss_url, wait_until
from tests.support.socks import RefusedError, Tunnel, request

pytestmark = pytest.mark.slow

HOST, OTHER = "127.0.0.1", "127.0.0.2"
METHOD = "aes-256-gcm"
RECORDS = {"target.example": [HOST], "relay.example": [HOST], "db.internal": [HOST]}
HOSTS = "127.0.0.1 localhost\n127.0.0.9 db.internal\n"
EXPIRED_SECONDS = 1.2  # what is known for a second is stale by then


class World:
    """A host with a name server, a proxy and a target, which takes every connection."""

    def __init__(self, host: OtherHost, server: NameServer, proxy: Proxy, port: int) -> None:
        self.host = host
        self.server = server
        self.proxy = proxy
        self.port = port

    def reach(self, name: str, source: str = HOST) -> str:
        """Ask for a connection to *name*, from *source*; returns "ok", or the session's code."""
        since = self.proxy.mark()
        sock = self.host.connect(source, self.proxy.address)
        with Tunnel(sock) as tunnel:
            client = "{}:{}".format(*tunnel.address)
            tunnel.log_in()
            try:
                tunnel.ask(name, self.port)
            except RefusedError:
                pass
            else:
                tunnel.reset()  # or the session would wait for its target's end
                return "ok"
        ended = self.proxy.wait_for("session.end", since=since, client=client)
        return ended.fields["code"]


@contextmanager
def world(folder: Path, listen: Values | None = None, **tables: Values) -> Iterator[World]:
    with ExitStack() as stack:
        host = stack.enter_context(other_host())
        server = stack.enter_context(name_server(host.udp(HOST, 53), RECORDS))
        listening = stack.enter_context(host.make_socket(socket.AF_INET, socket.SOCK_STREAM))
        listening.bind((HOST, 0))
        listening.listen(64)
        prefix = with_files(folder, {**RESOLV_CONF, "/etc/hosts": HOSTS}, host.enter)
        socks = {"url": f"socks5://{HOST}:0", **(listen or {})}
        config = configuration({"socks": socks}, 1, **tables)
        proxy = stack.enter_context(running(folder, config, prefix=prefix))
        yield World(host, server, proxy, listening.getsockname()[1])


def test_a_lost_packet_costs_a_retry_and_not_the_session(tmp_path: Path) -> None:
    with world(tmp_path) as there:
        there.server.losses = 2
        assert there.reach("target.example") == "ok"


def test_a_name_server_that_never_answers_for_ipv6_costs_nothing(tmp_path: Path) -> None:
    with world(tmp_path) as there:
        there.server.silent = {AAAA}
        begun = time.monotonic()
        assert there.reach("target.example") == "ok"
        assert time.monotonic() - begun < 1


def test_a_name_server_that_never_answers_for_ipv4_holds_up_no_other_name(tmp_path: Path) -> None:
    with world(tmp_path, resolver={"timeout_seconds": 2}) as there:
        there.server.silent = {A}
        assert there.reach("localhost") == "ok"
        assert there.reach("target.example") == "resolve"


def test_a_silent_name_server_is_waited_for_as_long_as_the_file_says(tmp_path: Path) -> None:
    with world(tmp_path, resolver={"timeout_seconds": 3}) as there:
        there.server.silent = {A, AAAA}
        begun = time.monotonic()
        assert there.reach("target.example") == "resolve"
        assert abs(time.monotonic() - begun - 3) < 0.5


@pytest.mark.parametrize("fault", ["silence", "SERVFAIL", "nobody there"])
def test_a_target_that_was_known_is_reached_while_name_servers_fail(
    tmp_path: Path, fault: str
) -> None:
    with world(tmp_path, resolver={"cache_seconds": 1}) as there:
        assert there.reach("target.example") == "ok"
        fail(there.server, fault)
        time.sleep(EXPIRED_SECONDS)
        begun = time.monotonic()
        assert there.reach("target.example") == "ok"
        assert time.monotonic() - begun < 2.3
        begun = time.monotonic()
        assert there.reach("target.example") == "ok"
        assert time.monotonic() - begun < 1


def fail(server: NameServer, fault: str) -> None:
    if fault == "silence":
        server.silent = {A, AAAA}
    elif fault == "SERVFAIL":
        server.failing = True
    else:
        server.end()


def test_a_peer_that_was_known_is_reached_while_name_servers_are_silent(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    via = {"url": ss_url(METHOD, ("relay.example", 8388))}
    tables: dict[str, Values] = {"via.relay": via, "resolver": {"cache_seconds": 1}}
    with world(tmp_path, {"via": "relay"}, **tables) as there:
        sealed = configuration({"sealed": {"url": ss_url(METHOD, (HOST, 8388))}}, 1)
        with running(far, sealed, prefix=there.host.enter):
            assert there.reach(HOST) == "ok"
            there.server.silent = {A, AAAA}
            time.sleep(EXPIRED_SECONDS)
            assert there.reach(HOST) == "ok"


def test_a_target_that_is_gone_is_gone(tmp_path: Path) -> None:
    with world(tmp_path, resolver={"cache_seconds": 1}) as there:
        assert there.reach("target.example") == "ok"
        there.server.records = {}
        time.sleep(EXPIRED_SECONDS)
        assert there.reach("target.example") == "resolve"


def test_dead_names_of_a_client_stop_neither_its_own_nor_others(tmp_path: Path) -> None:
    """All of them hang while threads are idle; then more than there are threads for."""
    with world(tmp_path, resolver={"timeout_seconds": 10}) as there:
        there.server.dead = {f"dead{number}.example" for number in range(60)}
        with asking(there, 9):
            begun = time.monotonic()
            assert there.reach("target.example") == "ok", "the ninth of one client"
            assert time.monotonic() - begun < 1
        with asking(there, 60):
            begun = time.monotonic()
            assert there.reach("db.internal", OTHER) == "refused"
            assert time.monotonic() - begun < 1


@contextmanager
def asking(there: World, count: int) -> Iterator[None]:
    """Have *count* sessions of one client wait for names that never come."""
    tunnels = [Tunnel(there.host.connect(HOST, there.proxy.address)) for _ in range(count)]
    try:
        for number, tunnel in enumerate(tunnels):
            tunnel.log_in()
            tunnel.send(request(f"dead{number}.example", there.port))
        most = min(count, 36)  # of one client at once
        # Sooner than the first of them could have made room for the next, after two seconds.
        wait_until(lambda: len({name for name, _ in there.server.asked}) >= most, 1.5)
        yield
    finally:
        for tunnel in tunnels:
            tunnel.close()


def test_a_name_in_the_hosts_file_is_not_walked_around(tmp_path: Path) -> None:
    with world(tmp_path) as there:
        assert there.reach("db.internal") == "refused", "nobody listens at 127.0.0.9"
        assert "db.internal" not in {name for name, _ in there.server.asked}
