"""curl through geproxy to nginx: the clients and targets that people have."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import Nginx, find, nginx
from tests.support.proxy import Proxy, command, configuration, running, started
from tests.support.targets import pattern, pattern_digest

pytestmark = pytest.mark.slow

BIG_BYTES = 64 << 20
USER, PASSWORD = "alice", "p@ss: wörd"
SCHEMES = [pytest.param("http", id="over HTTP"), pytest.param("https", id="over HTTPS")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("nginx")) as running_site:
        (running_site.files / "hello").write_text("hello")
        with open(running_site.files / "big", "wb") as file:
            file.writelines(pattern(BIG_BYTES))
        yield running_site


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One listener for everybody, one for users."""
    folder = tmp_path_factory.mktemp("proxy")
    assert command("passwd", "users", USER, folder=folder, given=PASSWORD).returncode == 0
    listen = {
        "free": {"url": "socks5://127.0.0.1:0"},
        "members": {"url": "socks5://127.0.0.1:0", "users": "users"},
    }
    with running(folder, configuration(listen)) as running_proxy:
        yield running_proxy


def curl(
    site: Nginx, proxy: str, *arguments: str, user: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run curl; the environment's own proxies stay out of it."""
    login = ["--proxy-user", user] if user is not None else []
    return subprocess.run(
        [find("curl"), "--silent", "--show-error", "--noproxy", "", "--max-time", "50"]
        + ["--cacert", str(site.certificate), "--proxy", proxy, *login, *arguments],
        capture_output=True,
        timeout=60,
    )


def at(proxy: Proxy, listen: str, scheme: str = "socks5h") -> str:
    host, port = proxy.addresses(listen)[0]
    return f"{scheme}://{host}:{port}"


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "socks",
    [
        pytest.param("socks5", id="curl resolves"),
        pytest.param("socks5h", id="geproxy resolves"),
    ],
)
def test_curl_fetches_a_page(proxy: Proxy, site: Nginx, socks: str, scheme: str) -> None:
    done = curl(site, at(proxy, "free", socks), site.url(scheme, "hello"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("socks", ["socks5", "socks5h"])
def test_curl_logs_in(proxy: Proxy, site: Nginx, socks: str, scheme: str) -> None:
    since = proxy.mark()
    login = f"{USER}:{PASSWORD}"
    done = curl(site, at(proxy, "members", socks), site.url(scheme, "hello"), user=login)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")
    ended = proxy.wait_for("session.end", since=since, listen="members", code="ok")
    assert ended.fields["user"] == USER
    assert PASSWORD not in proxy.log


@pytest.mark.parametrize(
    "user",
    [
        pytest.param(f"{USER}:wrong", id="with a wrong password"),
        pytest.param(f"bob:{PASSWORD}", id="as somebody unknown"),
        pytest.param(None, id="without a user"),
    ],
)
def test_curl_is_turned_away(proxy: Proxy, site: Nginx, user: str | None) -> None:
    done = curl(site, at(proxy, "members"), site.url("http", "hello"), user=user)
    assert done.returncode == 97, done.stderr  # CURLE_PROXY: the handshake with it failed
    assert done.stdout == b""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_download_of_64_mib_arrives_whole(
    proxy: Proxy, site: Nginx, tmp_path: Path, scheme: str
) -> None:
    got = tmp_path / "got"
    done = curl(site, at(proxy, "free"), site.url(scheme, "big"), "--fail", "--output", str(got))
    assert (done.returncode, done.stderr) == (0, b"")
    assert got.stat().st_size == BIG_BYTES
    assert sha256(got) == pattern_digest(BIG_BYTES)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_upload_of_64_mib_arrives_whole(proxy: Proxy, site: Nginx, scheme: str) -> None:
    url = site.url(scheme, f"uploads/{scheme}")
    sent = str(site.files / "big")
    done = curl(site, at(proxy, "free"), url, "--fail", "--upload-file", sent)
    assert (done.returncode, done.stderr) == (0, b"")
    got = site.uploads / scheme
    assert got.stat().st_size == BIG_BYTES
    assert sha256(got) == pattern_digest(BIG_BYTES)


def test_the_quick_start_serves_curl_and_ends_cleanly_at_ctrl_c(
    site: Nginx, tmp_path: Path
) -> None:
    with started(tmp_path, ["--listen", "socks5://127.0.0.1:0"]) as quick:
        done = curl(site, at(quick, "listen1"), site.url("http", "hello"))
        assert (done.returncode, done.stdout) == (0, b"hello")
        os.killpg(quick.pid, signal.SIGINT)  # a terminal sends it to the whole group
        assert quick.wait_for_exit() == 0
        assert quick.left() == []
