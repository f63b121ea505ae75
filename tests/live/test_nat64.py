"""A host with IPv6 alone reaches sites with IPv4 alone, and nothing private by the detour."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.hosts import (
    CLIENT_6,
    PROXY,
    PROXY_6,
    PUBLIC,
    OtherHost,
    other_host,
    two_hosts,
    with_files,
)
from tests.support.nameserver import AAAA, RESOLV_CONF, A, name_server
from tests.support.proxy import Proxy, configuration, running, wait_until
from tests.support.socks import TIMEOUT_SECONDS, Host, RefusedError

pytestmark = pytest.mark.slow

WELL_KNOWN, LOCAL = "64:ff9b::", "2620:4f:8000:64::"  # the world's prefix; one of this network
NAMES = {
    "dns64.example": [f"{WELL_KNOWN}{PUBLIC}"],
    "without.example": [PUBLIC],
    "private.example": [f"{WELL_KNOWN}10.0.0.1"],
    "hidden.example": [f"{LOCAL}127.0.0.1"],
}
SITES = [f"{WELL_KNOWN}{PUBLIC}", f"{LOCAL}{PUBLIC}"]


@dataclass(frozen=True)
class World:
    there: OtherHost
    proxy: Proxy
    prefix: str  # which this network's DNS64 says it has
    site: socket.socket  # which has the addresses of either prefix

    @property
    def port(self) -> int:
        return int(self.site.getsockname()[1])

    def code(self, host: Host) -> tuple[str, str]:
        """Ask for *host* from elsewhere; returns the session's code, and the address dialed."""
        since = self.proxy.mark()
        with self.there.dial(CLIENT_6, self.proxy.address) as tunnel:
            tunnel.log_in()
            try:
                tunnel.ask(host, self.port)
            except RefusedError:
                pass
            else:
                tunnel.finish()
                self.site.accept()[0].close()
        line = self.proxy.wait_for("session.end", since=since)
        return line.fields["code"], line.fields["address"]


@pytest.fixture(scope="module", params=[WELL_KNOWN, LOCAL])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    prefix = request.param
    records = {**NAMES, "ipv4only.arpa": [f"{prefix}192.0.0.170", f"{prefix}192.0.0.171"]}
    folder: Path = tmp_path_factory.mktemp("nat64")
    with ExitStack() as stack:
        here, there = stack.enter_context(two_hosts())
        routes = [f"route add {site}/128 via {CLIENT_6}\n" for site in SITES]
        here.configure(f"addr del {PROXY}/24 dev wire\n" + "".join(routes))
        there.configure("".join(f"addr add {site}/128 dev wire nodad\n" for site in SITES))
        site = stack.enter_context(there.make_socket(socket.AF_INET6, socket.SOCK_STREAM))
        site.bind(("::", 0))
        site.listen(64)
        site.settimeout(TIMEOUT_SECONDS)
        stack.enter_context(name_server(here.udp("127.0.0.1", 53), records))
        config = configuration({"socks": {"url": f"socks5://[{PROXY_6}]:0", "open": True}}, 1)
        enter = with_files(folder, RESOLV_CONF, here.enter)
        proxy = stack.enter_context(running(folder, config, prefix=enter))
        made = World(there, proxy, prefix, site)
        wait_until(lambda: made.code(PUBLIC)[0] == "ok")  # the prefix is known
        yield made


def test_silent_name_servers_delay_neither_the_start_nor_the_end(tmp_path: Path) -> None:
    with other_host() as host, name_server(host.udp("127.0.0.1", 53), {}) as server:
        server.silent = {A, AAAA}
        config = configuration(workers=1, resolver={"timeout_seconds": 60})
        enter = with_files(tmp_path, RESOLV_CONF, host.enter)
        with running(tmp_path, config, prefix=enter) as proxy:
            wait_until(lambda: server.asked["ipv4only.arpa", AAAA])
            proxy.signal(signal.SIGTERM)
            assert proxy.wait_for_exit() == 0


def test_a_name_that_dns64_answers_is_reached(world: World) -> None:
    code, address = world.code("dns64.example")
    assert (code, address) == ("ok", f"[64:ff9b::c000:9]:{world.port}")


@pytest.mark.parametrize("host", ["without.example", PUBLIC])
def test_an_address_of_ipv4_is_reached_by_the_networks_own_prefix(world: World, host: str) -> None:
    code, address = world.code(host)
    assert code == "ok"
    assert address in (f"[64:ff9b::c000:9]:{world.port}", f"[2620:4f:8000:64::c000:9]:{world.port}")


@pytest.mark.parametrize("host", ["private.example", "[64:ff9b::10.0.0.1]", "64:ff9b::a9fe:a9fe"])
def test_what_is_private_is_not_reached_by_the_detour(world: World, host: str) -> None:
    assert world.code(host)[0] == "denied"


def test_what_the_networks_prefix_hides_is_judged_too(world: World) -> None:
    """The prefix is public; inside is this host. Until it is known there is nothing to judge by."""
    if world.prefix == LOCAL:
        assert world.code("hidden.example")[0] == "denied"
