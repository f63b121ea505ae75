"""What the tests of datagrams share: one client for tunnels and one for associations."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol

from tests.support.proxy import Address
from tests.support.udp_client import BUFFER_BYTES, Association, DatagramTarget, udp_socket

WINDOW = 16  # under way at once: few enough that no buffer on the way overflows


class Client(Protocol):
    """A way to one target."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes: ...


class OfTunnel:
    """Sends to a tunnel's port, and hears that port alone."""

    def __init__(self, door: Address) -> None:
        self.socket = udp_socket(door[0])
        self.socket.connect(door)

    def send(self, data: bytes) -> None:
        self.socket.send(data)

    def receive(self) -> bytes:
        return self.socket.recv(BUFFER_BYTES)


class OfAssociation:
    """Speaks to one target, and hears no other."""

    def __init__(self, association: Association, there: DatagramTarget) -> None:
        self._association = association
        self._there = there

    def send(self, data: bytes) -> None:
        self._association.send(self._there.host, self._there.port, data)

    def receive(self) -> bytes:
        source, data = self._association.receive()
        assert source == (str(self._there.host), self._there.port)
        return data


@contextmanager
def by_tunnel(door: Address) -> Iterator[OfTunnel]:
    """Be a client of the tunnel at *door*."""
    client = OfTunnel(door)
    with closing(client.socket):
        yield client


@contextmanager
def by_association(proxy: Address, there: DatagramTarget) -> Iterator[OfAssociation]:
    """Be a client of *proxy* with an association of its own."""
    with Association.open(proxy) as association:
        yield OfAssociation(association, there)


def check_sizes(client: Client, sizes: Iterable[int]) -> None:
    """An echo gives back a datagram of each size, byte by byte."""
    for size in sizes:
        data = random.randbytes(size)
        client.send(data)
        assert client.receive() == data, f"of {size} bytes"


def check_many(client: Client, count: int) -> None:
    """An echo gives back each of *count* datagrams, once."""
    sent: set[bytes] = set()
    for number in range(count + WINDOW):
        if number < count:
            data = number.to_bytes(4, "big") * (1 + number % 100)
            sent.add(data)
            client.send(data)
        if number >= WINDOW:
            sent.remove(client.receive())
    assert not sent
