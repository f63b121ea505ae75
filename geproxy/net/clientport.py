"""The port of one UDP association: its client uses it, and nobody else (RFC 1928 §7)."""

from __future__ import annotations

from collections.abc import Callable

from geproxy.errors import DropError
from geproxy.net.datagram import Sockaddr
from geproxy.net.udp import open_towards_clients
from geproxy.terms import Address, Endpoint, plain_address


class ClientPort:
    """A port at the address where the client reached us.

    It hears the address of the client's TCP connection, and of that the one port which the client
    announced, or else the first that speaks.
    """

    __slots__ = ("_client", "_place", "_socket", "bound")

    def __init__(
        self, address: Address, ports: range | None, client: Address, announced: Endpoint
    ) -> None:
        """*announced* is DST.ADDR and DST.PORT of the request. Raises DialError."""
        self._socket = open_towards_clients(address, ports)
        self._client = client
        self._place: Sockaddr | None = None
        self.bound = Endpoint(address, self._socket.bound.port)
        # Behind NAT a client announces an address, and so a port, that we never see.
        place = Endpoint(client, announced.port)
        # Our own port is no client's, and what it heard of itself would be sent to targets again.
        if announced.port and announced.host in (client, *_UNKNOWN) and place != self.bound:
            try:
                self._lock(place.sockaddr)
            except DropError:
                pass  # a link-local address without its interface: the first that speaks, then

    def receive(self) -> bytes | None:
        """Take the client's next datagram; None: there is none.

        Raises DropError for a stranger's.
        """
        received = self._socket.receive()
        if received is None:
            return None
        data, source = received
        if source != self._place:
            self._meet(source)
        return data

    def _meet(self, source: Sockaddr) -> None:
        if self._place is not None or plain_address(source[0]) != self._client:
            raise DropError("stranger")
        self._lock(source)

    def _lock(self, place: Sockaddr) -> None:
        """Hear *place* alone. The kernel drops the rest, and what it had taken before we do."""
        try:
            self._place = self._socket.connect(place)
        except OSError as error:
            raise DropError("unreachable") from error

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
        self._socket.send(data, size)

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
