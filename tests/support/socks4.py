"""A small SOCKS4 and 4A client: a twin that shares no code with what it tests."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from tests.support.socks import Address, Tunnel

# Ying-Da Lee's documents
CONNECT, BIND = 1, 2
GRANTED, REJECTED = 90, 91
HIDDEN = IPv4Address("0.0.0.1")  # 4A: the name follows USERID


def request(host: str | IPv4Address, port: int, cd: int = CONNECT, user_id: bytes = b"") -> bytes:
    """VN CD DSTPORT DSTIP USERID NULL; a text goes out as a name, however it looks."""
    if isinstance(host, str):
        address, name = HIDDEN, host.encode() + b"\0"
    else:
        address, name = host, b""
    return struct.pack("!BBH", 4, cd, port) + address.packed + user_id + b"\0" + name


def read_reply(tunnel: Tunnel) -> tuple[int, Address]:
    """VN CD DSTPORT DSTIP, of which VN is 0: returns CD and the address."""
    version, code, port = struct.unpack("!BBH", tunnel.receive(4))
    assert version == 0
    return code, (str(IPv4Address(tunnel.receive(4))), port)
