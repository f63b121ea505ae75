"""What a client is told where the kernel has one port to give, or none."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.support.hosts import OtherHost, other_host
from tests.support.proxy import Proxy, configuration, running, ss_url
from tests.support.socks import BIND, CONNECT, UDP_ASSOCIATE, RefusedError, Tunnel

pytestmark = pytest.mark.slow

PORT = 40_000  # the only one that the kernel gives
OTHER_PORT = 5000
PLAIN, SEALED = ("127.0.0.1", 1080), ("127.0.0.1", 1081)
OWN = ["127.0.0.1", "0.0.0.0", "::1", "::"]
LISTEN = {
    "plain": {"url": "socks5://127.0.0.1:1080"},
    "sealed": {"url": "socks5://127.0.0.1:1081", "via": "peer"},
}
PEER = {"url": ss_url("aes-128-gcm", ("127.0.0.1", PORT))}  # which does not run


class World:
    """A host with one proxy, and clients with ports that the kernel does not give."""

    def __init__(self, host: OtherHost, proxy: Proxy, held: ExitStack) -> None:
        self.host = host
        self.proxy = proxy
        self._held = held
        self._port = 2000

    def client(self, proxy: tuple[str, int]) -> Tunnel:
        """A client that has said hello."""
        self._port += 1
        sock = self._held.enter_context(self.host.make_socket(socket.AF_INET, socket.SOCK_STREAM))
        sock.bind(("127.0.0.1", self._port))
        sock.connect(proxy)
        tunnel = Tunnel(sock)
        tunnel.log_in()
        return tunnel

    def listening(self, host: str) -> None:
        """Have a target listen at OTHER_PORT."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self._held.enter_context(self.host.make_socket(family, socket.SOCK_STREAM))
        sock.bind((host, OTHER_PORT))
        sock.listen()

    def outcome(
        self, host: str, port: int, cmd: int = CONNECT, proxy: tuple[str, int] = PLAIN
    ) -> tuple[int, str]:
        """Ask for one thing; gives the REP of a refusal, and the code."""
        tunnel = self.client(proxy)
        name, number = tunnel.address
        with pytest.raises(RefusedError) as caught:
            tunnel.ask(ip_address(host), port, cmd)
        ended = self.proxy.wait_for("session.end", client=f"{name}:{number}")
        return caught.value.rep, ended.fields["code"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    config = configuration(LISTEN, 1, **{"via.peer": PEER})
    with other_host() as host, ExitStack() as held:
        host.give_ports(PORT, PORT)
        with running(tmp_path, config, prefix=host.enter) as proxy:
            yield World(host, proxy, held)


def test_a_client_is_not_connected_to_itself(world: World) -> None:
    for own in OWN:
        assert world.outcome(own, PORT) == (5, "refused"), own
    assert world.outcome("127.0.0.1", 80, proxy=SEALED) == (5, "refused"), "the peer"


@pytest.mark.parametrize("own", ["127.0.0.1", "::1"])
def test_a_host_without_a_port_left_says_so(world: World, own: str) -> None:
    world.listening(own)
    world.client(PLAIN).ask(ip_address(own), OTHER_PORT)
    assert world.outcome(own, OTHER_PORT) == (1, "limit")


def test_so_it_does_where_a_port_is_to_be_opened_for_others(world: World) -> None:
    world.client(PLAIN).ask(ip_address("127.0.0.1"), 0, BIND)
    assert world.outcome("127.0.0.1", 0, BIND) == (1, "limit")
    world.client(PLAIN).ask(ip_address("0.0.0.0"), 0, UDP_ASSOCIATE)
    assert world.outcome("0.0.0.0", 0, UDP_ASSOCIATE) == (1, "limit")


def test_a_host_without_ipv6_has_no_way_there(world: World) -> None:
    world.host.set("ipv6/conf/all/disable_ipv6", "1")
    assert world.outcome("::1", OTHER_PORT) == (3, "unreachable")
