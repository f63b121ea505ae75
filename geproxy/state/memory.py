"""The same memory for one process: for what only that process hears, and as the tests' measure."""

from __future__ import annotations

from collections import OrderedDict


class ProcessMemory:
    """A Store in a dictionary; forgets the oldest of more than *keys* keys."""

    def __init__(self, keys: int) -> None:
        self._keys = keys
        # A dict would be searched from its emptied front for the oldest key.
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def remember_once(self, key: bytes) -> bool:
        """True for the first to say *key*; False after that, for as long as it is remembered."""
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > self._keys:
            self._seen.popitem(last=False)
        return True
