"""What may be reached: before a name is resolved, and again for every address that it gave."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from ipaddress import IPv4Address, IPv6Address

from geproxy.errors import DeniedError
from geproxy.policy.ranges import is_loopback, is_public
from geproxy.terms import Address, Command, Endpoint, Listener, Outbound, Request, Route, unmapped

SMTP_PORT = 25  # server-to-server mail: what an open proxy is abused for first

# connect() takes these for "this host".
_THIS_HOST: frozenset[Address] = frozenset((IPv4Address("0.0.0.0"), IPv6Address("::")))


class Gate:
    """The policy of one worker.

    *own* holds every address of this host; *listening* are our sockets' addresses; *outbounds*
    are the ways out by name.
    """

    def __init__(
        self,
        outbounds: Mapping[str, Outbound],
        own: Container[Address],
        listening: Collection[Endpoint],
    ) -> None:
        self._outbounds = outbounds
        self._own = own
        self._listening: dict[int, list[Address]] = {}
        for endpoint in listening:
            assert not isinstance(endpoint.host, str), "a socket is bound to an address"
            self._listening.setdefault(endpoint.port, []).append(endpoint.host)

    def decide(self, request: Request, listener: Listener) -> Route:
        """Choose the way out. Raises DeniedError for what is refused whatever it resolves to."""
        port = request.target.port
        if request.command is Command.CONNECT and port == 0:
            raise DeniedError("port 0")
        if port == SMTP_PORT:
            raise DeniedError("port 25 is closed")
        if listener.via == "deny":
            raise DeniedError("via is deny")
        permit = self.permit_local if listener.loopback else self.permit_public
        return Route(self._outbounds[listener.via], permit)

    def permit_local(self, endpoint: Endpoint) -> None:
        """Judge an address for clients of this host: all but our own ports."""
        own = self._listening.get(endpoint.port)
        if own is not None and self._is_ours(_address(endpoint), own):
            raise DeniedError(f"{endpoint}: a port of this proxy")

    def permit_public(self, endpoint: Endpoint) -> None:
        """Judge an address for clients from elsewhere: public, and none of this host."""
        self.permit_local(endpoint)
        address = _address(endpoint)
        if not is_public(address):
            raise DeniedError(f"{endpoint}: not a public address")
        if address in self._own:
            raise DeniedError(f"{endpoint}: an address of this host")

    def _is_ours(self, host: Address, bound: list[Address]) -> bool:
        if host in _THIS_HOST:
            return True
        if host in bound:
            return True
        wildcard = any(address in _THIS_HOST for address in bound)
        return wildcard and (is_loopback(host) or host in self._own)


def _address(endpoint: Endpoint) -> Address:
    """What the kernel dials: a mapped address is the IPv4 address inside it."""
    assert not isinstance(endpoint.host, str), "addresses are judged, not names"
    return unmapped(endpoint.host)
