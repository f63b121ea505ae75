"""dig and dnsmasq, with geproxy between them: alone, with shadowsocks-libev, with v2ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.support.dns import dig, dnsmasq
from tests.support.peers import ss_server, ss_tunnel
from tests.support.proxy import (
    SEALED_PASSWORD,
    Address,
    Values,
    configuration,
    running,
    ss_url,
)
from tests.support.v2ray import socks_out, tunnel_in, v2ray

pytestmark = pytest.mark.slow

METHOD = "aes-256-gcm"
IPV4, IPV6 = "192.0.2.7", "2001:db8::7"
# More than 512 bytes, which EDNS allows, and less than the 1232 that dig asks for (RFC 6891)
TEXTS = [f"{number:02d}" * 100 for number in range(4)]
RECORDS = [f"host-record=host.example,{IPV4},{IPV6}", f"txt-record=long.example,{','.join(TEXTS)}"]

Way = Callable[[Path, Address], AbstractContextManager[Address]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    with dnsmasq(tmp_path_factory.mktemp("dnsmasq"), *RECORDS) as address:
        yield address


def by_name(server: Address) -> str:
    """The target's name, to be resolved at the far end: dnsmasq hears all that it may mean."""
    return f"localhost:{server[1]}"


@contextmanager
def ours(folder: Path, listen: Values, **vias: Values) -> Iterator[Address]:
    """Run geproxy with one listener."""
    with running(folder, configuration({"door": listen}, **vias)) as proxy:
        yield proxy.address


@contextmanager
def ss_tunnel_to_ours(folder: Path, server: Address) -> Iterator[Address]:
    with (
        ours(folder, {"url": ss_url(METHOD, ("127.0.0.1", 0))}) as sealed,
        ss_tunnel(folder, METHOD, SEALED_PASSWORD, sealed, ("localhost", server[1])) as door,
    ):
        yield door


@contextmanager
def to_ss_server(folder: Path, server: Address, scheme: str) -> Iterator[Address]:
    listen = {"url": f"{scheme}://127.0.0.1:0", "target": by_name(server), "via": "theirs"}
    with (
        ss_server(folder, METHOD, SEALED_PASSWORD) as theirs,
        ours(folder, listen, **{"via.theirs": {"url": ss_url(METHOD, theirs)}}) as door,
    ):
        yield door


def udp_to_ss_server(folder: Path, server: Address) -> AbstractContextManager[Address]:
    return to_ss_server(folder, server, "udp")


def tcp_to_ss_server(folder: Path, server: Address) -> AbstractContextManager[Address]:
    return to_ss_server(folder, server, "tcp")


def plain_udp(folder: Path, server: Address) -> AbstractContextManager[Address]:
    return ours(folder, {"url": "udp://127.0.0.1:0", "target": by_name(server)})


def plain_tcp(folder: Path, server: Address) -> AbstractContextManager[Address]:
    return ours(folder, {"url": "tcp://127.0.0.1:0", "target": by_name(server)})


@contextmanager
def by_associations_of_v2ray(folder: Path, server: Address) -> Iterator[Address]:
    with ours(folder, {"url": "socks5://127.0.0.1:0"}) as socks:
        way = tunnel_in(("localhost", server[1])), socks_out(socks)
        with v2ray(folder, [way]) as (door,):
            yield door


@pytest.mark.parametrize(
    ("way", "options"),
    [
        pytest.param(ss_tunnel_to_ours, [], id="ss-tunnel -u to geproxy"),
        pytest.param(udp_to_ss_server, [], id="udp:// to ss-server -u"),
        pytest.param(plain_udp, [], id="udp://"),
        pytest.param(by_associations_of_v2ray, [], id="v2ray to socks5://"),
        pytest.param(ss_tunnel_to_ours, ["+tcp"], id="ss-tunnel to geproxy, TCP"),
        pytest.param(tcp_to_ss_server, ["+tcp"], id="tcp:// to ss-server, TCP"),
        pytest.param(plain_tcp, ["+tcp"], id="tcp://, TCP"),
    ],
)
def test_dig_is_answered(server: Address, tmp_path: Path, way: Way, options: list[str]) -> None:
    with way(tmp_path, server) as door:
        assert dig(door, *options, "host.example", "A") == [IPV4]
        assert dig(door, *options, "host.example", "AAAA") == [IPV6]
        told = " ".join(f'"{text}"' for text in TEXTS)
        assert dig(door, *options, "long.example", "TXT") == [told]
