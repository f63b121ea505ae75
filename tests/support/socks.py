"""A small SOCKS5 client on plain sockets: a twin that shares no code with what it tests."""

from __future__ import annotations

import hashlib
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

# RFC 1928
VERSION = 5
NO_AUTHENTICATION, USERNAME_PASSWORD, NO_ACCEPTABLE = 0x00, 0x02, 0xFF
CONNECT, BIND, UDP_ASSOCIATE = 1, 2, 3
ATYP_IPV4, ATYP_NAME, ATYP_IPV6 = 1, 3, 4

TIMEOUT_SECONDS = 20.0

Address = tuple[str, int]
Host = str | IPv4Address | IPv6Address  # a text goes out as a name, however it looks


class RefusedError(Exception):
    """The proxy said no; *rep* is how (RFC 1928 §6)."""

    def __init__(self, rep: int) -> None:
        super().__init__(f"REP {rep}")
        self.rep = rep


class LoginError(Exception):
    """The proxy wants another method, or another password."""


def greeting(*methods: int) -> bytes:
    """VER NMETHODS METHODS."""
    return bytes((VERSION, len(methods), *methods))


def credentials(user: str, password: str) -> bytes:
    """VER ULEN UNAME PLEN PASSWD (RFC 1929 §2)."""
    name, secret = user.encode(), password.encode()
    return bytes((1, len(name))) + name + bytes((len(secret),)) + secret


def request(host: Host, port: int, cmd: int = CONNECT) -> bytes:
    """VER CMD RSV ATYP DST.ADDR DST.PORT."""
    if isinstance(host, IPv4Address):
        address = bytes((ATYP_IPV4,)) + host.packed
    elif isinstance(host, IPv6Address):
        address = bytes((ATYP_IPV6,)) + host.packed
    else:
        name = host.encode()
        address = bytes((ATYP_NAME, len(name))) + name
    return bytes((VERSION, cmd, 0)) + address + struct.pack("!H", port)


class Tunnel:
    """A connection through the proxy: a blocking socket, every wait of it with an end."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_SECONDS)
        self.socket = sock
        self.bound: Address = ("", 0)  # BND.ADDR and BND.PORT

    @classmethod
    def dial(cls, proxy: Address) -> Self:
        """Connect to the proxy and say nothing yet."""
        return cls(socket.create_connection(proxy, TIMEOUT_SECONDS))

    @property
    def address(self) -> Address:
        """Our own address, the one that the proxy's log calls the client."""
        host, port = self.socket.getsockname()[:2]
        return str(host), int(port)

    def send(self, data: bytes) -> None:
        """Send all of *data*."""
        self.socket.sendall(data)

    def receive(self, count: int) -> bytes:
        """Read exactly *count* bytes. Raises EOFError when the stream ends before."""
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError(f"{len(data)} of {count} bytes, then the end")
            data += more
        return data

    def receive_all(self) -> bytes:
        """Read to the end of the stream."""
        parts = []
        while part := self.socket.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)

    def digest_all(self) -> Digest:
        """Read to the end of the stream without keeping it."""
        count, digest = 0, hashlib.sha256()
        while part := self.socket.recv(1 << 16):
            count += len(part)
            digest.update(part)
        return Digest(count, digest.hexdigest())

    def finish(self) -> None:
        """Half-close: no more bytes from us."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the conversation ------------------------------------------------------------------------

    def log_in(self, user: str | None = None, password: str = "") -> None:
        """Greeting and authentication. Raises LoginError."""
        wanted = NO_AUTHENTICATION if user is None else USERNAME_PASSWORD
        self.send(greeting(wanted))
        version, method = self.receive(2)
        assert version == VERSION
        if method != wanted:
            assert method == NO_ACCEPTABLE
            raise LoginError("no acceptable method")
        if user is not None:
            self.send(credentials(user, password))
            version, status = self.receive(2)
            assert version == 1, "the VER of RFC 1929"
            if status != 0:
                raise LoginError(f"STATUS {status}")

    def ask(self, host: Host, port: int, cmd: int = CONNECT) -> None:
        """Send the request and read its reply. Raises RefusedError."""
        self.send(request(host, port, cmd))
        self.read_reply()

    def read_reply(self) -> None:
        """Read VER REP RSV ATYP BND.ADDR BND.PORT. Raises RefusedError."""
        version, rep, reserved, kind = self.receive(4)
        assert (version, reserved) == (VERSION, 0)
        size = {ATYP_IPV4: 4, ATYP_IPV6: 16}[kind]
        host = ip_address(self.receive(size))
        (port,) = struct.unpack("!H", self.receive(2))
        self.bound = (str(host), port)
        if rep != 0:
            raise RefusedError(rep)


@dataclass(frozen=True)
class Digest:
    """What a stream was, without the stream."""

    count: int
    sha256: str


def connect(
    proxy: Address, host: Host, port: int, user: str | None = None, password: str = ""
) -> Tunnel:
    """Open a tunnel to *host* and *port*. Raises LoginError, RefusedError, OSError, EOFError."""
    tunnel = Tunnel.dial(proxy)
    try:
        tunnel.log_in(user, password)
        tunnel.ask(host, port)
    except BaseException:
        tunnel.close()
        raise
    return tunnel


def reply_to(proxy: Address, host: Host, port: int, cmd: int = CONNECT) -> int:
    """Ask for one thing and return the REP, whatever it is."""
    with Tunnel.dial(proxy) as tunnel:
        tunnel.log_in()
        try:
            tunnel.ask(host, port, cmd)
        except RefusedError as refused:
            return refused.rep
        return 0
