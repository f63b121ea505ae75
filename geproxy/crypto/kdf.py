"""Keys from passwords, and each stream's own key from the shared one."""

from __future__ import annotations

import hmac
from hashlib import md5

# Fixed by the specification
SUBKEY_INFO = b"ss-subkey"  # SIP004


def key_from_password(password: bytes, key_bytes: int) -> bytes:
    """OpenSSL's EVP_BytesToKey with MD5, no salt and one round: what SIP004 peers agree on.

    It adds no cost to a guess, so a password of little entropy can be guessed from one recorded
    connection; a random key cannot.
    """
    key = digest = b""
    while len(key) < key_bytes:
        digest = md5(digest + password, usedforsecurity=False).digest()
        key += digest
    return key[:key_bytes]


def hkdf_sha1(key: bytes, salt: bytes, info: bytes, size_bytes: int) -> bytes:
    """HKDF with SHA-1 (RFC 5869)."""
    # hmac.digest is one call into OpenSSL; an HMAC object each would cost three times as much.
    pseudorandom = hmac.digest(salt, key, "sha1")
    output = block = b""
    counter = 1
    while len(output) < size_bytes:
        block = hmac.digest(pseudorandom, block + info + bytes((counter,)), "sha1")
        output += block
        counter += 1
    return output[:size_bytes]


def session_subkey(key: bytes, salt: bytes) -> bytes:
    """The key of one direction of one stream (SIP004): as long as *key*."""
    return hkdf_sha1(key, salt, SUBKEY_INFO, len(key))
