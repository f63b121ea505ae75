"""The real programs that live tests talk to: found, or named with the package that has them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.proxy import Address, wait_until

PACKAGES = {
    "curl": "curl",
    "dig": "bind9-dnsutils",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
    "nginx": "nginx-light",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
    "socksify": "dante-client",
    "ss-local": "shadowsocks-libev",
    "ss-server": "shadowsocks-libev",
    "ss-tunnel": "shadowsocks-libev",
    "tnftp": "tnftp",
    "unshare": "util-linux",
    "v2ray": "v2ray",
    "vsftpd": "vsftpd",
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

    def command(ports: list[int]) -> list[str]:
        text = _configuration(folder, Nginx(folder, *ports))
        (folder / "nginx.conf").write_text(text)
        return [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "error.log"]

    with listening(command, folder / "nginx.log", 2) as ports:
        yield Nginx(folder, *ports)


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
def ss_server(
    folder: Path, method: str, password: str, *, host: str = "127.0.0.1"
) -> Iterator[Address]:
    """Run shadowsocks-libev's server on a free port of *host*, TCP and UDP; gives its address."""
    with _libev("ss-server", folder, method, password, host, {}) as address:
        yield address


@contextmanager
def ss_local(
    folder: Path, method: str, password: str, server: Address, *, key: str = ""
) -> Iterator[Address]:
    """Run shadowsocks-libev's client for *server* on a free port of loopback, TCP and UDP.

    IPv4 alone: reached over IPv6, it does not know how to name itself in its reply (BND.ADDR).
    """
    where = _server(server) | ({"key": key} if key else {})
    with _libev("ss-local", folder, method, password, "127.0.0.1", where) as address:
        yield address


@contextmanager
def ss_tunnel(
    folder: Path,
    method: str,
    password: str,
    server: Address,
    target: Address,
    *,
    host: str = "127.0.0.1",
) -> Iterator[Address]:
    """Run shadowsocks-libev's tunnel to *target* by way of *server*, TCP and UDP."""
    to = f"[{target[0]}]" if ":" in target[0] else target[0]
    where = _server(server) | {"tunnel_address": f"{to}:{target[1]}"}
    with _libev("ss-tunnel", folder, method, password, host, where) as address:
        yield address


def _server(address: Address) -> dict[str, object]:
    return {"server": address[0], "server_port": address[1]}


@contextmanager
def _libev(
    name: str, folder: Path, method: str, password: str, host: str, more: dict[str, object]
) -> Iterator[Address]:
    program = find(name)
    host_key, port_key = "local_address", "local_port"
    if name == "ss-server":
        host_key, port_key = "server", "server_port"
    path = folder / f"{name}-{method}.json"

    def command(ports: list[int]) -> list[str]:
        values = {host_key: host, port_key: ports[0], "timeout": 60, "mode": "tcp_and_udp", **more}
        path.write_text(json.dumps({**values, "method": method, "password": password}))
        path.chmod(0o600)
        return [program, "-c", str(path)]

    with listening(command, path.with_suffix(".log"), host=host, udp=True) as (port,):
        yield host, port


@contextmanager
def listening(
    command: Callable[[list[int]], list[str]],
    log: Path,
    count: int = 1,
    host: str = "127.0.0.1",
    *,
    udp: bool = False,
) -> Iterator[list[int]]:
    """Run what *command* makes of *count* free ports, in the foreground, until it is done with.

    From the first on it accepts on all of them; with *udp* it has UDP sockets there as well.
    """
    for _ in range(PORT_TRIES):
        ports = _free_ports(count)
        with open(log, "wb") as file:
            process = subprocess.Popen(command(ports), stdout=file, stderr=file)
        try:
            if _serves(process, ports, host, udp=udp):
                yield ports
                return
        finally:
            process.terminate()
            process.wait(10)
    raise AssertionError(log.read_text(errors="replace"))


def _serves(process: subprocess.Popen[bytes], ports: list[int], host: str, *, udp: bool) -> bool:
    """Wait until it listens, or has ended: another program took one of the ports first."""

    def settled() -> bool:
        if process.poll() is not None:
            return True
        there = all(_accepts(host, port) for port in ports)
        return there and (not udp or set(ports) <= _udp_ports(process.pid))

    wait_until(settled)
    return process.poll() is None


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True


def _udp_ports(pid: int) -> set[int]:
    """The ports of a process's UDP sockets; proc(5), /proc/net/udp."""
    try:
        files = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    except FileNotFoundError:
        return set()  # it ended, or closed one of them, while we looked
    tables = [Path(f"/proc/net/{name}") for name in ("udp", "udp6")]
    rows = [
        line.split()
        for table in tables
        if table.exists()  # no udp6 in a kernel without IPv6
        for line in table.read_text().splitlines()[1:]
    ]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in files}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
