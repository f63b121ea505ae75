"""Sealed datagrams between geproxy and v2ray, in both roles: a second word on SIP004."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.interop.datagrams import by_tunnel, check_many, check_sizes
from tests.support.proxy import SEALED_PASSWORD, Address, configuration, running, ss_url
from tests.support.shadowsocks_twin import METHODS
from tests.support.udp_client import datagram_target
from tests.support.v2ray import FREEDOM, shadowsocks_in, shadowsocks_out, tunnel_in, v2ray

pytestmark = pytest.mark.slow

FRONT, BEHIND = "v2ray to geproxy", "geproxy to v2ray"
# It passes no empty datagram on, and dies of one for which its 2048 bytes are not enough.
SIZES = [1, 512, 1200, 1472, 1900, 1]
COUNT = 1000


@pytest.fixture(scope="module", params=["127.0.0.1", "::1"])
def doors(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Address]]:
    """Tunnels to an echo, by what is on the way and the cipher."""
    host = request.param
    ours = f"[{host}]" if ":" in host else host
    with ExitStack() as stack:
        there = stack.enter_context(datagram_target(host=host))
        target = (host, there.port)
        ways = [(shadowsocks_in(method, SEALED_PASSWORD), FREEDOM) for method in METHODS]
        server = v2ray(tmp_path_factory.mktemp("server"), ways, host=host)
        listen, vias = {}, {}
        for method, (_, port) in zip(METHODS, stack.enter_context(server), strict=True):
            vias[f"via.{method}"] = {"url": ss_url(method, (ours, port))}
            listen[f"sealed-{method}"] = {"url": ss_url(method, (ours, 0))}
            tunnel = {"url": f"udp://{ours}:0", "target": f"{ours}:{there.port}"}
            listen[f"tunnel-{method}"] = {**tunnel, "via": method}
        config = configuration(listen, **vias)
        proxy = stack.enter_context(running(tmp_path_factory.mktemp("proxy"), config))
        found = {(BEHIND, method): proxy.addresses(f"tunnel-{method}")[0] for method in METHODS}
        ways = []
        for method in METHODS:
            (sealed,) = proxy.addresses(f"sealed-{method}")
            ways.append((tunnel_in(target), shadowsocks_out(method, SEALED_PASSWORD, sealed)))
        client = v2ray(tmp_path_factory.mktemp("client"), ways, host=host)
        for method, door in zip(METHODS, stack.enter_context(client), strict=True):
            found[FRONT, method] = door
        yield found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", [FRONT, BEHIND])
def test_datagrams_of_every_size_that_it_carries_are_echoed(
    doors: dict[tuple[str, str], Address], way: str, method: str
) -> None:
    with by_tunnel(doors[way, method]) as client:
        check_sizes(client, SIZES)


@pytest.mark.parametrize("way", [FRONT, BEHIND])
def test_of_1000_datagrams_none_is_lost_or_doubled(
    doors: dict[tuple[str, str], Address], way: str
) -> None:
    with by_tunnel(doors[way, "aes-256-gcm"]) as client:
        check_many(client, COUNT)
