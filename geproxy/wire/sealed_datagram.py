"""Shadowsocks AEAD datagrams (SIP004): each one sealed for itself.

    datagram = salt seal(ATYP ADDR PORT data)        the seal adds a 16-byte tag

The address is the target's on the way up and the source's on the way down. The nonce is zero, and
may be: every datagram has a subkey of its own, from a salt of its own.
"""

from __future__ import annotations

from geproxy.crypto.aead import NONCE_BYTES, TAG_BYTES, BadTag
from geproxy.crypto.secret import Secret
from geproxy.errors import AuthenticationError, ProtocolError

_NONCE = bytes(NONCE_BYTES)


def seal_datagram(secret: Secret, salt: bytes, plain: bytes) -> bytes:
    """Seal an address block and its data under *salt*, which must never have been used before."""
    return salt + secret.subkey_aead(salt).encrypt(_NONCE, plain, None)


def open_datagram(secret: Secret, datagram: bytes) -> tuple[bytes, bytes]:
    """Open a datagram: its salt, and what was sealed.

    Raises ProtocolError for one too short to be any, AuthenticationError for one that was not
    sealed with our key.
    """
    salt_bytes = secret.method.salt_bytes
    if len(datagram) < salt_bytes + TAG_BYTES:
        raise ProtocolError(f"a sealed datagram of {len(datagram)} bytes")
    salt = datagram[:salt_bytes]
    try:
        return salt, secret.subkey_aead(salt).decrypt(_NONCE, datagram[salt_bytes:], None)
    except BadTag as error:
        raise AuthenticationError("a datagram that was not sealed with our key") from error
