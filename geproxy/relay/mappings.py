"""The clients of one UDP listener, each with an association of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, Protocol

from geproxy.errors import GeproxyError, LimitError
from geproxy.net.datagram import TURN, DatagramSocket, Sockaddr
from geproxy.net.greenlets import sleep, spawn
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
        self._live: dict[Sockaddr, Association] = {}
        self.dropped: Counter[str] = Counter()  # what belongs to no association

    def __len__(self) -> int:
        return len(self._live)

    def run(self) -> None:
        """Carry what clients send, until something is thrown into this greenlet."""
        receive, read = self._clients.receive, self._codec.read
        while True:
            for _ in range(TURN):
                received = receive()
                if received is None:
                    self._clients.wait_readable()
                    continue
                datagram, source = received
                try:
                    message = read(datagram)
                    association = self._live.get(source) or self._add(source)
                except GeproxyError as error:
                    self.dropped[error.code] += 1
                    continue
                if message is not None:
                    association.send(*message)
            sleep(0)

    def _add(self, source: Sockaddr) -> Association:
        if len(self._live) >= MAPPINGS:
            self._make_room()
        client = Endpoint.from_sockaddr(source)

        def ended(error: Exception) -> None:
            self._end(source, association, error)

        association = self._keeper.meet(client, partial(self._reply, source), ended)
        self._live[source] = association
        return association

    def _reply(self, source: Sockaddr, head: bytes, data: bytes) -> None:
        self._clients.send_to(self._codec.write(head, data), source)

    def _make_room(self) -> None:
        """End the mapping that has been quiet for longest among the oldest."""
        oldest = list(islice(self._live.items(), CHANCES))
        source, quietest = min(oldest, key=lambda item: item[1].quiet_since)
        for other, association in oldest:  # the next look is at others
            if other != source:
                del self._live[other]
                self._live[other] = association
        self._end(source, quietest, LimitError(f"more than {MAPPINGS} clients"))

    def _end(self, source: Sockaddr, association: Association, error: Exception) -> None:
        """End a mapping; a second end of it must not meet the one that has its place by then."""
        if self._live.get(source) is association:
            del self._live[source]
            spawn(partial(self._keeper.part, association, error))

    def copy_of_socket(self) -> int:
        """Duplicate the descriptor of the listener's socket."""
        return self._clients.duplicate()

    def bequeath(self) -> Iterator[tuple[dict[str, object], list[int]]]:
        """Give every client away: what is known of it, and the descriptors of its ports."""
        while self._live:
            source, association = self._live.popitem()
            message, descriptors = self._keeper.give(association)
            yield {"source": source, **message}, descriptors

    def adopt(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Take a client that another worker gives away."""
        source = tuple(message["source"])
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
