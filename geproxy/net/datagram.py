"""UDP sockets: the call first, a wait only when it would block; sending never waits."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from gevent import get_hub

from geproxy.errors import DropError, ProtocolError
from geproxy.net.dial import dial_error
from geproxy.net.ports import bind_in
from geproxy.net.sockopt import prepare_datagrams
from geproxy.net.stream import READ
from geproxy.terms import Address, Endpoint
from geproxy.wire.address import decode_address

if TYPE_CHECKING:
    from gevent._types import _IoWatcher as Watcher

# Fixed by the specification
MAX_DATAGRAM_BYTES = 65_535

# Chosen here
TURN = 32  # datagrams in a row from one socket; then others have their turn

# Earlier datagrams that met a closed port or no way, told on the next call: news, and no failure.
_ICMP = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EPROTO}
    | {errno.ENOPROTOOPT, errno.EACCES, errno.EPERM, errno.EMSGSIZE, errno.ENETDOWN, errno.EINTR}
)
_DROP_CODES = {
    errno.EAGAIN: "full",
    errno.ENOBUFS: "full",
    errno.ENOMEM: "full",
    errno.EMSGSIZE: "size",
}

Sockaddr = tuple[str, int] | tuple[str, int, int, int]

_ANYWHERE = Endpoint(IPv4Address(0), 0)


class DatagramSocket:
    """A non-blocking UDP socket. What ICMP says of it is not an error of the socket."""

    __slots__ = ("_reader", "_receive_from", "_send", "_send_to", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._receive_from = sock.recvfrom
        self._send = sock.send
        self._send_to = sock.sendto
        self._reader: Watcher | None = None

    @property
    def bound(self) -> Endpoint:
        """Our own address."""
        return Endpoint.from_sockaddr(self._socket.getsockname())

    def receive(self) -> tuple[bytes, Sockaddr] | None:
        """Take the next datagram and its source; None: there is none."""
        while True:
            try:
                return self._receive_from(MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in _ICMP:
                    raise

    def wait_readable(self) -> None:
        """Return once there may be something to receive."""
        if self._reader is None:
            self._reader = get_hub().loop.io(self._socket.fileno(), READ)
        get_hub().wait(self._reader)

    def send(self, data: bytes) -> None:
        """Send to the peer of connect(). Raises DropError for what the system did not take."""
        try:
            self._send(data)
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                raise _drop(error) from error
            self._send_again(data)

    def _send_again(self, data: bytes) -> None:
        """Send after an error that told of an earlier datagram."""
        try:
            self._send(data)
        except OSError as error:
            raise _drop(error) from error

    def send_to(self, data: bytes, place: Sockaddr) -> None:
        """Send to *place*. Raises DropError for what the system did not take."""
        try:
            self._send_to(data, place)
        except OSError as error:
            raise _drop(error) from error

    def connect(self, place: Sockaddr) -> Sockaddr:
        """Have the kernel drop what comes from anywhere else; *place* as receive() will show it.

        Datagrams that came before this call are still there. Raises OSError.
        """
        self._socket.connect(place)
        peer: Sockaddr = self._socket.getpeername()
        return peer

    def place(self, endpoint: Endpoint) -> Sockaddr:
        """What to send to, for *endpoint*, which holds an address."""
        host, port = endpoint.sockaddr
        if self._socket.family == socket.AF_INET6 and endpoint.host.version == 4:  # type: ignore[union-attr]
            return f"::ffff:{host}", port
        return host, port

    def duplicate(self) -> int:
        """Return a second descriptor of the socket, for another process."""
        return os.dup(self._socket.fileno())

    def close(self) -> None:
        """Close the socket; its watcher first, for the loop must not see a reused descriptor."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._socket.close()


def _drop(error: OSError) -> DropError:
    return DropError(_DROP_CODES.get(error.errno or 0, "unreachable"))


def target_of(head: bytes) -> Endpoint:
    """Read the block ATYP ADDR PORT. Raises ProtocolError for an impossible one."""
    found = decode_address(head, 0)
    if found is None:
        raise ProtocolError("an address that is cut off")
    return found[0]


def adopted(descriptor: int) -> DatagramSocket:
    """Take a socket over that was duplicate()d in another process."""
    return DatagramSocket(socket.socket(fileno=descriptor))


def open_towards_clients(address: Address, ports: range | None) -> DatagramSocket:
    """Bind a port of *ports* at one address of ours. Raises DialError.

    Never SO_REUSEADDR: another user of this host could then bind the port too and receive what is
    sent to it.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        sock = _make(family)
    except OSError as error:
        raise dial_error(error.errno or 0, Endpoint(address, 0)) from error
    # A link-local address is only half of one without its interface, which nobody told us.
    link_local = isinstance(address, IPv6Address) and address.is_link_local
    try:
        bind_in(sock, "::" if link_local else str(address), ports)
    except OSError as error:
        sock.close()
        raise dial_error(error.errno or 0, Endpoint(address, 0)) from error
    return DatagramSocket(sock)


def open_outwards() -> DatagramSocket:
    """Open a port for targets of either family, as one socket where there is IPv6 at all.

    The first send binds it, as with any client's. Raises DialError.
    """
    try:
        try:
            sock = _make(socket.AF_INET6)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            sock = _make(socket.AF_INET)
    except OSError as error:
        raise dial_error(error.errno or 0, _ANYWHERE) from error
    return DatagramSocket(sock)


def open_towards(peer: Endpoint) -> DatagramSocket:
    """Bind a port that nobody but *peer*, an address, can reach. Raises DialError."""
    try:
        sock = _make(socket.AF_INET6 if isinstance(peer.host, IPv6Address) else socket.AF_INET)
        try:
            sock.connect(peer.sockaddr)
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise dial_error(error.errno or 0, peer) from error
    return DatagramSocket(sock)


def _make(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    prepare_datagrams(sock)
    return sock
