"""Memory that many clients hold: anybody's while there is enough, and shared out when it is short.

For what is remembered of clients that nobody knows: a limit on the number of things each of them
holds bounds no sum, and one on the sum alone lets the greediest have all of it.
"""

from __future__ import annotations

from collections.abc import Hashable

from geproxy.net.turns import GREED, share_of
from geproxy.terms import Address


class Budget:
    """*limit_bytes* for all holdings of one worker; see turns.GREED for what one share may have."""

    def __init__(self, limit_bytes: int) -> None:
        self._free_bytes = limit_bytes
        self._held_bytes: dict[Hashable, int] = {}

    def holding(self, client: Address) -> Holding:
        """Open the account of something that is *client*'s."""
        return Holding(self, share_of(client))

    def take(self, share: Hashable, size_bytes: int) -> bool:
        """Take *size_bytes* for *share*; False where there are not so many for it."""
        held_bytes = self._held_bytes.get(share, 0)
        left_bytes = self._free_bytes - size_bytes
        if left_bytes < 0 or held_bytes + size_bytes > GREED * left_bytes:
            return False
        self._free_bytes = left_bytes
        self._held_bytes[share] = held_bytes + size_bytes
        return True

    def give(self, share: Hashable, size_bytes: int) -> None:
        """Give back *size_bytes* that *share* has taken."""
        self._free_bytes += size_bytes
        held_bytes = self._held_bytes.get(share, 0) - size_bytes
        if held_bytes:
            self._held_bytes[share] = held_bytes
        else:
            self._held_bytes.pop(share, None)


class Holding:
    """The part of a budget that one thing holds; give_all() ends it."""

    __slots__ = ("_budget", "_share", "size_bytes")

    def __init__(self, budget: Budget, share: Hashable) -> None:
        self._budget = budget
        self._share = share
        self.size_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Take *size_bytes* more; False where there are not so many for us."""
        if not self._budget.take(self._share, size_bytes):
            return False
        self.size_bytes += size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        """Give back *size_bytes* of what was taken."""
        self.size_bytes -= size_bytes
        self._budget.give(self._share, size_bytes)

    def give_all(self) -> None:
        """Give back what is held still."""
        self.give(self.size_bytes)
