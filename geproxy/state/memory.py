"""The same memory for one process: what the shared one is held to by the tests."""

from __future__ import annotations


class ProcessMemory:
    """A Store in a dictionary; forgets the oldest of more than *keys* keys."""

    def __init__(self, keys: int) -> None:
        self._keys = keys
        self._seen: dict[bytes, None] = {}

    def remember_once(self, key: bytes) -> bool:
        """True for the first to say *key*; False after that, for as long as it is remembered."""
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > self._keys:
            del self._seen[next(iter(self._seen))]
        return True
