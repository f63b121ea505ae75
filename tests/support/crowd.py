"""Many plain TCP clients at once in one thread, and how each of their connections ended."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.support.socks import Address

PATIENCE_SECONDS = 40.0  # for all of them together
READ_BYTES = 1 << 16

Opened = Callable[[Sequence[socket.socket]], None]


@dataclass(frozen=True)
class End:
    """What came of one connection."""

    data: bytes  # all that was received
    reset: bool  # it ended so, and not with a FIN
    seconds: float  # from before the connection was made until it had ended


def send_at_once(
    address: Address,
    messages: Sequence[bytes],
    *,
    half_close: bool = False,
    opened: Opened | None = None,
) -> list[End]:
    """Connect once per message, only then send them all, and read every connection to its end.

    *opened* is called in between, with the connections in the order of *messages*.
    """
    return asyncio.run(_send_at_once(address, messages, half_close, opened))


async def _send_at_once(
    address: Address, messages: Sequence[bytes], half_close: bool, opened: Opened | None
) -> list[End]:
    loop = asyncio.get_running_loop()
    started = [0.0] * len(messages)
    sockets = [socket.socket() for _ in messages]

    async def connect(number: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started[number] = time.monotonic()
        await loop.sock_connect(sock, address)

    async def talk(number: int, sock: socket.socket) -> End:
        data, reset = b"", False
        try:
            await loop.sock_sendall(sock, messages[number])
            if half_close:
                sock.shutdown(socket.SHUT_WR)
            while more := await loop.sock_recv(sock, READ_BYTES):
                data += more
        except (ConnectionResetError, BrokenPipeError):
            reset = True
        seconds = time.monotonic() - started[number]
        sock.close()
        return End(data, reset, seconds)

    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.gather(*map(connect, range(len(sockets)), sockets))
            if opened is not None:
                opened(sockets)
            return await asyncio.gather(*map(talk, range(len(sockets)), sockets))
    finally:
        for sock in sockets:
            sock.close()
