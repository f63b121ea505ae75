"""A cipher with the password or the raw key of a configuration."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass, field

from geproxy.crypto.kdf import key_from_password
from geproxy.crypto.methods import Method
from geproxy.crypto.secret import Secret

# Chosen here
STRONG_BITS = 128  # nobody goes through 2^128 guesses; the shortest raw key has as many

_CLASSES = [
    frozenset(characters.encode())
    for characters in (
        string.ascii_lowercase,
        string.ascii_uppercase,
        string.digits,
        string.punctuation + " ",
    )
]
_OTHER_BYTES = frozenset(range(256)).difference(*_CLASSES)
ALPHABETS = (*_CLASSES, _OTHER_BYTES)  # of 26, 26, 10, 33 and 161 bytes


@dataclass(frozen=True, slots=True)
class Sealing:
    """A cipher, and its password or its raw key; neither where a file of its own holds them."""

    method: Method
    password: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)

    @property
    def has_secret(self) -> bool:
        """Whether there is a password or a key."""
        return self.password is not None or self.key is not None

    @property
    def secret(self) -> Secret:
        """What both ends seal with. Only a Sealing that has a secret gives one."""
        if self.key is not None:
            return Secret(self.method, self.key)
        assert self.password is not None, "a URL without a secret is completed from a file"
        return Secret(self.method, key_from_password(self.password, self.method.key_bytes))

    @property
    def guessable(self) -> bool:
        """Whether the password may fall to guesses at one recorded connection."""
        return self.password is not None and guess_bits(self.password) < STRONG_BITS


def guess_bits(password: bytes) -> float:
    """Estimate, from above, the entropy of *password*: each byte drawn blindly from its alphabets.

    Length times log2 of the size of all ALPHABETS that are used; of a repetition only one round
    counts. 22 random letters and digits have more than 128 bits. Words cannot be told from noise,
    so a low estimate is a fact and a high one is not.
    """
    length = (password + password).find(password, 1)  # where its shortest repeated part ends
    drawn_from = sum(len(alphabet) for alphabet in ALPHABETS if not alphabet.isdisjoint(password))
    return length * math.log2(drawn_from) if password else 0.0
