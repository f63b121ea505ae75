"""Turns at something scarce: a free place is anybody's, a scarce one goes to who holds least."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address

from geproxy.errors import LimitError
from geproxy.net.ranking import Ranking
from geproxy.terms import Address

# Chosen here
# A share may hold this many times what it leaves free, so that a newcomer finds a place at once:
# one greedy share stops at three quarters, two at three sevenths each, and so on.
GREED = 3


def share_of(client: Address) -> Hashable:
    """Return the key of *client*'s share: its address, or its /64, which one host may own whole."""
    return int(client) >> 64 if isinstance(client, IPv6Address) else client


class Turn:
    """A request for places, from Turns.take() until its places are given back."""

    __slots__ = ("granted", "places", "refused", "share")

    def __init__(
        self,
        share: Hashable,
        places: int,
        granted: Callable[[], None],
        refused: Callable[[LimitError], None],
    ) -> None:
        self.share = share
        self.places = places
        self.granted = granted
        self.refused = refused


class Turns:
    """Hands out *places*; at most *waiting_limit* turns wait for some.

    Every step takes a time that does not grow with the number of shares. For one thread, the
    loop's. The callbacks must not wait.
    """

    def __init__(self, what: str, places: int, waiting_limit: int) -> None:
        self._what = what
        self._free = places
        self._limit = waiting_limit
        self._waiting = 0
        self._held: dict[Hashable, int] = {}
        self._queues: dict[Hashable, OrderedDict[Turn, None]] = {}
        self._by_held = Ranking()  # the shares that wait
        self._by_length = Ranking()

    def take(
        self,
        share: Hashable,
        places: int,
        granted: Callable[[], None],
        refused: Callable[[LimitError], None],
    ) -> Turn:
        """Ask for *places* at once; every turn of one Turns asks for as many.

        Exactly one of the callbacks is called, now or later, unless the turn is cancelled. A full
        queue refuses the newest turn of the share that has most in it.
        """
        turn = Turn(share, places, granted, refused)
        if share not in self._queues and self._may_hold(share, places):
            self._grant(turn)
        elif self._waiting < self._limit or self._make_room(share):
            self._enqueue(turn)
        else:
            self._refuse(turn)
        return turn

    def give(self, share: Hashable) -> None:
        """Give one place of *share* back."""
        held = self._held[share] - 1
        if held:
            self._held[share] = held
        else:
            del self._held[share]
        self._free += 1
        if share in self._queues:
            self._by_held.move(share, held + 1, held)
        while self._waiting:
            share = self._by_held.least()
            turn = next(iter(self._queues[share]))
            if not self._may_hold(share, turn.places):
                return  # nor may the others, which hold as much or more
            self._dequeue(turn)
            self._grant(turn)

    def advance(self, turn: Turn, share: Hashable) -> None:
        """Let *turn*, if it waits, count for *share* instead, if that holds less."""
        held = self._held.get
        if turn.share == share or held(share, 0) >= held(turn.share, 0) or not self.cancel(turn):
            return
        turn.share = share
        if share not in self._queues and self._may_hold(share, turn.places):
            self._grant(turn)
        else:
            self._enqueue(turn)

    def cancel(self, turn: Turn) -> bool:
        """Take *turn* out of the queue. Returns whether it was there."""
        waits = turn in self._queues.get(turn.share, ())
        if waits:
            self._dequeue(turn)
        return waits

    def _may_hold(self, share: Hashable, places: int) -> bool:
        left = self._free - places
        held = self._held.get(share, 0)
        return left >= 0 and (not held or held + places <= GREED * left)

    def _grant(self, turn: Turn) -> None:
        share = turn.share
        held = self._held.get(share, 0)
        self._held[share] = held + turn.places
        self._free -= turn.places
        if share in self._queues:
            self._by_held.move(share, held, held + turn.places)
        turn.granted()

    def _make_room(self, share: Hashable) -> bool:
        """Refuse the newest turn of the greediest share, unless *share* would be as greedy."""
        greediest = self._by_length.most()
        queue = self._queues[greediest]
        if len(self._queues.get(share, ())) + 1 >= len(queue):
            return False
        turn = next(reversed(queue))
        self._dequeue(turn)
        self._refuse(turn)
        return True

    def _refuse(self, turn: Turn) -> None:
        turn.refused(LimitError(f"too many {self._what} at once"))

    def _enqueue(self, turn: Turn) -> None:
        share = turn.share
        queue = self._queues.get(share)
        if queue is None:
            queue = self._queues[share] = OrderedDict()
            self._by_held.move(share, None, self._held.get(share, 0))
        self._by_length.move(share, len(queue) or None, len(queue) + 1)
        queue[turn] = None
        self._waiting += 1

    def _dequeue(self, turn: Turn) -> None:
        share = turn.share
        queue = self._queues[share]
        self._by_length.move(share, len(queue), len(queue) - 1 or None)
        del queue[turn]
        self._waiting -= 1
        if not queue:
            del self._queues[share]
            self._by_held.move(share, self._held.get(share, 0), None)
