"""Who holds how many of something that runs short, and of the one that holds most the oldest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import Generic, TypeVar

from geproxy.net.ranking import Ranking

M = TypeVar("M", bound=Hashable)

# Chosen here
# Standing members that each newcomer has counted with it: 80 µs where the kernel is asked for
# each, and those that fill three quarters are counted before the sixteenth part more has come.
COUNTED_AT_ONCE = 16
LOOKED_AT = 16  # of the members of one share, for the quietest: 5 µs


class Crowd(Generic[M]):
    """Members by their share, from the oldest to the newest.

    Every step takes a time that does not grow with the number of members or of shares.
    """

    def __init__(self, share_of: Callable[[M], Hashable], standing: Iterable[M]) -> None:
        """*standing*, from the oldest to the newest, are counted little by little."""
        self._share_of = share_of
        self._uncounted = dict.fromkeys(standing)
        self._members: dict[Hashable, OrderedDict[M, None]] = {}
        self._by_members = Ranking()

    @property
    def complete(self) -> bool:
        """True once everybody who stood there at the beginning is counted."""
        return not self._uncounted

    def held(self, share: Hashable) -> int:
        """Return how many members of *share* are counted."""
        return len(self._members.get(share, ()))

    def most(self) -> int:
        """Return how many are counted of the share that has most."""
        return self._by_members.highest()

    def count_some(self) -> None:
        """Count a few of those who stood there, the newest of them first."""
        for _ in range(min(COUNTED_AT_ONCE, len(self._uncounted))):
            member, _ = self._uncounted.popitem()
            self._insert(member)
            self._members[self._share_of(member)].move_to_end(member, last=False)

    def add(self, member: M) -> None:
        """Count *member* as the newest."""
        self._insert(member)

    def _insert(self, member: M) -> None:
        share = self._share_of(member)
        members = self._members.setdefault(share, OrderedDict())
        self._by_members.move(share, len(members) or None, len(members) + 1)
        members[member] = None

    def discard(self, member: M) -> None:
        """Count *member* no more."""
        if member in self._uncounted:
            del self._uncounted[member]
            return
        share = self._share_of(member)
        members = self._members[share]
        self._by_members.move(share, len(members), len(members) - 1 or None)
        del members[member]
        if not members:
            del self._members[share]

    def oldest_of_greediest(self) -> M:
        """Return the oldest member of the share that has most; there must be one."""
        return next(iter(self._members[self._by_members.most()]))

    def quietest_of_greediest(self, quiet_since: Callable[[M], float]) -> M:
        """Return, of the oldest members of the share that has most, the one that is quiet longest;
        there must be one.
        """
        return min(islice(self._members[self._by_members.most()], LOOKED_AT), key=quiet_since)
