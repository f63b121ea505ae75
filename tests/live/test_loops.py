"""A way out that only DNS leads back to its listener ends within a few turns."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from tests.support.hosts import with_files
from tests.support.proxy import Proxy, Values, configuration, running, ss_url, wait_until
from tests.support.socks import TIMEOUT_SECONDS
from tests.support.targets import echo, refused_port, target

pytestmark = pytest.mark.slow

METHOD = "chacha20-ietf-poly1305"
HOST = "127.0.0.1"
NAME = "only-here.example"  # RFC 6761 §6.5: no name server knows it
HOSTS = {"/etc/hosts": f"127.0.0.1 localhost\n{HOST} {NAME}\n"}
WORKERS = 2
FEW = 6  # sessions of a loop: it ends where it comes to its listener again, in any worker
IP_LOCAL_PORT_RANGE = 51  # linux/in.h, since Linux 6.3
TARGET = "192.0.2.7:80"


def loop(port: int, **first: Values) -> str:
    """Write a configuration whose way out "loop" is its own listener "b", by name."""
    listen: dict[str, Values] = {**first}
    listen.setdefault("b", {"url": ss_url(METHOD, (HOST, port))})
    listen = {name: {"via": "loop", **values} for name, values in listen.items()}
    way: Values = {"url": ss_url(METHOD, (NAME, port))}
    return configuration(listen, workers=WORKERS, **{"via.loop": way})


def ends(proxy: Proxy) -> list[str]:
    return [line.fields["code"] for line in proxy.events("session.end")]


def test_a_connection_that_comes_back_to_its_own_worker_is_refused(tmp_path: Path) -> None:
    first: Values = {"url": f"tcp://{HOST}:0", "target": TARGET}
    config = loop(refused_port(), a=first)
    with running(tmp_path, config, prefix=with_files(tmp_path, HOSTS)) as proxy:
        with socket.create_connection(proxy.addresses("a")[0], TIMEOUT_SECONDS) as client:
            client.sendall(b"round and round")
            proxy.wait_for("session.end", listen="b", code="denied")
            client.shutdown(socket.SHUT_WR)
        proxy.wait_for("session.end", listen="a")
        assert len(ends(proxy)) < FEW


def test_a_tunnel_that_comes_back_to_its_own_worker_is_refused(tmp_path: Path) -> None:
    port = refused_port()
    config = loop(port, b={"url": f"tcp://{HOST}:{port}", "target": TARGET})
    with running(tmp_path, config, prefix=with_files(tmp_path, HOSTS)) as proxy:
        with socket.create_connection((HOST, port), TIMEOUT_SECONDS) as client:
            client.sendall(b"round and round")
            proxy.wait_for("session.end", listen="b", code="denied")
        wait_until(lambda: ends(proxy).count("denied") == 1)
        assert len(ends(proxy)) < FEW


def test_a_client_that_has_the_port_of_a_way_out_is_served(tmp_path: Path) -> None:
    """The kernel gives one port to several connections whose far ends differ."""
    with target(echo) as there:
        tunnel: Values = {"url": f"tcp://{HOST}:0", "target": f"{HOST}:{there.port}"}
        with running(tmp_path, configuration({"a": tunnel}, workers=1)) as proxy:
            address = proxy.addresses("a")[0]
            with (
                socket.create_connection(address, TIMEOUT_SECONDS) as first,
                socket.socket() as second,
            ):
                check_echo(first)
                port = there.seen[-1][1]
                second.settimeout(TIMEOUT_SECONDS)
                second.setsockopt(
                    socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=HH", port, port)
                )
                second.connect(address)
                assert second.getsockname()[1] == port
                check_echo(second)


def check_echo(client: socket.socket) -> None:
    client.sendall(b"words")
    assert client.recv(5, socket.MSG_WAITALL) == b"words"
