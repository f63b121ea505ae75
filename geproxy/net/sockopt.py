"""Socket options: which, and why."""

from __future__ import annotations

import socket
import struct

# Chosen here
KEEPALIVE_IDLE_SECONDS = 60  # with the two below a silent peer is found within 130 s
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 4
USER_TIMEOUT_MS = 120_000  # unacknowledged bytes end the connection; the kernel alone takes 15 min

LINGER_ABORT = struct.pack("ii", 1, 0)  # close() sends RST and drops what is unsent

CONNECTION_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),  # a relay adds no delay of its own
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
)


def prepare_connection(sock: socket.socket) -> None:
    """Set what every connection has. On a listening socket: accepted ones inherit all of it."""
    for level, option, value in CONNECTION_OPTIONS:
        sock.setsockopt(level, option, value)


def reset_on_close(sock: socket.socket) -> None:
    """Make the next close() a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ABORT)
