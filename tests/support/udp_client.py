"""A small client of UDP ASSOCIATE, and UDP targets: plain sockets, every wait with an end."""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, ip_address
from typing import Self

from tests.support.proxy import Line, Proxy
from tests.support.socks import (
    ATYP_IPV4,
    ATYP_IPV6,
    TIMEOUT_SECONDS,
    UDP_ASSOCIATE,
    Address,
    Host,
    Tunnel,
    request,
)

# RFC 1928 §7, and what an IPv4 packet has room for
LAST = 0x80
MAX_PAYLOAD_BYTES = 65_507
BUFFER_BYTES = 1 << 16
RECEIVE_BUFFER_BYTES = 1 << 21  # the kernel gives what it allows
MOMENT_SECONDS = 0.3

Answer = Callable[[bytes], bytes | None]


def head(host: Host, port: int) -> bytes:
    """ATYP DST.ADDR DST.PORT."""
    return request(host, port)[3:]


def datagram(host: Host, port: int, data: bytes, frag: int = 0) -> bytes:
    """RSV FRAG ATYP DST.ADDR DST.PORT DATA."""
    return bytes((0, 0, frag)) + head(host, port) + data


def split(message: bytes) -> tuple[Address, bytes]:
    """Take a reply apart: who sent it, and what."""
    assert message[:3] == bytes(3), "RSV and FRAG"
    size = {ATYP_IPV4: 4, ATYP_IPV6: 16}[message[3]]
    host = ip_address(message[4 : 4 + size])
    (port,) = struct.unpack_from("!H", message, 4 + size)
    return (str(host), port), message[6 + size :]


def udp_socket(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """A bound UDP socket."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        return prepared(sock, (host, port))
    except OSError:
        sock.close()
        raise


def prepared(sock: socket.socket, address: Address) -> socket.socket:
    """Bind a UDP socket, with room and an end to its waits."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    sock.settimeout(TIMEOUT_SECONDS)
    sock.bind(address)
    return sock


def sockname(sock: socket.socket) -> Address:
    """The address that *sock* is bound to."""
    host, port = sock.getsockname()[:2]
    return str(host), int(port)


def is_quiet(sock: socket.socket, seconds: float = MOMENT_SECONDS) -> bool:
    """True where nothing comes within a moment."""
    return not select.select([sock], [], [], seconds)[0]


class Association:
    """One client: its control connection, and the socket that its datagrams come from."""

    def __init__(self, control: Tunnel, sock: socket.socket) -> None:
        self.control = control
        self.socket = sock
        self.relay: Address = ("", 0)
        host, port = control.address
        self.client = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # as the log has it
        self.began = time.monotonic()

    @classmethod
    def open(
        cls,
        proxy: Address,
        announced: tuple[Host, int] | None = None,
        login: tuple[str, str] | None = None,
    ) -> Self:
        """Ask for an association; *announced* is DST.ADDR and DST.PORT, all zeros without.

        Raises LoginError, RefusedError.
        """
        control = Tunnel.dial(proxy)
        association = cls(control, udp_socket(control.address[0]))
        try:
            association.ask(announced, login)
        except BaseException:
            association.close()
            raise
        return association

    def ask(
        self,
        announced: tuple[Host, int] | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        """Greeting, authentication, request. Raises LoginError, RefusedError."""
        host, port = announced or (IPv4Address(0), 0)
        self.control.log_in(*login or ())
        self.control.ask(host, port, UDP_ASSOCIATE)
        self.relay = self.control.bound

    def send(self, host: Host, port: int, data: bytes, frag: int = 0) -> None:
        """Send *data* to a target by way of the proxy."""
        self.socket.sendto(datagram(host, port, data, frag), self.relay)

    def receive(self) -> tuple[Address, bytes]:
        """Wait for the next reply: who sent it, and what."""
        message, source = self.socket.recvfrom(BUFFER_BYTES)
        assert source[:2] == self.relay, "it comes from the port that was promised"
        return split(message)

    def end(self, proxy: Proxy) -> Line:
        """Wait for the line in which *proxy* tells of the association's end."""
        return proxy.wait_for("session.end", after=self.began, client=self.client)

    def close(self) -> None:
        """End the control connection, and with it the association."""
        self.control.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DatagramTarget:
    """A UDP socket that a thread answers by, and what came to it."""

    def __init__(self, sock: socket.socket, answer: Answer) -> None:
        self.socket = sock
        address = sockname(sock)
        self.host = ip_address(address[0])
        self.port = address[1]
        self.seen: list[tuple[Address, bytes]] = []  # whom each datagram came from, and what it was
        self._answer = answer
        self._told, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            if self._told in select.select([self.socket, self._told], [], [])[0]:
                return
            data, source = self.socket.recvfrom(BUFFER_BYTES)
            self.seen.append(((str(source[0]), int(source[1])), data))
            reply = self._answer(data)
            if reply is not None:
                self.socket.sendto(reply, source)

    @property
    def data(self) -> list[bytes]:
        """What came, without from where."""
        return [data for _, data in self.seen]

    def stop(self) -> None:
        """End the thread, close the socket."""
        self._end.close()
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive(), "a datagram target has no end"
        self._told.close()
        self.socket.close()


def echo(data: bytes) -> bytes:
    """Answer with what came."""
    return data


def silent(data: bytes) -> None:
    """Answer with nothing."""


@contextmanager
def datagram_target(
    answer: Answer = echo, host: str = "127.0.0.1", sock: socket.socket | None = None
) -> Iterator[DatagramTarget]:
    """Run a UDP target at *host*, or on a socket that is bound already."""
    with ExitStack() as held:
        if sock is None:
            sock, reserved = udp_and_tcp_sockets(host)
            held.enter_context(reserved)
        target = DatagramTarget(sock, answer)
        held.callback(target.stop)
        yield target


def udp_and_tcp_sockets(host: str) -> tuple[socket.socket, socket.socket]:
    """Bind a UDP port that no TCP listener has or gets.

    A proxy denies the ports of its listeners without regard to the protocol, so that a target
    which happens to have the number of one would seem to be unreachable.
    """
    while True:
        reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        reserved.bind((host, 0))
        try:
            return udp_socket(host, sockname(reserved)[1]), reserved
        except OSError as error:
            reserved.close()
            if error.errno != errno.EADDRINUSE:
                raise


def check_echo(association: Association, host: Host, port: int, count: int, window: int) -> None:
    """Send *count* datagrams, *window* of them under way; each comes back once, as it was."""
    waited_for: set[bytes] = set()
    for number in range(count + window):
        if number < count:
            data = number.to_bytes(4, "big") * 16
            waited_for.add(data)
            association.send(host, port, data)
        if number >= window:
            _, data = association.receive()
            waited_for.remove(data)
    assert not waited_for
