"""What both ends of a sealed stream share."""

from __future__ import annotations

from dataclasses import dataclass, field

from geproxy.crypto.aead import Aead, make_aead
from geproxy.crypto.kdf import session_subkey
from geproxy.crypto.methods import Method


@dataclass(frozen=True, slots=True)
class Secret:
    """A cipher and its key."""

    method: Method
    key: bytes = field(repr=False)

    def subkey_aead(self, salt: bytes) -> Aead:
        """The cipher for the direction that begins with *salt*."""
        return make_aead(self.method, session_subkey(self.key, salt))
