"""64 MiB from and to nginx by way of two geproxies, and of one and a shadowsocks-libev."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.peers import Nginx, curl, ss_local, ss_server
from tests.support.proxy import (
    SEALED_PASSWORD,
    Address,
    configuration,
    running,
    sealed_pair,
    ss_url,
)
from tests.support.shadowsocks_twin import METHODS
from tests.support.targets import pattern_digest

pytestmark = pytest.mark.slow

BIG_BYTES = 64 << 20
BOTH_OURS = "geproxy to geproxy"
THEIRS_IN_FRONT = "ss-local to geproxy"
THEIRS_BEHIND = "geproxy to ss-server"


@pytest.fixture(scope="module", params=METHODS)
def socks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Address]]:
    """Where a SOCKS client gets in, by what is behind that; all with one cipher."""
    method = request.param
    folder = tmp_path_factory.mktemp(method)
    with ExitStack() as stack:
        local, remote = stack.enter_context(sealed_pair(folder, method))
        front = ss_local(folder, method, SEALED_PASSWORD, remote.address)
        server = stack.enter_context(ss_server(folder, method, SEALED_PASSWORD))
        listen = {"socks": {"url": "socks5://127.0.0.1:0", "via": "theirs"}}
        config = configuration(listen, **{"via.theirs": {"url": ss_url(method, server)}})
        to_theirs = stack.enter_context(running(folder, config))
        yield {
            BOTH_OURS: local.address,
            THEIRS_IN_FRONT: stack.enter_context(front),
            THEIRS_BEHIND: to_theirs.address,
        }


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", [BOTH_OURS, THEIRS_IN_FRONT, THEIRS_BEHIND])
def test_64_mib_arrive_whole_down_and_up(
    socks: dict[str, Address], site: Nginx, tmp_path: Path, way: str, scheme: str
) -> None:
    got = tmp_path / "got"
    done = curl(site, socks[way], "--output", str(got), site.url(scheme, "big"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert got.stat().st_size == BIG_BYTES
    assert sha256(got) == pattern_digest(BIG_BYTES)

    put = site.uploads / tmp_path.name
    url = site.url(scheme, f"uploads/{put.name}")
    done = curl(site, socks[way], "--upload-file", str(site.files / "big"), url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert put.stat().st_size == BIG_BYTES
    assert sha256(put) == pattern_digest(BIG_BYTES)
    for path in (got, put):
        path.unlink()
