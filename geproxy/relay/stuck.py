"""Readers that stopped, or nearly so: what waits for them takes memory of the whole host.

The kernel keeps up to 4 MiB unsent for a reader that has stopped, and as much or more unread from
its target (tcp_wmem, tcp_rmem), and takes it from what it has for all TCP sockets (tcp_mem). Some
hundred of them, and nobody on the host gets a byte through. Our own buffers are bounded per relay,
and no part of this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from heapq import heapify, heapreplace
from typing import Protocol

from geproxy.net.greenlets import greenlet
from geproxy.net.turns import share_of
from geproxy.streams import Stream
from geproxy.terms import Address

# Chosen here
SLOW_BYTES = 64 * 1024  # between two sweeps, 5 s at most: less of it is not what buffers are for
LOOKS = 2  # in a row, that find it so: a pause of one sweep costs nothing


class Relay(Protocol):
    """What is watched of a relay."""

    owner: greenlet
    client: Stream
    target: Stream
    stuck_looks: int  # in a row that found a side stuck


class StuckReaders:
    """Those of one worker; together they may take *limit_bytes* of the kernel's memory."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._bytes: dict[Relay, int] = {}
        self._by_share: Counter[Hashable] = Counter()

    def look(self, relay: Relay, moved_bytes: int) -> None:
        """Look at *relay*, which has moved *moved_bytes* since the last look."""
        client, target = relay.client.kernel, relay.target.kernel
        if moved_bytes >= SLOW_BYTES or not (client.blocked or target.blocked):
            if relay.stuck_looks:
                self.release(relay)
                relay.stuck_looks = 0
            return
        relay.stuck_looks += 1
        if relay.stuck_looks < LOOKS:
            return
        if relay.stuck_looks == LOOKS:
            client.cap()
            target.cap()
        self._count(relay, client.memory_bytes + target.memory_bytes)

    def release(self, relay: Relay) -> None:
        """Let *relay* go: a side that was stuck reads again."""
        if relay.stuck_looks >= LOOKS:
            relay.client.kernel.uncap()
            relay.target.kernel.uncap()
        self.forget(relay)

    def forget(self, relay: Relay) -> None:
        """Count *relay* no more: it ends."""
        self._count(relay, 0)

    def _count(self, relay: Relay, size_bytes: int) -> None:
        share = share_of(_client_of(relay))
        self._by_share[share] += size_bytes - self._bytes.pop(relay, 0)
        if size_bytes:
            self._bytes[relay] = size_bytes
        if not self._by_share[share]:
            del self._by_share[share]

    def excess(self) -> list[Relay]:
        """Return the relays to end, so that the rest take what they may: of the source that takes
        most the one that takes most, and so on. They are forgotten.
        """
        excess_bytes = self._by_share.total() - self._limit_bytes
        if excess_bytes <= 0:
            return []
        of_share: dict[Hashable, list[Relay]] = {}  # each with the largest last
        for relay in sorted(self._bytes, key=self._bytes.__getitem__):
            of_share.setdefault(share_of(_client_of(relay)), []).append(relay)
        # The number keeps shares, which have no order, from being compared.
        greediest = [(-self._by_share[one], number, one) for number, one in enumerate(of_share)]
        heapify(greediest)
        ended: list[Relay] = []
        while excess_bytes > 0:
            size, number, share = greediest[0]
            largest = of_share[share].pop()
            largest_bytes = self._bytes[largest]
            heapreplace(greediest, (size + largest_bytes, number, share))
            excess_bytes -= largest_bytes
            self.forget(largest)
            ended.append(largest)
        return ended


def _client_of(relay: Relay) -> Address:
    return relay.client.peer.address
