"""One large stream through a local and a remote geproxy, its SHA-256 taken at both ends.

    .venv/bin/python -m tests.support.large_stream --gib 4

A program to be run by hand: it takes its time.
"""

from __future__ import annotations

import argparse
import hashlib
import socket
import tempfile
import threading
import time
from pathlib import Path

from tests.support.proxy import sealed_pair
from tests.support.shadowsocks_twin import METHODS
from tests.support.socks import connect
from tests.support.targets import BLOCK_BYTES, pattern, target

GIB = 1 << 30
PATIENCE_SECONDS = 60.0  # for the receiver, after the last byte was sent


class End:
    """One end of the stream: how many bytes, and their digest."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = hashlib.sha256()

    def send(self, sock: socket.socket, count: int) -> None:
        """Send pattern(count), then end."""
        for block in pattern(count):
            self._note(block)
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)

    def receive(self, sock: socket.socket) -> None:
        """Read to the end."""
        while data := sock.recv(BLOCK_BYTES):
            self._note(data)

    def _note(self, data: bytes) -> None:
        self.count += len(data)
        self._digest.update(data)

    def __str__(self) -> str:
        return f"{self.count} bytes {self._digest.hexdigest()}"


def run(count: int, method: str, *, up: bool) -> bool:
    """Send so many bytes one way and say what came of it; True where they arrived whole."""
    near, far = End(), End()
    done = threading.Event()

    def serve(sock: socket.socket) -> None:
        try:
            if up:
                far.receive(sock)
            else:
                far.send(sock, count)
        finally:
            done.set()

    with (
        tempfile.TemporaryDirectory() as folder,
        sealed_pair(Path(folder), method) as (local, _),
        target(serve) as there,
        connect(local.address, there.host, there.port) as tunnel,
    ):
        started = time.monotonic()
        if up:
            near.send(tunnel.socket, count)
        else:
            near.receive(tunnel.socket)
        assert done.wait(PATIENCE_SECONDS), "the target has not ended"
        seconds = time.monotonic() - started
    whole = near.count == far.count == count and str(near) == str(far)
    print(f"{method} {'up' if up else 'down'}: {seconds:.1f} s, {count / seconds / 1e6:.0f} MB/s")
    print(f"  client {near}\n  target {far}\n  {'whole' if whole else 'NOT WHOLE'}", flush=True)
    return whole


def main() -> int:
    """Read the arguments and run; 0 where all was whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4.0)
    parser.add_argument("--method", choices=METHODS, default=METHODS[-1])
    parser.add_argument("--way", choices=["down", "up"], default="down")
    chosen = parser.parse_args()
    return 0 if run(int(chosen.gib * GIB), chosen.method, up=chosen.way == "up") else 1


if __name__ == "__main__":
    raise SystemExit(main())
