"""SOCKS4's two messages, and the names that 4A adds.

The documents are Ying-Da Lee's: "SOCKS: A protocol for TCP proxy across firewalls", and "SOCKS 4A:
A Simple Extension to SOCKS 4 Protocol".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from geproxy.errors import ProtocolError
from geproxy.terms import MAX_NAME_BYTES, Endpoint

# Fixed by the specification
VERSION = 4
REPLY_VERSION = 0  # of the reply code, not of SOCKS
FIXED_BYTES = 8  # VN CD DSTPORT DSTIP: all of a reply, and the front of a request
NO_ADDRESS = bytes(4)  # as BND.ADDR: the address where the client reached us
# Chosen here
MAX_USER_ID_BYTES = 255  # the document has no limit
MAX_REQUEST_BYTES = FIXED_BYTES + MAX_USER_ID_BYTES + 1 + MAX_NAME_BYTES + 1
NAME_FOLLOWS = b"\0\0\0\x01"  # 4A: 0.0.0.x, whatever x is, but for 0


class CommandCode(enum.IntEnum):
    """CD of a request. Unknown ones stay numbers, to be answered with 91."""

    CONNECT = 1
    BIND = 2


class ResultCode(enum.IntEnum):
    """CD of a reply. The last two speak of identd (RFC 1413), which nobody here asks."""

    GRANTED = 90
    REJECTED = 91  # or failed
    NO_IDENTD = 92
    IDENTD_DISAGREES = 93


@dataclass(frozen=True, slots=True)
class SocksRequest:
    """VN CD DSTPORT DSTIP USERID NUL, and in 4A a name and a NUL."""

    cd: int
    target: Endpoint  # DSTIP or the name, DSTPORT
    user_id: bytes  # USERID: a claim

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one request: (request, bytes used), None if incomplete.

        Raises ProtocolError for another version, and for a USERID or a name that is longer than
        255 bytes.
        """
        if data and data[0] != VERSION:
            raise ProtocolError(f"VN is {data[0]:#04x}, not 4")
        user_end = _find_nul(data, FIXED_BYTES, MAX_USER_ID_BYTES, "USERID")
        if user_end is None:
            return None
        end, target = user_end + 1, _fixed_endpoint(data)
        if _announces_name(data[4:FIXED_BYTES]):
            name_end = _find_nul(data, end, MAX_NAME_BYTES, "a name")
            if name_end is None:
                return None
            target = Endpoint.from_name(data[end:name_end], target.port)
            end = name_end + 1
        return cls(data[1], target, data[FIXED_BYTES:user_end]), end

    def encode(self) -> bytes:
        """Write the request. A target that DSTIP cannot hold is written as a name."""
        host = self.target.host
        if isinstance(host, IPv4Address) and not _announces_name(host.packed):
            address, name = host.packed, b""
        else:
            address, name = NAME_FOLLOWS, str(host).encode("utf-8", "surrogateescape") + b"\0"
        port = self.target.port.to_bytes(2, "big")
        return bytes((VERSION, self.cd)) + port + address + self.user_id + b"\0" + name


@dataclass(frozen=True, slots=True)
class Reply:
    """VN CD DSTPORT DSTIP."""

    cd: int
    bound: Endpoint  # DSTIP, DSTPORT: in the replies to BIND; in others they mean nothing

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """Read one reply: (reply, bytes used), None if incomplete.

        Raises ProtocolError for another version.
        """
        if data and data[0] != REPLY_VERSION:
            raise ProtocolError(f"VN of a reply is {data[0]:#04x}, not 0")
        if len(data) < FIXED_BYTES:
            return None
        return cls(data[1], _fixed_endpoint(data)), FIXED_BYTES

    def encode(self) -> bytes:
        """Write the reply. There is no room for IPv6: what it says then is the port alone."""
        host = self.bound.host
        address = host.packed if isinstance(host, IPv4Address) else NO_ADDRESS
        return bytes((REPLY_VERSION, self.cd)) + self.bound.port.to_bytes(2, "big") + address


def _fixed_endpoint(data: bytes) -> Endpoint:
    """Read DSTPORT DSTIP, which stand at the same place in both messages."""
    return Endpoint(IPv4Address(data[4:FIXED_BYTES]), int.from_bytes(data[2:4], "big"))


def _announces_name(address: bytes) -> bool:
    return address.startswith(b"\0\0\0") and address != NO_ADDRESS


def _find_nul(data: bytes, begin: int, max_bytes: int, what: str) -> int | None:
    """Return where the NUL behind a field of at most *max_bytes* is, None where it may yet come."""
    end = data.find(b"\0", begin, begin + max_bytes + 1)
    if end >= 0:
        return end
    if len(data) > begin + max_bytes:
        raise ProtocolError(f"{what} longer than {max_bytes} bytes")
    return None
