"""The ciphers by name: what each needs, and every name it goes by (SIP004, SIP007)."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One AEAD cipher of SIP004."""

    name: str
    key_bytes: int

    @property
    def salt_bytes(self) -> int:
        """SIP004: the salt is as long as the key; the shortest key has 16 bytes."""
        return self.key_bytes


AES_128_GCM = Method("aes-128-gcm", 16)
AES_256_GCM = Method("aes-256-gcm", 32)
CHACHA20_POLY1305 = Method("chacha20-ietf-poly1305", 32)

METHODS = {method.name: method for method in (AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305)}

# What go-shadowsocks2 calls them.
ALIASES = {
    "aead_aes_128_gcm": AES_128_GCM,
    "aead_aes_256_gcm": AES_256_GCM,
    "aead_chacha20_poly1305": CHACHA20_POLY1305,
    "chacha20-poly1305": CHACHA20_POLY1305,
}


def method_by_name(name: str) -> Method:
    """Find a cipher by any of its names, in any case. Raises ValueError."""
    method = METHODS.get(name.lower()) or ALIASES.get(name.lower())
    if method is None:
        raise ValueError(f"the cipher is none of {', '.join(METHODS)}")
    return method


def generate_key(method: Method) -> str:
    """Make a random key for *method*, as text: base64url with padding."""
    return base64.urlsafe_b64encode(os.urandom(method.key_bytes)).decode()


def decode_key(text: str, method: Method) -> bytes:
    """Read a key as generate_key writes it; padding may be missing. Raises ValueError."""
    plain = text.strip().replace("+", "-").replace("/", "_").rstrip("=")
    try:
        # urlsafe_b64decode drops what is not of its alphabet; a key is never mended in silence.
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the key is not base64url") from error
    if len(key) != method.key_bytes:
        raise ValueError(f"the key has {len(key)} bytes; {method.name} needs {method.key_bytes}")
    return key
