"""Our own connections on ways out, so that a client that is one of them is known for what it is.

The name of a peer, or NAT, may lead a way out back to the listener that it was taken from: each
session would open the next. The configuration refuses the paths that it sees; this ends the rest.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from itertools import islice

from geproxy.errors import DeniedError
from geproxy.streams import Stream
from geproxy.terms import Endpoint

# Chosen here
# Our end's address, the far end, and the listeners that led there, a bit each. One entry for each
# port: where two connections share a port the older one is not known any more.
ENTRY = struct.Struct("=IIQ")
TABLE_BYTES = ENTRY.size * (1 << 16)  # 1 MiB, of which the pages of ports in use are touched
LISTENERS = 64  # beyond so many a listener has no bit, and is not known again
EMPTY = bytes(ENTRY.size)
TAG_MASK = 0xFFFFFFFF
UNSPECIFIED = frozenset(map(hash, (IPv4Address(0), IPv6Address(0))))

Memory = mmap.mmap | bytearray
Note = tuple[int, bytes]


class OwnWays:
    """The connections to peers of all workers, and the listeners by which each was come to.

    For workers that are forks of one process: only their hashes agree. A worker that is killed
    leaves its entries, which do no harm: none denies a client but one that comes by the same
    listener, from the same address and port.
    """

    __slots__ = ("_bits", "_memory", "_salt", "_stands")

    def __init__(
        self,
        memory: Memory,
        listeners: Iterable[str],
        stands: Callable[[Endpoint, Endpoint], bool],
    ) -> None:
        """*memory* has TABLE_BYTES, zeroed, for all workers. *listeners* are the names of those
        from which ways lead to peers or fixed targets; without any nothing is looked up.

        *stands* tells whether a socket of this host is connected from one endpoint to another, in
        the opinion of that socket; True where nobody knows.
        """
        self._memory = memory
        self._bits = {name: 1 << number for number, name in enumerate(islice(listeners, LISTENERS))}
        self._salt = hash(tuple(self._bits))  # with other listeners the bits mean others
        self._stands = stands

    def led_to(self, client: Stream, listener: str) -> int:
        """Return the bits of *listener* and of those that led to *client*.

        Raises DeniedError if *listener* is one of these.
        """
        bit = self._bits.get(listener, 0)
        offset = client.peer.port * ENTRY.size
        if not bit or (entry := self._memory[offset : offset + ENTRY.size]) == EMPTY:
            return bit
        before = self._led_by(client, bytes(entry))
        if before & bit:
            raise DeniedError("a way out leads back to this listener")
        return before | bit

    def _led_by(self, client: Stream, entry: bytes) -> int:
        end, far, listeners = ENTRY.unpack(entry)
        if end != self._tag(hash(client.peer.host), 0):
            return 0
        # Another program of this host may have been given the port of one of ours, for another far
        # end. If none has a connection from there to here, NAT has brought one of ours.
        reached = client.bound
        same = far == self._tag(hash(reached.host), reached.port)
        return int(listeners) if same or not self._stands(client.peer, reached) else 0

    def add(self, way: Stream, listeners: int) -> Note:
        """Note a connection that *listeners*, as led_to() returned them, led to.

        Whoever closes it discards what this returns before.
        """
        bound, far = way.bound, way.peer
        here, there = hash(bound.host), hash(far.host)
        if there in UNSPECIFIED:
            there = here  # the kernel goes from loopback to itself
        tags = self._tag(here, 0), self._tag(there, far.port)
        entry = ENTRY.pack(*tags, listeners) if listeners else EMPTY
        offset = bound.port * ENTRY.size
        self._memory[offset : offset + ENTRY.size] = entry
        return offset, entry

    def discard(self, note: Note) -> None:
        """Forget a connection."""
        offset, entry = note
        if self._memory[offset : offset + ENTRY.size] == entry:
            self._memory[offset : offset + ENTRY.size] = EMPTY

    def _tag(self, host: int, port: int) -> int:
        return (host + (port << 16) ^ self._salt) & TAG_MASK
