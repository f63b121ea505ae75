"""UDP peers on loopback, in the event loop of the test that has them.

On loopback a datagram is in its receiver's queue once send() has returned: what is not there after
everybody had a turn does not come.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent.socket

from geproxy.net.datagram import UDP_SEGMENT, DatagramSocket, Sockaddr
from geproxy.terms import Endpoint
from tests.support.conformance import HARD_SECONDS, settle

MAX_DATAGRAM_BYTES = 65_535
MAX_PAYLOAD_BYTES = 65_507  # IPv4: 65 535 less 20 of IP and 8 of UDP; IPv6 takes 20 more

SIZES = (0, 1, 512, 1200, 8191, 8192, 8193, 16384, MAX_PAYLOAD_BYTES)

Lost = tuple[str, int, Sockaddr | None]


class Peer:
    """A bound socket that sends to anybody, and hears anybody."""

    def __init__(self, sock: gevent.socket.socket) -> None:
        self._socket = sock
        self.endpoint = Endpoint.from_sockaddr(sock.getsockname())

    def send(self, data: bytes, to: Endpoint) -> None:
        """Send *data* to *to*, an address."""
        self._socket.sendto(data, to.sockaddr)

    def send_burst(self, data: bytes, size_bytes: int, to: Endpoint) -> None:
        """Send *data* to *to* as datagrams of *size_bytes*, of which the last may be shorter."""
        segment = size_bytes.to_bytes(2, sys.byteorder)
        self._socket.sendmsg([data], [(socket.IPPROTO_UDP, UDP_SEGMENT, segment)], 0, to.sockaddr)

    def receive(self) -> tuple[bytes, Endpoint]:
        """Wait for a datagram; returns it and its source. Raises TimeoutError."""
        data, source = self._socket.recvfrom(MAX_DATAGRAM_BYTES)
        return data, Endpoint.from_sockaddr(source)

    def waiting(self) -> list[bytes]:
        """Take what has come once everybody had a turn, which may be nothing."""
        settle()
        found = []
        self._socket.settimeout(0)
        try:
            while True:
                found.append(self._socket.recv(MAX_DATAGRAM_BYTES))
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(HARD_SECONDS)

    def close(self) -> None:
        """Let the system refuse whatever comes from now on."""
        self._socket.close()

    def connect(self, to: Endpoint) -> None:
        """Hear *to* alone, and what ICMP says of it."""
        self._socket.connect(to.sockaddr)


@contextmanager
def udp_peer(host: str = "127.0.0.1", port: int = 0) -> Iterator[Peer]:
    """Bind a peer at *host*."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with gevent.socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.settimeout(HARD_SECONDS)
        sock.bind((host, port))
        yield Peer(sock)


@contextmanager
def closed_udp_port(host: str = "127.0.0.1") -> Iterator[Endpoint]:
    """Give an address at which ICMP answers that nobody is there.

    The port is kept from others by a socket that is connected elsewhere, and so hears nobody.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.connect((host, 9))
        yield Endpoint.from_sockaddr(sock.getsockname())


class CountedSocket(socket.socket):
    """A UDP socket that remembers how many datagrams were given to the kernel as one."""

    def __init__(self, family: int) -> None:
        super().__init__(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.together: list[int] = []

    def sendmsg(self, buffers: Iterable[Any], *rest: Any) -> int:
        """See socket.socket."""
        data = list(buffers)
        self.together.append(len(data))
        return super().sendmsg(data, *rest)


def losses_of(sock: DatagramSocket) -> list[Lost]:
    """Return the list of what is lost from now on."""
    lost: list[Lost] = []
    sock.lost = lambda code, size, place: lost.append((code, size, place))
    return lost


def send_nothing_more(sock: DatagramSocket) -> None:
    """Have the system refuse (EPIPE) whatever is sent from now on; what comes still comes."""
    try:
        sock._socket.shutdown(socket.SHUT_WR)
    except OSError as error:  # it says so of a socket without a peer, and obeys all the same
        assert error.errno == errno.ENOTCONN
