"""As much of DNS as a test needs to be a name server, a good one or a bad one (RFC 1035 §4)."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

HEADER_BYTES = 12
TYPE_AND_CLASS_BYTES = 4
A, AAAA, IN = 1, 28, 1  # RFC 1035 §3.2.2, RFC 3596 §2.1
RESPONSE = 0x8180  # QR, RD and RA; no error
SERVFAIL, NXDOMAIN = 2, 3  # RCODE
TO_THE_QUESTION = 0xC000 | HEADER_BYTES  # a name that stands there already (§4.1.4)

RESOLV_CONF = {"/etc/resolv.conf": "nameserver 127.0.0.1\n"}


def question(query: bytes) -> str:
    """The name that *query* asks for."""
    labels = []
    place = HEADER_BYTES
    while size := query[place]:
        labels.append(query[place + 1 : place + 1 + size].decode())
        place += 1 + size
    return ".".join(labels)


def type_of(query: bytes) -> int:
    """The type of record that *query* asks for."""
    place = query.index(b"\0", HEADER_BYTES) + 1
    return int.from_bytes(query[place : place + 2], "big")


def answer(query: bytes, addresses: Sequence[str] = (), rcode: int = 0) -> bytes:
    """Answer *query* with *addresses* of the type asked for, which nobody shall remember."""
    end = query.index(b"\0", HEADER_BYTES) + 1 + TYPE_AND_CLASS_BYTES
    response = query[:2] + struct.pack("!HHHHH", RESPONSE | rcode, 1, len(addresses), 0, 0)
    response += query[HEADER_BYTES:end]
    for address in addresses:
        packed = ip_address(address).packed
        response += struct.pack("!HHHIH", TO_THE_QUESTION, type_of(query), IN, 0, len(packed))
        response += packed
    return response


def answer_a(query: bytes, address: str) -> bytes:
    """Answer *query* with one A record."""
    return answer(query, [address])


class NameServer:
    """A thread that answers what comes to *sock*; its faults may change while it runs."""

    def __init__(self, sock: socket.socket, records: Mapping[str, Sequence[str]]) -> None:
        """*records* are the addresses of each name; of any other, it says that there is none."""
        self.records = records
        self.silent: set[int] = set()  # the types that are never answered
        self.losses = 0  # so many packets are lost for each question
        self.late_seconds: dict[int, float] = {}  # by type
        self.failing = False  # SERVFAIL for everything
        self.dead: set[str] = set()  # names that are never answered
        self.asked: Counter[tuple[str, int]] = Counter()
        self._socket = sock
        self._timers: list[threading.Timer] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, asker = self._socket.recvfrom(512)
            if not query:
                return
            name, kind = question(query).lower(), type_of(query)
            self.asked[name, kind] += 1
            if kind in self.silent or name in self.dead:
                continue
            if self.asked[name, kind] <= self.losses:
                continue
            if kind in self.late_seconds:
                send = (self._answer(query, name, kind), asker)
                timer = threading.Timer(self.late_seconds[kind], self._socket.sendto, send)
                self._timers.append(timer)
                timer.start()
            else:
                self._socket.sendto(self._answer(query, name, kind), asker)

    def _answer(self, query: bytes, name: str, kind: int) -> bytes:
        if self.failing:
            return answer(query, rcode=SERVFAIL)
        if name not in self.records:
            return answer(query, rcode=NXDOMAIN)
        version = {A: 4, AAAA: 6}.get(kind)
        found = [one for one in self.records[name] if ip_address(one).version == version]
        return answer(query, found)

    def end(self) -> None:
        """Stop, and close the socket; what was to be answered later is not."""
        if not self._thread.is_alive():
            return
        for timer in self._timers:
            timer.cancel()
            timer.join()
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()


@contextmanager
def name_server(sock: socket.socket, records: Mapping[str, Sequence[str]]) -> Iterator[NameServer]:
    """Run a name server at *sock*, which is bound; it owns the socket."""
    sock.settimeout(None)
    server = NameServer(sock, records)
    try:
        yield server
    finally:
        server.end()
