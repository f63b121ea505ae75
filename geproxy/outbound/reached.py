"""Whom a way out has sent to: what its filter lets pass (RFC 4787 §5)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import islice

from geproxy.seams import Holding

# Chosen here
REMEMBERED = 4096  # about 1 MiB where all are used
KEY_BYTES = 280  # what one of them takes, measured
HANDED_OVER = 256  # the latest, of which another worker hears


class Reached:
    """Keys of targets, oldest first; the oldest make room."""

    __slots__ = ("_holding", "_keys")

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()
        self._holding: Holding | None = None

    def charge(self, holding: Holding) -> None:
        """Have *holding* pay for each key from now on, and for those that there are."""
        self._holding = holding
        holding.take(KEY_BYTES * len(self._keys))

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def add(self, key: Hashable) -> bool:
        """Let *key* pass, the latest from now on. Returns whether another has made room for it."""
        keys = self._keys
        if key in keys:
            keys.move_to_end(key)
            return False
        keys[key] = None
        full = len(keys) > REMEMBERED
        if not full and (self._holding is None or self._holding.take(KEY_BYTES)):
            return False
        if len(keys) == 1:  # this one, which must be there whoever pays for it
            return False
        keys.popitem(last=False)
        return True

    def latest(self) -> list[Hashable]:
        """Return the latest HANDED_OVER, oldest first."""
        skipped = max(len(self._keys) - HANDED_OVER, 0)
        return list(islice(self._keys, skipped, None))

    def extend(self, keys: Iterable[Hashable]) -> None:
        """Let all of *keys* pass."""
        for key in keys:
            self.add(key)
