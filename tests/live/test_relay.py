"""Bytes on their way: whole, in order, ended as they were ended, and never piled up."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy, command, configuration, resident_bytes, running, wait_until
from tests.support.socks import Tunnel, connect, credentials, greeting, request
from tests.support.targets import (
    BLOCK_BYTES,
    Target,
    echo,
    echo_after_the_end,
    pattern,
    pattern_digest,
    read_all,
    reset_after,
    source,
    target,
)

pytestmark = pytest.mark.slow

USER, PASSWORD = "alice", "correct horse battery"
BIG_BYTES = 64 << 20
MEMORY_BYTES = 8 << 20  # far below what would pile up, far above what a session needs
LATE_SECONDS = 6.0
DATA = bytes(range(256)) * 20


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    assert command("passwd", "users", USER, folder=folder, given=PASSWORD).returncode == 0
    listen = {
        "free": {"url": "socks5://127.0.0.1:0"},
        "members": {"url": "socks5://127.0.0.1:0", "users": "users"},
    }
    with running(folder, configuration(listen)) as served:
        yield served


def conversation(there: Target, *, member: bool) -> bytes:
    """Everything a client sends, from its greeting to its last byte of data."""
    asked = request(there.host, there.port)
    if member:
        return greeting(0, 2) + credentials(USER, PASSWORD) + asked + DATA
    return greeting(0) + asked + DATA


def check_answers(tunnel: Tunnel, *, member: bool) -> None:
    assert tunnel.receive(2) == (b"\x05\x02" if member else b"\x05\x00")
    if member:
        assert tunnel.receive(2) == b"\x01\x00"
    tunnel.read_reply()
    tunnel.finish()
    assert tunnel.receive_all() == DATA


LISTENERS = [
    pytest.param("free", id="without a login"),
    pytest.param("members", id="with a login"),
]


@pytest.mark.parametrize("listen", LISTENERS)
def test_one_byte_at_a_time_is_understood(proxy: Proxy, listen: str) -> None:
    member = listen == "members"
    with target(echo) as there, Tunnel.dial(proxy.addresses(listen)[0]) as tunnel:
        tunnel.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        everything = conversation(there, member=member)
        handshake_bytes = len(everything) - len(DATA)
        for index in range(handshake_bytes):
            tunnel.send(everything[index : index + 1])
            time.sleep(0.002)  # the pace of the bytes, so that they are read one by one
        tunnel.send(everything[handshake_bytes:])
        check_answers(tunnel, member=member)


@pytest.mark.parametrize("listen", LISTENERS)
def test_everything_in_one_send_loses_nothing(proxy: Proxy, listen: str) -> None:
    member = listen == "members"
    with target(echo) as there, Tunnel.dial(proxy.addresses(listen)[0]) as tunnel:
        tunnel.send(conversation(there, member=member))
        check_answers(tunnel, member=member)


@pytest.mark.parametrize("listen", LISTENERS)
def test_everything_and_the_end_in_one_go_is_answered(proxy: Proxy, listen: str) -> None:
    member = listen == "members"
    with target(echo_after_the_end) as there, Tunnel.dial(proxy.addresses(listen)[0]) as tunnel:
        tunnel.send(conversation(there, member=member))
        tunnel.finish()
        assert tunnel.receive(2) == (b"\x05\x02" if member else b"\x05\x00")
        if member:
            assert tunnel.receive(2) == b"\x01\x00"
        tunnel.read_reply()
        assert tunnel.receive_all() == DATA


@pytest.mark.parametrize("member", [False, True], ids=["without a login", "with a login"])
def test_a_conversation_cut_anywhere_is_understood(proxy: Proxy, member: bool) -> None:
    listen = "members" if member else "free"
    with target(echo) as there:
        everything = conversation(there, member=member)
        for cut in range(1, len(everything) - len(DATA) + 2):
            with Tunnel.dial(proxy.addresses(listen)[0]) as tunnel:
                tunnel.send(everything[:cut])
                time.sleep(0.002)
                tunnel.send(everything[cut:])
                check_answers(tunnel, member=member)


def test_a_server_that_speaks_first_is_heard(proxy: Proxy) -> None:
    with target(source(5)) as there, connect(proxy.address, there.host, there.port) as tunnel:
        assert tunnel.receive_all() == b"".join(pattern(5))


def test_the_answer_to_a_half_closed_upload_arrives_whole_6_seconds_later(proxy: Proxy) -> None:
    def answer_late(sock: socket.socket) -> None:
        got = read_all(sock)
        time.sleep(LATE_SECONDS)  # this is the promise
        sock.sendall(hashlib.sha256(got).digest())
        for block in pattern(1 << 20):
            sock.sendall(block)

    since = proxy.mark()
    with (
        target(answer_late) as there,
        connect(proxy.address, there.host, there.port) as tunnel,
    ):
        host, port = tunnel.address
        tunnel.send(DATA)
        tunnel.finish()
        finished = time.monotonic()
        assert tunnel.receive(32) == hashlib.sha256(DATA).digest()
        assert time.monotonic() - finished >= LATE_SECONDS
        assert hashlib.sha256(tunnel.receive_all()).hexdigest() == pattern_digest(1 << 20)
    ended = proxy.wait_for("session.end", since=since, client=f"{host}:{port}")
    assert ended.fields["code"] == "ok"


def test_a_target_may_end_first_and_still_read(proxy: Proxy) -> None:
    got: list[bytes] = []

    def end_first(sock: socket.socket) -> None:
        sock.sendall(b"that is all")
        sock.shutdown(socket.SHUT_WR)
        got.append(read_all(sock))

    with target(end_first) as there, connect(proxy.address, there.host, there.port) as tunnel:
        assert tunnel.receive_all() == b"that is all"
        tunnel.send(DATA)
        tunnel.finish()
        wait_until(lambda: got)
    assert got == [DATA]


@pytest.mark.parametrize("count", [0, 1, 300_000], ids="after {} bytes".format)
def test_a_reset_of_the_target_reaches_the_client_as_a_reset(proxy: Proxy, count: int) -> None:
    sent = b"".join(pattern(count))
    since = proxy.mark()
    with (
        target(reset_after(sent)) as there,
        connect(proxy.address, there.host, there.port) as tunnel,
    ):
        host, port = tunnel.address
        tunnel.send(b"x")
        got = tunnel.receive(count // 2)
        tunnel.send(b"x")
        with pytest.raises(ConnectionResetError):
            while True:
                part = tunnel.socket.recv(BLOCK_BYTES)
                assert part, "a clean end: the client would take what it has for the whole"
                got += part
    assert sent.startswith(got)
    proxy.wait_for("session.end", since=since, client=f"{host}:{port}", code="reset")


def test_a_reset_of_the_client_reaches_the_target_as_a_reset(proxy: Proxy) -> None:
    since = proxy.mark()
    with target(echo) as there:
        tunnel = connect(proxy.address, there.host, there.port)
        host, port = tunnel.address
        tunnel.send(b"x")
        assert tunnel.receive(1) == b"x"
        tunnel.reset()
        wait_until(lambda: there.errors)
        assert isinstance(there.errors[0], ConnectionResetError)
    proxy.wait_for("session.end", since=since, client=f"{host}:{port}", code="reset")


def test_a_reset_that_follows_an_end_is_passed_on_too(proxy: Proxy) -> None:
    """A client that ends its direction and then goes away is not waited for."""
    with target(silent_until_reset) as there:
        tunnel = connect(proxy.address, there.host, there.port)
        tunnel.send(b"x")
        tunnel.finish()
        wait_until(lambda: there.seen)
        tunnel.reset()
        wait_until(lambda: there.errors)


def silent_until_reset(sock: socket.socket) -> None:
    """Read to the end, then write until that fails."""
    read_all(sock)
    while True:
        sock.sendall(b"x")
        time.sleep(0.01)


class Progress:
    """A count that others look at, and whether it has come to rest."""

    def __init__(self) -> None:
        self.count = 0
        self._last = -1
        self._since = time.monotonic()

    def rests(self) -> bool:
        """True once the count has stood still for half a second."""
        if self.count != self._last:
            self._last, self._since = self.count, time.monotonic()
        return time.monotonic() - self._since > 0.5


def memory(proxy: Proxy) -> int:
    return sum(resident_bytes(pid) for pid in proxy.workers())


def test_a_client_that_does_not_read_costs_no_memory_and_loses_nothing(proxy: Proxy) -> None:
    progress = Progress()

    def counted_source(sock: socket.socket) -> None:
        for block in pattern(BIG_BYTES):
            sock.sendall(block)
            progress.count += len(block)

    with target(counted_source) as there:
        connect(proxy.address, there.host, there.port).close()
        wait_until(lambda: memory(proxy) and progress.rests())
        before, progress.count = memory(proxy), 0
        with connect(proxy.address, there.host, there.port) as tunnel:
            wait_until(lambda: progress.count and progress.rests())
            assert progress.count < BIG_BYTES, "it was read ahead to the end"
            assert memory(proxy) - before < MEMORY_BYTES
            got = tunnel.digest_all()
        assert (got.count, got.sha256) == (BIG_BYTES, pattern_digest(BIG_BYTES))
        assert memory(proxy) - before < MEMORY_BYTES


def test_a_target_that_does_not_read_costs_no_memory_and_loses_nothing(proxy: Proxy) -> None:
    go_on = threading.Event()
    digests: list[str] = []

    def read_later(sock: socket.socket) -> None:
        go_on.wait(30)
        digest = hashlib.sha256()
        while data := sock.recv(BLOCK_BYTES):
            digest.update(data)
        digests.append(digest.hexdigest())

    progress = Progress()

    def upload(tunnel: Tunnel) -> None:
        for block in pattern(BIG_BYTES):
            tunnel.send(block)
            progress.count += len(block)
        tunnel.finish()

    before = memory(proxy)
    with target(read_later) as there, connect(proxy.address, there.host, there.port) as tunnel:
        sender = threading.Thread(target=upload, args=(tunnel,), daemon=True)
        sender.start()
        wait_until(lambda: progress.count and progress.rests())
        assert progress.count < BIG_BYTES
        assert memory(proxy) - before < MEMORY_BYTES
        go_on.set()
        assert tunnel.receive_all() == b""
        sender.join(20)
    assert digests == [pattern_digest(BIG_BYTES)]


def test_many_at_once_keep_their_bytes_apart(proxy: Proxy) -> None:
    with target(echo) as there:
        tunnels = [connect(proxy.address, there.host, there.port) for _ in range(200)]
        for number, tunnel in enumerate(tunnels):
            tunnel.send(number.to_bytes(4, "big") * 1000)
        for number, tunnel in enumerate(tunnels):
            assert tunnel.receive(4000) == number.to_bytes(4, "big") * 1000
        for tunnel in tunnels:
            tunnel.close()
