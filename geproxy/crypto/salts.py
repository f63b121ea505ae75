"""Salts for datagrams: fresh ones, and such that their maker knows them again."""

from __future__ import annotations

import os
from hashlib import blake2b

from geproxy.crypto.secret import Secret

# Chosen here
MARK_BYTES = 4  # a stranger's salt passes for ours once in 2^32; that datagram is lost
BATCH = 64  # salts from one system call


class SaltMaker:
    """Makes salts that carry a mark which only the key can tell from chance.

    One who records our datagrams and sends them back to us is found out without a memory of all
    that we ever sent. *role* keeps the two ends of one key apart.
    """

    __slots__ = ("_keyed", "_random", "_random_bytes")

    def __init__(self, secret: Secret, role: bytes) -> None:
        """*role* has 16 bytes at most: blake2b's person."""
        # Copied for each mark, which is cheaper than to begin with the key again.
        self._keyed = blake2b(key=secret.key, person=role, digest_size=MARK_BYTES)
        self._random_bytes = secret.method.salt_bytes - MARK_BYTES
        self._random = b""

    def make(self) -> bytes:
        """Return a salt that was never used before."""
        size = self._random_bytes
        if not self._random:
            # Read after the fork that made this worker, so that no other has the same.
            self._random = os.urandom(size * BATCH)
        fresh, self._random = self._random[:size], self._random[size:]
        return fresh + self._mark(fresh)

    def is_ours(self, salt: bytes) -> bool:
        """Tell whether make() made *salt*, here or in another process of this role."""
        return self._mark(salt[: self._random_bytes]) == salt[self._random_bytes :]

    def _mark(self, fresh: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(fresh)
        return keyed.digest()
