"""Salts for streams and datagrams: fresh ones, and such that their maker knows them again."""

from __future__ import annotations

import os
from hashlib import blake2b

from geproxy.crypto.secret import Secret

# Chosen here
MARK_BYTES = 4  # a stranger's salt passes for ours once in 2^32, and is refused


class SaltMaker:
    """Makes salts that carry a mark which only the key can tell from chance.

    One who records what we sent and sends it back to us is found out without a memory of all that
    we ever sent. *role* keeps the two ends of one key apart.
    """

    __slots__ = ("_keyed", "_random_bytes", "secret")

    def __init__(self, secret: Secret, role: bytes) -> None:
        """*role* has 16 bytes at most: blake2b's person."""
        self.secret = secret
        # Copied for each mark, which is cheaper than to begin with the key again.
        self._keyed = blake2b(key=secret.key, person=role, digest_size=MARK_BYTES)
        self._random_bytes = secret.method.salt_bytes - MARK_BYTES

    def make(self) -> bytes:
        """Return a fresh salt.

        aes-128-gcm leaves 12 random bytes: of 2^32 salts of one key two are the same with a chance
        of 2^-33. None is drawn ahead of its use: a fork, or a machine that is resumed twice from
        one snapshot, would use it twice, and with it a key and its nonces.
        """
        fresh = os.urandom(self._random_bytes)
        return fresh + self._mark(fresh)

    def is_ours(self, salt: bytes) -> bool:
        """Tell whether make() made *salt*, here or in another process of this role; or chance."""
        return self._mark(salt[: self._random_bytes]) == salt[self._random_bytes :]

    def _mark(self, fresh: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(fresh)
        return keyed.digest()
