"""Bytes through a local and a remote geproxy: whole, in order, ended as they were ended."""

from __future__ import annotations

import hashlib
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.proxy import (
    SEALED_PASSWORD,
    Address,
    Proxy,
    configuration,
    running,
    sealed_in_one,
    sealed_pair,
    ss_url,
    wait_until,
)
from tests.support.shadowsocks_twin import METHODS, Key, Sealed
from tests.support.socks import Tunnel, connect
from tests.support.targets import (
    BLOCK_BYTES,
    echo,
    exchange,
    pattern,
    pattern_digest,
    read_all,
    reset,
    reset_after,
    silent,
    source,
    target,
)

pytestmark = pytest.mark.slow

METHOD = "aes-128-gcm"
BANNER = b"SSH-2.0-example\r\n"
SOON_SECONDS = 1.0  # this is the promise
TRIES = 3  # of which one has to keep it: the machine may be loaded
LATE_SECONDS = 6.0
WRITES = 20_000
LONGEST_WRITE_BYTES = 3000
HUGE_BYTES = 256 << 20
BIG_BYTES = 64 << 20
PIECE_BYTES = 1 << 20


@pytest.fixture(scope="module", params=["in two processes", "in one process"])
def local(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """What a client is given: the other half is behind it, or in it."""
    folder = tmp_path_factory.mktemp("sealed")
    if request.param == "in one process":
        with sealed_in_one(folder, METHOD) as proxy:
            yield proxy
    else:
        with sealed_pair(folder, METHOD) as (near, _):
            yield near


def at(proxy: Proxy) -> Address:
    return proxy.addresses("socks")[0]


def test_bytes_come_through_and_the_log_says_how(local: Proxy) -> None:
    since = local.mark()
    with target(echo) as there:
        with connect(at(local), "localhost", there.port) as tunnel:
            tunnel.send(b"hello")
            assert tunnel.receive(5) == b"hello"
            tunnel.finish()
            assert tunnel.receive_all() == b""
            host, port = tunnel.address
        ended = local.wait_for("session.end", since=since, client=f"{host}:{port}")
    assert (ended.fields["code"], ended.fields["via"]) == ("ok", "remote")
    assert (ended.fields["up"], ended.fields["down"]) == ("5", "5")
    assert ended.fields["target"] == f"localhost:{there.port}"


def test_a_server_that_speaks_first_is_heard_in_under_a_second(local: Proxy) -> None:
    def speak(sock: socket.socket) -> None:
        sock.sendall(BANNER)
        read_all(sock)

    def seconds_to_the_banner() -> float:
        started = time.monotonic()
        with connect(at(local), there.host, there.port) as tunnel:
            assert tunnel.receive(len(BANNER)) == BANNER
            return time.monotonic() - started

    with target(speak) as there:
        assert min(seconds_to_the_banner() for _ in range(TRIES)) < SOON_SECONDS


def test_the_answer_to_a_half_closed_upload_arrives_whole_6_seconds_later(local: Proxy) -> None:
    def answer_late(sock: socket.socket) -> None:
        digest = hashlib.sha256(read_all(sock)).digest()
        time.sleep(LATE_SECONDS)  # this is the promise
        sock.sendall(digest)
        for block in pattern(PIECE_BYTES):
            sock.sendall(block)

    with target(answer_late) as there, connect(at(local), there.host, there.port) as tunnel:
        for block in pattern(PIECE_BYTES):
            tunnel.send(block)
        tunnel.finish()
        assert tunnel.receive(32).hex() == pattern_digest(PIECE_BYTES)
        assert hashlib.sha256(tunnel.receive_all()).hexdigest() == pattern_digest(PIECE_BYTES)


def writes() -> Iterator[bytes]:
    """The same writes each time, none like another."""
    dice = random.Random(1)
    for _ in range(WRITES):
        yield dice.randbytes(dice.randint(1, LONGEST_WRITE_BYTES))


def write_all(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for data in writes():
        sock.sendall(data)


def test_20_000_writes_of_random_size_are_whole_both_ways_at_once(local: Proxy) -> None:
    expected = hashlib.sha256()
    for data in writes():
        expected.update(data)
    received: list[str] = []

    def both(sock: socket.socket) -> None:
        reader = threading.Thread(target=lambda: received.append(digest_of(sock)), daemon=True)
        reader.start()
        write_all(sock)
        sock.shutdown(socket.SHUT_WR)
        reader.join(30)

    with target(both) as there, connect(at(local), there.host, there.port) as tunnel:
        writer = threading.Thread(
            target=lambda: (write_all(tunnel.socket), tunnel.finish()), daemon=True
        )
        writer.start()
        assert digest_of(tunnel.socket) == expected.hexdigest()
        writer.join(30)
        # The upload may be on its way still, and to leave the target would cut it.
        wait_until(lambda: received)
    assert received == [expected.hexdigest()]


def digest_of(sock: socket.socket) -> str:
    digest = hashlib.sha256()
    while data := sock.recv(BLOCK_BYTES):
        digest.update(data)
    return digest.hexdigest()


def test_a_stream_of_256_mib_is_whole(local: Proxy) -> None:
    with target(source(HUGE_BYTES)) as there, connect(at(local), there.host, there.port) as tunnel:
        got = tunnel.digest_all()
    assert (got.count, got.sha256) == (HUGE_BYTES, pattern_digest(HUGE_BYTES))


@pytest.mark.parametrize("count", [0, 1, 300_000], ids="after {} bytes".format)
def test_a_reset_of_the_target_reaches_the_client_as_a_reset(local: Proxy, count: int) -> None:
    sent = b"".join(pattern(count))
    with (
        target(reset_after(sent)) as there,
        connect(at(local), there.host, there.port) as tunnel,
    ):
        tunnel.send(b"x")
        got = tunnel.receive(count // 2)
        tunnel.send(b"x")
        got += until_reset(tunnel)
    assert sent.startswith(got)


def until_reset(tunnel: Tunnel) -> bytes:
    """What still comes; that it ends in a reset is checked."""
    got = b""
    with pytest.raises(ConnectionResetError):
        while True:
            part = tunnel.socket.recv(BLOCK_BYTES)
            assert part, "a clean end: the client would take what it has for the whole"
            got += part
    return got


# -- somebody in between -------------------------------------------------------------------------


class Between:
    """A relay that does something to the bytes of each connection, and passes on how it ended."""

    def __init__(self) -> None:
        self.far: Address = ("", 0)
        self.meddle_up: Meddle = honest
        self.meddle_down: Meddle = honest

    def serve(self, near: socket.socket) -> None:
        with socket.create_connection(self.far, 20) as far:
            ways = {near: (far, self.meddle_up()), far: (near, self.meddle_down())}
            try:
                while ways:
                    for sock in select.select(list(ways), [], [], 20)[0]:
                        sink, meddle = ways[sock]
                        data = sock.recv(BLOCK_BYTES)
                        if data:
                            sink.sendall(meddle(data))
                        else:
                            sink.shutdown(socket.SHUT_WR)
                            del ways[sock]
            except OSError:
                reset(near)
                reset(far)


Meddle = Callable[[], Callable[[bytes], bytes]]  # makes what is done to one direction's pieces


def honest() -> Callable[[bytes], bytes]:
    return bytes


def flipping(place: int) -> Meddle:
    """Change one bit of the byte at *place*."""

    def start() -> Callable[[bytes], bytes]:
        passed = 0

        def meddle(piece: bytes) -> bytes:
            nonlocal passed
            changed = bytearray(piece)
            if 0 <= place - passed < len(piece):
                changed[place - passed] ^= 1
            passed += len(piece)
            return bytes(changed)

        return meddle

    return start


def without_the_last_byte() -> Callable[[bytes], bytes]:
    kept = b""

    def meddle(piece: bytes) -> bytes:
        nonlocal kept
        kept += piece
        passed, kept = kept[:-1], kept[-1:]
        return passed

    return meddle


@pytest.fixture(scope="module")
def between() -> Between:
    return Between()


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, between: Between) -> Iterator[Proxy]:
    """A local geproxy whose way to the remote one leads through *between*."""
    sealed = {"sealed": {"url": ss_url(METHOD, ("127.0.0.1", 0))}}
    with (
        target(between.serve) as middle,
        running(tmp_path_factory.mktemp("remote"), configuration(sealed)) as remote,
    ):
        between.far = remote.address
        via = {"url": ss_url(METHOD, (str(middle.host), middle.port))}
        listen = {"socks": {"url": "socks5://127.0.0.1:0", "via": "tapped"}}
        config = configuration(listen, **{"via.tapped": via})
        with running(tmp_path_factory.mktemp("local"), config) as proxy:
            yield proxy


# A salt, a sealed length, a payload, and anywhere in the rest.
PLACES = [0, 15, 16, 33, 34, 60, *random.Random(3).sample(range(100, PIECE_BYTES), 24)]
# Upwards, what the remote one's first read may hold is one flight: with a wrong byte in it there is
# no target yet, and nothing to tell a stranger by.
FIRST_READ_BYTES = 1 << 17
PLACES_BEHIND_THE_FIRST_READ = [place for place in PLACES if place > FIRST_READ_BYTES]


def test_a_bit_changed_on_the_way_down_ends_in_a_reset_and_nothing_wrong_came_before(
    tapped: Proxy, between: Between
) -> None:
    sent = b"".join(pattern(PIECE_BYTES))
    with target(source(PIECE_BYTES)) as there:
        for place in PLACES:
            between.meddle_down = flipping(place)
            with connect(at(tapped), there.host, there.port) as tunnel:
                got = until_reset(tunnel)
            assert sent.startswith(got)
            assert len(got) <= place
    between.meddle_down = honest


def test_a_bit_changed_on_the_way_up_ends_in_a_reset_and_nothing_wrong_came_before(
    tapped: Proxy, between: Between
) -> None:
    sent = b"".join(pattern(PIECE_BYTES))
    got: list[bytes] = []
    ends: list[bool] = []

    def take(sock: socket.socket) -> None:
        data = b""
        try:
            while more := sock.recv(BLOCK_BYTES):
                data += more
            ends.append(True)
        finally:
            got.append(data)

    with target(take) as there:
        for place in PLACES_BEHIND_THE_FIRST_READ:
            between.meddle_up = flipping(place)
            with connect(at(tapped), there.host, there.port) as tunnel:
                try:
                    tunnel.send(sent)
                    tunnel.finish()
                except OSError as error:  # ENOTCONN too, where the reset came before the end
                    assert not isinstance(error, TimeoutError)
                    continue
                assert until_reset(tunnel) == b""
        # The client may hear of it before the target has accepted.
        wait_until(lambda: len(got) == len(PLACES_BEHIND_THE_FIRST_READ))
    between.meddle_up = honest
    assert all(sent.startswith(data) and len(data) < len(sent) for data in got)
    assert ends == [], "the target took a part for the whole"


def test_an_answer_cut_inside_a_chunk_ends_in_a_reset(tapped: Proxy, between: Between) -> None:
    between.meddle_down = without_the_last_byte
    with (
        target(source(PIECE_BYTES)) as there,
        connect(at(tapped), there.host, there.port) as tunnel,
    ):
        got = until_reset(tunnel)
    between.meddle_down = honest
    assert b"".join(pattern(PIECE_BYTES)).startswith(got)


def test_an_upload_cut_inside_a_chunk_reaches_the_target_as_a_reset(
    tapped: Proxy, between: Between
) -> None:
    between.meddle_up = without_the_last_byte
    with target(silent) as there, connect(at(tapped), there.host, there.port) as tunnel:
        tunnel.send(b"".join(pattern(PIECE_BYTES)))
        tunnel.finish()
        assert until_reset(tunnel) == b""
        wait_until(lambda: there.errors)
    between.meddle_up = honest
    assert [type(error) for error in there.errors] == [ConnectionResetError]


def test_the_same_listener_serves_a_client_of_our_own_making(tmp_path: Path) -> None:
    listen = {method: {"url": ss_url(method, ("127.0.0.1", 0))} for method in METHODS}
    with running(tmp_path, configuration(listen)) as remote, target(exchange) as there:
        for method in METHODS:
            key = Key.from_password(method, SEALED_PASSWORD)
            peer = remote.addresses(method)[0]
            asked = struct.pack("!QQ", 100_000, 100_000)
            with Sealed.dial(peer, key, there.host, there.port, [asked]) as client:
                client.send(b"".join(pattern(100_000)))
                assert client.receive(32).hex() == pattern_digest(100_000)
                assert client.receive_all() == b"".join(pattern(100_000))
