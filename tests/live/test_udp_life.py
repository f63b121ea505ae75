"""How long an association lives, what it is given, and what is told of it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from tests.support.counters import PIDFILE, counters
from tests.support.proxy import (
    ROOT,
    Address,
    Proxy,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.socks import UDP_ASSOCIATE, RefusedError, Tunnel, reply_to
from tests.support.udp_client import (
    Association,
    datagram_target,
    silent,
    sockname,
    udp_socket,
)

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
ANYBODY = IPv4Address(0)
SOON_SECONDS = 1.0  # this is the promise
TRIES = 3  # of which one has to keep it: the machine may be loaded
IDLE_SECONDS = 1
ANNOUNCED = "203.0.113.7"  # RFC 5737: nobody's
# A client in a process of its own: it says where its association is, and stays
CLIENT = """
import sys
from tests.support.udp_client import Association
with Association.open((sys.argv[1], int(sys.argv[2]))) as client:
    print(*client.relay, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    listen: dict[str, dict[str, object]] = {
        "socks": {"url": f"socks5://{HOST}:0"},
        "anywhere": {"url": "socks5://0.0.0.0:0", "open": True},
        "without": {"url": f"socks5://{HOST}:0", "udp": False},
        "nated": {"url": f"socks5://{HOST}:0", "udp_address": ANNOUNCED},
        "none": {"url": f"socks5://{HOST}:0"},
        "address": {"url": f"socks5://{HOST}:0", "udp_filtering": "address-dependent"},
        "port": {"url": f"socks5://{HOST}:0", "udp_filtering": "address-and-port-dependent"},
        "tunnel": {"url": f"udp://{HOST}:0", "target": f"{HOST}:9"},
        "sealed": {"url": ss_url("aes-128-gcm", (HOST, 0))},
        "denying": {"url": f"socks5://{HOST}:0", "via": "deny"},
    }
    folder = tmp_path_factory.mktemp("proxy")
    config = configuration(listen, server=PIDFILE)
    with running(folder, config) as served:
        yield served


def at(proxy: Proxy, listen: str = "socks") -> Address:
    return HOST, proxy.addresses(listen)[0][1]


def ended(proxy: Proxy, association: Association) -> dict[str, str]:
    """The fields of the line that tells of an association's end."""
    return dict(association.end(proxy).fields)


def is_free(address: Address) -> bool:
    """Tell whether somebody could have the port of an association now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(address)
        except OSError:
            return False
        return True


# -- its end --------------------------------------------------------------------------------------


def end_with_fin(control: Tunnel) -> None:
    control.finish()


def end_with_a_reset(control: Tunnel) -> None:
    control.reset()


@pytest.mark.parametrize("end", [end_with_fin, end_with_a_reset], ids=["FIN", "RST"])
def test_its_port_is_free_a_second_after_the_control_connection_ended(
    proxy: Proxy, end: Callable[[Tunnel], None]
) -> None:
    def seconds_until_free() -> float:
        with datagram_target() as there, Association.open(at(proxy)) as client:
            client.send(there.host, there.port, b"it works")
            client.receive()
            assert not is_free(client.relay)
            began = time.monotonic()
            end(client.control)
            wait_until(lambda: is_free(client.relay))
            return time.monotonic() - began

    assert min(seconds_until_free() for _ in range(TRIES)) < SOON_SECONDS


def test_its_port_is_free_a_second_after_its_client_was_killed(proxy: Proxy) -> None:
    def seconds_until_free() -> float:
        host, port = at(proxy)
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, host, str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            try:
                assert client.stdout is not None
                relay_host, relay_port = client.stdout.readline().split()
                relay = relay_host, int(relay_port)
                assert not is_free(relay)
                began = time.monotonic()
            finally:
                client.send_signal(signal.SIGKILL)
            wait_until(lambda: is_free(relay))
            return time.monotonic() - began

    assert min(seconds_until_free() for _ in range(TRIES)) < SOON_SECONDS


def test_silence_ends_it_and_traffic_of_either_direction_keeps_it(tmp_path: Path) -> None:
    """Its control connection is silent all the time, and is not idle while it lives."""
    limits = {"udp_idle_seconds": IDLE_SECONDS, "idle_seconds": IDLE_SECONDS}
    with (
        running(tmp_path, configuration(limits=limits)) as proxy,
        datagram_target(silent) as there,
        datagram_target(silent) as speaker,
        Association.open(at(proxy)) as mute,
        Association.open(at(proxy)) as talker,
        Association.open(at(proxy)) as listener,
    ):
        listener.send(speaker.host, speaker.port, b"once")
        wait_until(lambda: speaker.seen)
        ((ours, _),) = speaker.seen
        until = time.monotonic() + 3 * IDLE_SECONDS
        while time.monotonic() < until:
            talker.send(there.host, there.port, b"up")
            speaker.socket.sendto(b"down", ours)
            assert listener.receive()[1] == b"down"
            time.sleep(IDLE_SECONDS / 5)  # the pace of both
        assert ended(proxy, mute)["code"] == "idle"
        assert is_up(talker)
        assert is_up(listener)
        for client in (talker, listener):
            fields = ended(proxy, client)
            assert fields["code"] == "idle"
            assert float(fields["seconds"]) >= 3 * IDLE_SECONDS
            wait_until(lambda one=client: not is_up(one))


def is_up(client: Association) -> bool:
    """Tell whether the control connection stands."""
    client.control.socket.setblocking(False)
    try:
        return client.control.socket.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


# -- what it is given -----------------------------------------------------------------------------


def test_the_relay_is_where_the_client_reached_us(proxy: Proxy) -> None:
    for host in (HOST, "127.0.0.9"):
        with Association.open((host, at(proxy, "anywhere")[1])) as client:
            assert client.relay[0] == host


def test_udp_address_is_announced_in_the_place_of_our_own(proxy: Proxy) -> None:
    with datagram_target() as there, Association.open(at(proxy, "nated")) as client:
        assert client.relay[0] == ANNOUNCED
        client.relay = HOST, client.relay[1]  # what the NAT before us would do
        client.send(there.host, there.port, b"hello")
        assert client.receive()[1] == b"hello"


def test_udp_ports_is_where_ports_come_from_until_all_are_taken(tmp_path: Path) -> None:
    first, last = neighbouring_ports(3)
    listen = {"socks": {"url": f"socks5://{HOST}:0", "udp_ports": f"{first}-{last}"}}
    with running(tmp_path, configuration(listen)) as proxy:
        clients = [Association.open(at(proxy)) for _ in range(3)]
        assert {client.relay[1] for client in clients} == set(range(first, last + 1))
        with pytest.raises(RefusedError) as refused:
            Association.open(at(proxy))
        assert refused.value.rep == 1
        clients[0].close()
        wait_until(lambda: is_free(clients[0].relay))
        with Association.open(at(proxy)) as again:
            assert again.relay == clients[0].relay
        for client in clients:
            client.close()


def neighbouring_ports(count: int) -> tuple[int, int]:
    """Find so many UDP ports in a row that are free: the first and the last."""
    while True:
        with udp_socket() as sock:
            first = sockname(sock)[1]
        if first + count <= 65536 and all(is_free((HOST, first + n)) for n in range(count)):
            return first, first + count - 1


@pytest.mark.parametrize("listen", ["without", "denying"])
def test_where_there_is_no_udp_it_is_rep_2(proxy: Proxy, listen: str) -> None:
    since = proxy.mark()
    assert reply_to(at(proxy, listen), ANYBODY, 0, UDP_ASSOCIATE) == 2
    proxy.wait_for("session.end", since=since, listen=listen, command="udp", code="denied")


# -- where it reaches, and who reaches it ---------------------------------------------------------


def test_clients_of_a_listener_for_all_reach_nothing_private(proxy: Proxy) -> None:
    before = counters(proxy)["dropped"]
    with (
        datagram_target() as there,
        datagram_target(host="::1") as there_6,
        Association.open(at(proxy, "anywhere")) as client,
    ):
        for host in (HOST, "10.0.0.1", "169.254.169.254", "192.168.1.1", "fd00::1", "64:ff9b::1"):
            client.send(ip_address(host), there.port, b"private")
        client.send(there_6.host, there_6.port, b"private")
        for name in ("127.0.0.1", "0x7f000001", "localhost"):
            client.send(name, there.port, b"private")
        client.socket.sendto(b"", client.relay)  # what comes behind the others, and is counted
        client.send(there_6.host, 0, b"port 0")
        wait_until(lambda: counters(proxy)["dropped"] - before >= 12)
        client.close()
        assert ended(proxy, client)["dropped"] == "denied:11,protocol:1"
        assert there.seen + there_6.seen == []


def test_no_datagram_reaches_a_port_of_the_proxy(proxy: Proxy) -> None:
    with Association.open(at(proxy)) as client:
        for listen in ("tunnel", "sealed"):
            client.send(IPv4Address(HOST), at(proxy, listen)[1], b"own")
        # Where we listen on TCP alone, the port is anybody's on UDP.
        client.send(IPv4Address(HOST), at(proxy, "socks")[1], b"somebody's")
        with datagram_target() as there:
            client.send(there.host, there.port, b"hello")
            assert client.receive()[1] == b"hello"
        client.close()
        assert ended(proxy, client)["dropped"] == "denied:2"


FILTERS = [
    pytest.param("none", {b"target", b"its other port", b"another host"}, id="none"),
    pytest.param("address", {b"target", b"its other port"}, id="by address"),
    pytest.param("port", {b"target"}, id="by address and port"),
]


@pytest.mark.parametrize(("listen", "heard"), FILTERS)
def test_udp_filtering_says_whose_datagrams_come_in(
    proxy: Proxy, listen: str, heard: set[bytes]
) -> None:
    with (
        datagram_target(silent) as there,
        udp_socket() as other_port,
        udp_socket("127.0.0.2") as other_host,
        Association.open(at(proxy, listen)) as client,
    ):
        client.send(there.host, there.port, b"hello")
        wait_until(lambda: there.seen)
        ((ours, _),) = there.seen
        senders = {
            b"another host": other_host,
            b"its other port": other_port,
            b"target": there.socket,
        }
        for data, sock in senders.items():
            sock.sendto(data, ours)
        for data in senders:  # in this order; the target's, which all let in, is the last
            if data in heard:
                assert client.receive() == (sockname(senders[data]), data)
        client.close()
        refused = len(senders) - len(heard)
        dropped = f"filtered:{refused}" if refused else "-"
        assert ended(proxy, client)["dropped"] == dropped


# -- what is told ---------------------------------------------------------------------------------


def test_status_and_the_log_count_datagrams_and_bytes_of_each_way(proxy: Proxy) -> None:
    names = ("associations", "up_datagrams", "down_datagrams", "up_bytes", "down_bytes", "dropped")

    def totals() -> dict[str, int]:
        found = counters(proxy)
        return {name: found[name] for name in names}

    def twice(data: bytes) -> bytes:
        return data * 2

    def grown() -> dict[str, int]:
        now = totals()
        return {name: now[name] - before[name] for name in names}

    wait_until(lambda: totals()["associations"] == 0)
    before = totals()
    with datagram_target(twice) as there, Association.open(at(proxy)) as client:
        for _ in range(10):
            client.send(there.host, there.port, b"12345")
            assert client.receive()[1] == b"1234512345"
        client.send(there.host, 0, b"nowhere")
        moved = {"up_datagrams": 10, "down_datagrams": 10, "up_bytes": 50, "down_bytes": 100}
        wait_until(lambda: grown() == {"associations": 1, **moved, "dropped": 1})
        client.close()
        fields = ended(proxy, client)
    expected = {
        "listen": "socks",
        "command": "udp",
        "target": "0.0.0.0:0",
        "address": f"{HOST}:{client.relay[1]}",
        "via": "direct",
        "up": "50",
        "down": "100",
        "up_datagrams": "10",
        "down_datagrams": "10",
        "dropped": "denied:1",
        "code": "ok",
    }
    assert {name: fields[name] for name in expected} == expected
    wait_until(lambda: grown() == {"associations": 0, **moved, "dropped": 1})
