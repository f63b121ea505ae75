"""A real FTP server on a host of its own, and what makes a real FTP client go by a SOCKS proxy."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.hosts import OtherHost
from tests.support.peers import find
from tests.support.proxy import Address, wait_until

PORT = 21  # nothing else is on that host


class FtpServer:
    """A running vsftpd: active mode alone, from port 20, for anonymous users."""

    def __init__(self, host: str, root: Path) -> None:
        self.host = host
        self.files = root / "files"  # what they may fetch
        self.uploads = root / "uploads"  # where they may store


@contextmanager
def ftp_server(folder: Path, host: OtherHost, address: str) -> Iterator[FtpServer]:
    """Run vsftpd at *address* of *host*, until it is done with."""
    server = FtpServer(address, folder / "ftp")
    for made in (server.files, server.uploads):
        made.mkdir(parents=True)
    server.uploads.parent.chmod(0o555)  # vsftpd wants the users' root closed to them
    path = folder / "vsftpd.conf"
    path.write_text(_configuration(server.uploads.parent, address))
    path.chmod(0o600)
    process = subprocess.Popen(
        [*host.enter, find("vsftpd"), str(path)], stdin=subprocess.DEVNULL, text=True
    )
    try:
        wait_until(lambda: process.poll() is not None or _greets(host, address))
        assert process.poll() is None, "vsftpd does not start"
        yield server
    finally:
        process.terminate()
        process.wait(10)


def _configuration(root: Path, address: str) -> str:
    values = {
        "listen": "YES",
        "background": "NO",
        "listen_address": address,
        "listen_port": PORT,
        "anonymous_enable": "YES",
        "no_anon_password": "YES",
        "anon_root": root,
        "write_enable": "YES",
        "anon_upload_enable": "YES",
        "pasv_enable": "NO",
        "port_enable": "YES",
        "connect_from_port_20": "YES",
        "run_as_launching_user": "YES",
        "one_process_model": "YES",
        "seccomp_sandbox": "NO",  # it knows not every kernel's calls
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _greets(host: OtherHost, address: str) -> bool:
    try:
        with host.connect(address, (address, PORT)) as sock:
            greeting: bytes = sock.recv(3)
            return greeting == b"220"
    except ConnectionRefusedError:
        return False


def run_socksified(
    folder: Path, host: OtherHost, proxy: Address, command: Sequence[str], given: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run *command* on *host* with all of its TCP, listening included, by way of *proxy*."""
    path = folder / "socks.conf"
    path.write_text(
        "logoutput: stderr\nresolveprotocol: fake\n"
        f"route {{\nfrom: 0.0.0.0/0 to: 0.0.0.0/0 via: {proxy[0]} port = {proxy[1]}\n"
        "proxyprotocol: socks_v5\ncommand: bind connect\nprotocol: tcp\n}\n"
    )
    environment: Mapping[str, str] = {
        **os.environ,
        "SOCKS_CONF": str(path),
        "HOME": str(folder),
    }
    return subprocess.run(
        [*host.enter, find("socksify"), *command],
        cwd=folder,
        env=environment,
        input=given,
        capture_output=True,
        text=True,
        timeout=50,
    )
