"""Who has most, and who least, of something that is counted: an answer that takes no search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class Ranking:
    """Shares by a count, which moves by small steps: first come, first among equals.

    least() and most() walk over counts that nobody has. A share took each of them, step by step,
    so the walk costs no more than those steps did.
    """

    __slots__ = ("_highest", "_lowest", "_rows")

    def __init__(self) -> None:
        # Of OrderedDict: the first entry of a dict that shrinks in front is found ever more slowly.
        self._rows: dict[int, OrderedDict[Hashable, None]] = {}
        self._lowest = 0  # no share has less
        self._highest = 0  # no share has more

    def move(self, share: Hashable, old: int | None, new: int | None) -> None:
        """Count *new* for *share* where it was *old*; None: it is not here."""
        if old is not None:
            row = self._rows[old]
            del row[share]
            if not row:
                del self._rows[old]
        if new is not None:
            if not self._rows:
                self._lowest = self._highest = new
            self._rows.setdefault(new, OrderedDict())[share] = None
            self._lowest = min(self._lowest, new)
            self._highest = max(self._highest, new)

    def least(self) -> Hashable:
        """Return the share with the lowest count; there must be one."""
        while self._lowest not in self._rows:
            self._lowest += 1
        return next(iter(self._rows[self._lowest]))

    def most(self) -> Hashable:
        """Return the share with the highest count; there must be one."""
        return next(iter(self._rows[self.highest()]))

    def highest(self) -> int:
        """Return the highest count, 0 where nobody is."""
        while self._highest and self._highest not in self._rows:
            self._highest -= 1
        return self._highest
