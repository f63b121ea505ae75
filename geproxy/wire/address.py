"""ATYP, address and port: the block that SOCKS5 and Shadowsocks share (RFC 1928 §4-5)."""

from __future__ import annotations

import enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from geproxy.errors import ProtocolError
from geproxy.terms import Address, Endpoint, Outcome

PORT_BYTES = 2


class AddressType(enum.IntEnum):
    """RFC 1928 §5: ATYP."""

    IPV4 = 1
    NAME = 3
    IPV6 = 4


def decode_address(data: bytes, start: int) -> tuple[Endpoint, int] | None:
    """Read ATYP ADDR PORT from *data* at *start*.

    Returns the endpoint and the position after it, or None while incomplete.
    Raises ProtocolError for an unknown ATYP (its outcome says so). A name may hold anything, or
    nothing: hostname.canonical() judges it.
    """
    if len(data) <= start:
        return None
    kind = data[start]
    if kind == AddressType.IPV4:
        begin, end = start + 1, start + 5
    elif kind == AddressType.IPV6:
        begin, end = start + 1, start + 17
    elif kind == AddressType.NAME:
        if len(data) <= start + 1:
            return None
        begin, end = start + 2, start + 2 + data[start + 1]
    else:
        raise ProtocolError(f"ATYP is {kind:#04x}, not 1, 3 or 4", Outcome.ADDRESS_UNSUPPORTED)
    if len(data) < end + PORT_BYTES:
        return None
    port = int.from_bytes(data[end : end + PORT_BYTES], "big")
    return _endpoint(kind, data[begin:end], port), end + PORT_BYTES


def _endpoint(kind: int, host: bytes, port: int) -> Endpoint:
    if kind == AddressType.NAME:
        return Endpoint.from_name(host, port)
    return Endpoint(_address(host), port)


# Targets come again, and later caches (terms.text_of) find the same object without comparing.
@lru_cache(maxsize=4096)
def _address(packed: bytes) -> Address:
    return ip_address(packed)


def encode_address(endpoint: Endpoint) -> bytes:
    """Write ATYP ADDR PORT."""
    port = endpoint.port.to_bytes(PORT_BYTES, "big")
    host = endpoint.host
    if isinstance(host, IPv4Address):
        return b"\x01" + host.packed + port
    if isinstance(host, IPv6Address):
        return b"\x04" + host.packed + port
    name = host.encode("utf-8", "surrogateescape")
    return bytes((AddressType.NAME, len(name))) + name + port


def split_address(data: bytes, start: int) -> tuple[bytes, bytes]:
    """Cut a datagram behind the block ATYP ADDR PORT at *start*: the block as it is, and the rest.

    Raises ProtocolError where no whole block is there. What it says is looked at when it is met
    for the first time, by decode_address().
    """
    kind = data[start] if len(data) > start else 0
    if kind == AddressType.IPV4:
        end = start + 7
    elif kind == AddressType.IPV6:
        end = start + 19
    elif kind == AddressType.NAME and len(data) > start + 1:
        end = start + 4 + data[start + 1]
    else:
        raise ProtocolError("no address at the front of a datagram", Outcome.ADDRESS_UNSUPPORTED)
    if len(data) < end:
        raise ProtocolError("a datagram shorter than its address")
    return data[start:end], data[end:]
