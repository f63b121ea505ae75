"""A sealed listener from one line on a terminal; its secret stays where it was given."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.test_reload import reload_wholly
from tests.support.proxy import (
    PROGRAM,
    SEALED_PASSWORD,
    Address,
    Proxy,
    command,
    configuration,
    running,
    ss_url,
    started,
)
from tests.support.shadowsocks_twin import Key, Sealed
from tests.support.socks import connect
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

METHOD = "chacha20-ietf-poly1305"
PASSWORD = f"your-password{os.urandom(4).hex()}"  # nobody else who runs now has it
URL = f"ss://AEAD_CHACHA20_POLY1305:{PASSWORD}@127.0.0.1:0"


def command_lines() -> Iterator[bytes]:
    """What ps shows, of every process there is."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                yield Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                pass  # it ended while we looked


def check_nobody_sees(secret: str, proxy: Proxy) -> None:
    assert not any(secret.encode() in line for line in command_lines())
    assert secret not in proxy.log


def test_the_password_is_overwritten_before_anything_slow_is_loaded(tmp_path: Path) -> None:
    """Time cannot be compared here; what is loaded by then can."""
    with subprocess.Popen(
        [str(PROGRAM), "--listen", URL], cwd=tmp_path, stderr=subprocess.DEVNULL
    ) as process:
        proc = Path(f"/proc/{process.pid}")
        try:
            loaded = {"gevent": False, "cryptography": False}
            # Between two programs (exec) there are no arguments for a moment.
            while not (proc / "cmdline").read_bytes().startswith(b"geproxy"):
                maps = (proc / "maps").read_text()
                # Asked between two looks at the arguments: both were so at one moment.
                if PASSWORD.encode() in (proc / "cmdline").read_bytes():
                    loaded = {name: seen or name in maps for name, seen in loaded.items()}
            assert loaded == {"gevent": False, "cryptography": False}
        finally:
            process.terminate()


def check_serves(listener: Address, key: Key) -> None:
    with target(echo) as there, Sealed.dial(listener, key, there.host, there.port) as client:
        client.send(b"hello")
        assert client.receive(5) == b"hello"
        client.finish()
        assert client.receive_all() == b""


def test_the_quick_start_serves_and_shows_its_password_to_nobody(tmp_path: Path) -> None:
    with started(tmp_path, ["--listen", URL]) as proxy:
        check_nobody_sees(PASSWORD, proxy)
        key = Key.from_password(METHOD, PASSWORD)
        check_serves(proxy.address, key)
        proxy.wait_for("session.end", code="ok")
        reload_wholly(proxy)
        check_serves(proxy.address, key)
        os.kill(min(proxy.accepting()), signal.SIGKILL)
        proxy.wait_for("worker.lost")
        proxy.wait_for("worker.ready")
        check_nobody_sees(PASSWORD, proxy)


def test_two_hosts_in_two_command_lines(tmp_path: Path) -> None:
    with started(tmp_path, ["--listen", URL]) as remote:
        via = ss_url("AEAD_CHACHA20_POLY1305", remote.address, PASSWORD)
        arguments = ["--listen", "socks5://127.0.0.1:0", "--via", via]
        with started(tmp_path, arguments) as local:
            with target(echo) as there, connect(local.address, "localhost", there.port) as tunnel:
                tunnel.send(b"hello")
                assert tunnel.receive(5) == b"hello"
            ended = remote.wait_for("session.end", code="ok")
            assert ended.fields["target"] == f"localhost:{there.port}"
            check_nobody_sees(PASSWORD, local)
            check_nobody_sees(PASSWORD, remote)


def test_a_reload_changes_the_key_and_nothing_else(tmp_path: Path) -> None:
    """Who was let in stays; the old key opens nothing any more, the new one does."""
    old, new = Key.from_password(METHOD, SEALED_PASSWORD), Key.from_password(METHOD, PASSWORD)

    def config(password: str) -> str:
        sealed = {"url": ss_url(METHOD, ("127.0.0.1", 0), password)}
        return configuration({"sealed": sealed}, limits={"handshake_seconds": 1})

    with (
        running(tmp_path, config(SEALED_PASSWORD)) as proxy,
        target(echo) as there,
        Sealed.dial(proxy.address, old, there.host, there.port) as client,
    ):
        client.send(b"hello")
        assert client.receive(5) == b"hello"
        reload_wholly(proxy, config(PASSWORD))
        check_serves(proxy.address, new)
        with Sealed.dial(proxy.address, old, there.host, there.port) as late:
            assert late.receive_all() == b""
        proxy.wait_for("auth.fail")
        client.send(b"again")
        assert client.receive(5) == b"again"


def test_secrets_of_files_serve_as_well(tmp_path: Path) -> None:
    key_text = command("keygen", METHOD).stdout
    for name, text in {"password": PASSWORD + "\n", "key": key_text}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    url = f"ss://{METHOD}@127.0.0.1:0"
    listen = {
        "by_password": {"url": url, "password_file": "password"},
        "by_key": {"url": url, "key_file": "key"},
    }
    with running(tmp_path, configuration(listen)) as proxy:
        raw = Key.from_text(METHOD, key_text.strip())
        check_serves(proxy.addresses("by_password")[0], Key.from_password(METHOD, PASSWORD))
        check_serves(proxy.addresses("by_key")[0], raw)
        check_nobody_sees(key_text.strip(), proxy)
