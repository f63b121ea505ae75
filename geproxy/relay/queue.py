"""The datagrams that wait until their target's name has been looked up."""

from __future__ import annotations

# Chosen here
WAITING_DATAGRAMS = 64  # for one name, and at most so many bytes:
WAITING_BYTES = 128 * 1024


class Queue:
    """What waits for one name."""

    __slots__ = ("_bytes", "datagrams")

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self._bytes = 0

    def put(self, data: bytes) -> bool:
        """Keep *data* if there is room."""
        if len(self.datagrams) >= WAITING_DATAGRAMS or self._bytes + len(data) > WAITING_BYTES:
            return False
        self.datagrams.append(data)
        self._bytes += len(data)
        return True
