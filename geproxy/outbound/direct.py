"""The way straight out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

from geproxy.errors import DialError, DropError
from geproxy.net.datagram import DatagramSocket, Sockaddr
from geproxy.net.dial import dial_error
from geproxy.net.dialer import Dialer
from geproxy.net.peerport import PeerPort, address_towards
from geproxy.net.route import OwnAddresses
from geproxy.net.stream import SocketStream
from geproxy.net.udp import adopted, open_outwards
from geproxy.outbound.reached import Reached
from geproxy.seams import Holding, Permit, Place, Request
from geproxy.terms import Address, Endpoint, Filtering, Offer, Outcome, unmapped
from geproxy.wire.address import encode_address

# Chosen here
HEADS = 4096  # of sources that answered lately: about 1 MiB where all are used
HEAD_BYTES = 300  # what one of them takes, measured


class DirectOutbound:
    """Reaches targets from this host."""

    name = "direct"
    waits = False

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> SocketStream:
        """Connect to *target*. See seams.Outbound and Dialer for what is raised."""
        return self._dialer.connect(target, permit, client)

    def bind(self, request: Request, permit: Permit, offer: Offer) -> PeerPort:
        """Listen for the peer that DST.ADDR names; 0.0.0.0 and :: are anybody.

        DST.PORT is where the client reached that peer, and not where the peer connects from: an
        FTP client sends 21, and the data comes from 20.
        """
        control = request.stream
        client = control.peer.host
        assert not isinstance(client, str), "a client's endpoint holds its address"
        expected = [one.host for one in self._dialer.permitted(request.target, permit, client)]
        first = expected[0]
        assert not isinstance(first, str), "it has been resolved"
        if first.is_unspecified:
            host = control.bound.host
            assert not isinstance(host, str), "a socket is bound to an address"
            return PeerPort(host, offer.ports, None)
        return PeerPort(address_towards(first), offer.ports, frozenset(expected))

    def associate(self, client: Address, filtering: Filtering) -> DirectDatagrams:
        """Open a port for datagrams. Raises DialError."""
        return DirectDatagrams(open_outwards(), self._dialer, filtering)

    def adopt(self, descriptor: int, known: list[Any], filtering: Filtering) -> DirectDatagrams:
        """See seams.Outbound; *known* is what the filter lets pass."""
        way = DirectDatagrams(adopted(descriptor), self._dialer, filtering)
        way.reached.extend(tuple(key) if isinstance(key, list) else key for key in known)
        return way


class DirectDatagrams:
    """One port, from which all targets are reached and at which all of them answer."""

    __slots__ = ("_dialer", "_heads", "_holding", "_key", "_port", "_socket", "reached")

    def __init__(self, sock: DatagramSocket, dialer: Dialer, filtering: Filtering) -> None:
        self._socket = sock
        self._port = sock.bound.port
        self._dialer = dialer
        self._key = _KEYS[filtering]
        self._heads: dict[Sockaddr, bytes] = {}  # of those that may answer
        self._holding: Holding | None = None
        self.reached = Reached()

    def charge(self, holding: Holding) -> None:
        """See seams.Datagrams."""
        self._holding = holding
        self.reached.charge(holding)

    def find(self, target: Endpoint, permit: Permit, client: Address) -> Place:
        """See seams.Datagrams: the first address of *target* that may be sent to."""
        endpoint = self._dialer.permitted(target, permit, client)[0]
        if endpoint.port == self._port and _is_ours(endpoint.address):
            # The kernel gave us the port of a target that does not run: we would hear ourselves.
            text = f"{endpoint}: nobody is there"
            raise DialError(text, "unreachable", Outcome.HOST_UNREACHABLE)
        return self._socket.place(endpoint)

    def send(self, head: bytes, data: bytes, place: Place) -> None:
        """See seams.Datagrams."""
        assert place is not None, "find() has given one"
        if self._key is not None and self.reached.add(self._key(place)):
            self._forget_heads()  # for they are of those who may answer
        self._socket.send(data, len(data), place)

    def receive(self) -> tuple[bytes, bytes] | None:
        """See seams.Datagrams. Raises DropError for what the filter refuses."""
        received = self._socket.receive()
        if received is None:
            return None
        data, source = received
        head = self._heads.get(source)
        if head is None:
            head = self._meet(source)
        return head, data

    def _meet(self, source: Sockaddr) -> bytes:
        if self._key is not None and self._key(source) not in self.reached:
            raise DropError("filtered")
        head = encode_address(Endpoint.from_sockaddr(source))
        if len(self._heads) >= HEADS:
            self._forget_heads()
        if self._holding is None or self._holding.take(HEAD_BYTES):
            self._heads[source] = head
        return head

    def _forget_heads(self) -> None:
        if self._holding is not None:
            self._holding.give(HEAD_BYTES * len(self._heads))
        self._heads.clear()

    @property
    def in_burst(self) -> bool:
        """See seams.Datagrams."""
        return self._socket.in_burst

    def on_loss(self, lost: Callable[[str, int], None]) -> None:
        """See seams.Datagrams."""
        self._socket.lost = lambda code, size, place: lost(code, size)

    def wait_readable(self) -> None:
        """See seams.Datagrams."""
        self._socket.wait_readable()

    def take_silence(self) -> bool:
        """See seams.Datagrams. There is no peer that could have moved; targets are found anew, and
        of ours the kernel chooses an address for each datagram.
        """
        return False

    def renew(self, client: Address) -> None:
        """See seams.Datagrams: there is nothing to follow."""

    def duplicate(self) -> tuple[int, list[Any]]:
        """See seams.Datagrams."""
        self._socket.flush()  # before the counts go with it
        return self._socket.duplicate(), self.reached.latest()

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


def _is_ours(address: Address) -> bool:
    """Ask the kernel, by a socket of its own: hardly any association ever has to.

    Raises DialError where none is to be had.
    """
    address = unmapped(address)
    try:
        with closing(OwnAddresses()) as own:
            return address.is_unspecified or address in own
    except OSError as error:
        raise dial_error(error.errno or 0, Endpoint(address, 0)) from error


_KEYS = {
    Filtering.NONE: None,
    Filtering.ADDRESS: lambda place: place[0],
    Filtering.PORT: lambda place: place[:2],
}
