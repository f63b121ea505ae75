"""The clients of one UDP listener, each with an association of its own."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from functools import partial
from itertools import islice
from time import monotonic
from typing import Any, Protocol

from geproxy.errors import GeproxyError, LimitError, ShutdownError
from geproxy.net.datagram import DatagramSocket, Place
from geproxy.net.greenlets import spawn
from geproxy.net.timeslice import begin, give_way
from geproxy.net.turns import GREED, share_of
from geproxy.relay.datagram import Association, Ended, Reply
from geproxy.seams import DatagramCodec
from geproxy.terms import Endpoint

# Chosen here
MAPPINGS = 4096  # per listener and worker; each has a port of ours, and so a descriptor
CHANCES = 8  # mappings compared before one has to go: the cost of a new client stays bounded


class Keeper(Protocol):
    """Keeps account of a listener's clients."""

    def meet(self, client: Endpoint, reply: Reply, ended: Ended) -> Association:
        """Make the association of a new client. Raises DeniedError."""
        ...

    def part(self, association: Association, error: Exception) -> None:
        """End one, for the reason that *error* is."""
        ...

    def give(self, association: Association) -> tuple[dict[str, Any], list[int]]:
        """End one here, for another worker to go on with."""
        ...

    def take(self, association: Association, message: dict[str, Any], ports: list[int]) -> None:
        """Go on with what another worker gave."""
        ...


class Mappings:
    """What RFC 4787 calls a NAT: the endpoint of a client has one mapping, whatever the target."""

    def __init__(self, clients: DatagramSocket, codec: DatagramCodec, keeper: Keeper) -> None:
        self._clients = clients
        self._codec = codec
        self._keeper = keeper
        clients.lost = self._lost
        # Of OrderedDict: the oldest are looked at, and moved to the end.
        self._live: OrderedDict[Place, Association] = OrderedDict()
        self._shares: dict[Hashable, OrderedDict[Place, Association]] = {}
        self._parting = 0
        self.dropped: Counter[str] = Counter()  # what belongs to no association

    def __len__(self) -> int:
        """How many clients there are, those included whose end is being written down."""
        return len(self._live) + self._parting

    def run(self) -> None:
        """Carry what clients send, until something is thrown into this greenlet."""
        take_up = self._take_up
        slice_ends = begin()
        try:
            while True:
                if monotonic() >= slice_ends:
                    slice_ends = give_way()
                if not take_up():
                    self._clients.wait_readable()
                    slice_ends = begin()
        except ShutdownError:
            while self._clients.in_burst:  # the kernel has given it: no other worker can read it
                take_up()
            raise

    def _take_up(self) -> bool:
        """Carry the next datagram; False where there is none."""
        received = self._clients.receive()
        if received is None:
            return False
        datagram, source = received
        try:
            message = self._codec.read(datagram)
            association = self._live.get(source) or self._add(source)
        except GeproxyError as error:
            self.dropped[error.code] += 1
            return True
        if message is not None:
            association.send(*message)
        return True

    def _add(self, source: Place) -> Association:
        client = self._clients.client(source)
        share = share_of(client.address)
        own = self._shares.get(share)
        left = MAPPINGS - len(self._live) - 1
        if own and len(own) >= GREED * left:
            self._make_room(own, f"more than a fair share of {MAPPINGS} clients")
        elif left < 0:
            self._make_room(self._live, f"more than {MAPPINGS} clients")

        def ended(error: Exception) -> None:
            self._end(source, association, error)

        association = self._keeper.meet(client, partial(self._reply, source), ended)
        self._live[source] = association
        self._shares.setdefault(share, OrderedDict())[source] = association
        return association

    def _reply(self, source: Place, head: bytes, data: bytes) -> None:
        self._clients.send(self._codec.write(head, data), len(data), source)

    def _lost(self, code: str, size: int, source: Place | None) -> None:
        association = self._live.get(source) if source is not None else None
        if association is not None:
            association.lose_down(code, size)

    def _make_room(self, among: OrderedDict[Place, Association], reason: str) -> None:
        """End the mapping that has been quiet for longest among the oldest of *among*."""
        oldest = list(islice(among.items(), CHANCES))
        # A sweep finds many alike: then one that asked once goes before one that asks on.
        source, quietest = min(oldest, key=lambda item: (item[1].quiet_since, item[1].up_datagrams))
        for other, _ in oldest:  # the next look is at others
            among.move_to_end(other)
        self._end(source, quietest, LimitError(reason))

    def _end(self, source: Place, association: Association, error: Exception) -> None:
        """End a mapping; a second end of it must not meet the one that has its place by then."""
        if self._live.get(source) is association:
            self._remove(source)
            self._parting += 1
            spawn(partial(self._do_part, association, error))

    def _remove(self, source: Place) -> None:
        del self._live[source]
        share = share_of(self._clients.client(source).address)
        own = self._shares[share]
        del own[source]
        if not own:
            del self._shares[share]

    def _do_part(self, association: Association, error: Exception) -> None:
        try:
            self._keeper.part(association, error)
        finally:
            self._parting -= 1

    def copy_of_socket(self) -> int:
        """Duplicate the descriptor of the listener's socket."""
        return self._clients.duplicate()

    def bequeath(self) -> Iterator[tuple[dict[str, object], list[int]]]:
        """Give every client away: what is known of it, and the descriptors of its ports."""
        while self._live:
            source, association = next(reversed(self._live.items()))
            self._remove(source)
            message, descriptors = self._keeper.give(association)
            yield {"source": self._clients.describe(source), **message}, descriptors

    def adopt(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Take a client that another worker gives away."""
        source = self._clients.recall(message["source"])
        try:
            has_room = source not in self._live and len(self._live) < MAPPINGS
            association = self._add(source) if has_room else None
        except GeproxyError:  # a rule here denies that client, and means none of the others
            association = None
        if association is not None:
            self._keeper.take(association, message, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)

    def end_all(self, error: Exception) -> None:
        """End every mapping."""
        for source, association in list(self._live.items()):
            self._end(source, association, error)

    def close(self) -> None:
        """Close the listener's socket, once nothing is there to be sent by it."""
        self._clients.close()
