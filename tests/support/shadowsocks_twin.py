"""A small Shadowsocks AEAD client and far end (SIP004), on pycryptodome and the standard library.

A twin that shares no code with what it tests.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from Crypto.Cipher import AES, ChaCha20_Poly1305
from Crypto.Cipher._mode_gcm import GcmMode
from Crypto.Cipher.ChaCha20_Poly1305 import ChaCha20Poly1305Cipher

from tests.support.socks import Address, Host, request

# SIP004: how many bytes a key has, and its salt
KEY_BYTES = {"aes-128-gcm": 16, "aes-256-gcm": 32, "chacha20-ietf-poly1305": 32}
METHODS = tuple(KEY_BYTES)
TAG_BYTES = 16
MAX_CHUNK_BYTES = 0x3FFF
READ_BYTES = 1 << 16

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Key:
    """A cipher and the key that both ends have."""

    method: str
    key: bytes = field(repr=False)

    @classmethod
    def from_password(cls, method: str, password: str) -> Self:
        """Make it as OpenSSL's EVP_BytesToKey does: MD5, one round, no salt."""
        key = last = b""
        while len(key) < KEY_BYTES[method]:
            last = hashlib.md5(last + password.encode()).digest()
            key += last
        return cls(method, key[: KEY_BYTES[method]])

    @classmethod
    def from_text(cls, method: str, text: str) -> Self:
        """Take a raw key in base64url, as go-shadowsocks2 and shadowsocks-libev do."""
        return cls(method, base64.urlsafe_b64decode(text))

    @property
    def salt_bytes(self) -> int:
        """How long a salt is: as long as the key."""
        return len(self.key)

    def subkey(self, salt: bytes) -> bytes:
        """HKDF-SHA1 with the salt of one direction of one connection (RFC 5869 §2)."""
        secret = hmac.digest(salt, self.key, "sha1")
        derived = block = b""
        number = 1
        while len(derived) < len(self.key):
            block = hmac.digest(secret, block + b"ss-subkey" + bytes((number,)), "sha1")
            derived += block
            number += 1
        return derived[: len(self.key)]


class _Cipher:
    """One direction: a key of its own, and a counter for a nonce."""

    def __init__(self, key: Key, salt: bytes) -> None:
        self._method = key.method
        self._subkey = key.subkey(salt)
        self._count = 0

    def seal(self, plain: bytes) -> bytes:
        sealed, tag = self._next().encrypt_and_digest(plain)
        return bytes(sealed) + bytes(tag)

    def open(self, sealed: bytes) -> bytes:
        cipher = self._next()
        return bytes(cipher.decrypt_and_verify(sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]))

    def _next(self) -> GcmMode | ChaCha20Poly1305Cipher:
        nonce = self._count.to_bytes(12, "little")
        self._count += 1
        if self._method.startswith("aes"):
            return AES.new(self._subkey, AES.MODE_GCM, nonce=nonce, mac_len=TAG_BYTES)
        return ChaCha20_Poly1305.new(key=self._subkey, nonce=nonce)


class Sealer:
    """Seals one direction."""

    def __init__(self, key: Key, salt: bytes | None = None) -> None:
        self.salt = salt or os.urandom(key.salt_bytes)
        self._cipher = _Cipher(key, self.salt)
        self._began = False

    def seal(self, plain: bytes) -> bytes:
        """Make *plain* chunks; the salt stands in front of the first."""
        sealed = b"" if self._began else self.salt
        self._began = True
        for start in range(0, len(plain), MAX_CHUNK_BYTES):
            piece = plain[start : start + MAX_CHUNK_BYTES]
            sealed += self._cipher.seal(struct.pack("!H", len(piece))) + self._cipher.seal(piece)
        return sealed


class Opener:
    """Opens one direction, however its bytes are cut."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._cipher: _Cipher | None = None
        self._length: int | None = None
        self._sealed = b""
        self.salt = b""

    def open(self, sealed: bytes) -> bytes:
        """Take what has come, return what that completes. Raises ValueError for a wrong tag."""
        self._sealed += sealed
        plain = b""
        if self._cipher is None:
            if len(self._sealed) < self._key.salt_bytes:
                return b""
            self.salt = self._take(self._key.salt_bytes)
            self._cipher = _Cipher(self._key, self.salt)
        while len(self._sealed) >= (wanted := self._wanted()):
            opened = self._cipher.open(self._take(wanted))
            if self._length is None:
                (self._length,) = struct.unpack("!H", opened)
                assert self._length <= MAX_CHUNK_BYTES
            else:
                self._length = None
                plain += opened
        return plain

    @property
    def whole(self) -> bool:
        """Whether the direction may end here."""
        return not self._sealed and self._length is None

    def _wanted(self) -> int:
        return (2 if self._length is None else self._length) + TAG_BYTES

    def _take(self, count: int) -> bytes:
        data, self._sealed = self._sealed[:count], self._sealed[count:]
        return data


def address(host: Host, port: int) -> bytes:
    """ATYP ADDR PORT, as in SOCKS5."""
    return request(host, port)[3:]


def flight(key: Key, *pieces: bytes, salt: bytes | None = None) -> bytes:
    """What a client sends first: a salt, and one chunk for each of *pieces*."""
    sealer = Sealer(key, salt)
    return b"".join(map(sealer.seal, pieces))


def opened(key: Key, sealed: bytes) -> bytes:
    """Open a whole direction. Raises ValueError for a wrong tag."""
    opener = Opener(key)
    plain = opener.open(sealed)
    assert opener.whole, "it ends inside a chunk"
    return plain


def sealed_datagram(key: Key, plain: bytes, salt: bytes | None = None) -> bytes:
    """Seal one datagram: an address block and its data, under a salt of its own."""
    salt = salt or os.urandom(key.salt_bytes)
    return salt + _Cipher(key, salt).seal(plain)


def opened_datagram(key: Key, datagram: bytes) -> bytes:
    """Open one datagram. Raises ValueError for a wrong tag."""
    return _Cipher(key, datagram[: key.salt_bytes]).open(datagram[key.salt_bytes :])


class Sealed:
    """One end of a connection whose bytes are sealed: a blocking socket, every wait with an end."""

    def __init__(self, sock: socket.socket, key: Key) -> None:
        sock.settimeout(TIMEOUT_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._sealer = Sealer(key)
        self.opener = Opener(key)
        self._plain = b""

    @classmethod
    def dial(
        cls, peer: Address, key: Key, host: Host, port: int, pieces: Sequence[bytes] = ()
    ) -> Self:
        """Ask the listener at *peer* for a target; *pieces* follow in the same send."""
        sealed = cls(socket.create_connection(peer, TIMEOUT_SECONDS), key)
        sealed.send(address(host, port), *pieces)
        return sealed

    @property
    def address(self) -> Address:
        """Our own address, the one that the log calls the client."""
        host, port = self.socket.getsockname()[:2]
        return str(host), int(port)

    def send(self, *pieces: bytes) -> None:
        """Send *pieces* at once, each in a chunk of its own if it fits one."""
        self.socket.sendall(b"".join(map(self._sealer.seal, pieces)))

    def read(self) -> bytes:
        """Read once; returns what could be opened, which may be nothing. Raises EOFError."""
        sealed = self.socket.recv(READ_BYTES)
        if not sealed:
            raise EOFError
        return self.opener.open(sealed)

    def receive(self, count: int) -> bytes:
        """Read exactly *count* bytes. Raises EOFError when the stream ends before."""
        while len(self._plain) < count:
            self._plain += self.read()
        data, self._plain = self._plain[:count], self._plain[count:]
        return data

    def receive_all(self) -> bytes:
        """Read to the end of the stream."""
        try:
            while True:
                self._plain += self.read()
        except EOFError:
            assert self.opener.whole, "it ends inside a chunk"
        data, self._plain = self._plain, b""
        return data

    def finish(self) -> None:
        """Half-close: no more bytes from us."""
        self.socket.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
