"""Sealed datagrams between geproxy and shadowsocks-libev, in both roles, IPv4 and IPv6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

import pytest

from tests.interop.datagrams import Client, by_association, by_tunnel, check_many, check_sizes
from tests.support.peers import ss_local, ss_server, ss_tunnel
from tests.support.proxy import SEALED_PASSWORD, Address, configuration, running, ss_url
from tests.support.shadowsocks_twin import KEY_BYTES, METHODS, TAG_BYTES
from tests.support.udp_client import Association, DatagramTarget, datagram_target, head

pytestmark = pytest.mark.slow

HOSTS = ["127.0.0.1", "::1"]
# Where the client gets in: theirs in front of our ss:// listener, or ours in front of ss-server.
SS_LOCAL, SS_TUNNEL = "ss-local to geproxy", "ss-tunnel to geproxy"
SOCKS5, TUNNEL = "an association to ss-server", "a udp:// tunnel to ss-server"
WAYS = [SS_LOCAL, SS_TUNNEL, SOCKS5, TUNNEL]
ASSOCIATIONS = [SS_LOCAL, SOCKS5]
COUNT = 1000

# udprelay.c: twice its DEFAULT_PACKET_SIZE is all it reads of a datagram, sealed or plain
LIBEV_BUFFER_BYTES = 2 * 1397


class Around(NamedTuple):
    """A target, and the doors to what leads there, by way and cipher."""

    there: DatagramTarget
    doors: dict[tuple[str, str], Address]

    def client(self, way: str, method: str) -> AbstractContextManager[Client]:
        door = self.doors[way, method]
        if way in ASSOCIATIONS:
            return by_association(door, self.there)
        return by_tunnel(door)


@pytest.fixture(scope="module", params=HOSTS)
def around(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Around]:
    host = request.param
    ours = f"[{host}]" if ":" in host else host
    folder = tmp_path_factory.mktemp("libev")
    with ExitStack() as stack:
        there = stack.enter_context(datagram_target(host=host))
        target = (host, there.port)
        listen, vias = {}, {}
        for method in METHODS:
            server = ss_server(folder, method, SEALED_PASSWORD, host=host)
            _, port = stack.enter_context(server)
            vias[f"via.{method}"] = {"url": ss_url(method, (ours, port))}
            listen[f"sealed-{method}"] = {"url": ss_url(method, (ours, 0))}
            listen[f"socks-{method}"] = {"url": f"socks5://{ours}:0", "via": method}
            tunnel = {"url": f"udp://{ours}:0", "target": f"{ours}:{there.port}"}
            listen[f"tunnel-{method}"] = {**tunnel, "via": method}
        proxy = stack.enter_context(running(folder, configuration(listen, **vias)))
        doors = {}
        for method in METHODS:
            (sealed,) = proxy.addresses(f"sealed-{method}")
            common = folder, method, SEALED_PASSWORD, sealed
            doors[SS_LOCAL, method] = stack.enter_context(ss_local(*common))
            front = ss_tunnel(*common, target, host=host)
            doors[SS_TUNNEL, method] = stack.enter_context(front)
            (doors[SOCKS5, method],) = proxy.addresses(f"socks-{method}")
            (doors[TUNNEL, method],) = proxy.addresses(f"tunnel-{method}")
        yield Around(there, doors)


def largest(method: str, there: DatagramTarget) -> int:
    """The most bytes that fit into what they read, once sealed."""
    sealed_with = KEY_BYTES[method] + len(head(there.host, there.port)) + TAG_BYTES
    return LIBEV_BUFFER_BYTES - sealed_with


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_datagrams_of_every_size_that_they_carry_are_echoed(
    around: Around, way: str, method: str
) -> None:
    with around.client(way, method) as client:
        check_sizes(client, [1, 0, 512, 1200, 1472, 2048, largest(method, around.there), 0, 1])


@pytest.mark.parametrize("way", WAYS)
def test_of_1000_datagrams_none_is_lost_or_doubled(around: Around, way: str) -> None:
    with around.client(way, "chacha20-ietf-poly1305") as client:
        check_many(client, COUNT)


@pytest.mark.parametrize("way", ASSOCIATIONS)
def test_each_answer_names_the_target_that_gave_it(around: Around, way: str) -> None:
    host = str(around.there.host)
    with (
        datagram_target(lambda data: b"one " + data, host) as one,
        datagram_target(lambda data: b"other " + data, host) as other,
        Association.open(around.doors[way, "aes-256-gcm"]) as association,
    ):
        for _ in range(10):
            for name, each in (b"one", one), (b"other", other):
                association.send(each.host, each.port, b"datagram")
                assert association.receive() == ((host, each.port), name + b" datagram")
