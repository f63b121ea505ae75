"""Targets on port 0 that do one thing each, a thread per connection."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address
from typing import Self

TIMEOUT_SECONDS = 30.0
BLOCK_BYTES = 1 << 16
BACKLOG = 512

Handler = Callable[[socket.socket], None]


class Target:
    """A listening socket and what came of its connections."""

    def __init__(self, handler: Handler, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family, backlog=BACKLOG)
        address = self._listening.getsockname()
        self.host = ip_address(address[0])  # goes out as an address (ATYP 1 or 4)
        self.port = int(address[1])
        self._handler = handler
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.seen: list[tuple[str, int]] = []  # whom each connection came from
        self.errors: list[OSError] = []  # how those ended that broke

    def start(self) -> Self:
        """Begin to accept."""
        self._spawn(self._accept)
        return self

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, address = self._listening.accept()
            except OSError:
                return  # closed: that is how stop() says it
            sock.settimeout(TIMEOUT_SECONDS)
            with self._lock:
                self._open.add(sock)
                self.seen.append((str(address[0]), int(address[1])))
            self._spawn(lambda sock=sock: self._serve(sock))  # type: ignore[misc]

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._handler(sock)
        except OSError as error:
            self.errors.append(error)
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def stop(self) -> None:
        """Close everything and wait for every thread."""
        _shut(self._listening)
        self._listening.close()
        self._threads[0].join(TIMEOUT_SECONDS)
        with self._lock:
            for sock in self._open:
                _shut(sock)
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)
            assert not thread.is_alive(), "a target's connection has no end"


@contextmanager
def target(handler: Handler, host: str = "127.0.0.1") -> Iterator[Target]:
    """Run a target that gives each connection to *handler* in a thread of its own."""
    running = Target(handler, host).start()
    try:
        yield running
    finally:
        running.stop()


def echo(sock: socket.socket) -> None:
    """Give back what comes; end when the other side has."""
    while data := sock.recv(BLOCK_BYTES):
        sock.sendall(data)


def echo_after_the_end(sock: socket.socket) -> None:
    """Read to the end first, then give all of it back."""
    sock.sendall(read_all(sock))


def silent(sock: socket.socket) -> None:
    """Say nothing, until the other side ends."""
    while sock.recv(BLOCK_BYTES):
        pass


def read_all(sock: socket.socket) -> bytes:
    """Read to the end."""
    parts = []
    while part := sock.recv(BLOCK_BYTES):
        parts.append(part)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """Make the close that follows a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_after(data: bytes) -> Handler:
    """Make a handler that waits for a byte, sends *data*, waits for another and resets."""

    def handler(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(data)
        sock.recv(1)
        reset(sock)

    return handler


def pattern(count: int) -> Iterator[bytes]:
    """Yield *count* bytes in blocks, no two of which are alike."""
    sent = 0
    while sent < count:
        block = hashlib.sha256(sent.to_bytes(8, "big")).digest() * (BLOCK_BYTES // 32)
        block = block[: count - sent]
        sent += len(block)
        yield block


def pattern_digest(count: int) -> str:
    """The SHA-256 of pattern(count)."""
    digest = hashlib.sha256()
    for block in pattern(count):
        digest.update(block)
    return digest.hexdigest()


def source(count: int) -> Handler:
    """Make a handler that sends pattern(count), then ends."""

    def handler(sock: socket.socket) -> None:
        for block in pattern(count):
            sock.sendall(block)

    return handler


def exchange(sock: socket.socket) -> None:
    """Take as many bytes as the first 8 say, give their SHA-256, and as many as the next 8 say.

    Neither side has to end for the other to know: not every program passes on a half-close.
    """
    up, down = struct.unpack("!QQ", read_exactly(sock, 16))
    digest = hashlib.sha256()
    while up:
        data = sock.recv(min(up, BLOCK_BYTES))
        if not data:
            raise ConnectionError(f"it ended {up} bytes too early")
        digest.update(data)
        up -= len(data)
    sock.sendall(digest.digest())
    for block in pattern(down):
        sock.sendall(block)


def check_exchange(sock: socket.socket, up: int, down: int) -> None:
    """Send and fetch so many bytes by way of *sock*, which leads to an exchange(), in whole."""
    sock.sendall(struct.pack("!QQ", up, down))
    for block in pattern(up):
        sock.sendall(block)
    assert read_exactly(sock, 32).hex() == pattern_digest(up), "what went up"
    count, digest = 0, hashlib.sha256()
    while data := sock.recv(BLOCK_BYTES):
        count += len(data)
        digest.update(data)
    assert (count, digest.hexdigest()) == (down, pattern_digest(down)), "what came down"


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Read exactly *count* bytes. Raises ConnectionError when the stream ends before."""
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError(f"{len(data)} of {count} bytes, then the end")
        data += more
    return data


@contextmanager
def black_hole() -> Iterator[tuple[IPv4Address, int]]:
    """Give an address whose every new connection hangs: its queue is full, nobody accepts."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        waiting: list[socket.socket] = []
        try:
            while True:
                sock = socket.socket()
                waiting.append(sock)
                sock.settimeout(0.5)
                try:
                    sock.connect(address)
                except TimeoutError:
                    break
            yield IPv4Address(address[0]), address[1]
        finally:
            for sock in waiting:
                sock.close()


def refused_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is gone already, or was never connected
