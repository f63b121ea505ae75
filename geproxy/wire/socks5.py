"""SOCKS5's own messages (RFC 1928)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Self

from geproxy.errors import ProtocolError
from geproxy.terms import Endpoint
from geproxy.wire.address import decode_address, encode_address

# Fixed by the specification
VERSION = 5
MAX_GREETING_BYTES = 2 + 255  # VER NMETHODS METHODS
MAX_REQUEST_BYTES = 4 + 1 + 255 + 2  # VER CMD RSV ATYP, a name of 255 bytes, DST.PORT


class Method(enum.IntEnum):
    """RFC 1928 §3: METHOD. A client may offer others too; those stay numbers."""

    NO_AUTHENTICATION = 0x00
    USERNAME_PASSWORD = 0x02
    NO_ACCEPTABLE = 0xFF


class Cmd(enum.IntEnum):
    """RFC 1928 §4: CMD. Unknown ones stay numbers, to be answered with REP 7."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3


class Rep(enum.IntEnum):
    """RFC 1928 §6: REP."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


@dataclass(frozen=True, slots=True)
class Greeting:
    """The client's opening message: VER NMETHODS METHODS (RFC 1928 §3)."""

    methods: bytes  # as offered; unknown codes are legal

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one greeting from the front of *data*: (greeting, bytes used), None if incomplete.

        Raises ProtocolError at the first byte that rules a greeting out.
        """
        _check_version(data)
        if len(data) < 2:
            return None
        count = data[1]
        if count == 0:
            raise ProtocolError("NMETHODS is 0")
        if len(data) < 2 + count:
            return None
        return cls(data[2 : 2 + count]), 2 + count

    def encode(self) -> bytes:
        """Write VER NMETHODS METHODS."""
        return bytes((VERSION, len(self.methods))) + self.methods


@dataclass(frozen=True, slots=True)
class MethodSelection:
    """The answer to a greeting: VER METHOD (RFC 1928 §3)."""

    method: int

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one selection: (selection, bytes used), None if incomplete.

        Raises ProtocolError for another version.
        """
        _check_version(data)
        return (cls(data[1]), 2) if len(data) >= 2 else None

    def encode(self) -> bytes:
        """Write VER METHOD."""
        return bytes((VERSION, self.method))


@dataclass(frozen=True, slots=True)
class SocksRequest:
    """VER CMD RSV ATYP DST.ADDR DST.PORT (RFC 1928 §4)."""

    cmd: int
    target: Endpoint  # DST.ADDR, DST.PORT

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one request: (request, bytes used), None if incomplete.

        RSV is not looked at: clients are seen to leave anything there, and it means nothing.
        Raises ProtocolError for another version and for an unknown ATYP.
        """
        _check_version(data)
        found = decode_address(data, 3)
        return (cls(data[1], found[0]), found[1]) if found else None

    def encode(self) -> bytes:
        """Write VER CMD RSV ATYP DST.ADDR DST.PORT."""
        return bytes((VERSION, self.cmd, 0)) + encode_address(self.target)


@dataclass(frozen=True, slots=True)
class Reply:
    """VER REP RSV ATYP BND.ADDR BND.PORT (RFC 1928 §6)."""

    rep: int
    bound: Endpoint  # BND.ADDR, BND.PORT

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one reply: (reply, bytes used), None if incomplete.

        Raises ProtocolError for another version and for an unknown ATYP.
        """
        _check_version(data)
        found = decode_address(data, 3)
        return (cls(data[1], found[0]), found[1]) if found else None

    def encode(self) -> bytes:
        """Write VER REP RSV ATYP BND.ADDR BND.PORT."""
        return bytes((VERSION, self.rep, 0)) + encode_address(self.bound)


def _check_version(data: bytes) -> None:
    if data and data[0] != VERSION:
        raise ProtocolError(f"VER is {data[0]:#04x}, not 5")
