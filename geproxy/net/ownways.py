"""Our own connections on ways out, so that a client that is one of them is known for what it is.

The name of a peer, or NAT, may lead a way out back to the listener that it was taken from: each
session would open the next. The configuration refuses the paths that it sees; this ends the rest.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from itertools import islice

from geproxy.errors import DeniedError
from geproxy.streams import Stream
from geproxy.terms import Endpoint

# Chosen here
# The far end, and the listeners that led there, a bit each. One entry for each port of ours: where
# two connections share one, the older is not known any more.
ENTRY = struct.Struct("=QQ")
TABLE_BYTES = ENTRY.size * (1 << 16)  # 1 MiB, of which the pages of ports in use are touched
LISTENERS = 64  # beyond so many a listener has no bit, and is not known again
EMPTY = bytes(ENTRY.size)
TAG_MASK = (1 << 64) - 1
# What the kernel makes of an address that is none, and what it is dialed as.
LOOPBACK = frozenset(hash(ip_address(text)) for text in ("127.0.0.1", "::1", "0.0.0.0", "::"))

Memory = mmap.mmap | bytearray
Note = tuple[int, bytes]


class OwnWays:
    """The connections to peers of all workers, and the listeners by which each was come to.

    For workers that are forks of one process: only their hashes agree. A worker that is killed
    leaves its entries, which do no harm: none denies a client but one that comes by the same
    listener, from the same address and port.
    """

    __slots__ = ("_bits", "_brought_by_nat", "_memory", "_salt")

    def __init__(
        self,
        memory: Memory,
        listeners: Iterable[str],
        brought_by_nat: Callable[[Endpoint, Endpoint], bool],
    ) -> None:
        """*memory* has TABLE_BYTES, zeroed, for all workers. *listeners* are the names of those
        from which ways lead to peers or fixed targets; without any nothing is looked up.

        *brought_by_nat* tells of a client, by both ends of its connection, whether it is of this
        host although no socket here is connected so. False where nobody knows.
        """
        self._memory = memory
        self._bits = {name: 1 << number for number, name in enumerate(islice(listeners, LISTENERS))}
        self._salt = hash(tuple(self._bits))  # with other listeners the bits mean others
        self._brought_by_nat = brought_by_nat

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
        far, listeners = ENTRY.unpack(entry)
        reached = client.bound
        if far == self._tag(reached) or self._brought_by_nat(client.peer, reached):
            return int(listeners)
        return 0

    def add(self, way: Stream, listeners: int) -> Note:
        """Note a connection that *listeners*, as led_to() returned them, led to.

        Whoever closes it discards what this returns before.
        """
        entry = ENTRY.pack(self._tag(way.peer), listeners) if listeners else EMPTY
        offset = way.bound.port * ENTRY.size
        self._memory[offset : offset + ENTRY.size] = entry
        return offset, entry

    def discard(self, note: Note) -> None:
        """Forget a connection."""
        offset, entry = note
        if self._memory[offset : offset + ENTRY.size] == entry:
            self._memory[offset : offset + ENTRY.size] = EMPTY

    def _tag(self, far: Endpoint) -> int:
        host = hash(far.host)
        if host in LOOPBACK:
            host = 0  # to dial 0.0.0.0 or :: is to dial one of these
        return (host + (far.port << 16) ^ self._salt) & TAG_MASK
