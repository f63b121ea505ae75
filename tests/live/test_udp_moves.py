"""Ways out for datagrams follow the world: the client notices nothing but a gap."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.hosts import CLIENT, PROXY, OtherHost, other_host, two_hosts, with_files
from tests.support.proxy import (
    PATIENCE_SECONDS,
    SEALED_PASSWORD,
    Proxy,
    configuration,
    running,
    ss_url,
)
from tests.support.shadowsocks_twin import Key, opened_datagram, sealed_datagram
from tests.support.udp_client import BUFFER_BYTES, datagram_target, udp_socket

pytestmark = pytest.mark.slow

METHOD = "chacha20-ietf-poly1305"
KEY = Key.from_password(METHOD, SEALED_PASSWORD)
NAME = "relay.example"
TARGET = "192.0.2.9:7"
SOON = {"udp_idle_seconds": 4}  # a sweep each second, which is when silence is noticed
STEADY_SECONDS = 0.05
OTHER_PROXY = "10.77.0.9"


def relay(peer: socket.socket, client: socket.socket, ask: Callable[[], object]) -> tuple[str, int]:
    """Have the client ask steadily until *peer* hears it and it hears the answer.

    Returns the address of ours that the peer has seen.
    """
    peer.settimeout(STEADY_SECONDS)
    client.settimeout(STEADY_SECONDS)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert time.monotonic() < give_up, "nothing arrived"
        ask()
        try:
            sealed, source = peer.recvfrom(BUFFER_BYTES)
            plain = opened_datagram(KEY, sealed)
            peer.sendto(sealed_datagram(KEY, plain), source)  # as if from where it was sent to
            assert plain.endswith(b"question")
            assert client.recv(BUFFER_BYTES) == b"question"
        except TimeoutError:
            continue
        return source


@contextmanager
def tunnel(folder: Path, via: str, prefix: list[str], host: str = "127.0.0.1") -> Iterator[Proxy]:
    listen = {"tunnel": {"url": f"udp://{host}:0", "target": TARGET, "via": "relay"}}
    config = configuration(
        listen,
        limits=SOON,
        resolver={"cache_seconds": 1},
        **{"via.relay": {"url": via}},
    )
    with running(folder, config, prefix=prefix) as proxy:
        yield proxy


def test_a_peer_that_moved_to_another_address_of_its_name_is_followed(tmp_path: Path) -> None:
    hosts = f"127.0.0.1 localhost\n%s {NAME}\n"
    prefix = with_files(tmp_path, {"/etc/hosts": hosts % "127.0.0.2"})
    with udp_socket("127.0.0.2") as peer, udp_socket() as client:
        port = peer.getsockname()[1]
        with tunnel(tmp_path, ss_url(METHOD, (NAME, port)), prefix) as proxy:
            client.connect(proxy.address)
            before = relay(peer, client, lambda: client.send(b"question"))
            assert relay(peer, client, lambda: client.send(b"question")) == before
            with udp_socket("127.0.0.3", port) as moved:
                (tmp_path / "file-0").write_text(hosts % "127.0.0.3")
                relay(moved, client, lambda: client.send(b"question"))
            assert proxy.events("session.end") == [], "to the client it is the same session"


def test_an_address_of_ours_that_was_replaced_ends_no_way(tmp_path: Path) -> None:
    with two_hosts() as (here, there), there.udp(CLIENT) as peer:
        via = ss_url(METHOD, (CLIENT, peer.getsockname()[1]))
        with tunnel(tmp_path, via, here.enter) as proxy, here.udp("127.0.0.1") as client:
            client.connect(proxy.address)
            assert relay(peer, client, lambda: client.send(b"question"))[0] == PROXY
            replace_address(here)
            assert relay(peer, client, lambda: client.send(b"question"))[0] == OTHER_PROXY
            assert proxy.events("session.end") == [], "to the client it is the same session"


def replace_address(host: OtherHost) -> None:
    """What a new lease of DHCP does."""
    host.configure(f"addr del {PROXY}/24 dev wire\naddr add {OTHER_PROXY}/24 dev wire\n")


def test_a_dns_tunnel_whose_questions_are_answered_gives_its_port_back_soon(
    tmp_path: Path,
) -> None:
    with other_host() as host:
        dns = datagram_target(sock=host.udp("127.0.0.1", 53))
        other = datagram_target(sock=host.udp("127.0.0.1", 5353))
        listen = {
            "dns": {"url": "udp://127.0.0.1:0", "target": "127.0.0.1:53"},
            "other": {"url": "udp://127.0.0.1:0", "target": "127.0.0.1:5353"},
        }
        with (
            dns,
            other,
            running(tmp_path, configuration(listen), prefix=host.enter) as proxy,
            host.udp("127.0.0.1") as client,
        ):
            for name in listen:
                client.sendto(b"question", proxy.addresses(name)[0])
                assert client.recv(BUFFER_BYTES) == b"question"
            proxy.wait_for("session.end", listen="dns", code="ok")
            assert [line.fields["listen"] for line in proxy.events("session.end")] == ["dns"]
