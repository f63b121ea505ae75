"""What clients are told where there is NAT before us: to each family its own address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from tests.support import socks4
from tests.support.hosts import with_files
from tests.support.proxy import Address, Proxy, configuration, running
from tests.support.socks import BIND, UDP_ASSOCIATE, Tunnel

pytestmark = pytest.mark.slow

V4, V6 = "127.0.0.1", "::1"
PUBLIC_4, PUBLIC_6 = "203.0.113.7", "2001:db8::7"  # RFC 5737, RFC 3849: nobody's
NAMED_4, NAMED_6 = "203.0.113.9", "2001:db8::9"
UNKNOWN = "unknown.example"
FILES = {
    "/etc/hosts": f"{NAMED_4} proxy.example\n{NAMED_6} proxy.example\n{NAMED_4} four.example\n",
    "/etc/resolv.conf": "nameserver 127.0.0.1\n",  # where none is
    "/etc/nsswitch.conf": "hosts: files dns\n",
}
LISTENERS: dict[str, object] = {
    "four": PUBLIC_4,
    "six": PUBLIC_6,
    "both": [PUBLIC_6, PUBLIC_4],
    "name": "proxy.example",
    "half": "four.example",
    "mixture": ["proxy.example", PUBLIC_4],
    "unknown": UNKNOWN,
}
TOLD = [
    pytest.param("four", PUBLIC_4, V6, id="IPv4 alone"),
    pytest.param("six", V4, PUBLIC_6, id="IPv6 alone"),
    pytest.param("both", PUBLIC_4, PUBLIC_6, id="one of each"),
    pytest.param("name", NAMED_4, NAMED_6, id="a name with both"),
    pytest.param("half", NAMED_4, V6, id="a name with IPv4"),
    pytest.param("mixture", PUBLIC_4, NAMED_6, id="an address and a name"),
    pytest.param("unknown", V4, V6, id="a name that is nobody's"),
]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    listen: dict[str, dict[str, object]] = {
        name: {"url": "mixed://[::]:0", "open": True, "udp_address": announced}
        for name, announced in LISTENERS.items()
    }
    rule = '[[rule]]\nto = ["127.0.0.0/8", "::1"]\naction = "direct"\n'
    folder = tmp_path_factory.mktemp("proxy")
    prefix = with_files(tmp_path_factory.mktemp("files"), FILES)
    with running(folder, configuration(listen) + rule, prefix=prefix) as served:
        yield served


@contextmanager
def asked(proxy: Proxy, listen: str, host: str, cmd: int, peer: str) -> Iterator[Address]:
    """Ask a dual listener over the family of *host*; gives BND of the first reply."""
    with Tunnel.dial((host, proxy.addresses(listen)[0][1])) as tunnel:
        tunnel.log_in()
        tunnel.ask(ip_address(peer), 0, cmd)
        yield tunnel.bound


@pytest.mark.parametrize("cmd", [UDP_ASSOCIATE, BIND], ids=["UDP ASSOCIATE", "BIND"])
@pytest.mark.parametrize(("listen", "over_4", "over_6"), TOLD)
def test_each_family_is_told_its_own(
    proxy: Proxy, listen: str, over_4: str, over_6: str, cmd: int
) -> None:
    for host, told in ((V4, over_4), (V6, over_6)):
        with asked(proxy, listen, host, cmd, host) as (address, port):
            assert (address, port != 0) == (told, True)


def test_bind_is_told_the_family_that_its_peer_comes_by(proxy: Proxy) -> None:
    with asked(proxy, "both", V6, BIND, V4) as (address, _):
        assert address == PUBLIC_4


@pytest.mark.parametrize(
    ("listen", "host", "told"),
    [
        pytest.param("both", V4, PUBLIC_4, id="IPv4"),
        pytest.param("both", V6, PUBLIC_4, id="over IPv6, for an IPv4 peer"),
        pytest.param("six", V4, V4, id="IPv6 alone is announced"),
    ],
)
def test_socks4_is_told_ipv4(proxy: Proxy, listen: str, host: str, told: str) -> None:
    with Tunnel.dial((host, proxy.addresses(listen)[0][1])) as tunnel:
        tunnel.send(socks4.request(IPv4Address("127.0.0.2"), 21, socks4.BIND))
        code, (address, port) = socks4.read_reply(tunnel)
        assert (code, address, port != 0) == (socks4.GRANTED, told, True)


def test_a_name_that_cannot_be_resolved_is_told_of_once(tmp_path: Path) -> None:
    listen = {"unknown": {"url": "socks5://127.0.0.1:0", "udp_address": UNKNOWN}}
    prefix = with_files(tmp_path, FILES)
    with running(tmp_path, configuration(listen, 1), prefix=prefix) as proxy:
        for _ in range(10):
            with asked(proxy, "unknown", V4, UDP_ASSOCIATE, "0.0.0.0") as (address, _):
                assert address == V4
        lines = [line for line in proxy.lines if line.event == "announce.fail"]
        assert [(one.level, one.fields["name"]) for one in lines] == [("warning", UNKNOWN)]
        assert lines[0].fields["reason"].startswith(f"{UNKNOWN}: ")
