"""Send bytes of which some are urgent (MSG_OOB), as FTP's ABOR and Telnet's Synch do."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable


def _give_up() -> None:
    raise AssertionError("there is no room for what is sent")


def send_with_urgent(
    sock: socket.socket,
    data: bytes | memoryview,
    places: Iterable[int],
    wait: Callable[[], object] = _give_up,
) -> None:
    """Send *data*, the bytes at *places*, ascending, as urgent ones; *wait* where there is no room.

    One system call for each of them: Linux marks the last byte of a send with MSG_OOB.
    """
    done = 0
    for place in places:
        _send(sock, data[done:place], 0, wait)
        _send(sock, data[place : place + 1], socket.MSG_OOB, wait)
        done = place + 1
    _send(sock, data[done:], 0, wait)


def _send(
    sock: socket.socket, data: bytes | memoryview, flags: int, wait: Callable[[], object]
) -> None:
    while data:
        try:
            data = data[sock.send(data, flags) :]
        except BlockingIOError:
            wait()
