"""SOCKS4 and SOCKS4A clients (Ying-Da Lee's documents; see wire/socks4.py)."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NoReturn

from geproxy.errors import AuthenticationError, CommandError, ProtocolError
from geproxy.net.messages import tell
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint, Outcome
from geproxy.wire.socks4 import (
    MAX_REQUEST_BYTES,
    CommandCode,
    Reply,
    ResultCode,
    SocksRequest,
)

# CD 91 with an address of zeros, as of every reply that bound nothing
REJECTION = Reply(ResultCode.REJECTED, Endpoint(IPv4Address(0), 0)).encode()

COMMANDS = {CommandCode.CONNECT: Command.CONNECT, CommandCode.BIND: Command.BIND}


class Socks4Request:
    """One client's request, and the replies to it.

    The target of a BIND is the peer that may join. DSTIP 0.0.0.0 is any peer, as DST.ADDR of zeros
    is in SOCKS5: the document does not speak of it, and clients send it. To CONNECT it is an
    address like others. Whether either is allowed is for policy to say.
    """

    __slots__ = ("claimed", "command", "stream", "target")

    user = None

    def __init__(
        self, stream: Stream, claimed: str | None, command: Command, target: Endpoint
    ) -> None:
        self.stream = stream
        self.claimed = claimed
        self.command = command
        self.target = target

    @property
    def codec(self) -> NoReturn:
        """Raise CommandError: SOCKS4 has no datagrams."""
        raise CommandError("SOCKS4 has no UDP")

    def grant(self, bound: Endpoint) -> None:
        """Send CD 90 with DSTPORT and DSTIP."""
        self.stream.send_all(Reply(ResultCode.GRANTED, bound).encode())

    def refuse(self, outcome: Outcome) -> None:
        """Send CD 91, whatever the outcome: the two other refusals are about identd."""
        self.stream.send_all(REJECTION)


class Socks4Inbound:
    """Negotiates SOCKS4. With *users_wanted* nobody gets in: the protocol has no proof."""

    def __init__(self, *, users_wanted: bool) -> None:
        self._users_wanted = users_wanted

    def negotiate(self, stream: Stream) -> Socks4Request:
        """Read the request; it is all there is.

        Raises ProtocolError, CommandError or AuthenticationError; the client has its answer then.
        """
        try:
            request = stream.read_message(SocksRequest, MAX_REQUEST_BYTES)
            claimed = request.user_id.decode("utf-8", "surrogateescape") or None
            if self._users_wanted:
                raise AuthenticationError("SOCKS4 cannot authenticate", user=claimed)
            command = COMMANDS.get(request.cd)  # type: ignore[call-overload]
            if command is None:
                raise CommandError(f"CD is {request.cd}, not 1 or 2")
        except (ProtocolError, CommandError, AuthenticationError):
            tell(stream, REJECTION)
            raise
        return Socks4Request(stream, claimed, command, request.target)
