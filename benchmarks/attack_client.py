"""What clients of an attack do on the wire, with gevent's sockets, from any address of theirs."""

from __future__ import annotations

import hashlib
import os
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from gevent import socket

# Where everybody is, see attack_network: RFC 1918
PROXY, GATEWAY, TARGET = "10.79.0.1", "10.79.0.2", "10.78.0.1"
SOCKS_PORT, USERS_PORT, SEALED_PORT = 1080, 1081, 8388
ECHO_PORT, BULK_PORT = 7, 19  # RFC 862, RFC 864: what those ports do

# Fixed by the specification: RFC 1928, RFC 1929, SIP004
NO_AUTHENTICATION, USERNAME_PASSWORD = 0, 2
CONNECT, UDP_ASSOCIATE = 1, 3
SALT_BYTES, TAG_BYTES = 32, 16  # of aes-256-gcm

# Chosen here
SECRET = "attacked"  # the sealed listener's; the floods do not know it
CONNECT_SECONDS = 5.0  # a probe that waits longer for any one answer has failed


def address(host: str, port: int) -> bytes:
    """An IPv4 address as SOCKS5 and Shadowsocks write it."""
    return b"\x01" + socket.inet_aton(host) + struct.pack("!H", port)


def dial(source: str, port: int, receive_bytes: int = 0) -> socket.socket:
    """A connection from *source* to a port of the proxy; 0: the usual buffer. Raises OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(CONNECT_SECONDS)
        sock.bind((source, 0))
        sock.connect((PROXY, port))
    except BaseException:
        sock.close()
        raise
    return sock


def read(sock: socket.socket, count: int) -> bytes:
    """Exactly *count* bytes. Raises OSError, EOFError if the proxy ends before."""
    data = b""
    while len(data) < count:
        more: bytes = sock.recv(count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def greet(sock: socket.socket, user: str = "", password: str = "") -> bool:
    """Greet, and log in as *user* if there is one; whether the proxy lets us go on."""
    method = USERNAME_PASSWORD if user else NO_AUTHENTICATION
    sock.sendall(bytes((5, 1, method)))
    if read(sock, 2) != bytes((5, method)):
        return False
    if not user:
        return True
    sock.sendall(bytes((1, len(user))) + user.encode() + bytes((len(password),)))
    sock.sendall(password.encode())
    return read(sock, 2)[1] == 0


def ask(sock: socket.socket, command: int, port: int) -> tuple[str, int]:
    """Send a request for *port* of the target; the address of the reply. Raises EOFError if not."""
    sock.sendall(bytes((5, command, 0)) + address(TARGET, port))
    reply = read(sock, 10)
    if reply[1] != 0:
        raise EOFError
    return socket.inet_ntoa(reply[4:8]), struct.unpack("!H", reply[8:])[0]


def _key() -> bytes:
    """The secret's key, as OpenSSL's EVP_BytesToKey makes it: MD5, one round, no salt."""
    first = hashlib.md5(SECRET.encode()).digest()
    return first + hashlib.md5(first + SECRET.encode()).digest()


class Sealed:
    """One direction of a Shadowsocks AEAD stream (SIP004)."""

    def __init__(self, salt: bytes) -> None:
        self._cipher = AESGCM(HKDF(SHA1(), SALT_BYTES, salt, b"ss-subkey").derive(_key()))
        self._nonce = 0

    def _next(self) -> bytes:
        self._nonce += 1
        return (self._nonce - 1).to_bytes(12, "little")

    def seal(self, data: bytes) -> bytes:
        """One chunk, of at most 0x3FFF bytes."""
        length = self._cipher.encrypt(self._next(), struct.pack("!H", len(data)), None)
        return length + self._cipher.encrypt(self._next(), data, None)

    def read(self, sock: socket.socket) -> bytes:
        """The next chunk of *sock*."""
        length = self._cipher.decrypt(self._next(), read(sock, 2 + TAG_BYTES), None)
        data = read(sock, struct.unpack("!H", length)[0] + TAG_BYTES)
        return self._cipher.decrypt(self._next(), data, None)


def sealed_echo(sock: socket.socket, payload: bytes) -> bytes:
    """Ask a sealed listener for the echo of *payload*."""
    salt = os.urandom(SALT_BYTES)
    up = Sealed(salt)
    sock.sendall(salt + up.seal(address(TARGET, ECHO_PORT)) + up.seal(payload))
    down = Sealed(read(sock, SALT_BYTES))
    echo = b""
    while len(echo) < len(payload):
        echo += down.read(sock)
    return echo
