"""FTP in active mode: the server calls back, through BIND, clients that know nothing of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.support.ftp import PORT, FtpServer, ftp_server, run_socksified
from tests.support.hosts import PROXY, PUBLIC, OtherHost, two_hosts
from tests.support.peers import find
from tests.support.proxy import Proxy, configuration, running, wait_until
from tests.support.targets import pattern, pattern_digest
from tests.support.urgent import send_with_urgent

pytestmark = pytest.mark.slow

BIG_BYTES = 5_000_000
NAMES = ("command", "address", "code")


@dataclass(frozen=True)
class World:
    """An FTP server, a proxy, and the host of the proxy, where the client is too."""

    host: OtherHost
    proxy: Proxy
    server: FtpServer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ftp")
    config = configuration({"lan": {"url": f"mixed://{PROXY}:0", "open": True}})
    with (
        two_hosts() as (here, there),
        ftp_server(folder, there, PUBLIC) as server,
        running(folder, config, prefix=here.enter) as proxy,
    ):
        (server.files / "big").write_bytes(b"".join(pattern(BIG_BYTES)))
        yield World(here, proxy, server)


def check_callbacks(world: World, since: int, count: int) -> None:
    """Prove that *count* connections came back from the server, and none went there for data."""

    def ended() -> list[str]:
        lines = world.proxy.events("session.end", since)
        return [" ".join(line.fields[name] for name in NAMES) for line in lines]

    wait_until(lambda: len(ended()) >= count + 1)
    callbacks = [f"bind {PUBLIC}:20 ok"] * count
    assert sorted(ended()) == [*callbacks, f"connect {PUBLIC}:21 ok"]


def test_tnftp_lists_fetches_and_stores(world: World, tmp_path: Path) -> None:
    stored = os.urandom(BIG_BYTES)
    (tmp_path / "mine").write_bytes(stored)
    lines = ["user anonymous x", "binary", "ls files", "get files/big got"]
    lines += ["put mine uploads/mine", "quit"]
    since = world.proxy.mark()
    done = run_socksified(
        tmp_path,
        world.host,
        world.proxy.address,
        [find("tnftp"), "-A", "-n", "-v", PUBLIC],
        "\n".join(lines) + "\n",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f" {BIG_BYTES} " in done.stdout, "the listing"
    assert digest(tmp_path / "got") == pattern_digest(BIG_BYTES), done.stdout + done.stderr
    assert (world.server.uploads / "mine").read_bytes() == stored
    check_callbacks(world, since, 3)


def test_curl_fetches(world: World, tmp_path: Path) -> None:
    since = world.proxy.mark()
    done = run_socksified(
        tmp_path,
        world.host,
        world.proxy.address,
        [find("curl"), "-sS", "--noproxy", "*", "--ftp-port", "-", f"ftp://{PUBLIC}/files/big"]
        + ["-o", "got"],
    )
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "got") == pattern_digest(BIG_BYTES)
    check_callbacks(world, since, 1)


def test_a_server_that_is_told_by_an_urgent_byte_to_abort_hears_all_of_it(world: World) -> None:
    """RFC 959 §4.1.3: IP, then Synch, whose DM is urgent, then ABOR (RFC 854)."""
    with world.host.dial(PROXY, world.proxy.address) as tunnel:
        tunnel.log_in()
        tunnel.ask(ip_address(PUBLIC), PORT)
        tunnel.send(b"USER anonymous\r\n")
        send_with_urgent(tunnel.socket, b"\xff\xf4\xff\xf2ABOR\r\nQUIT\r\n", [3])
        replies = [line[:3] for line in tunnel.receive_all().splitlines()]
    assert replies == [b"220", b"230", b"225", b"221"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
