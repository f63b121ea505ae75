"""The users of one listener, and the proof that a password is theirs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b

from geproxy.crypto.password import PasswordHash, dummy_hash
from geproxy.errors import AuthenticationError
from geproxy.streams import Stream

# Chosen here
CACHE_SECONDS = 300.0  # a browser opens hundreds of connections; one scrypt each would be 47 ms
CACHE_ENTRIES = 4096  # bounds what a flood of users can make us remember

# Runs a slow verification off the loop, for a client; equal keys that overlap share one run.
# Returns 0 where that is True, else how many failures there are to tell of.
Verifier = Callable[[bytes, Callable[[], bool], Stream], int]


class Users:
    """An Authenticator over password hashes.

    Successes are remembered under a keyed digest, never the password; the key lives and dies with
    this process. Failures are not: each guess costs the guesser the full time, and an unknown user
    costs what a known one does.
    """

    def __init__(
        self,
        hashes: Mapping[str, PasswordHash],
        verify: Verifier,
        nobody: PasswordHash | None = None,
        proven: Callable[[Stream], None] = lambda client: None,
    ) -> None:
        """*nobody* is what dummy_hash() makes of *hashes*, made here where it is not given.

        *proven* hears of each client whose password was right.
        """
        self._hashes = hashes
        # As costly as the costliest of them, so that time does not tell which names exist.
        self._nobody = nobody or dummy_hash(hashes.values())
        self._verify = verify
        self._proven = proven
        self._key = os.urandom(32)
        self._known: dict[bytes, float] = {}

    def authenticate(self, user: str, password: bytes, client: Stream) -> None:
        """Return if *password* is *user*'s; *client* is who says so.

        Raises AuthenticationError, LimitError when too many verifications wait, or ResetError for
        a client that has left by its turn.
        """
        name = user.encode("utf-8", "surrogateescape")
        # The name's length in front: no other pair of name and password gives the same bytes.
        proof = len(name).to_bytes(2, "big") + name + password
        digest = blake2b(proof, key=self._key, digest_size=16).digest()
        expires = self._known.get(digest)
        if expires is None or time.monotonic() >= expires:
            self._check(user, password, digest, client)
        self._proven(client)

    def _check(self, user: str, password: bytes, digest: bytes, client: Stream) -> None:
        stored = self._hashes.get(user)
        against = stored or self._nobody
        failures = self._verify(digest, lambda: against.verify(password), client)
        if stored is None:
            raise AuthenticationError("unknown user", user, failures)
        if failures:
            raise AuthenticationError("wrong password", user, failures)
        self._remember(digest)

    def _remember(self, digest: bytes) -> None:
        self._known.pop(digest, None)
        self._known[digest] = time.monotonic() + CACHE_SECONDS
        if len(self._known) > CACHE_ENTRIES:
            del self._known[next(iter(self._known))]
