"""What a local geproxy sends to its far end, and what it tells its clients of it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.support.proxy import (
    SEALED_PASSWORD,
    Proxy,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.shadowsocks_twin import METHODS, READ_BYTES, Key, Sealed, address, opened
from tests.support.socks import Host, Tunnel, connect, greeting, reply_to, request
from tests.support.targets import black_hole, refused_port, target

pytestmark = pytest.mark.slow

WORDS = b"the first words of a client"
ANSWER = b"the answer of the far end"
MOMENT_SECONDS = 1.0  # 20 times what the first bytes are waited for: this machine may be loaded
THOUGHT_SECONDS = 0.02
TRIES = 5  # to find one client fast enough to speak within those 50 ms
DATA_SEGMENTS_IN = 152  # offset of tcpi_data_segs_in in struct tcp_info, linux/tcp.h


@dataclass(frozen=True)
class First:
    """What came with the first read of one connection."""

    data: bytes
    segments: int
    when: float  # monotonic


class FarEnd:
    """A far end for one cipher: it notes the first read of each connection, then answers."""

    def __init__(self, method: str) -> None:
        self.key = Key.from_password(method, SEALED_PASSWORD)
        self.firsts: list[First] = []

    def serve(self, sock: socket.socket) -> None:
        data = sock.recv(READ_BYTES)
        when = time.monotonic()
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (segments,) = struct.unpack_from("I", info, DATA_SEGMENTS_IN)
        self.firsts.append(First(data, segments, when))
        Sealed(sock, self.key).send(ANSWER)
        while sock.recv(READ_BYTES):
            pass

    def first(self) -> First:
        """The next connection's first read."""
        wait_until(lambda: self.firsts)
        return self.firsts.pop(0)


@pytest.fixture(scope="module")
def far_ends() -> dict[str, FarEnd]:
    return {method: FarEnd(method) for method in METHODS}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, far_ends: dict[str, FarEnd]) -> Iterator[Proxy]:
    """A listener that goes out by each far end, and one for everybody that goes by the first."""
    with ExitStack() as stack:
        vias, listen = {}, {}
        for method, far_end in far_ends.items():
            there = stack.enter_context(target(far_end.serve))
            vias[f"via.{method}"] = {"url": ss_url(method, (str(there.host), there.port))}
            listen[method] = {"url": "socks5://127.0.0.1:0", "via": method}
        listen["all"] = {"url": "socks5://0.0.0.0:0", "via": METHODS[0], "open": True}
        folder = tmp_path_factory.mktemp("proxy")
        yield stack.enter_context(running(folder, configuration(listen, **vias)))


def at(proxy: Proxy, listen: str) -> tuple[str, int]:
    return "127.0.0.1", proxy.addresses(listen)[0][1]


TARGETS: list[Host] = [
    "only-the-far-end-knows.invalid",
    "n." * 126 + "n",
    IPv4Address("192.0.2.1"),
    IPv6Address("2001:db8::1"),
]


@pytest.mark.parametrize("host", TARGETS, ids=lambda host: repr(host)[:40])
@pytest.mark.parametrize("method", METHODS)
def test_salt_target_and_first_bytes_arrive_in_one_segment(
    proxy: Proxy, far_ends: dict[str, FarEnd], method: str, host: Host
) -> None:
    far_end = far_ends[method]
    with Tunnel.dial(at(proxy, method)) as tunnel:
        tunnel.send(greeting(0) + request(host, 443) + WORDS)  # so they are here in time
        assert tunnel.receive(2) == b"\x05\x00"
        tunnel.read_reply()
        first = far_end.first()
        assert opened(far_end.key, first.data) == address(host, 443) + WORDS
        assert first.segments == 1


def test_a_client_that_waits_for_its_reply_has_its_first_bytes_travel_along(
    proxy: Proxy, far_ends: dict[str, FarEnd]
) -> None:
    method = METHODS[0]
    far_end = far_ends[method]

    def travels_along() -> bool:
        with connect(at(proxy, method), "name.invalid", 443) as tunnel:
            time.sleep(THOUGHT_SECONDS)  # the pace of a client that is no program on this host
            tunnel.send(WORDS)
            assert tunnel.receive(len(ANSWER)) == ANSWER
            first = far_end.first()
        plain = opened(far_end.key, first.data)
        assert plain[: len(HEAD)] == HEAD
        return plain[len(HEAD) :] == WORDS and first.segments == 1

    assert any(travels_along() for _ in range(TRIES))


HEAD = address("name.invalid", 443)


def test_a_client_that_says_nothing_is_heard_from_all_the_same(
    proxy: Proxy, far_ends: dict[str, FarEnd]
) -> None:
    method = METHODS[0]
    far_end = far_ends[method]
    with connect(at(proxy, method), "name.invalid", 443) as tunnel:
        granted = time.monotonic()
        assert tunnel.receive(len(ANSWER)) == ANSWER
        first = far_end.first()
        assert opened(far_end.key, first.data) == HEAD
        assert first.segments == 1
        assert first.when - granted < MOMENT_SECONDS


def test_a_client_that_ends_without_a_word_is_passed_on_with_its_target(
    proxy: Proxy, far_ends: dict[str, FarEnd]
) -> None:
    method = METHODS[0]
    far_end = far_ends[method]
    since = proxy.mark()
    with connect(at(proxy, method), "name.invalid", 443) as tunnel:
        tunnel.finish()
        assert tunnel.receive_all() == ANSWER
    assert opened(far_end.key, far_end.first().data) == HEAD
    ended = proxy.wait_for("session.end", since=since, target="name.invalid:443")
    assert (ended.fields["code"], ended.fields["via"]) == ("ok", method)
    assert (ended.fields["up"], ended.fields["down"]) == ("0", str(len(ANSWER)))


LITERALS: list[Host] = [
    IPv4Address("127.0.0.1"),
    "127.0.0.1",
    "127.1",
    "0x7f000001",
    "2130706433",
    "::1",
    "::ffff:10.0.0.1",
    IPv6Address("64:ff9b::a00:1"),
]


@pytest.mark.parametrize("host", LITERALS, ids=repr)
def test_a_literal_that_is_private_does_not_leave_this_host(
    proxy: Proxy, far_ends: dict[str, FarEnd], host: Host
) -> None:
    """Clients from elsewhere are held to public targets; a name is judged where it is resolved."""
    since = proxy.mark()
    assert reply_to(at(proxy, "all"), host, 443) == 2
    proxy.wait_for("session.end", since=since, listen="all", code="denied")
    assert reply_to(at(proxy, "all"), "localhost", 443) == 0
    far_end = far_ends[METHODS[0]]
    assert opened(far_end.key, far_end.first().data) == address("localhost", 443)
    assert far_end.firsts == []


def test_rep_tells_what_became_of_the_way_to_the_peer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with black_hole() as (hole, hole_port):
        peers = {
            "refused": ("127.0.0.1", refused_port(), 5),
            "resolve": ("name.invalid", 8388, 4),
            "timeout": (str(hole), hole_port, 6),
        }
        listen = {code: {"url": "socks5://127.0.0.1:0", "via": code} for code in peers}
        vias = {
            f"via.{code}": {"url": ss_url(METHODS[0], (host, port))}
            for code, (host, port, _) in peers.items()
        }
        config = configuration(listen, limits={"connect_seconds": 1}, **vias)
        with running(tmp_path_factory.mktemp("proxy"), config) as local:
            for code, (_, _, rep) in peers.items():
                for host in ("example.net", IPv4Address("192.0.2.1")):
                    assert reply_to(at(local, code), host, 443) == rep
                ended = local.wait_for("session.end", listen=code, code=code)
                assert ended.fields["via"] == code
            assert SEALED_PASSWORD not in local.log


def test_an_answer_under_another_key_ends_in_a_reset(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    stranger = Key.from_password(METHODS[0], "another password")
    going = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.recv(READ_BYTES)
        Sealed(sock, stranger).send(ANSWER)
        going.wait(20)

    with target(serve) as there:
        via = {"url": ss_url(METHODS[0], (str(there.host), there.port))}
        listen = {"socks": {"url": "socks5://127.0.0.1:0", "via": "stranger"}}
        config = configuration(listen, **{"via.stranger": via})
        with (
            running(tmp_path_factory.mktemp("proxy"), config) as local,
            connect(local.address, "name.invalid", 443) as tunnel,
        ):
            with pytest.raises(ConnectionResetError):
                tunnel.receive(1)
            local.wait_for("session.end", code="auth")
            going.set()
