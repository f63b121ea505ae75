"""The port of a BIND: it waits for one peer, and for nobody else (RFC 1928 §4)."""

from __future__ import annotations

import socket
from collections.abc import Collection
from time import monotonic
from typing import TYPE_CHECKING

from gevent import get_hub, sleep

from geproxy.net import source
from geproxy.net.dial import dial_error
from geproxy.net.ports import bind_in
from geproxy.net.sockopt import prepare_listening, unpace_loopback
from geproxy.net.stream import SocketStream
from geproxy.net.timeslice import begin, give_way
from geproxy.net.watchers import READ
from geproxy.terms import Address, Endpoint

if TYPE_CHECKING:
    from gevent._types import _IoWatcher as Watcher

# Chosen here
BACKLOG = 128  # strangers may fill it; each is closed as fast as we can, and the peer tries again
PAUSE_SECONDS = 0.1  # out of descriptors: as where clients are accepted


class PeerPort:
    """A listening socket for one peer; see seams.Waiting."""

    def __init__(
        self, address: Address, ports: range | None, expected: Collection[object] | None
    ) -> None:
        """Listen at *address*; *expected* are the peer's addresses, None is anybody.

        Raises DialError.
        """
        self._expected = expected
        self._watcher: Watcher | None = None
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                # Or a port of udp_ports would stay shut for a minute after each use (TIME-WAIT).
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                prepare_listening(self._socket)
                bind_in(self._socket, str(address), ports)
                self._socket.listen(BACKLOG)
            except OSError:
                self._socket.close()
                raise
        except OSError as error:
            raise dial_error(error.errno or 0, Endpoint(address, 0)) from error
        self.bound = Endpoint.from_sockaddr(self._socket.getsockname())

    def accept(self) -> SocketStream:
        """Wait for the peer. Strangers are closed, and the port goes on waiting."""
        if self._watcher is None:
            self._watcher = get_hub().loop.io(self._socket.fileno(), READ)
        slice_ends = begin()
        while True:
            if monotonic() >= slice_ends:
                slice_ends = give_way()
            try:
                sock, sockaddr = self._socket.accept()
            except BlockingIOError:
                get_hub().wait(self._watcher)
                slice_ends = begin()
                continue
            except OSError:
                sleep(PAUSE_SECONDS)
                continue
            peer = Endpoint.from_sockaddr(sockaddr)
            if self._expected is None or peer.host in self._expected:
                unpace_loopback(sock, sockaddr[0])
                return SocketStream(sock, peer)
            sock.close()

    def close(self) -> None:
        """Stop listening; the watcher first, for the loop must not see a reused descriptor."""
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        self._socket.close()


def address_towards(peer: Address) -> Address:
    """Return the address of ours from which the kernel would reach *peer*. Raises DialError."""
    try:
        return source.address_towards(peer)
    except OSError as error:
        raise dial_error(error.errno or 0, Endpoint(peer, source.DISCARD_PORT)) from error
