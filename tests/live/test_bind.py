"""BIND: a port that waits for one peer, and for nobody else."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from tests.support.hosts import PROXY, PUBLIC, STRANGER, two_hosts
from tests.support.proxy import (
    Address,
    Proxy,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.rules import with_rules
from tests.support.socks import BIND, TIMEOUT_SECONDS, Host, RefusedError, Tunnel, reply_to
from tests.support.targets import check_exchange, exchange

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
PEER = IPv4Address("127.0.0.2")
STRANGER_HERE = "127.0.0.3"
ANYBODY = IPv4Address(0)
STRANGERS = 1000
SOON_SECONDS = 1.0  # this is the promise
TRIES = 3  # of which one has to keep it: the machine may be loaded
EXCHANGED_BYTES = 3_000_000
ANNOUNCED = "203.0.113.7"  # RFC 5737: nobody's


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    via = {"url": ss_url("aes-128-gcm", (HOST, 9))}
    listen: dict[str, dict[str, object]] = {
        "socks": {"url": f"socks5://{HOST}:0"},
        "v6": {"url": "socks5://[::1]:0"},
        "anywhere": {"url": "socks5://0.0.0.0:0", "open": True},
        "nated": {"url": f"socks5://{HOST}:0", "udp_address": ANNOUNCED},
        "sealed": {"url": f"socks5://{HOST}:0", "via": "peer"},
        "anybody": {"url": f"socks5://{HOST}:0"},
        "denying": {"url": f"socks5://{HOST}:0", "via": "deny"},
    }
    lets_anybody = {
        "listen": ["anybody"],
        "command": ["bind"],
        "to": ["0.0.0.0", "::"],
        "action": "direct",
    }
    config = configuration(listen, limits={"bind_seconds": 60}, **{"via.peer": via})
    folder = tmp_path_factory.mktemp("proxy")
    with running(folder, with_rules(config, lets_anybody)) as served:
        yield served


def at(proxy: Proxy, listen: str = "socks") -> Address:
    host, port = proxy.addresses(listen)[0]
    return (HOST if host == "0.0.0.0" else host), port


@contextmanager
def bound(proxy: Address, host: Host = PEER, port: int = 21) -> Iterator[tuple[Tunnel, Address]]:
    """Ask for a BIND; gives the client and the port that now waits, of the first reply."""
    with Tunnel.dial(proxy) as tunnel:
        tunnel.log_in()
        tunnel.ask(host, port, BIND)
        yield tunnel, tunnel.bound


def connected(source: str, address: Address) -> socket.socket:
    """A connection from *source* to a port that waits."""
    return socket.create_connection(address, TIMEOUT_SECONDS, (source, 0))


def is_refused(address: Address, source: str = str(PEER)) -> bool:
    """Tell whether nobody listens there any more."""
    try:
        connected(source, address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # somebody did when it began, and nobody when it stood
        return False
    return False


def was_sent_away(stranger: socket.socket) -> bool:
    """Read to the end; True where no byte came."""
    try:
        return stranger.recv(1) == b""
    except ConnectionResetError:
        return True


PEERS = [
    pytest.param("socks", str(PEER), PEER, HOST, id="an IPv4 address"),
    pytest.param("socks", HOST, "localhost", HOST, id="a name"),
    pytest.param("v6", "::1", IPv6Address("::1"), "::1", id="an IPv6 address"),
    pytest.param("v6", str(PEER), PEER, HOST, id="IPv4 for a client on IPv6"),
    pytest.param("socks", str(PEER), IPv6Address(f"::ffff:{PEER}"), HOST, id="a mapped address"),
]


@pytest.mark.parametrize(("listen", "source", "expected", "ours"), PEERS)
def test_two_replies_say_where_to_come_and_who_has_come(
    proxy: Proxy, listen: str, source: str, expected: Host, ours: str
) -> None:
    since = proxy.mark()
    with bound(at(proxy, listen), expected) as (client, address):
        assert address[0] == ours
        assert address[1] != 0
        with connected(source, address) as peer:
            client.read_reply()
            assert client.bound == peer.getsockname()[:2]
            client.send(b"up")
            assert peer.recv(2) == b"up"
            peer.sendall(b"down")
            peer.shutdown(socket.SHUT_WR)
            assert client.receive_all() == b"down"
            client.finish()
            assert peer.recv(1) == b""
    ended = proxy.wait_for("session.end", since=since, listen=listen, command="bind", code="ok")
    assert (ended.fields["up"], ended.fields["down"]) == ("2", "4")
    assert ended.fields["address"].endswith(f":{client.bound[1]}")


def test_1000_strangers_do_not_join_and_the_peer_then_does(proxy: Proxy) -> None:
    with bound(at(proxy)) as (client, address):
        for number in range(STRANGERS):
            with connected(STRANGER_HERE, address) as stranger:
                stranger.settimeout(TIMEOUT_SECONDS)
                assert was_sent_away(stranger), number
        with connected(str(PEER), address) as peer:
            client.read_reply()
            assert client.bound == peer.getsockname()
            peer.settimeout(TIMEOUT_SECONDS)
            with exchanging(peer):
                check_exchange(client.socket, EXCHANGED_BYTES, EXCHANGED_BYTES)


@contextmanager
def exchanging(peer: socket.socket) -> Iterator[None]:
    """Be an exchange() at the peer's end."""

    def run() -> None:
        exchange(peer)
        peer.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive()


def test_strangers_from_another_host_do_not_join_however_many_wait(tmp_path: Path) -> None:
    with two_hosts() as (here, there):
        config = configuration({"socks": {"url": f"socks5://{PROXY}:0", "open": True}})
        with (
            running(tmp_path, config, prefix=here.enter) as proxy,
            there.dial(STRANGER, proxy.address) as client,
        ):
            client.log_in()
            client.ask(IPv4Address(PUBLIC), 21, BIND)
            assert client.bound[0] == PROXY, "the address that the peer can reach"
            strangers = [there.connect(STRANGER, client.bound) for _ in range(300)]
            with there.connect(PUBLIC, client.bound) as peer:
                client.read_reply()
                assert client.bound == peer.getsockname()
                client.send(b"for the peer")
                assert peer.recv(100) == b"for the peer"
            for stranger in strangers:
                assert was_sent_away(stranger)
                stranger.close()


def test_the_port_is_closed_after_one_has_joined(proxy: Proxy) -> None:
    with bound(at(proxy)) as (client, address), connected(str(PEER), address):
        client.read_reply()
        wait_until(lambda: is_refused(address))


def close_with_fin(client: Tunnel) -> None:
    client.finish()


def close_with_a_reset(client: Tunnel) -> None:
    client.reset()


@pytest.mark.parametrize("close", [close_with_fin, close_with_a_reset], ids=["FIN", "RST"])
def test_the_port_is_closed_a_second_after_the_client_has_left(
    proxy: Proxy, close: Callable[[Tunnel], None]
) -> None:
    def seconds_until_closed() -> float:
        with bound(at(proxy)) as (client, address):
            began = time.monotonic()
            close(client)
            # A stranger: the peer would join, did it come in the last moment.
            wait_until(lambda: is_refused(address, STRANGER_HERE))
            return time.monotonic() - began

    assert min(seconds_until_closed() for _ in range(TRIES)) < SOON_SECONDS


def test_nobody_within_bind_seconds_is_rep_6(tmp_path: Path) -> None:
    with running(tmp_path, configuration(limits={"bind_seconds": 1})) as proxy:
        with bound(at(proxy)) as (client, address):
            with connected(STRANGER_HERE, address):
                with pytest.raises(RefusedError) as refused:
                    client.read_reply()
                assert refused.value.rep == 6
            assert client.receive_all() == b""
            assert is_refused(address)
        fields = proxy.wait_for("session.end", command="bind").fields
        assert fields["code"] == "timeout"
        assert float(fields["seconds"]) >= 1


# -- whom it may expect ---------------------------------------------------------------------------


ANYBODIES: list[Host] = [ANYBODY, IPv6Address("::"), "0.0.0.0", "0", IPv6Address("::ffff:0.0.0.0")]


@pytest.mark.parametrize("host", ANYBODIES, ids=repr)
def test_anybody_is_rep_2_unless_a_rule_allows_it(proxy: Proxy, host: Host) -> None:
    since = proxy.mark()
    assert reply_to(at(proxy), host, 0, BIND) == 2
    proxy.wait_for("session.end", since=since, command="bind", code="denied")
    with (
        bound(at(proxy, "anybody"), host, 0) as (client, address),
        connected(STRANGER_HERE, address) as peer,
    ):
        client.read_reply()
        assert client.bound == peer.getsockname()


@pytest.mark.parametrize("host", [IPv4Address("10.0.0.1"), "127.0.0.1", "0x7f000001"], ids=repr)
def test_a_peer_must_be_an_allowed_target(proxy: Proxy, host: Host) -> None:
    assert reply_to(at(proxy, "anywhere"), host, 21, BIND) == 2
    assert reply_to(at(proxy, "denying"), host, 21, BIND) == 2


def test_dst_port_0_and_25_are_no_matter(proxy: Proxy) -> None:
    for port in (0, 25):
        with bound(at(proxy), PEER, port) as (client, address), connected(str(PEER), address):
            client.read_reply()


def test_there_is_none_through_a_sealed_peer(proxy: Proxy) -> None:
    since = proxy.mark()
    assert reply_to(at(proxy, "sealed"), PEER, 21, BIND) == 7
    proxy.wait_for("session.end", since=since, listen="sealed", code="command")


# -- where it listens -----------------------------------------------------------------------------


def test_udp_address_is_announced_in_the_place_of_our_own(proxy: Proxy) -> None:
    with bound(at(proxy, "nated")) as (client, (host, port)):
        assert host == ANNOUNCED
        with connected(str(PEER), (HOST, port)) as peer:  # as through the NAT before us
            client.read_reply()
            assert client.bound == peer.getsockname()


def test_udp_ports_is_where_ports_come_from_until_all_are_taken(tmp_path: Path) -> None:
    first, last = neighbouring_ports()
    listen = {"socks": {"url": f"socks5://{HOST}:0", "udp_ports": f"{first}-{last}"}}
    with (
        running(tmp_path, configuration(listen)) as proxy,
        bound(at(proxy)) as (one, one_address),
        bound(at(proxy)) as (_, other_address),
    ):
        assert {one_address[1], other_address[1]} == {first, last}
        assert reply_to(at(proxy), PEER, 21, BIND) == 1
        with connected(str(PEER), one_address):
            one.read_reply()
        one.close()

        def served_again() -> bool:
            return reply_to(at(proxy), PEER, 21, BIND) == 0

        wait_until(served_again)


def neighbouring_ports() -> tuple[int, int]:
    """Find two TCP ports in a row that are free."""
    while True:
        with socket.create_server((HOST, 0)) as lower, socket.socket() as upper:
            port = int(lower.getsockname()[1])
            try:
                upper.bind((HOST, port + 1))
            except (OSError, OverflowError) as error:
                assert getattr(error, "errno", errno.EADDRINUSE) == errno.EADDRINUSE
                continue
            return port, port + 1
