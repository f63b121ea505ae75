"""The listening sockets: the master opens them, owns them for its whole life, and lends them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping, Sequence

from geproxy.config.settings import Listen
from geproxy.errors import StartError
from geproxy.net.sockopt import prepare_connection
from geproxy.terms import Address, Endpoint

# Chosen here
BACKLOG = 4096  # what may wait while every worker is busy; the kernel caps it at somaxconn
PORT_TRIES = 20  # to find one free port for both families

Lent = Mapping[str, Sequence[socket.socket]]  # the sockets that a worker accepts from, by listener
Key = tuple[Address, int, str]  # address, port as configured, and for port 0 the listener's name

# A kernel or a container without IPv6: an empty host then means IPv4 alone.
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class ListeningSockets:
    """Every listening socket by what it was configured as, so that a reload finds it again."""

    def __init__(self) -> None:
        self._sockets: dict[Key, socket.socket] = {}

    def open(self, listeners: Iterable[Listen]) -> Lent:
        """Return the sockets of each listener by its name; those that are open already stay.

        Raises StartError when one cannot be had; then nothing has changed.
        """
        opened: list[Key] = []
        try:
            return {listen.name: self._open_one(listen, opened) for listen in listeners}
        except StartError:
            self._close(opened)
            raise

    def _open_one(self, listen: Listen, opened: list[Key]) -> list[socket.socket]:
        keys = _keys(listen)
        missing = [key for key in keys if key not in self._sockets]
        if missing:
            for key, sock in zip(missing, _bind_all(listen, missing), strict=False):
                self._sockets[key] = sock
                opened.append(key)
        return [self._sockets[key] for key in keys if key in self._sockets]

    def close_others(self, listeners: Iterable[Listen]) -> list[Endpoint]:
        """Close what *listeners* no longer name; returns the addresses that are gone."""
        wanted = {key for listen in listeners for key in _keys(listen)}
        return self._close([key for key in self._sockets if key not in wanted])

    def _close(self, keys: Iterable[Key]) -> list[Endpoint]:
        gone = []
        for key in list(keys):
            sock = self._sockets.pop(key)
            gone.append(address_of(sock))
            sock.close()
        return gone


def address_of(sock: socket.socket) -> Endpoint:
    """The address a socket is bound to."""
    return Endpoint.from_sockaddr(sock.getsockname())


def _keys(listen: Listen) -> list[Key]:
    url = listen.url
    return [(address, url.port, "" if url.port else listen.name) for address in url.addresses]


def _bind_all(listen: Listen, keys: list[Key]) -> list[socket.socket]:
    """Bind one socket per key, all to the same port if the kernel is to choose it."""
    for attempt in range(PORT_TRIES):
        sockets: list[socket.socket] = []
        try:
            port = listen.url.port
            for address, _, _ in keys:
                if address.version == 6 and sockets and not _has_ipv6():
                    continue
                sockets.append(_bind(address, port, dual_stack=listen.url.dual_stack))
                port = port or sockets[0].getsockname()[1]
            return sockets
        except OSError as error:
            for sock in sockets:
                sock.close()
            chosen_by_kernel = listen.url.port == 0 and error.errno == errno.EADDRINUSE
            if not chosen_by_kernel or attempt == PORT_TRIES - 1:
                where = Endpoint(keys[len(sockets)][0], port)
                text = f"listen.{listen.name}.url: cannot listen on {where}: {error.strerror}"
                raise StartError(text) from error
    raise AssertionError("the last attempt returns or raises")


def _bind(address: Address, port: int, *, dual_stack: bool) -> socket.socket:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # TCP alone: on UDP another user could then bind the port and receive the datagrams.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        prepare_connection(sock)
        sock.setblocking(False)
        sock.bind((str(address), port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::", 0))
    except OSError as error:
        return error.errno not in _NO_IPV6
    return True
