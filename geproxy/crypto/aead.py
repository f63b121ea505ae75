"""Seal and open with a subkey: OpenSSL where it is at hand, pycryptodome where it is not.

Both have the one interface Aead. Tests hold the fast one to the other, byte by byte.
"""

from __future__ import annotations

from typing import Protocol

from Crypto.Cipher import AES, ChaCha20_Poly1305

from geproxy.crypto.methods import CHACHA20_POLY1305, METHODS, Method

# Fixed by the specification (SIP004)
NONCE_BYTES = 12
TAG_BYTES = 16

Buffer = bytes | bytearray | memoryview

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
except ImportError:

    class BadTag(Exception):
        """The bytes were not sealed with this key and nonce."""

    FAST = False
else:
    BadTag = InvalidTag  # type: ignore[misc,assignment]
    # Before 47.0 there was no way to write into a caller's buffer; such a one counts as absent.
    FAST = hasattr(AESGCM, "encrypt_into")


class Aead(Protocol):
    """One subkey. The caller's nonces never repeat; associated data is always None here."""

    def encrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: None, buf: memoryview, /
    ) -> int:
        """Write sealed *data* and its tag into *buf*, which is exactly TAG_BYTES longer."""
        ...

    def decrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: None, buf: memoryview, /
    ) -> int:
        """Write what was sealed into *buf*, exactly TAG_BYTES shorter. Raises BadTag."""
        ...

    def encrypt(self, nonce: bytes, data: Buffer, associated_data: None, /) -> bytes:
        """Return sealed *data* with its tag: for a message by itself."""
        ...

    def decrypt(self, nonce: bytes, data: Buffer, associated_data: None, /) -> bytes:
        """Return what was sealed. Raises BadTag."""
        ...


class TwinAead:
    """pycryptodome's: a cipher object for each call, so many times slower."""

    __slots__ = ("_chacha", "_subkey")

    def __init__(self, method: Method, subkey: bytes) -> None:
        self._chacha = method is CHACHA20_POLY1305
        self._subkey = subkey

    def encrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: None, buf: memoryview, /
    ) -> int:
        """See Aead."""
        buf[:] = self.encrypt(nonce, data, None)
        return len(buf)

    def decrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: None, buf: memoryview, /
    ) -> int:
        """See Aead."""
        buf[:] = self.decrypt(nonce, data, None)
        return len(buf)

    def encrypt(self, nonce: bytes, data: Buffer, associated_data: None, /) -> bytes:
        """See Aead."""
        sealed, tag = self._cipher(nonce).encrypt_and_digest(data)
        return bytes(sealed + tag)

    def decrypt(self, nonce: bytes, data: Buffer, associated_data: None, /) -> bytes:
        """See Aead."""
        view = memoryview(data)
        try:
            plain = self._cipher(nonce).decrypt_and_verify(view[:-TAG_BYTES], view[-TAG_BYTES:])
        except ValueError as error:
            raise BadTag from error
        return bytes(plain)

    def _cipher(self, nonce: bytes):  # type: ignore[no-untyped-def]  # no common base there
        if self._chacha:
            return ChaCha20_Poly1305.new(key=self._subkey, nonce=nonce)
        return AES.new(self._subkey, AES.MODE_GCM, nonce=nonce)


def make_aead(method: Method, subkey: bytes) -> Aead:
    """The fastest Aead there is for *method* with *subkey*."""
    if not FAST:
        return TwinAead(method, subkey)
    return ChaCha20Poly1305(subkey) if method is CHACHA20_POLY1305 else AESGCM(subkey)


def exercise() -> None:
    """Seal and open once with each cipher: the libraries load parts of themselves at first use."""
    for method in METHODS.values():
        aead = make_aead(method, bytes(method.key_bytes))
        sealed = bytearray(TAG_BYTES)
        aead.encrypt_into(bytes(NONCE_BYTES), b"", None, memoryview(sealed))
        aead.decrypt_into(bytes(NONCE_BYTES), sealed, None, memoryview(bytearray()))
