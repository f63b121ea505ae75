"""Streams of every awkward size between geproxy and shadowsocks-libev, in both roles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.peers import ss_local, ss_server
from tests.support.proxy import (
    SEALED_PASSWORD,
    Address,
    command,
    configuration,
    running,
    ss_url,
    started,
)
from tests.support.shadowsocks_twin import METHODS
from tests.support.socks import connect
from tests.support.targets import Target, check_exchange, exchange, target

pytestmark = pytest.mark.slow

# Around what one segment, one chunk and one read of either side hold.
SIZES = [0, 1, 1439, 16383, 16384, 65535, 1 << 20, 64 << 20]
FRONT, BEHIND = "ss-local in front", "ss-server behind"


@pytest.fixture(scope="module")
def there() -> Iterator[Target]:
    with target(exchange) as running_target:
        yield running_target


@pytest.fixture(scope="module")
def socks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Address]]:
    """Where a SOCKS client gets in, by what of theirs is on the way, and the cipher."""
    folder = tmp_path_factory.mktemp("libev")
    with ExitStack() as stack:
        listen, vias = {}, {}
        for method in METHODS:
            server = stack.enter_context(ss_server(folder, method, SEALED_PASSWORD))
            vias[f"via.{method}"] = {"url": ss_url(method, server)}
            listen[f"to-{method}"] = {"url": "socks5://127.0.0.1:0", "via": method}
            listen[f"sealed-{method}"] = {"url": ss_url(method, ("127.0.0.1", 0))}
        proxy = stack.enter_context(running(folder, configuration(listen, **vias)))
        found = {}
        for method in METHODS:
            (ours,) = proxy.addresses(f"sealed-{method}")
            front = ss_local(folder, method, SEALED_PASSWORD, ours)
            found[FRONT, method] = stack.enter_context(front)
            (found[BEHIND, method],) = proxy.addresses(f"to-{method}")
        yield found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", [FRONT, BEHIND])
def test_streams_are_whole_both_ways(
    socks: dict[tuple[str, str], Address], there: Target, way: str, method: str, size: int
) -> None:
    with connect(socks[way, method], there.host, there.port) as tunnel:
        check_exchange(tunnel.socket, size, size)


@pytest.mark.parametrize("way", [FRONT, BEHIND])
def test_names_are_resolved_at_the_far_end(
    socks: dict[tuple[str, str], Address], there: Target, way: str
) -> None:
    with connect(socks[way, METHODS[0]], "localhost", there.port) as tunnel:
        check_exchange(tunnel.socket, 1000, 1000)


def test_the_quick_start_serves_their_client(there: Target, tmp_path: Path) -> None:
    url = "ss://AEAD_CHACHA20_POLY1305:your-password@127.0.0.1:0"
    method = "chacha20-ietf-poly1305"
    with (
        started(tmp_path, ["--listen", url]) as proxy,
        ss_local(tmp_path, method, "your-password", proxy.address) as front,
        connect(front, there.host, there.port) as tunnel,
    ):
        check_exchange(tunnel.socket, 100_000, 100_000)


@pytest.mark.parametrize("method", METHODS)
def test_a_key_of_our_making_is_one_of_theirs(there: Target, tmp_path: Path, method: str) -> None:
    """They take it in base64url as we print it."""
    key = command("keygen", method).stdout.strip()
    url = f"ss://{method}@127.0.0.1:0?key={key}"
    with (
        running(tmp_path, configuration({"sealed": {"url": url}})) as proxy,
        ss_local(tmp_path, method, "", proxy.address, key=key) as front,
        connect(front, there.host, there.port) as tunnel,
    ):
        check_exchange(tunnel.socket, 100_000, 100_000)
