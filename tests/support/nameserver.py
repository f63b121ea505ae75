"""As much of DNS as a test needs to be a name server (RFC 1035 §4)."""

from __future__ import annotations

import socket
import struct

HEADER_BYTES = 12
TYPE_AND_CLASS_BYTES = 4
A, IN = 1, 1
RESPONSE = 0x8180  # QR, RD and RA; no error
TO_THE_QUESTION = 0xC000 | HEADER_BYTES  # a name that stands there already (§4.1.4)


def question(query: bytes) -> str:
    """The name that *query* asks for."""
    labels = []
    place = HEADER_BYTES
    while size := query[place]:
        labels.append(query[place + 1 : place + 1 + size].decode())
        place += 1 + size
    return ".".join(labels)


def answer_a(query: bytes, address: str) -> bytes:
    """Answer *query* with one A record that nobody shall remember."""
    end = query.index(b"\0", HEADER_BYTES) + 1 + TYPE_AND_CLASS_BYTES
    header = query[:2] + struct.pack("!HHHHH", RESPONSE, 1, 1, 0, 0)
    record = struct.pack("!HHHIH", TO_THE_QUESTION, A, IN, 0, 4) + socket.inet_aton(address)
    return header + query[HEADER_BYTES:end] + record
