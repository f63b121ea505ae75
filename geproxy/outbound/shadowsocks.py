"""The way through a Shadowsocks peer (SIP004): it resolves the name and reaches the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import CommandError, DropError, ReplayError
from geproxy.net.buffers import BufferPool
from geproxy.net.datagram import DatagramSocket
from geproxy.net.dialer import Dialer
from geproxy.net.peerport import address_towards
from geproxy.net.sealed import SealedStream
from geproxy.net.udp import adopted, open_towards
from geproxy.outbound.reached import Reached
from geproxy.seams import Holding, Permit, Place, Request, Store
from geproxy.terms import Address, Endpoint, Filtering, Offer
from geproxy.wire.address import PORT_BYTES, AddressType, split_address
from geproxy.wire.sealed_datagram import open_datagram, seal_datagram
from geproxy.wire.shadowsocks import Target

ROLE = b"geproxy via"


class ShadowsocksOutbound:
    """One [via.NAME] with an ss:// URL."""

    def __init__(
        self,
        name: str,
        peer: Endpoint,
        secret: Secret,
        dialer: Dialer,
        pool: BufferPool,
        salts: Store,
    ) -> None:
        """*salts* remembers those of the peer's datagrams: none of them is delivered twice."""
        self.name = name
        self.waits = isinstance(peer.host, str)
        self._peer = peer
        self._dialer = dialer
        self._pool = pool
        self._salts = salts
        self._maker = SaltMaker(secret, ROLE)

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> SealedStream:
        """Connect to the peer; *target* travels in front of the first bytes.

        What becomes of the target only the far end knows: the wire format has no answer for it.
        """
        _judge(target, permit)
        stream = self._dialer.connect(self._peer, _trusted, client)
        return SealedStream(stream, self._maker, self._pool, head=Target(target).encode())

    def bind(self, request: Request, permit: Permit, offer: Offer) -> NoReturn:
        """Raise CommandError: the wire format has no BIND."""
        raise CommandError("there is no BIND through a Shadowsocks peer")

    def associate(self, client: Address, filtering: Filtering) -> SealedDatagrams:
        """Open a port towards the peer. Raises DialError."""
        return self._datagrams(open_towards(self._peers(client)[0]), filtering)

    def _peers(self, client: Address) -> list[Endpoint]:
        return self._dialer.permitted(self._peer, _trusted, client)

    def _datagrams(self, sock: DatagramSocket, filtering: Filtering) -> SealedDatagrams:
        return SealedDatagrams(sock, self._peers, self._maker, self._salts, filtering)

    def adopt(self, descriptor: int, known: list[Any], filtering: Filtering) -> SealedDatagrams:
        """See seams.Outbound; *known* is what the filter lets pass."""
        way = self._datagrams(adopted(descriptor), filtering)
        way.reached.extend(bytes.fromhex(key) for key in known)
        return way


class SealedDatagrams:
    """One port towards the peer, which has a port for us towards all targets.

    The port is connected, so that the kernel keeps strangers off. So it leads to one address of
    the peer, from one of ours, whatever becomes of either: renew() finds out.

    What a filter has to go by are heads. Of a target that was named nobody but the peer knows the
    address: then its port has to do, or nothing where only addresses count. The peer's own filter
    is the better one.
    """

    __slots__ = (
        "_closed",
        "_filtering",
        "_heard",
        "_maker",
        "_peers",
        "_salts",
        "_sent",
        "_socket",
        "reached",
    )

    def __init__(
        self,
        sock: DatagramSocket,
        peers: Callable[[Address], list[Endpoint]],
        maker: SaltMaker,
        salts: Store,
        filtering: Filtering,
    ) -> None:
        """*sock* is connected to one of *peers*, the peer's addresses, which a client's share of
        look-ups pays for. *maker* makes our salts, and holds the key; *salts* remembers the peer's.
        """
        self._socket = sock
        self._peers = peers
        self._closed = False
        self._sent = self._heard = False  # since take_silence()
        self._maker = maker
        self._salts = salts
        self._filtering = filtering
        self.reached = Reached()

    def charge(self, holding: Holding) -> None:
        """See seams.Datagrams."""
        self.reached.charge(holding)

    def find(self, target: Endpoint, permit: Permit, client: Address) -> Place:
        """See seams.Datagrams: everything goes to the peer."""
        _judge(target, permit)
        return None

    def send(self, head: bytes, data: bytes, place: Place) -> None:
        """See seams.Datagrams."""
        if self._filtering is not Filtering.NONE:
            self.reached.add(self._key(head))
        maker = self._maker
        sealed = seal_datagram(maker.secret, maker.make(), head + data)
        self._sent = True
        self._socket.send(sealed, len(data))

    def receive(self) -> tuple[bytes, bytes] | None:
        """See seams.Datagrams.

        Raises AuthenticationError, ReplayError, ProtocolError, and DropError for what the filter
        refuses.
        """
        received = self._socket.receive()
        if received is None:
            return None
        salt, plain = open_datagram(self._maker.secret, received[0])
        if self._maker.is_ours(salt) or not self._salts.remember_once(salt):
            raise ReplayError("a datagram that was sent before")
        self._heard = True
        head, data = split_address(plain, 0)
        if self._filtering is not Filtering.NONE and not self._passes(head):
            raise DropError("filtered")
        return head, data

    def _key(self, head: bytes) -> bytes:
        """What the filter remembers of a target: with PORT, of a name the port alone."""
        end = len(head) if self._filtering is Filtering.PORT else -PORT_BYTES
        return head[-PORT_BYTES:end] if head[0] == AddressType.NAME else head[:end]

    def _passes(self, head: bytes) -> bool:
        end = len(head) if self._filtering is Filtering.PORT else -PORT_BYTES
        return head[:end] in self.reached or head[-PORT_BYTES:end] in self.reached

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
        """See seams.Datagrams."""
        silent = self._sent and not self._heard
        self._sent = self._heard = False
        return silent

    def renew(self, client: Address) -> None:
        """See seams.Datagrams. The peer meets a new port of ours, as it does for a new client."""
        peers = self._peers(client)
        if self._closed:  # while a name was looked up
            return
        here = self._socket
        peer = here.peer
        if peer not in peers:
            peer = peers[0]
        elif here.troubled and len(peers) > 1:  # another of its addresses may do better
            peer = peers[(peers.index(peer) + 1) % len(peers)]
        elif address_towards(peer.address) == here.bound.address:
            return
        there = open_towards(peer)
        there.lost = here.lost
        self._socket = there
        here.close()  # whoever waits for it goes on with the new one

    def duplicate(self) -> tuple[int, list[Any]]:
        """See seams.Datagrams."""
        self._socket.flush()  # before the counts go with it
        known = [key.hex() for key in self.reached.latest() if isinstance(key, bytes)]
        return self._socket.duplicate(), known

    def close(self) -> None:
        """Give the port back."""
        self._closed = True
        self._socket.close()


def _judge(target: Endpoint, permit: Permit) -> None:
    """Judge an address here as well; a name is judged only where it is resolved."""
    if not isinstance(target.host, str):
        permit(target)


def _trusted(endpoint: Endpoint) -> None:
    """Permit any address: the configuration names the peer, no client can."""
