"""Listeners on every address: each UDP client hears the address that it asked.

All of 127.0.0.0/8 is this host; where the kernel may choose, it answers from 127.0.0.1.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from tests.live.test_reload import reload_wholly
from tests.support.proxy import SEALED_PASSWORD, Proxy, configuration, running, ss_url
from tests.support.rules import with_rules
from tests.support.shadowsocks_twin import Key, opened_datagram, sealed_datagram
from tests.support.udp_client import (
    BUFFER_BYTES,
    DatagramTarget,
    datagram_target,
    head,
    sockname,
    udp_socket,
)

pytestmark = pytest.mark.slow

LOOPBACK = ip_address("127.0.0.1")
METHOD = "aes-256-gcm"
KEY = Key.from_password(METHOD, SEALED_PASSWORD)
HOSTS = ["127.0.0.1", "127.0.0.2", "127.9.9.9"]
LISTENERS = ["tunnel", "dual", "sealed"]
TO_LOOPBACK = {"to": ["127.0.0.0/8"], "action": "direct"}
CLIENTS = 4  # of each address: both workers have some


@dataclass(frozen=True)
class World:
    """A proxy with UDP on every address, and the target of its tunnels."""

    proxy: Proxy
    there: DatagramTarget

    def clients(self, listen: str, stack: ExitStack) -> list[socket.socket]:
        """Clients of one listener, each of which hears the address that it asks, and no other."""
        port = self.proxy.addresses(listen)[0][1]
        clients = []
        for host in HOSTS * CLIENTS:
            client = stack.enter_context(udp_socket())
            client.connect((host, port))
            clients.append(client)
        return clients


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with datagram_target() as there:
        tunnel = {"target": f"127.0.0.1:{there.port}", "udp": True}
        listen = {
            "tunnel": {"url": "udp://0.0.0.0:0", **tunnel},
            "dual": {"url": "udp://[::]:0", **tunnel},
            "sealed": {"url": ss_url(METHOD, ("", 0))},
        }
        config = with_rules(configuration(listen), TO_LOOPBACK)
        with running(tmp_path_factory.mktemp("proxy"), config) as proxy:
            yield World(proxy, there)


def asking(world: World, listen: str) -> Callable[[socket.socket, bytes], None]:
    """Return what has a client of *listen* ask something, and checks the answer."""
    target = head(LOOPBACK, world.there.port) if listen == "sealed" else b""

    def ask(client: socket.socket, data: bytes) -> None:
        plain = target + data
        client.send(sealed_datagram(KEY, plain) if target else plain)
        answer = client.recv(BUFFER_BYTES)
        assert (opened_datagram(KEY, answer) if target else answer) == plain

    return ask


@pytest.mark.parametrize("listen", LISTENERS)
def test_answers_leave_from_the_address_that_was_asked_before_and_after_a_reload(
    world: World, listen: str
) -> None:
    ask = asking(world, listen)
    world.there.seen.clear()
    with ExitStack() as stack:
        clients = world.clients(listen, stack)
        for turn in range(3):
            for number, client in enumerate(clients):
                ask(client, b"%d of client %d" % (turn, number))
            reload_wholly(world.proxy)
        ports = {source for source, _ in world.there.seen}
        assert len(ports) == len(clients), "each is a client of its own, and stays it"


@pytest.mark.parametrize("listen", LISTENERS)
def test_one_port_that_asks_at_two_addresses_is_answered_by_each(world: World, listen: str) -> None:
    target = head(LOOPBACK, world.there.port) if listen == "sealed" else b""
    port = world.proxy.addresses(listen)[0][1]
    with udp_socket() as client:
        for turn in range(3):
            for host in HOSTS:
                plain = target + b"%s %d" % (host.encode(), turn)
                client.sendto(sealed_datagram(KEY, plain) if target else plain, (host, port))
        heard = [client.recvfrom(BUFFER_BYTES) for _ in range(3 * len(HOSTS))]
        for data, source in heard:
            plain = opened_datagram(KEY, data) if target else data
            asked = plain.removeprefix(target).split()[0].decode()
            assert source == (asked, port), sockname(client)
