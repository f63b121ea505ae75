"""A connection that is bulk, then talk, then bulk again: whole, and ended as it was ended."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import descriptors
from tests.support.proxy import Proxy, configuration, running, wait_until
from tests.support.socks import connect
from tests.support.targets import (
    BLOCK_BYTES,
    pattern,
    pattern_digest,
    read_exactly,
    target,
)

pytestmark = pytest.mark.slow

BULK_BYTES = 64 << 20
LAST_BYTES = 1 << 20
EXCHANGES = 300
PATIENCE_SECONDS = 60.0


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with running(tmp_path, configuration({"free": {"url": "socks5://127.0.0.1:0"}})) as served:
        yield served


class Side:
    """One end of the connection, which does what the other does, in the other role."""

    def __init__(self, sock: socket.socket, seed: int, *, asks: bool, ends_first: bool) -> None:
        self._sock = sock
        self._dice = random.Random(seed)
        self._asks = asks
        self._ends_first = ends_first
        self.digests: list[str] = []
        self.done = False

    def run(self) -> None:
        """Bulk both ways at once, a conversation, bulk again, and the end in a given order."""
        self._both_ways()
        self._converse()
        self._both_ways()
        self._end()
        self.done = True

    def _end(self) -> None:
        if self._ends_first:
            self._sock.shutdown(socket.SHUT_WR)
            rest = read_exactly(self._sock, LAST_BYTES)
            assert hashlib.sha256(rest).hexdigest() == pattern_digest(LAST_BYTES)
            assert self._sock.recv(1) == b""
        else:
            assert self._sock.recv(1) == b""
            for block in pattern(LAST_BYTES):  # the other way lives on
                self._sock.sendall(block)
            self._sock.shutdown(socket.SHUT_WR)

    def _both_ways(self) -> None:
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        self._receive()
        sender.join(PATIENCE_SECONDS)
        assert not sender.is_alive()

    def _send(self) -> None:
        dice = random.Random(self._dice.random())
        for block in pattern(BULK_BYTES):
            self._sock.sendall(block)
            if dice.random() < 0.02:
                time.sleep(dice.random() / 200)  # the pauses that are wanted

    def _receive(self) -> None:
        digest, left = hashlib.sha256(), BULK_BYTES
        while left:
            data = self._sock.recv(min(left, self._dice.choice((1000, BLOCK_BYTES, 1 << 20))))
            assert data, f"it ended {left} bytes too early"
            digest.update(data)
            left -= len(data)
            if self._dice.random() < 0.01:
                time.sleep(self._dice.random() / 200)
        self.digests.append(digest.hexdigest())

    def _converse(self) -> None:
        for number in range(EXCHANGES):
            line = number.to_bytes(2, "big") * (1 + number % 7)
            if self._asks:
                self._sock.sendall(line)
            assert read_exactly(self._sock, len(line)) == line
            if not self._asks:
                self._sock.sendall(line)


def pipes(proxy: Proxy) -> int:
    """How many ends of pipes the workers have."""
    found = [name for pid in proxy.workers() for name in descriptors(pid).values()]
    return sum(name.startswith("pipe:") for name in found)


@pytest.mark.parametrize("first", ["client", "target"])
def test_bulk_talk_and_bulk_again_arrive_whole_and_end_in_either_order(
    proxy: Proxy, first: str
) -> None:
    sides: list[Side] = []

    def serve(sock: socket.socket) -> None:
        sides.append(Side(sock, 1, asks=False, ends_first=first == "target"))
        sides[0].run()

    since, before = proxy.mark(), pipes(proxy)
    with target(serve) as there, connect(proxy.address, there.host, there.port) as tunnel:
        host, port = tunnel.address
        near = Side(tunnel.socket, 2, asks=True, ends_first=first == "client")
        near.run()
        wait_until(lambda: sides and sides[0].done)
        assert not there.errors
    assert near.digests == sides[0].digests == [pattern_digest(BULK_BYTES)] * 2
    ended = proxy.wait_for("session.end", since=since, client=f"{host}:{port}", code="ok")
    talk_bytes = sum(2 * (1 + number % 7) for number in range(EXCHANGES))
    moved = [2 * BULK_BYTES + talk_bytes + last for last in (0, LAST_BYTES)]
    up, down = moved if first == "client" else moved[::-1]
    assert (ended.fields["up"], ended.fields["down"]) == (str(up), str(down))
    assert pipes(proxy) > before, "nothing went through a pipe"
