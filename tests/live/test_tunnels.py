"""tcp:// and udp:// listeners: one port here for one port elsewhere."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.counters import PIDFILE, counters
from tests.support.hosts import with_files
from tests.support.proxy import (
    Address,
    Proxy,
    Values,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.shadowsocks_twin import KEY_BYTES, TAG_BYTES
from tests.support.socks import TIMEOUT_SECONDS, Tunnel, reply_to
from tests.support.targets import Target, check_exchange, echo, exchange, refused_port, target
from tests.support.udp_client import (
    BUFFER_BYTES,
    MAX_PAYLOAD_BYTES,
    DatagramTarget,
    datagram_target,
    head,
    is_quiet,
    silent,
    sockname,
    udp_socket,
)

pytestmark = pytest.mark.slow

METHOD = "chacha20-ietf-poly1305"
HOST = "127.0.0.1"
FAR_NAME = "only-there.example"  # RFC 6761 §6.5: no name server knows it
FAR_HOSTS = {"/etc/hosts": f"127.0.0.1 localhost\n{HOST} {FAR_NAME}\n"}
WAYS = ["direct", "sealed"]
EXCHANGED_BYTES = 3_000_000
CLIENTS = 20
BANNER = b"SSH-2.0-example\r\n"


@dataclass(frozen=True)
class World:
    """The targets, a proxy with a tunnel of each kind and way to them, and the far end."""

    proxy: Proxy
    remote: Proxy
    stream: Target
    datagrams: DatagramTarget
    mute: DatagramTarget

    def at(self, listen: str) -> Address:
        return self.proxy.addresses(listen)[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        stream = stack.enter_context(target(exchange))
        speaker = stack.enter_context(target(lambda sock: sock.sendall(BANNER)))
        datagrams = stack.enter_context(datagram_target())
        mute = stack.enter_context(datagram_target(silent))
        folder = tmp_path_factory.mktemp("remote")
        # Where the name leads only this end knows: so it is the one that must tell answers apart.
        filtering = {"udp_filtering": "address-and-port-dependent"}
        config = configuration({"sealed": {"url": ss_url(METHOD, (HOST, 0)), **filtering}})
        prefix = with_files(folder, FAR_HOSTS)
        remote = stack.enter_context(running(folder, config, prefix=prefix))
        ports = {
            "tcp": stream.port,
            "speaker": speaker.port,
            "udp": datagrams.port,
            "mute": mute.port,
            "refused": refused_port(),
        }
        listen: dict[str, Values] = {"socks": {"url": f"socks5://{HOST}:0"}}
        for name, port in ports.items():
            url = f"{'udp' if name in ('udp', 'mute') else 'tcp'}://{HOST}:0"
            there = {"target": f"{FAR_NAME}:{port}", "via": "remote"}
            listen[f"{name}-direct"] = {"url": url, "target": f"{HOST}:{port}"}
            listen[f"{name}-sealed"] = {"url": url, **there}
        via = {"url": ss_url(METHOD, remote.address)}
        config = configuration(listen, limits={"udp_idle_seconds": 60}, **{"via.remote": via})
        proxy = stack.enter_context(running(tmp_path_factory.mktemp("local"), config))
        yield World(proxy, remote, stream, datagrams, mute)


def test_the_name_of_the_far_end_is_unknown_here(world: World) -> None:
    assert reply_to(world.at("socks"), FAR_NAME, world.stream.port) == 4


# -- tcp:// ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_tcp_tunnel_carries_bytes_both_ways(world: World, way: str) -> None:
    since = world.proxy.mark()
    with socket.create_connection(world.at(f"tcp-{way}"), TIMEOUT_SECONDS) as client:
        check_exchange(client, EXCHANGED_BYTES, EXCHANGED_BYTES)
        client.shutdown(socket.SHUT_WR)
    fields = world.proxy.wait_for("session.end", since=since, listen=f"tcp-{way}").fields
    host = HOST if way == "direct" else FAR_NAME
    assert fields["target"] == f"{host}:{world.stream.port}"
    assert fields["via"] == ("direct" if way == "direct" else "remote")
    assert (fields["command"], fields["code"]) == ("connect", "ok")


@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_speaks_first_does_not_wait_for_the_client(world: World, way: str) -> None:
    with Tunnel.dial(world.at(f"speaker-{way}")) as client:
        assert client.receive_all() == BANNER


def test_a_target_that_refuses_is_a_reset(world: World) -> None:
    since = world.proxy.mark()
    with pytest.raises(ConnectionResetError), Tunnel.dial(world.at("refused-direct")) as client:
        client.receive(1)  # unless connect() itself has met the reset
    world.proxy.wait_for("session.end", since=since, listen="refused-direct", code="refused")


def test_a_target_that_refuses_the_far_end_gives_no_byte(world: World) -> None:
    since = world.remote.mark()
    with Tunnel.dial(world.at("refused-sealed")) as client:
        try:
            assert client.receive_all() == b""
        except ConnectionResetError:
            pass
    world.remote.wait_for("session.end", since=since, code="refused")


def test_a_peer_that_is_not_there_is_a_reset(tmp_path: Path) -> None:
    via = {"url": ss_url(METHOD, (HOST, refused_port()))}
    listen = {"tunnel": {"url": f"tcp://{HOST}:0", "target": "example.net:443", "via": "gone"}}
    with (
        running(tmp_path, configuration(listen, **{"via.gone": via})) as proxy,
        pytest.raises(ConnectionResetError),
        Tunnel.dial(proxy.address) as client,
    ):
        client.receive(1)


def test_the_target_of_a_tunnel_may_be_private_for_clients_from_anywhere(tmp_path: Path) -> None:
    """It is the operator who has named it."""
    with target(echo) as there, datagram_target() as datagrams:
        listen = {
            "tcp": {"url": "tcp://0.0.0.0:0", "target": f"{HOST}:{there.port}"},
            "udp": {"url": "udp://0.0.0.0:0", "target": f"{HOST}:{datagrams.port}"},
        }
        with running(tmp_path, configuration(listen)) as proxy:
            with Tunnel.dial((HOST, proxy.addresses("tcp")[0][1])) as client:
                client.send(b"x")
                assert client.receive(1) == b"x"
            with udp_socket() as sock:
                sock.sendto(b"y", (HOST, proxy.addresses("udp")[0][1]))
                assert sock.recv(BUFFER_BYTES) == b"y"


# -- udp:// ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_udp_tunnel_gives_back_datagrams_of_every_size(world: World, way: str) -> None:
    around = 0
    if way == "sealed":
        answer = len(head(world.datagrams.host, world.datagrams.port))
        around = KEY_BYTES[METHOD] + TAG_BYTES + max(answer, len(head(FAR_NAME, 0)))
    with udp_socket() as client:
        for size in (0, 1, 512, 1200, 8191, 8192, 8193, 16384, MAX_PAYLOAD_BYTES - around):
            data = os.urandom(size)
            client.sendto(data, world.at(f"udp-{way}"))
            assert client.recvfrom(BUFFER_BYTES) == (data, world.at(f"udp-{way}"))


@pytest.mark.parametrize("way", WAYS)
def test_clients_of_a_udp_tunnel_never_get_each_others_answers(world: World, way: str) -> None:
    clients = [udp_socket(f"127.0.0.{1 + number % 3}") for number in range(CLIENTS)]
    try:
        world.datagrams.seen.clear()
        for turn in range(10):
            for number, client in enumerate(clients):
                client.sendto(b"%d of %d" % (turn, number), world.at(f"udp-{way}"))
        for number, client in enumerate(clients):
            answers = {client.recv(BUFFER_BYTES) for _ in range(10)}
            assert answers == {b"%d of %d" % (turn, number) for turn in range(10)}
            assert is_quiet(client, 0)
        ports: dict[bytes, set[Address]] = {}
        for source, data in world.datagrams.seen:
            ports.setdefault(data.split()[-1], set()).add(source)
        assert {len(sources) for sources in ports.values()} == {1}, "one mapping per client"
        assert len(set.union(*ports.values())) == CLIENTS
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_from_another_port_than_the_targets_is_no_answer(world: World, way: str) -> None:
    world.mute.seen.clear()
    with udp_socket() as client, udp_socket() as stranger, udp_socket("127.0.0.2") as other:
        client.sendto(b"hello", world.at(f"mute-{way}"))
        wait_until(lambda: world.mute.seen)
        ((ours, _),) = world.mute.seen
        for sock in (stranger, other, world.mute.socket):
            sock.sendto(b"from %d" % sockname(sock)[1], ours)
        data, source = client.recvfrom(BUFFER_BYTES)
        assert (data, source) == (b"from %d" % world.mute.port, world.at(f"mute-{way}"))
        assert is_quiet(client)


def test_a_quiet_mapping_ends_and_its_line_says_what_it_moved(tmp_path: Path) -> None:
    with datagram_target() as there:
        listen = {"tunnel": {"url": f"udp://{HOST}:0", "target": f"{HOST}:{there.port}"}}
        config = configuration(listen, limits={"udp_idle_seconds": 1})
        with running(tmp_path, config) as proxy, udp_socket() as client:
            client.sendto(b"12345", proxy.address)
            assert client.recv(BUFFER_BYTES) == b"12345"
            host, port = sockname(client)
            ended = proxy.wait_for("session.end", listen="tunnel", client=f"{host}:{port}")
            expected = {
                "user": "-",
                "command": "udp",
                "target": f"{HOST}:{there.port}",
                "via": "direct",
                "up": "5",
                "down": "5",
                "up_datagrams": "1",
                "down_datagrams": "1",
                "dropped": "-",
                "code": "ok",
            }
            assert {name: ended.fields[name] for name in expected} == expected
            client.sendto(b"again", proxy.address)
            assert client.recv(BUFFER_BYTES) == b"again"


def test_a_target_that_is_gone_does_not_end_a_mapping(tmp_path: Path) -> None:
    with udp_socket() as gone:
        port = sockname(gone)[1]
    listen = {"tunnel": {"url": f"udp://{HOST}:0", "target": f"{HOST}:{port}"}}
    config = configuration(listen, server=PIDFILE)
    with running(tmp_path, config) as proxy, udp_socket() as client:
        for _ in range(20):
            client.sendto(b"nobody is there", proxy.address)  # ICMP says so
        wait_until(lambda: counters(proxy)["up_datagrams"] == 20)
        with datagram_target(sock=udp_socket(HOST, port)):
            client.sendto(b"somebody is", proxy.address)
            assert client.recv(BUFFER_BYTES) == b"somebody is"
        assert not proxy.events("session.end")
