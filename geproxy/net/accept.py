"""Accept clients from a listening socket that other workers accept from too."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from socket import SocketType

from gevent import get_hub, sleep
from gevent.event import Event

from geproxy.net.sockopt import unpace_loopback
from geproxy.net.stream import SocketStream
from geproxy.net.watchers import READ
from geproxy.terms import Endpoint

# Chosen here
ACCEPTS_PER_WAKE = 4  # more in a row and one worker takes a burst that its siblings could share
PAUSE_SECONDS = 0.1  # out of descriptors: long enough not to spin, short enough not to be felt

# accept(2): the connection failed before we took it; the next one may be sound.
_PASSING = frozenset(
    {errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT}
    | {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EOPNOTSUPP, errno.EPERM}
)


class Gate:
    """How many sessions a worker may hold; acceptors wait in front of it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._room = Event()
        self._room.set()
        self.count = 0

    def enter(self) -> None:
        """Count one session more."""
        self.count += 1
        if self.count >= self.limit:
            self._room.clear()

    def leave(self) -> None:
        """Count one session fewer."""
        if self.full:
            self._room.set()
        self.count -= 1

    @property
    def full(self) -> bool:
        """True at the limit."""
        return self.count >= self.limit

    def wait(self) -> None:
        """Return when there is room for one more."""
        self._room.wait()


def accept_clients(
    listening: socket.socket,
    gate: Gate,
    welcome: Callable[[SocketStream], None],
    complain: Callable[[OSError], None],
) -> None:
    """Accept for ever; each client goes to *welcome*, which must not wait and owns the stream.

    At the gate's limit, and while the system has no descriptor left (*complain* is told, then a
    pause), clients stay in the kernel's queue, where another worker may take them.
    """
    watcher = get_hub().loop.io(listening.fileno(), READ)
    family = listening.family
    try:
        while True:
            gate.wait()
            get_hub().wait(watcher)
            try:
                for _ in range(ACCEPTS_PER_WAKE):
                    if gate.full:
                        break
                    welcome(_accept(listening, family))
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno not in _PASSING:
                    complain(error)
                    sleep(PAUSE_SECONDS)
    finally:
        watcher.close()


def _accept(listening: socket.socket, family: int) -> SocketStream:
    # As socket.accept() does, without asking for family and type each time. It stays in blocking
    # mode, which SocketStream allows.
    descriptor, sockaddr = listening._accept()  # type: ignore[attr-defined]
    sock = SocketType(family, socket.SOCK_STREAM, 0, descriptor)
    unpace_loopback(sock, sockaddr[0])
    return SocketStream(sock, Endpoint.from_sockaddr(sockaddr))
