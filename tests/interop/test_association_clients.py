"""UDP ASSOCIATE as others do it: PySocks, Dante's library and v2ray, each in its own way."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.datagrams import by_tunnel, check_many, check_sizes
from tests.support.proxy import Proxy, configuration, running
from tests.support.socks_clients import pysocks, socksify
from tests.support.udp_client import DatagramTarget, datagram_target
from tests.support.v2ray import socks_out, tunnel_in, v2ray

pytestmark = pytest.mark.slow

USER, PASSWORD = "alice", "correct-horse"
LARGEST_BYTES = 65_507 - 10  # in one IPv4 packet with RFC 1928 §7's header for IPv4
SIZES = [1, 0, 512, 1200, 8191, 8192, 16384, LARGEST_BYTES]

# What to run under socksify: a program that knows nothing of any proxy.
PLAIN_CLIENT = """
import os, socket, sys
host, port, *sizes = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(20)
    for size in map(int, sizes):
        data = os.urandom(size)
        sock.sendto(data, (host, int(port)))
        answer, source = sock.recvfrom(1 << 16)
        assert answer == data, (len(answer), size)
        assert source == (host, int(port)), source
"""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    listen = {
        "free": {"url": "socks5://127.0.0.1:0"},
        "members": {"url": f"socks5://{USER}:{PASSWORD}@127.0.0.1:0"},
    }
    with running(tmp_path_factory.mktemp("proxy"), configuration(listen)) as served:
        yield served


@pytest.fixture(scope="module")
def there() -> Iterator[DatagramTarget]:
    # Not the client's own address: v2ray gives the target as DST.ADDR and DST.PORT, where RFC 1928
    # §7 wants to hear from where the client will send.
    with datagram_target(host="127.0.0.2") as running_target:
        yield running_target


def check_association(proxy: Proxy, since: int, datagrams: int, listen: str = "free") -> None:
    """All of it went by one association, both ways."""
    counted = {"up_datagrams": datagrams, "down_datagrams": datagrams, "dropped": "-"}
    proxy.wait_for("session.end", since=since, listen=listen, command="udp", code="ok", **counted)


@pytest.mark.parametrize("login", [None, (USER, PASSWORD)], ids=["anybody", "a user"])
def test_pysocks(proxy: Proxy, there: DatagramTarget, login: tuple[str, str] | None) -> None:
    since, socks = proxy.mark(), pysocks()
    listen = "members" if login else "free"
    (host, port), *_ = proxy.addresses(listen)
    user, password = login or (None, None)
    with socks.socksocket(socks.socket.AF_INET, socks.socket.SOCK_DGRAM) as sock:
        sock.set_proxy(socks.SOCKS5, host, port, username=user, password=password)
        sock.settimeout(20)
        for size in SIZES:
            data = random.randbytes(size)
            sock.sendto(data, (str(there.host), there.port))
            assert sock.recvfrom(1 << 16) == (data, (str(there.host), there.port))
    check_association(proxy, since, len(SIZES), listen)


def test_a_program_under_socksify(proxy: Proxy, there: DatagramTarget, tmp_path: Path) -> None:
    since = proxy.mark()
    client = [sys.executable, "-c", PLAIN_CLIENT, str(there.host), str(there.port)]
    done = socksify(tmp_path, proxy.address, [*client, *map(str, SIZES)])
    assert (done.returncode, done.stderr) == (0, ""), done
    check_association(proxy, since, len(SIZES))


def test_v2ray(proxy: Proxy, there: DatagramTarget, tmp_path: Path) -> None:
    since = proxy.mark()
    sizes, count = [1, 512, 1200, 1472, 1900], 1000
    way = tunnel_in((str(there.host), there.port)), socks_out(proxy.address)
    with v2ray(tmp_path, [way]) as (door,), by_tunnel(door) as client:
        check_sizes(client, sizes)
        check_many(client, count)
    check_association(proxy, since, len(sizes) + count)
