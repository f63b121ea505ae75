"""Shadowsocks AEAD streams (SIP004 as amended by SIP007): a salt, then sealed chunks.

    stream  = salt chunk*
    chunk   = seal(length, 2 bytes big-endian) seal(payload)        each seal adds a 16-byte tag

The nonce is a counter of 12 bytes, little-endian, one up for each seal. The first payload bytes
from client to server are the target's address.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from geproxy.crypto.aead import NONCE_BYTES, TAG_BYTES, Aead, BadTag
from geproxy.crypto.methods import METHODS
from geproxy.errors import AuthenticationError, ProtocolError
from geproxy.terms import Endpoint
from geproxy.wire.address import decode_address, encode_address

# Fixed by the specification
MAX_CHUNK_BYTES = 0x3FFF  # SIP004: 14 bits of length, the top two are zero
LENGTH_BYTES = 2
SEALED_LENGTH_BYTES = LENGTH_BYTES + TAG_BYTES
CHUNK_OVERHEAD_BYTES = SEALED_LENGTH_BYTES + TAG_BYTES
MAX_SEALED_CHUNK_BYTES = MAX_CHUNK_BYTES + CHUNK_OVERHEAD_BYTES
MAX_SALT_BYTES = max(method.salt_bytes for method in METHODS.values())
MAX_TARGET_BYTES = 1 + 1 + 255 + 2  # ATYP, a name of 255 bytes, the port

# Chosen here: what is sealed at a time. OpenSSL's Poly1305 takes eight blocks of 16 bytes at once
# where their number is a multiple of eight: ChaCha20-Poly1305 is a quarter faster than with 0x3FFF.
CHUNK_BYTES = MAX_CHUNK_BYTES // 128 * 128
SEALED_CHUNK_BYTES = CHUNK_BYTES + CHUNK_OVERHEAD_BYTES
# What a stream's first send has besides the payload, at most: the salt, the target, and the
# overhead of the one chunk more that the target can make necessary.
FIRST_SEND_EXTRA_BYTES = MAX_SALT_BYTES + MAX_TARGET_BYTES + CHUNK_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Target:
    """ATYP ADDR PORT at the front of what a client sends (SIP004)."""

    endpoint: Endpoint

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one target: (target, bytes used), None if incomplete.

        Raises ProtocolError for an unknown ATYP.
        """
        found = decode_address(data, 0)
        return (cls(found[0]), found[1]) if found else None

    def encode(self) -> bytes:
        """Write ATYP ADDR PORT."""
        return encode_address(self.endpoint)


def sealed_size(plain_bytes: int) -> int:
    """How long *plain_bytes* become as chunks."""
    chunks = -(-plain_bytes // CHUNK_BYTES)
    return plain_bytes + chunks * CHUNK_OVERHEAD_BYTES


class ChunkSealer:
    """Seals one direction of one stream. Its counter only grows, so no nonce is used twice."""

    __slots__ = ("_aead", "_count", "_make_aead")

    def __init__(self, make_aead: Callable[[], Aead]) -> None:
        """*make_aead* makes the direction's cipher, as often as it is needed.

        It is kept while more than a chunk moves at a time: see Secret.subkey() for the cost.
        """
        self._make_aead = make_aead
        self._aead: Aead | None = None
        self._count = 0

    def seal_into(self, plain: bytes | memoryview, sealed: memoryview) -> int:
        """Write *plain* as chunks to the front of *sealed*; returns how many bytes those are."""
        view = memoryview(plain)
        count, start, place = self._count, 0, 0
        aead = self._aead or self._make_aead()
        self._aead = aead if len(view) > CHUNK_BYTES else None
        encrypt_into = aead.encrypt_into
        while start < len(view):
            payload = view[start : start + CHUNK_BYTES]
            size = len(payload)
            # Counted up before it is used: whatever happens next, this nonce is spent.
            self._count = count = count + 2
            nonce = (count - 2).to_bytes(NONCE_BYTES, "little")
            body = place + SEALED_LENGTH_BYTES
            encrypt_into(nonce, size.to_bytes(LENGTH_BYTES, "big"), None, sealed[place:body])
            nonce = (count - 1).to_bytes(NONCE_BYTES, "little")
            place = body + size + TAG_BYTES
            encrypt_into(nonce, payload, None, sealed[body:place])
            start += size
        return place


class ChunkOpener:
    """Opens one direction of one stream; its bytes may come in any pieces."""

    __slots__ = ("_aead", "_count", "_length", "_make_aead")

    def __init__(self, make_aead: Callable[[], Aead]) -> None:
        """See ChunkSealer."""
        self._make_aead = make_aead
        self._aead: Aead | None = None
        self._count = 0
        self._length: int | None = None  # of the payload that is awaited; None: a length is

    def open_into(self, sealed: memoryview, plain: memoryview) -> tuple[int, int]:
        """Open what is whole at the front of *sealed*, as far as *plain* has room.

        Returns the bytes used and the bytes written. Raises AuthenticationError for bytes that
        were not sealed with this key, in this place; the stream is dead then.
        """
        used = written = 0
        have, room, count, size = len(sealed), len(plain), self._count, self._length
        aead = self._aead or self._make_aead()
        self._aead = aead if have > MAX_SEALED_CHUNK_BYTES else None
        try:
            while True:
                if size is None:
                    body = used + SEALED_LENGTH_BYTES
                    if have < body:
                        return used, written
                    nonce = count.to_bytes(NONCE_BYTES, "little")
                    size = int.from_bytes(aead.decrypt(nonce, sealed[used:body], None), "big")
                    if size > MAX_CHUNK_BYTES:
                        raise ProtocolError(f"a chunk of {size} bytes, over {MAX_CHUNK_BYTES}")
                    count += 1
                    used = body
                end, filled = used + size + TAG_BYTES, written + size
                if have < end or room < filled:
                    return used, written
                nonce = count.to_bytes(NONCE_BYTES, "little")
                aead.decrypt_into(nonce, sealed[used:end], None, plain[written:filled])
                count += 1
                used, written, size = end, filled, None
        except BadTag as error:
            raise AuthenticationError("bytes that were not sealed with our key") from error
        finally:
            self._count, self._length = count, size

    @property
    def between_chunks(self) -> bool:
        """True where the stream may end: nothing of a chunk has been opened without the rest."""
        return self._length is None

    @property
    def authenticated(self) -> bool:
        """True once a whole chunk has been opened: who sent it has the key."""
        return self._count >= 2
