"""The listening sockets: the master opens them, owns them for its whole life, and lends them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from geproxy.config.settings import Listen
from geproxy.errors import StartError
from geproxy.net.sockopt import prepare_datagrams, prepare_listening
from geproxy.process.orphans import Claim, Orphans
from geproxy.terms import Address, Endpoint

# Chosen here
BACKLOG = 4096  # what may wait while every worker is busy; the kernel caps it at somaxconn
UDP_PATIENCE_SECONDS = 3.0  # workers that leave have their UDP ports for two more
UDP_LOOK_SECONDS = 0.1
# A worker that is woken gives a TCP port up at once, and a UDP port within 3 seconds. What it has
# of sessions goes on, if it can be spared the end.
ORPHANS_SECONDS = 6.0
KILLED_SECONDS = 1.0  # for the kernel to take a process apart
PORT_TRIES = 20  # to find one free port for both families, and for TCP and UDP

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
TRANSPORTS = {"TCP": STREAM, "UDP": DATAGRAM}


class Key(NamedTuple):
    """What a socket was configured as."""

    address: Address
    port: int
    kind: socket.SocketKind
    name: str  # the listener's, for port 0; else "", for a listener may change its name


# A kernel or a container without IPv6: an empty host then means IPv4 alone.
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class Place(NamedTuple):
    """Which of all UDP sockets: the listener's, the how-manieth of its addresses, the slot."""

    listener: str
    address: int
    slot: int


@dataclass(frozen=True, slots=True)
class Lent:
    """What a generation of workers listens on, by listener.

    All workers accept from the same TCP sockets. Of UDP sockets each address has several, its
    slots, over which the kernel spreads the clients; a slot has one worker that reads it.
    """

    streams: Mapping[str, Sequence[socket.socket]]
    datagrams: Mapping[str, Sequence[Sequence[socket.socket]]]
    bound: Mapping[str, Sequence[tuple[socket.SocketKind, Endpoint]]]  # where each listens

    @property
    def addresses(self) -> dict[str, list[Endpoint]]:
        """Where each listens, by its name, whatever the transport."""
        return {
            name: list(dict.fromkeys(endpoint for _, endpoint in places))
            for name, places in self.bound.items()
        }

    def endpoints(self, kind: socket.SocketKind) -> list[Endpoint]:
        """Where any of them listens on TCP, or on UDP."""
        return [one for places in self.bound.values() for of, one in places if of == kind]

    @property
    def slots(self) -> int:
        """How many slots there are: as many as there were workers when they were opened."""
        return max(
            (len(slots) for places in self.datagrams.values() for slots in places), default=0
        )

    def keep(self, share: Collection[int]) -> dict[Place, socket.socket]:
        """Close, in a worker, the UDP sockets of all slots but those of its *share*."""
        for place, sock in self._datagram_sockets():
            if place.slot not in share:
                sock.close()
        return dict(self.at(share))

    def at(self, share: Collection[int]) -> Iterator[tuple[Place, socket.socket]]:
        """The UDP sockets of the slots in *share*."""
        return ((place, sock) for place, sock in self._datagram_sockets() if place.slot in share)

    def _datagram_sockets(self) -> Iterator[tuple[Place, socket.socket]]:
        for name, addresses in self.datagrams.items():
            for number, slots in enumerate(addresses):
                for slot, sock in enumerate(slots):
                    yield Place(name, number, slot), sock


class ListeningSockets:
    """Every listening socket by what it was configured as, so that a reload finds it again."""

    def __init__(self) -> None:
        self._sockets: dict[Key, list[socket.socket]] = {}

    def open(self, listeners: Iterable[Listen], slots: int, claim: Claim | None = None) -> Lent:
        """Return the sockets of each listener by its name; those that are open already stay.

        *slots* is how many a UDP address gets that is new: to add one later would move clients
        from one worker to another. With a *claim*, a worker without a master that keeps a port is
        woken, and ended if that does not help. Raises StartError when one cannot be had; then
        nothing has changed.
        """
        opened: list[Key] = []
        try:
            for listen in listeners:
                self._open_one(listen, slots, opened, claim)
        except BaseException:
            self._close(opened)
            raise
        streams: dict[str, list[socket.socket]] = {}
        datagrams: dict[str, list[list[socket.socket]]] = {}
        bound: dict[str, list[tuple[socket.SocketKind, Endpoint]]] = {}
        for listen in listeners:
            streams[listen.name] = [sockets[0] for sockets in self._of(listen, STREAM)]
            datagrams[listen.name] = self._of(listen, DATAGRAM)
            bound[listen.name] = [(STREAM, address_of(sock)) for sock in streams[listen.name]]
            firsts = [slots[0] for slots in datagrams[listen.name]]
            bound[listen.name] += [(DATAGRAM, address_of(sock)) for sock in firsts]
        return Lent(streams, datagrams, bound)

    def _of(self, listen: Listen, kind: socket.SocketKind) -> list[list[socket.socket]]:
        keys = [key for key in _keys(listen) if key.kind == kind]
        return [self._sockets[key] for key in keys if key in self._sockets]

    def _open_one(self, listen: Listen, slots: int, opened: list[Key], claim: Claim | None) -> None:
        keys = _keys(listen)
        there = [self._sockets[key][0] for key in keys if key in self._sockets]
        missing = [key for key in keys if key not in self._sockets]
        if missing:
            port = address_of(there[0]).port if there else listen.url.port
            bound = _bind_all(listen, missing, port, slots, claim)
            self._sockets.update(bound)
            opened += bound

    def close_others(self, listeners: Iterable[Listen]) -> list[Endpoint]:
        """Close what *listeners* no longer name; returns the addresses that are gone."""
        wanted = {key for listen in listeners for key in _keys(listen)}
        return self._close([key for key in self._sockets if key not in wanted])

    def _close(self, keys: Iterable[Key]) -> list[Endpoint]:
        gone = []
        for key in list(keys):
            sockets = self._sockets.pop(key)
            gone.append(address_of(sockets[0]))
            for sock in sockets:
                sock.close()
        return gone


def address_of(sock: socket.socket) -> Endpoint:
    """The address a socket is bound to."""
    return Endpoint.from_sockaddr(sock.getsockname())


def _keys(listen: Listen) -> list[Key]:
    url = listen.url
    name = "" if url.port else listen.name
    kinds = [TRANSPORTS[transport] for transport in url.transports(udp=listen.udp)]
    return [Key(address, url.port, kind, name) for address in url.addresses for kind in kinds]


def _bind_all(
    listen: Listen, keys: list[Key], port: int, slots: int, claim: Claim | None
) -> dict[Key, list[socket.socket]]:
    """Bind what *keys* ask for, all to the same port if the kernel is to choose it."""
    for attempt in range(PORT_TRIES):
        bound: dict[Key, list[socket.socket]] = {}
        chosen = port
        try:
            for key in keys:
                if key.address.version == 6 and bound and not _has_ipv6():
                    continue
                bound[key] = []
                for slot in range(slots if key.kind == DATAGRAM else 1):
                    sock = _bind(key, chosen, slot, claim, dual_stack=listen.url.dual_stack)
                    bound[key].append(sock)
                    chosen = chosen or bound[key][0].getsockname()[1]
            # Last, so that who can connect finds the UDP ports there too.
            for key, sockets in bound.items():
                if key.kind == STREAM:
                    sockets[0].listen(BACKLOG)
            return bound
        except OSError as error:
            failed = next(reversed(bound))
            for sock in [sock for sockets in bound.values() for sock in sockets]:
                sock.close()
            chosen_by_kernel = not port and error.errno == errno.EADDRINUSE
            if not chosen_by_kernel or attempt == PORT_TRIES - 1:
                where = Endpoint(failed.address, chosen)
                text = f"listen.{listen.name}.url: cannot listen on {where}: {error.strerror}"
                raise StartError(text) from error
    raise AssertionError("the last attempt returns or raises")


def _bind(
    key: Key, port: int, slot: int, claim: Claim | None, *, dual_stack: bool
) -> socket.socket:
    address, kind = key.address, key.kind
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, kind)
    try:
        if kind == STREAM:
            # TCP alone: on UDP another user could then bind the port and receive the datagrams.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            prepare_listening(sock)
        else:
            prepare_datagrams(sock)
            # Of one user alone, as the kernel sees to: several sockets, between which it chooses.
            # The first must find nobody there, or a second geproxy would share the clients.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, slot > 0)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.setblocking(False)
        patient = kind == DATAGRAM and key.port
        sockaddr = (str(address), port)
        if not _bind_within(sock, sockaddr, UDP_PATIENCE_SECONDS if patient else 0.0):
            _bind_after_orphans(sock, sockaddr, claim if key.port else None)
        if kind == DATAGRAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        sock.close()
        raise
    return sock


def _bind_within(sock: socket.socket, sockaddr: tuple[str, int], seconds: float) -> bool:
    """Bind; wait for a UDP port that workers of a master before us have still.

    They answer the last of their clients by it. A TCP port they give up at once. False where
    somebody has it all the time. Raises OSError for every other reason.
    """
    give_up = time.monotonic() + seconds
    while True:
        try:
            sock.bind(sockaddr)
            return True
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if time.monotonic() >= give_up:
                return False
        time.sleep(UDP_LOOK_SECONDS)


def _bind_after_orphans(
    sock: socket.socket, sockaddr: tuple[str, int], claim: Claim | None
) -> None:
    """Bind where workers that have lost their master are all that is in the way. Raises OSError."""
    if claim is not None:
        with Orphans(sock, sockaddr, claim) as orphans:
            if orphans:
                orphans.signal(signal.SIGCONT)  # one that was stopped hears now that it is alone
                if _bind_within(sock, sockaddr, ORPHANS_SECONDS):
                    return
                orphans.signal(signal.SIGKILL)
                if _bind_within(sock, sockaddr, KILLED_SECONDS):
                    return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::", 0))
    except OSError as error:
        return error.errno not in _NO_IPV6
    return True
