"""Urgent bytes (MSG_OOB) through running proxies: every byte arrives, and no worker spins."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import cpu_seconds
from tests.support.proxy import (
    PATIENCE_SECONDS,
    Proxy,
    configuration,
    running,
    sealed_pair,
    ss_url,
)
from tests.support.socks import NO_AUTHENTICATION, Address, Tunnel, connect, greeting, request
from tests.support.targets import echo, echo_after_the_end, pattern, target
from tests.support.urgent import send_with_urgent

pytestmark = pytest.mark.slow

METHOD = "aes-128-gcm"
BULK_BYTES = 4 << 20
AFTER_BYTES = 1 << 20
LIMITS = {"idle_seconds": 3, "half_close_seconds": 3}
IDLE_CPU_SECONDS = 0.5  # of all workers while nothing moves, for 3 seconds: no spinning does so
PIECE_BYTES = 5000


@pytest.fixture(scope="module", params=["plain", "sealed"])
def proxies(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Proxy]]:
    """What a client is given, and what is behind it."""
    folder = tmp_path_factory.mktemp("proxy")
    if request.param == "sealed":
        with sealed_pair(folder, METHOD, limits=LIMITS) as pair:
            yield [*pair]
    else:
        listen = {"socks": {"url": "socks5://127.0.0.1:0"}}
        with running(folder, configuration(listen, limits=LIMITS)) as proxy:
            yield [proxy]


DATA = b"".join(pattern(BULK_BYTES + AFTER_BYTES))
PLACES = [
    pytest.param([BULK_BYTES], id="amid bulk"),
    pytest.param([BULK_BYTES, BULK_BYTES + 1], id="two in a row"),
    pytest.param(range(0, len(DATA), 100_000), id="again and again"),
    pytest.param([0], id="first"),
    pytest.param([len(DATA) - 1], id="last before the end"),
]


@contextmanager
def passing(
    proxy: Proxy, way: str, send: Callable[[socket.socket], None]
) -> Iterator[tuple[socket.socket, Address]]:
    """Have one side *send*: gives the socket of the other, and the client's address."""
    far: list[socket.socket] = []
    connected, done = threading.Event(), threading.Event()

    def serve(sock: socket.socket) -> None:
        far.append(sock)
        connected.set()
        if way == "down":
            send(sock)
        done.wait()

    with (
        target(serve) as there,
        connect(at(proxy), there.host, there.port) as tunnel,
    ):
        sending = threading.Thread(target=send, args=[tunnel.socket], daemon=True)
        try:
            assert connected.wait(PATIENCE_SECONDS)
            if way == "up":
                sending.start()
            yield far[0] if way == "up" else tunnel.socket, tunnel.address
            if way == "up":
                sending.join(PATIENCE_SECONDS)
                assert not sending.is_alive()
        finally:
            done.set()


def at(proxy: Proxy) -> Address:
    return proxy.addresses("socks")[0]


def receive(sock: socket.socket, count: int) -> bytes:
    """Read so many bytes, or fewer at the end."""
    parts = []
    while count and (part := sock.recv(min(count, 1 << 16))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("places", PLACES)
def test_every_byte_arrives_and_then_the_end(
    proxies: list[Proxy], way: str, places: list[int]
) -> None:
    proxy = proxies[0]
    since = proxy.mark()

    def send(sock: socket.socket) -> None:
        send_with_urgent(sock, DATA, places)
        sock.shutdown(socket.SHUT_WR)

    with passing(proxy, way, send) as (sock, (host, port)):
        received = receive(sock, len(DATA) + 1)
        assert (len(received), digest(received)) == (len(DATA), digest(DATA))
    ended = proxy.wait_for("session.end", since=since, client=f"{host}:{port}")
    moved = ended.fields["up" if way == "up" else "down"]
    assert (ended.fields["code"], moved) == ("ok", str(len(DATA)))


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("last", ["urgent", "not urgent"])
def test_no_worker_spins_while_nothing_comes_behind_an_urgent_byte(
    proxies: list[Proxy], way: str, last: str
) -> None:
    proxy = proxies[0]
    since = proxy.mark()
    data = DATA[: BULK_BYTES + (1 if last == "urgent" else PIECE_BYTES)]
    with passing(proxy, way, lambda sock: send_with_urgent(sock, data, [BULK_BYTES])) as (
        sock,
        (host, port),
    ):
        assert digest(receive(sock, len(data))) == digest(data)
        before = used_seconds(proxies)
        ended = proxy.wait_for("session.end", since=since, client=f"{host}:{port}")
        assert used_seconds(proxies) - before < IDLE_CPU_SECONDS
    assert ended.fields["code"] in ("idle", "reset")  # of two proxies, one is the first


def used_seconds(proxies: list[Proxy]) -> float:
    return sum(cpu_seconds(pid) for proxy in proxies for pid in proxy.workers())


@pytest.mark.parametrize("way", ["up", "down"])
def test_who_sends_nothing_but_urgent_bytes_holds_nobody_up(proxies: list[Proxy], way: str) -> None:
    count = 3000
    data = DATA[: BULK_BYTES + count]

    def send(sock: socket.socket) -> None:
        send_with_urgent(sock, data, range(BULK_BYTES, len(data)))
        sock.shutdown(socket.SHUT_WR)

    with (
        passing(proxies[0], way, send) as (sock, _),
        target(echo) as there,
        connect(at(proxies[0]), there.host, there.port) as other,
    ):
        other.send(b"hello")
        assert other.receive(5) == b"hello"
        assert digest(receive(sock, len(data) + 1)) == digest(data)


# -- on the way between two proxies ---------------------------------------------------------------


@contextmanager
def between(far: Address) -> Iterator[Address]:
    """Somebody who passes on what comes, both ways, and makes the last byte of a piece urgent."""

    def serve(sock: socket.socket) -> None:
        with socket.create_connection(far, PATIENCE_SECONDS) as onward:
            back = threading.Thread(target=_pass_on, args=[onward, sock], daemon=True)
            back.start()
            _pass_on(sock, onward)
            back.join(PATIENCE_SECONDS)

    with target(serve) as there:
        yield str(there.host), there.port


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    while piece := source.recv(PIECE_BYTES):
        send_with_urgent(sink, piece, [len(piece) - 1])
    sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("way", ["up", "down"])
def test_what_is_urgent_on_the_wire_between_two_proxies_is_opened_like_the_rest(
    tmp_path: Path, way: str
) -> None:
    for name in ("local", "remote"):
        (tmp_path / name).mkdir()
    sealed = {"sealed": {"url": ss_url(METHOD, ("127.0.0.1", 0))}}
    socks = {"socks": {"url": "socks5://127.0.0.1:0", "via": "remote"}}

    def send(sock: socket.socket) -> None:
        sock.sendall(DATA)
        sock.shutdown(socket.SHUT_WR)

    with (
        running(tmp_path / "remote", configuration(sealed)) as remote,
        between(remote.address) as peer,
    ):
        config = configuration(socks, **{"via.remote": {"url": ss_url(METHOD, peer)}})
        with (
            running(tmp_path / "local", config) as local,
            passing(local, way, send) as (sock, _),
        ):
            received = receive(sock, len(DATA) + 1)
            assert (len(received), digest(received)) == (len(DATA), digest(DATA))


# -- before bytes are moved -----------------------------------------------------------------------


def test_a_request_may_be_sent_as_urgent_bytes(proxies: list[Proxy]) -> None:
    with target(echo_after_the_end) as there, Tunnel.dial(at(proxies[0])) as client:
        flight = greeting(NO_AUTHENTICATION) + request(there.host, there.port) + b"hello"
        send_with_urgent(client.socket, flight, range(len(flight)))
        client.finish()
        assert client.receive(2) == b"\x05\x00"
        client.read_reply()
        assert client.receive_all() == b"hello"
