"""The datagrams that wait until their target's name has been looked up."""

from __future__ import annotations

from geproxy.seams import Holding

# Chosen here
WAITING_DATAGRAMS = 64  # for one name, and at most so many bytes:
WAITING_BYTES = 128 * 1024


class Queue:
    """What waits for one name; *holding* pays for it."""

    __slots__ = ("_bytes", "_holding", "datagrams")

    def __init__(self, holding: Holding) -> None:
        self.datagrams: list[bytes] = []
        self._bytes = 0
        self._holding = holding

    def put(self, data: bytes) -> bool:
        """Keep *data* if there is room."""
        if len(self.datagrams) >= WAITING_DATAGRAMS or self._bytes + len(data) > WAITING_BYTES:
            return False
        if not self._holding.take(len(data)):
            return False
        self.datagrams.append(data)
        self._bytes += len(data)
        return True

    def close(self) -> None:
        """Give back what was paid."""
        self._holding.give(self._bytes)
