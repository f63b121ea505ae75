"""SOCKS5 clients (RFC 1928), with username and password (RFC 1929)."""

from __future__ import annotations

import time
from ipaddress import IPv4Address

from geproxy.errors import AuthenticationError, CommandError, GeproxyError, ProtocolError
from geproxy.net.messages import tell
from geproxy.seams import Authenticator
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint, Outcome
from geproxy.wire import userpass
from geproxy.wire.address import split_address
from geproxy.wire.fragments import Reassembly
from geproxy.wire.socks5 import (
    MAX_GREETING_BYTES,
    MAX_REQUEST_BYTES,
    Cmd,
    Greeting,
    Method,
    MethodSelection,
    Rep,
    Reply,
    SocksRequest,
)

HEADER_BYTES = 3  # RSV RSV FRAG
WHOLE = bytes(HEADER_BYTES)  # FRAG 0
NOWHERE = Endpoint(IPv4Address(0), 0)  # BND.ADDR of a reply that bound nothing

COMMANDS = {
    Cmd.CONNECT: Command.CONNECT,
    Cmd.BIND: Command.BIND,
    Cmd.UDP_ASSOCIATE: Command.UDP_ASSOCIATE,
}

REPS = {
    Outcome.GRANTED: Rep.SUCCEEDED,
    Outcome.FAILED: Rep.GENERAL_FAILURE,
    Outcome.DENIED: Rep.NOT_ALLOWED,
    Outcome.NETWORK_UNREACHABLE: Rep.NETWORK_UNREACHABLE,
    Outcome.HOST_UNREACHABLE: Rep.HOST_UNREACHABLE,
    Outcome.REFUSED: Rep.CONNECTION_REFUSED,
    # The RFC has no code for a time that ran out; TTL expired is the one that means it.
    Outcome.TIMED_OUT: Rep.TTL_EXPIRED,
    Outcome.COMMAND_UNSUPPORTED: Rep.COMMAND_NOT_SUPPORTED,
    Outcome.ADDRESS_UNSUPPORTED: Rep.ADDRESS_TYPE_NOT_SUPPORTED,
}


class Socks5Request:
    """One client's request, and the replies to it."""

    __slots__ = ("command", "stream", "target", "user")

    claimed = None

    def __init__(
        self, stream: Stream, user: str | None, command: Command, target: Endpoint
    ) -> None:
        self.stream = stream
        self.user = user
        self.command = command
        self.target = target

    def grant(self, bound: Endpoint) -> None:
        """Send REP 0 with BND.ADDR and BND.PORT."""
        self.stream.send_all(Reply(Rep.SUCCEEDED, bound).encode())

    def refuse(self, outcome: Outcome) -> None:
        """Send the REP for *outcome*."""
        self.stream.send_all(refusal(outcome))

    @property
    def codec(self) -> Socks5Datagrams:
        """How one association's client writes its datagrams."""
        return Socks5Datagrams()


class Socks5Datagrams:
    """RSV RSV FRAG ATYP DST.ADDR DST.PORT DATA (RFC 1928 §7), of one association."""

    __slots__ = ("_fragments",)

    def __init__(self) -> None:
        self._fragments = Reassembly()

    def read(self, datagram: bytes) -> tuple[bytes, bytes] | None:
        """See seams.DatagramCodec. RSV is not looked at, as in a request.

        Raises ProtocolError, and DropError for fragments that will never be whole.
        """
        head, data = split_address(datagram, HEADER_BYTES)
        frag = datagram[HEADER_BYTES - 1]
        if frag or self._fragments.pending:
            return self._fragments.add(frag, head, data, time.monotonic())
        return head, data

    def write(self, head: bytes, data: bytes) -> bytes:
        """See seams.DatagramCodec. We never fragment: what is too long for UDP is dropped."""
        return WHOLE + head + data


class Socks5Inbound:
    """Negotiates SOCKS5; with *users*, nobody gets in without a password."""

    def __init__(self, users: Authenticator | None) -> None:
        self._users = users
        open_to_all = users is None
        self._method = Method.NO_AUTHENTICATION if open_to_all else Method.USERNAME_PASSWORD
        self._selection = MethodSelection(self._method).encode()  # once, for every greeting

    def negotiate(self, stream: Stream) -> Socks5Request:
        """Greeting, authentication, request.

        Raises ProtocolError, CommandError or AuthenticationError; the client has its answer then,
        if the protocol has one for that moment.
        """
        greeting = stream.read_message(Greeting, MAX_GREETING_BYTES)
        user = self._authenticate(stream, greeting)
        try:
            request = stream.read_message(SocksRequest, MAX_REQUEST_BYTES)
            command = COMMANDS.get(request.cmd)  # type: ignore[call-overload]
            if command is None:
                raise CommandError(f"CMD is {request.cmd:#04x}, not 1, 2 or 3")
        except (ProtocolError, CommandError) as error:
            tell(stream, refusal(error.outcome))
            raise
        return Socks5Request(stream, user, command, request.target)

    def _authenticate(self, stream: Stream, greeting: Greeting) -> str | None:
        users = self._users
        if self._method not in greeting.methods:
            tell(stream, MethodSelection(Method.NO_ACCEPTABLE).encode())
            text = f"METHOD {self._method} is not among those offered: {greeting.methods.hex(' ')}"
            raise ProtocolError(text) if users is None else AuthenticationError(text)
        stream.send_all(self._selection)
        return None if users is None else self._check_password(stream, users)

    def _check_password(self, stream: Stream, users: Authenticator) -> str:
        credentials = stream.read_message(userpass.Credentials, userpass.MAX_CREDENTIALS_BYTES)
        user = credentials.user.decode("utf-8", "surrogateescape")
        try:
            users.authenticate(user, credentials.password, stream)
        except GeproxyError:
            # RFC 1929 §2: a failure is told, then the connection must be closed.
            tell(stream, userpass.Status(userpass.FAILURE).encode())
            raise
        stream.send_all(userpass.Status(userpass.SUCCESS).encode())
        return user


def refusal(outcome: Outcome) -> bytes:
    """Return the reply with the REP for *outcome* and an address of zeros."""
    return Reply(REPS[outcome], NOWHERE).encode()
