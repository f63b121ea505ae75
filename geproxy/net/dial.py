"""Dial a target: every address of it, staggered, until one stands (RFC 8305)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv6Address
from socket import SocketType
from typing import TYPE_CHECKING

from gevent import get_hub
from gevent.event import Event

from geproxy.errors import DialError
from geproxy.net.deadline import Deadline
from geproxy.net.sockopt import is_loopback, keep_urgent_in_line, unpace_loopback
from geproxy.net.source import address_towards
from geproxy.net.stream import SocketStream
from geproxy.net.watchers import WRITE
from geproxy.terms import Address, Endpoint, Outcome, unmapped

if TYPE_CHECKING:
    from gevent._types import _IoWatcher as Watcher

# Fixed by the specification
STAGGER_SECONDS = 0.25  # RFC 8305 §5: Connection Attempt Delay

# Chosen here
# Of one target: all are begun within two seconds, and each open attempt holds a descriptor.
ATTEMPTS = 8

_UNREACHABLE_NETWORK = ("unreachable", Outcome.NETWORK_UNREACHABLE)
_UNREACHABLE_HOST = ("unreachable", Outcome.HOST_UNREACHABLE)
_EXHAUSTED = ("limit", Outcome.FAILED)

ERRNO_OUTCOMES = {
    errno.ECONNREFUSED: ("refused", Outcome.REFUSED),
    errno.ETIMEDOUT: ("timeout", Outcome.TIMED_OUT),
    errno.EHOSTUNREACH: _UNREACHABLE_HOST,
    errno.EHOSTDOWN: _UNREACHABLE_HOST,
    errno.EACCES: _UNREACHABLE_HOST,  # a firewall of this host, or a broadcast address
    errno.EPERM: _UNREACHABLE_HOST,
    errno.ENETUNREACH: _UNREACHABLE_NETWORK,
    errno.ENETDOWN: _UNREACHABLE_NETWORK,
    errno.EAFNOSUPPORT: _UNREACHABLE_NETWORK,  # a kernel without IPv6
    errno.EADDRNOTAVAIL: _UNREACHABLE_NETWORK,  # no address of ours; of TCP see connect_error()
    errno.EINVAL: _UNREACHABLE_NETWORK,  # 240.0.0.0/4, or link-local without a scope
    errno.ECONNRESET: ("reset", Outcome.FAILED),
    errno.EMFILE: _EXHAUSTED,
    errno.ENFILE: _EXHAUSTED,
    errno.ENOBUFS: _EXHAUSTED,
    errno.ENOMEM: _EXHAUSTED,
    errno.EAGAIN: _EXHAUSTED,  # connect(2) of UDP: no free local port
    errno.EADDRINUSE: _EXHAUSTED,  # bind(2): no free port, of udp_ports or at all
}

# When every address failed, the client hears the failure that tells most about the target.
_TELLING = ("refused", "reset", "timeout", "unreachable", "limit", "internal")


def dial_error(number: int, endpoint: Endpoint) -> DialError:
    """Turn an errno into the error for it: the one table from errno to Outcome."""
    code, outcome = ERRNO_OUTCOMES.get(number, ("internal", Outcome.FAILED))
    return DialError(f"{endpoint}: {os.strerror(number)}", code, outcome)


def connect_error(number: int, endpoint: Endpoint) -> DialError:
    """Turn an errno of connect() over TCP into the error for it.

    EADDRNOTAVAIL says either that this host has no address to dial *endpoint* from (IPv6 that was
    switched off), or that every local port towards it is taken. UDP, whose ports are others, knows
    which. Where UDP has no free port either, the answer is that ports are taken.
    """
    if number != errno.EADDRNOTAVAIL:
        return dial_error(number, endpoint)
    try:
        address_towards(endpoint.address)
    except OSError as error:
        return dial_error(error.errno or 0, endpoint)
    return DialError(f"{endpoint}: every local port is taken", *_EXHAUSTED)


def meets_itself(bound: Endpoint, target: Endpoint) -> bool:
    """True where a socket that is bound to *bound* and connected to *target* is its own peer.

    The kernel may give a socket the very port that it connects to, if nobody listens there. TCP
    then opens from both sides at once (RFC 9293 §3.5), and UDP hears what it sends.
    """
    if bound.port != target.port:
        return False
    host = unmapped(target.address)
    return host == bound.host or host.is_unspecified  # the kernel goes from loopback to itself


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Order for dialing: families in turn, the first one's first (RFC 8305 §4)."""
    if len(addresses) < 2:
        return list(addresses)
    leader = type(addresses[0])
    first = [address for address in addresses if type(address) is leader]
    second = [address for address in addresses if type(address) is not leader]
    ordered: list[Address] = []
    for index in range(max(len(first), len(second))):
        ordered += first[index : index + 1] + second[index : index + 1]
    return ordered


def dial(endpoints: Sequence[Endpoint], target: Endpoint, seconds: float) -> SocketStream:
    """Connect to the first of *endpoints* that answers; each holds an address of *target*.

    The next one is tried when the last one failed, or has not answered for STAGGER_SECONDS; of
    many the first ATTEMPTS. Raises DialError when all have failed, and after *seconds*.
    """
    race = _Race()
    stream = race.start(endpoints[0])
    if stream is not None:
        return stream
    text = f"{target}: no connection in {seconds:g} seconds"
    late = DialError(text, "timeout", Outcome.TIMED_OUT)
    try:
        with Deadline(seconds, "connect", late):
            stream = race.wait(STAGGER_SECONDS)
            for endpoint in endpoints[1:ATTEMPTS]:
                if stream is not None:
                    return stream
                stream = race.start(endpoint) or race.wait(STAGGER_SECONDS)
            while stream is None and race.attempts:
                stream = race.wait(None)
    finally:
        race.close()
    if stream is None:
        errors = [connect_error(number, endpoint) for number, endpoint in race.failures]
        raise min(errors, key=lambda error: _TELLING.index(error.code))
    return stream


class _Attempt:
    """One connect() that is under way."""

    __slots__ = ("endpoint", "socket", "watcher")

    def __init__(self, endpoint: Endpoint, sock: SocketType, watcher: Watcher) -> None:
        self.endpoint = endpoint
        self.socket = sock
        self.watcher = watcher


class _Race:
    """Attempts side by side in one greenlet; the winner leaves with its socket."""

    __slots__ = ("_answered", "_event", "attempts", "failures")

    def __init__(self) -> None:
        self.attempts: list[_Attempt] = []
        self.failures: list[tuple[int, Endpoint]] = []  # errno, and who it was
        self._answered: list[_Attempt] = []
        self._event = Event()

    def start(self, endpoint: Endpoint) -> SocketStream | None:
        """Begin to connect; returns the connection if it is there on the spot.

        A failure on the spot counts like a later one.
        """
        family = socket.AF_INET6 if isinstance(endpoint.host, IPv6Address) else socket.AF_INET
        try:
            sock = SocketType(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self._fail(error.errno or 0, endpoint)
            return None
        sockaddr = endpoint.sockaddr
        keep_urgent_in_line(sock)
        unpace_loopback(sock, sockaddr[0])
        # TCP_NODELAY comes before a second send, keepalive once it is silent: most need neither.
        number = sock.connect_ex(sockaddr)
        if number == errno.EINPROGRESS and is_loopback(sockaddr[0]):
            # To a target on this host it stands by now, and need not be waited for.
            number = sock.connect_ex(sockaddr)
        if number in (errno.EINPROGRESS, errno.EALREADY):
            attempt = _Attempt(endpoint, sock, get_hub().loop.io(sock.fileno(), WRITE))
            self.attempts.append(attempt)
            attempt.watcher.start(self._answer, attempt)
            return None
        return self._finish(sock, endpoint, number)

    def _answer(self, attempt: _Attempt) -> None:
        attempt.watcher.stop()
        self._answered.append(attempt)
        self._event.set()

    def _finish(self, sock: SocketType, endpoint: Endpoint, number: int) -> SocketStream | None:
        """Make a stream of *sock* if it is connected, to somebody else than itself."""
        if number:
            sock.close()
            self._fail(number, endpoint)
            return None
        stream = SocketStream(sock, endpoint, nodelay=False)
        if meets_itself(stream.bound, endpoint):  # a session asks for bound anyway, and it is kept
            stream.abort()  # FIN would keep the port from its owner for a minute (TIME-WAIT)
            self._fail(errno.ECONNREFUSED, endpoint)
            return None
        return stream

    def _fail(self, number: int, endpoint: Endpoint) -> None:
        self.failures.append((number, endpoint))
        self._event.set()

    def _leave(self, attempt: _Attempt) -> None:
        self.attempts.remove(attempt)
        attempt.watcher.close()

    def wait(self, seconds: float | None) -> SocketStream | None:
        """Wait for an answer: a connection, or None after a failure or *seconds*."""
        self._event.wait(seconds)
        stream = None
        while self._answered and stream is None:
            attempt = self._answered.pop()
            self._leave(attempt)
            number = attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            stream = self._finish(attempt.socket, attempt.endpoint, number)
        self._event.clear()
        return stream

    def close(self) -> None:
        """End the attempts that lost."""
        for attempt in list(self.attempts):
            self._leave(attempt)
            attempt.socket.close()
