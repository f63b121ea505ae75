"""Hash passwords with scrypt (RFC 7914), written as passlib writes it."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

# Fixed by the format: passlib's scrypt, base64 with + and / and without padding
_FORM = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]{0,3}),r=([1-9][0-9]{0,3}),p=([1-9][0-9]{0,3})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)

# Chosen here: what a users file may ask of us
_BOUNDS = {
    "ln": (10, 20),  # N = 2**ln. Below, a guess is too cheap; above lies nothing of RFC 7914 §12
    "r": (1, 32),  # 8 is the rule (RFC 7914 §2); 32 allows for wider memory
    "p": (1, 16),  # the largest of RFC 7914 §12
    "salt bytes": (8, 64),  # RFC 8018 §4.1: at least eight octets; nobody writes more than 64
    "hash bytes": (16, 64),  # 128 bits cannot be met by chance; 64 is what RFC 7914 §12 prints
}
# 128 * N * r * p: the memory is no more than this, and the time grows with it: 47 ms for our own
# 16 MiB, 0.9 s at the most. Fits what passlib (64 MiB) and OWASP (128 MiB) write by default.
_MAX_WORK_BYTES = 256 << 20

# Chosen here: what we write
_LN, _R, _P = 14, 8, 1  # 16 MiB and 47 ms a login
_SALT_BYTES = 16
_DIGEST_BYTES = 32
_MIN_CHARACTERS = 8  # NIST SP 800-63B §5.1.1


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """One stored password. Raises ValueError for parameters that are too weak or too costly."""

    ln: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def __post_init__(self) -> None:
        sizes = {
            "ln": self.ln,
            "r": self.r,
            "p": self.p,
            "salt bytes": len(self.salt),
            "hash bytes": len(self.digest),
        }
        for name, (least, most) in _BOUNDS.items():
            if not least <= sizes[name] <= most:
                raise ValueError(f"{name}: {sizes[name]} is not in {least}..{most}")
        if self.work_bytes > _MAX_WORK_BYTES:
            raise ValueError(
                f"ln, r and p: {self.work_bytes >> 20} MiB of work for one login,"
                f" and {_MAX_WORK_BYTES >> 20} MiB is the most"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what str() writes, and nothing else.

        Raises ValueError; its message never quotes *text*, which may be a password in the clear.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError("not of the form $scrypt$ln=14,r=8,p=1$SALT$HASH")
        ln, r, p, salt, digest = match.groups()
        return cls(int(ln), int(r), int(p), _decode("salt", salt), _decode("hash", digest))

    def __str__(self) -> str:
        parameters = f"ln={self.ln},r={self.r},p={self.p}"
        return f"$scrypt${parameters}${_encode(self.salt)}${_encode(self.digest)}"

    @property
    def work_bytes(self) -> int:
        """The bytes that one verify writes: what its time and its memory grow with."""
        return 128 * self.r * self.p << self.ln

    def verify(self, password: bytes) -> bool:
        """Tell whether *password* is the one. Slow by design, without the GIL: call on a thread."""
        digest = _scrypt(password, self.salt, self.ln, self.r, self.p, len(self.digest))
        return hmac.compare_digest(digest, self.digest)


def hash_password(password: bytes) -> PasswordHash:
    """Hash *password* with a new random salt. As slow as verify."""
    salt = os.urandom(_SALT_BYTES)
    digest = _scrypt(password, salt, _LN, _R, _P, _DIGEST_BYTES)
    return PasswordHash(_LN, _R, _P, salt, digest)


def dummy_hash(known: Iterable[PasswordHash] = ()) -> PasswordHash:
    """Make what a user who does not exist is verified against, so that time tells no names.

    It costs as much as the costliest of *known*, or as hash_password where there are none. Its
    digest is all zeros: a password for it would be a preimage. Runs no scrypt itself.
    """
    like = max(known, key=lambda stored: stored.work_bytes, default=None)
    ln, r, p = (like.ln, like.r, like.p) if like else (_LN, _R, _P)
    return PasswordHash(ln, r, p, bytes(_SALT_BYTES), bytes(_DIGEST_BYTES))


def weakness(password: str | bytes, user: str = "") -> str | None:
    """Say in a sentence why *password* is easily guessed, or return None. For a warning only."""
    if isinstance(password, bytes):
        password = password.decode("utf-8", "backslashreplace")
    if len(password) < _MIN_CHARACTERS:
        return f"the password is shorter than {_MIN_CHARACTERS} characters"
    if password.casefold() == user.casefold():
        return "the password is the user's name"
    if password.isdecimal():
        return "the password is digits only"
    # A text is found inside its own double first where its shortest repeated part ends.
    if (password + password).find(password, 1) < _MIN_CHARACTERS:
        return f"the password repeats fewer than {_MIN_CHARACTERS} characters"
    return None


def _scrypt(password: bytes, salt: bytes, ln: int, r: int, p: int, size_bytes: int) -> bytes:
    n = 1 << ln
    # OpenSSL refuses more than 32 MiB unless told. This is what it counts: N blocks for V, p for B
    # and two to work in, each of 128 * r bytes.
    maxmem_bytes = 128 * r * (n + p + 2)
    return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=maxmem_bytes, dklen=size_bytes)


def _encode(data: bytes) -> str:
    return b64encode(data).decode("ascii").rstrip("=")


def _decode(name: str, text: str) -> bytes:
    try:
        data = b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(f"{name}: not base64; a part of it is missing") from error
    # Left-over bits would give one hash several spellings: a sign of a character lost or altered.
    if _encode(data) != text:
        raise ValueError(f"{name}: not base64; its last character is wrong")
    return data
