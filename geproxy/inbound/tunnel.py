"""Tunnels: whoever connects, or sends a datagram, wants the one target of the listener."""

from __future__ import annotations

from typing import NoReturn

from geproxy.errors import CommandError
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint, Outcome
from geproxy.wire.address import encode_address


class TunnelRequest:
    """What a connection to a tunnel stands for. No word of ours is between it and the target."""

    __slots__ = ("stream", "target")

    command = Command.CONNECT
    user = None
    claimed = None

    def __init__(self, stream: Stream, target: Endpoint) -> None:
        self.stream = stream
        self.target = target

    @property
    def codec(self) -> NoReturn:
        """Raise CommandError: a connection asks for no datagrams here."""
        raise CommandError("a TCP tunnel has no UDP")

    def grant(self, bound: Endpoint) -> None:
        """Say nothing: the target's own bytes are the answer."""

    def refuse(self, outcome: Outcome) -> None:
        """Reset the connection: a clean end would pass for a target that has nothing to say."""
        self.stream.abort()


class TunnelInbound:
    """Takes every connection for a request to *target*."""

    def __init__(self, target: Endpoint) -> None:
        self._target = target

    def negotiate(self, stream: Stream) -> TunnelRequest:
        """Return at once: a target that speaks first shall not wait for the client."""
        return TunnelRequest(stream, self._target)


class TunnelDatagrams:
    """The DatagramCodec of a UDP tunnel: its clients send data alone, and get data alone."""

    __slots__ = ("_head",)

    def __init__(self, target: Endpoint) -> None:
        self._head = encode_address(target)

    def read(self, datagram: bytes) -> tuple[bytes, bytes]:
        """Give the target's head, and all of *datagram* as the data."""
        return self._head, datagram

    def write(self, head: bytes, data: bytes) -> bytes:
        """Give *data*. There is no place to say from where it came."""
        return data
