"""The real programs that live tests talk to: found, or named with the package that has them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.proxy import Address, wait_until

PACKAGES = {
    "curl": "curl",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
    "ss-local": "shadowsocks-libev",
    "ss-server": "shadowsocks-libev",
    "unshare": "util-linux",
}
SEARCHED = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
PORT_TRIES = 10


def find(program: str) -> str:
    """Return the path of *program*; where it is missing, skip, or fail when CI=true."""
    path = shutil.which(program, path=SEARCHED)
    if path is None:
        missing(f"{program} is missing: it is in the Debian package {PACKAGES[program]}")
    return path


def missing(reason: str) -> NoReturn:
    """Skip the test for something that this machine lacks; with CI=true fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Nginx:
    """A running nginx with a folder of its own, HTTP and HTTPS."""

    def __init__(self, folder: Path, http: int, https: int) -> None:
        self.files = folder / "files"
        self.uploads = folder / "uploads"
        self.certificate = folder / "certificate.pem"
        self.ports = {"http": http, "https": https}

    def url(self, scheme: str, path: str) -> str:
        """The URL of *path*, by a name that the proxy may have to resolve."""
        return f"{scheme}://localhost:{self.ports[scheme]}/{path}"


@contextmanager
def nginx(folder: Path) -> Iterator[Nginx]:
    """Run nginx in the foreground on two free ports of loopback, until it is done with."""
    program = find("nginx")
    for made in ("files", "uploads", "temporary"):
        (folder / made).mkdir()
    _make_certificate(folder)
    for _ in range(PORT_TRIES):
        site = Nginx(folder, *_free_ports(2))
        (folder / "nginx.conf").write_text(_configuration(folder, site))
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "error.log"],
            stderr=subprocess.DEVNULL,  # what it says stands in error.log as well
        )
        try:
            if _serves(process, site.ports.values()):
                yield site
                return
        finally:
            process.terminate()
            process.wait(10)
    raise AssertionError((folder / "error.log").read_text())


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        [find("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        + ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")],
        check=True,
        capture_output=True,
        timeout=60,
    )


def _configuration(folder: Path, site: Nginx) -> str:
    temporary = "\n".join(
        f"{name}_temp_path {folder}/temporary/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 0;
    default_type application/octet-stream;
    {temporary}
    server {{
        listen 127.0.0.1:{site.ports["http"]};
        listen 127.0.0.1:{site.ports["https"]} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        location / {{ root {folder}/files; }}
        location /uploads/ {{ root {folder}; dav_methods PUT; }}
    }}
}}
"""


def curl(site: Nginx, proxy: Address, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run curl by way of a SOCKS5 proxy that resolves names; proxies of the environment stay out.

    *arguments* end with a URL of *site*.
    """
    host, port = proxy
    return subprocess.run(
        [find("curl"), "--silent", "--show-error", "--fail", "--noproxy", "", "--max-time", "50"]
        + ["--cacert", str(site.certificate), "--proxy", f"socks5h://{host}:{port}", *arguments],
        capture_output=True,
        timeout=60,
    )


@contextmanager
def ss_server(folder: Path, method: str, password: str) -> Iterator[Address]:
    """Run shadowsocks-libev's server on a free port of loopback; gives its address."""
    program = find("ss-server")
    with _libev(program, folder, "server", method, password, {}) as address:
        yield address


@contextmanager
def ss_local(
    folder: Path, method: str, password: str, server: Address, *, key: str = ""
) -> Iterator[Address]:
    """Run shadowsocks-libev's client for *server* on a free port of loopback."""
    program = find("ss-local")
    where = {"server": server[0], "server_port": server[1]} | ({"key": key} if key else {})
    with _libev(program, folder, "local", method, password, where) as address:
        yield address


@contextmanager
def _libev(
    program: str, folder: Path, side: str, method: str, password: str, more: dict[str, object]
) -> Iterator[Address]:
    host_key = "server" if side == "server" else "local_address"
    path = folder / f"ss-{side}-{method}.json"
    for _ in range(PORT_TRIES):
        (port,) = _free_ports(1)
        values = {host_key: "127.0.0.1", f"{side}_port": port, "timeout": 60, **more}
        path.write_text(json.dumps({**values, "method": method, "password": password}))
        path.chmod(0o600)
        with open(path.with_suffix(".log"), "wb") as log:
            process = subprocess.Popen([program, "-c", str(path)], stdout=log, stderr=log)
        try:
            if _serves(process, [port]):
                yield "127.0.0.1", port
                return
        finally:
            process.terminate()
            process.wait(10)
    raise AssertionError(path.with_suffix(".log").read_text())


def _serves(process: subprocess.Popen[bytes], ports: Iterable[int]) -> bool:
    """Wait until all *ports* accept, or it has ended: another program took one of them first."""
    wanted = list(ports)

    def settled() -> bool:
        return process.poll() is not None or all(map(_accepts, wanted))

    wait_until(settled)
    return process.poll() is None


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
