"""A way out that only DNS leads back to its listener ends within a few turns."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.hosts import with_files
from tests.support.proxy import Proxy, Values, configuration, running, ss_url, wait_until
from tests.support.socks import TIMEOUT_SECONDS
from tests.support.targets import refused_port

pytestmark = pytest.mark.slow

METHOD = "chacha20-ietf-poly1305"
HOST = "127.0.0.1"
NAME = "only-here.example"  # RFC 6761 §6.5: no name server knows it
HOSTS = {"/etc/hosts": f"127.0.0.1 localhost\n{HOST} {NAME}\n"}
WORKERS = 2
MANY = 200  # the chance that as many turns all change the worker is 2^-200
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
        assert len(ends(proxy)) < MANY


def test_a_tunnel_that_comes_back_to_its_own_worker_is_refused(tmp_path: Path) -> None:
    port = refused_port()
    config = loop(port, b={"url": f"tcp://{HOST}:{port}", "target": TARGET})
    with running(tmp_path, config, prefix=with_files(tmp_path, HOSTS)) as proxy:
        with socket.create_connection((HOST, port), TIMEOUT_SECONDS) as client:
            client.sendall(b"round and round")
            proxy.wait_for("session.end", listen="b", code="denied")
        wait_until(lambda: ends(proxy).count("denied") == 1)
        assert len(ends(proxy)) < MANY
