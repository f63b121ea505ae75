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


def _hkdf_sha1_twin(key: bytes, salt: bytes, info: bytes, size_bytes: int) -> bytes:
    """HKDF with SHA-1 (RFC 5869), from the standard library."""
    # hmac.digest is one call into OpenSSL; an HMAC object each would cost three times as much.
    pseudorandom = hmac.digest(salt, key, "sha1")
    output = block = b""
    counter = 1
    while len(output) < size_bytes:
        block = hmac.digest(pseudorandom, block + info + bytes((counter,)), "sha1")
        output += block
        counter += 1
    return output[:size_bytes]


def _hkdf_sha1_fast(key: bytes, salt: bytes, info: bytes, size_bytes: int) -> bytes:
    """The same, by OpenSSL: 2.7 µs for 32 bytes instead of 4.6, and every datagram needs one."""
    return HKDF(_SHA1, size_bytes, salt, info).derive(key)


try:
    from cryptography.hazmat.primitives.hashes import SHA1
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError:
    hkdf_sha1 = _hkdf_sha1_twin
else:
    _SHA1 = SHA1()
    hkdf_sha1 = _hkdf_sha1_fast


def session_subkey(key: bytes, salt: bytes) -> bytes:
    """The key of one direction of one stream, or of one datagram (SIP004): as long as *key*."""
    return hkdf_sha1(key, salt, SUBKEY_INFO, len(key))
