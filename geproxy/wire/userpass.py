"""Username/password sub-negotiation for SOCKS5 (RFC 1929)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from geproxy.errors import ProtocolError

# Fixed by the specification
VERSION = 1  # of the sub-negotiation, not of SOCKS
MAX_CREDENTIALS_BYTES = 2 + 255 + 1 + 255  # VER ULEN UNAME PLEN PASSWD
SUCCESS = 0
FAILURE = 1  # RFC 1929 §2: any value but 0 is a failure


@dataclass(frozen=True, slots=True)
class Credentials:
    """VER ULEN UNAME PLEN PASSWD (RFC 1929 §2).

    The document gives both fields at least one byte, yet clients send an empty password where
    their user typed none. Such a message is read, so that it fails as a wrong password does.
    """

    user: bytes
    password: bytes

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one message: (credentials, bytes used), None if incomplete.

        Raises ProtocolError for another version.
        """
        _check_version(data)
        if len(data) < 2:
            return None
        user_end = 2 + data[1]
        if len(data) <= user_end:
            return None
        end = user_end + 1 + data[user_end]
        if len(data) < end:
            return None
        return cls(data[2:user_end], data[user_end + 1 : end]), end

    def encode(self) -> bytes:
        """Write VER ULEN UNAME PLEN PASSWD."""
        head, middle = bytes((VERSION, len(self.user))), bytes((len(self.password),))
        return head + self.user + middle + self.password

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, password=***)"


@dataclass(frozen=True, slots=True)
class Status:
    """VER STATUS (RFC 1929 §2)."""

    status: int

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one answer: (status, bytes used), None if incomplete.

        Raises ProtocolError for another version.
        """
        _check_version(data)
        return (cls(data[1]), 2) if len(data) >= 2 else None

    def encode(self) -> bytes:
        """Write VER STATUS."""
        return bytes((VERSION, self.status))


def _check_version(data: bytes) -> None:
    if data and data[0] != VERSION:
        raise ProtocolError(f"the VER of RFC 1929 is {data[0]:#04x}, not 1")
