"""What all clients of an attack ask for: an echo, and bytes without end."""

from __future__ import annotations

from gevent import socket
from gevent.server import StreamServer

from benchmarks.attack_client import BULK_PORT, ECHO_PORT, TARGET

PIECE = bytes(1 << 18)
SEND_BYTES = 1 << 17  # all hosts here share one tcp_mem: what fills it has to be the proxy's


def echo(sock: socket.socket, _: object) -> None:
    """Send back what comes."""
    try:
        while data := sock.recv(65536):
            sock.sendall(data)
    except OSError:
        pass  # a client that is gone is no news


def bulk(sock: socket.socket, _: object) -> None:
    """Send until the client goes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    try:
        while True:
            sock.sendall(PIECE)
    except OSError:
        pass


def echo_datagrams(sock: socket.socket) -> None:
    """Send datagrams back to where they are from."""
    while True:
        data, peer = sock.recvfrom(65536)
        sock.sendto(data, peer)


def main() -> None:
    """Serve until killed; a line says that it does."""
    StreamServer((TARGET, ECHO_PORT), echo, backlog=1024).start()
    StreamServer((TARGET, BULK_PORT), bulk, backlog=1024).start()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((TARGET, ECHO_PORT))
    print("ready", flush=True)
    echo_datagrams(datagrams)


if __name__ == "__main__":
    main()
