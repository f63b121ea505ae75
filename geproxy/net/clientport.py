"""The port of one UDP association: its client uses it, and nobody else (RFC 1928 §7)."""

from __future__ import annotations

import time
from collections.abc import Callable

from geproxy.errors import DropError
from geproxy.net.datagram import Sockaddr
from geproxy.net.owners import Identity
from geproxy.net.udp import open_towards_clients
from geproxy.seams import DatagramCodec
from geproxy.terms import Address, Endpoint, plain_address

# Chosen here
REFUSED_PLACES = 256  # remembered of other accounts: 64 KiB, whatever their number of sockets
REFUSED_SECONDS = 1.0  # a port that changes its owner is asked about anew by then


class ClientPort:
    """A port at the address where the client reached us.

    It hears the address of the client's TCP connection (RFC 1928 §7), and locks itself to one port
    of that address: the first that sends a datagram of the protocol. The port that the request has
    announced (DST.PORT) proves nothing: behind NAT, or by a client's mistake, it is another than
    the one that sends. So it is a preference: it replaces a port that was first, and then stays.

    With *rebind_seconds* another port replaces the locked one after so long a silence, and the
    silent one comes back by speaking. On this host no other account's port gets it, ever.
    """

    __slots__ = (
        "_announced",
        "_client",
        "_former",
        "_heard_seconds",
        "_interface",
        "_make_codec",
        "_owns",
        "_place",
        "_rebind_seconds",
        "_refused",
        "_send_to",
        "_socket",
        "bound",
        "codec",
    )

    def __init__(
        self,
        address: Address,
        ports: range | None,
        client: Identity,
        announced: Endpoint,
        make_codec: Callable[[], DatagramCodec],
        rebind_seconds: float = 0.0,
    ) -> None:
        """*announced* is DST.ADDR and DST.PORT of the request; *make_codec* makes what reads the
        datagrams of one port of the client's. Raises DialError.
        """
        self._socket = open_towards_clients(address, ports, client.interface)
        self.bound = Endpoint(address, self._socket.bound.port)
        self._client = client.address
        self._interface = client.interface
        # Of another address than the client's own, the port is behind NAT and means nothing here.
        known = announced.host in (client.address, *_UNKNOWN)
        # Our own port is no client's either: nobody shall wait for it to speak.
        ours = Endpoint(client.address, announced.port) == self.bound
        self._announced = announced.port if known and not ours else 0
        self._make_codec = make_codec
        self._owns = client.owns
        self._refused: dict[Sockaddr, float] = {}  # until when, monotonic
        self._rebind_seconds = rebind_seconds
        self.codec = make_codec()
        self._place: Sockaddr | None = None
        self._send_to: Sockaddr | None = None  # None: to the peer of connect()
        self._former: Sockaddr | None = None  # that lost its place by silence
        self._heard_seconds = 0.0

    def receive(self) -> bytes | None:
        """Take the client's next datagram, which *codec* reads; None: there is none.

        Raises DropError for a stranger's, and what *codec* raises for one that locks nothing.
        """
        received = self._socket.receive()
        if received is None:
            return None
        data, source = received
        if source != self._place:
            self._meet(data, source)
        elif self._rebind_seconds:
            self._heard_seconds = time.monotonic()
        return data

    def _meet(self, data: bytes, source: Sockaddr) -> None:
        """Lock to *source*, or raise why not; what costs least is looked at first."""
        if not self._is_clients(source) or not self._may_have_it(source):
            raise DropError("stranger")
        if self._refused and time.monotonic() < self._refused.get(source, 0.0):
            raise DropError("stranger")
        # By a codec of its own: the locked port's fragments are none of this one's business.
        self._make_codec().read(data)
        if self._owns is not None and not self._owns(source, self.bound):
            self._refuse(source)
            raise DropError("stranger")
        self._lock(source)

    def _is_clients(self, source: Sockaddr) -> bool:
        """Tell whether *source* has the client's address, on its link if it is of one alone."""
        if plain_address(source[0]) != self._client:
            return False
        return not self._interface or (len(source) == 4 and source[3] in (0, self._interface))

    def _may_have_it(self, source: Sockaddr) -> bool:
        if self._place is None or source[1] == self._announced or source == self._former:
            return True
        return bool(self._rebind_seconds) and self._is_silent()

    def _is_silent(self) -> bool:
        return time.monotonic() - self._heard_seconds >= self._rebind_seconds

    def _refuse(self, source: Sockaddr) -> None:
        """Remember another account's port, or each of its datagrams would cost a question.

        Who floods from more ports than are remembered pays for each of them as much as we do.
        """
        if len(self._refused) >= REFUSED_PLACES:
            self._refused.clear()
        self._refused[source] = time.monotonic() + REFUSED_SECONDS

    def _lock(self, place: Sockaddr) -> None:
        """Hear *place* alone, with a codec that knows of no fragment yet.

        Where nobody can take it over, the kernel drops the rest (connect()), so that a flood costs
        nothing; receive() drops what the kernel had taken before.
        """
        if not self._rebind_seconds and self._announced in (0, place[1]):
            try:
                self._socket.connect(place)
            except OSError as error:
                raise DropError("unreachable") from error
            self._send_to = None
        else:
            self._send_to = place
        by_silence = place[1] != self._announced and place != self._former
        self._former = self._place if by_silence else None
        self._place = place
        self._heard_seconds = time.monotonic()
        self.codec = self._make_codec()

    @property
    def in_burst(self) -> bool:
        """See DatagramSocket."""
        return self._socket.in_burst

    def on_loss(self, lost: Callable[[str, int], None]) -> None:
        """Have *lost* hear of what the system did not take for the client."""
        self._socket.lost = lambda code, size, place: lost(code, size)

    def send(self, data: bytes, size: int) -> None:
        """Send to the client, once we know its port. Raises DropError."""
        if self._place is None:
            raise DropError("early")
        self._socket.send(data, size, self._send_to)

    def flush(self) -> None:
        """Send what waits to be sent, so that what is lost of it is known."""
        self._socket.flush()

    def wait_readable(self) -> None:
        """Return once there may be something to receive."""
        self._socket.wait_readable()

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


_UNKNOWN = (plain_address("0.0.0.0"), plain_address("::"))  # RFC 1928 §6: of who does not know yet
