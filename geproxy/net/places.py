"""The places of one worker's clients: who may have one, and who loses it when they run short.

The common case, with places to spare, costs two entries in dicts. Sources are told apart only where
something runs short: above three quarters of all places, and of the part for the unproven.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from math import inf

from geproxy.errors import EvictedError, LimitError
from geproxy.net.accept import Gate
from geproxy.net.crowd import Crowd
from geproxy.net.greenlets import greenlet, interrupt
from geproxy.net.silence import Silence
from geproxy.net.turns import GREED
from geproxy.streams import Stream
from geproxy.terms import Endpoint

# Chosen here
UNPROVEN_PART = 4  # who has shown nothing yet gets one place in so many
# Never fewer than these, where there are as many: a page's connections come in one burst.
UNPROVEN_LEAST = 16
# A count begun above three quarters goes on until use is below a half, or each connection that
# comes and goes at the edge would begin one.
RELAXED_PART = 2

ShareOf = Callable[[Endpoint, Endpoint], Hashable]
QuietSince = Callable[[greenlet], float]
Tell = Callable[[str, int, Endpoint], None]


class Place:
    """One client connection's place, from Places.enter() to Places.leave()."""

    __slots__ = ("evicted", "held", "session", "share", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.session: greenlet | None = None  # who serves the client, and leaves before it ends
        self.held = False  # in silence, without a session
        self.evicted = False  # counted for its source no more, and about to leave
        self.share: Hashable = None  # None: nobody has asked


class Places:
    """Everything is for one thread, the loop's, and nothing waits."""

    def __init__(
        self,
        gate: Gate,
        per_client: int,
        associations: int,
        share_of: ShareOf,
        quiet_since: QuietSince,
        tell: Tell,
    ) -> None:
        """*per_client* 0 is a fair share; *associations* is a limit of each source's.

        *share_of* gets both ends of a client's connection. *quiet_since* gets who serves a client,
        and says when that moved its last byte (monotonic). *tell* gets why clients lost their
        connections, how many did, and one of them.
        """
        sessions = gate.limit
        self.gate = gate
        self._per_client = per_client
        self._associations_limit = associations
        self._share_of = share_of
        self._quiet_since = quiet_since
        self._tell = tell
        self._short = _three_quarters(sessions)
        self._budget = max(sessions // UNPROVEN_PART, min(sessions, UNPROVEN_LEAST))
        self._watched = _three_quarters(self._budget)
        self._places: dict[Stream, Place] = {}
        self._unproven: OrderedDict[Stream, Place] = OrderedDict()
        self._sources: Crowd[Place] | None = None
        if per_client:
            self._sources = Crowd(self._share, ())
        self._strangers: Crowd[Place] | None = None
        self._associations: Counter[Hashable] = Counter()
        self._losses: dict[str, tuple[int, Endpoint]] = {}
        self.silence = Silence(self._forget)

    def enter(self, stream: Stream) -> Place | None:
        """Give a new client its place, at another's cost if need be. None: its source has its share
        already; the caller ends the connection.
        """
        place = Place(stream)
        short = self._sources is not None or self.gate.count >= self._short
        if short and not self._admits(place):
            self._lose("share", stream)
            return None
        self.gate.enter()
        self._places[stream] = self._unproven[stream] = place
        if short or self._strangers is not None or len(self._unproven) >= self._watched:
            self._make_room(place)
        return place

    def _admits(self, place: Place) -> bool:
        """Tell whether the source of *place* may hold one more, and count it if so."""
        if self._sources is None:
            standing = (one for one in self._places.values() if not one.evicted)
            self._sources = Crowd(self._share, standing)
        self._sources.count_some()
        if not self._may_hold(self._sources.held(self._share(place)), self._sources.most()):
            return False
        self._sources.add(place)
        return True

    def _may_hold(self, held: int, most: int) -> bool:
        if self._per_client and held >= self._per_client:
            return False
        if not held or held + 2 <= most:
            return True  # whoever has most loses a place for it, should it be the last one
        left = self.gate.limit - self.gate.count - 1
        return left > 0 if self._per_client else held < GREED * left

    def _make_room(self, newest: Place) -> None:
        """End a connection where there are too many unproven ones, or no place is left.

        While that can be done without harm to who has but one, a place is free for the next client.
        """
        unproven = len(self._unproven)
        if self._strangers is not None or unproven >= self._watched:
            self._watch_strangers(newest)
        if unproven > self._budget or (unproven > UNPROVEN_LEAST and self.gate.full):
            self._drop_one()
        elif self.gate.full and self._sources is not None and self._sources.most() > 1:
            self._evict(self._sources)

    def _watch_strangers(self, newest: Place) -> None:
        if self._strangers is None:
            self._strangers = Crowd(self._share, self._unproven.values())
        else:
            self._strangers.add(newest)
        self._strangers.count_some()

    def _drop_one(self) -> None:
        """Drop the oldest unproven client of the source that has most of them."""
        if self._strangers is not None and self._strangers.complete:
            victim = self._strangers.oldest_of_greediest()
        else:
            victim = next(iter(self._unproven.values()))
        self.prove(victim.stream)  # it goes, and counts as one that must no more
        self._lose("unproven", victim.stream)
        if victim.held:
            self.silence.abort(victim.stream)
        elif victim.session is not None:
            text = "too many clients have proven nothing yet"
            interrupt(victim.session, EvictedError(text))
        else:
            victim.stream.abort()

    def _evict(self, sources: Crowd[Place]) -> None:
        """End the quietest connection of the source that has most."""
        victim = sources.quietest_of_greediest(self._quiet)
        sources.discard(victim)
        victim.evicted = True
        self._lose("evicted", victim.stream)
        if victim.held:
            self.silence.abort(victim.stream)
        elif victim.session is not None:
            text = "its source had most places, and the last one went to another"
            interrupt(victim.session, LimitError(text))

    def _quiet(self, place: Place) -> float:
        return inf if place.session is None else self._quiet_since(place.session)

    def _lose(self, reason: str, stream: Stream) -> None:
        count, _ = self._losses.get(reason, (0, None))
        self._losses[reason] = count + 1, stream.peer

    def prove(self, stream: Stream) -> None:
        """Note that the client has shown that it is one."""
        place = self._unproven.pop(stream, None)
        if place is not None and self._strangers is not None:
            self._strangers.discard(place)
            if len(self._unproven) < self._budget // RELAXED_PART:
                self._strangers = None

    def hold(self, stream: Stream, until_seconds: float) -> None:
        """Keep a stranger in silence, beyond its session; see Silence.hold()."""
        place = self._places.get(stream)
        self.silence.hold(stream, until_seconds)
        if place is not None:
            place.held = True

    def leave(self, place: Place) -> None:
        """Take *place* back at the end of its session, unless the client is held in silence."""
        if not place.held:
            self._forget(place.stream)

    def _forget(self, stream: Stream) -> None:
        place = self._places.pop(stream, None)
        if place is None:
            return
        if stream in self._unproven:
            self.prove(stream)
        self.gate.leave()
        if self._sources is not None and not place.evicted:
            self._sources.discard(place)
            if not self._per_client and self.gate.count < self.gate.limit // RELAXED_PART:
                self._sources = None

    @contextmanager
    def association(self, share: Hashable) -> Iterator[None]:
        """Count one UDP association of *share* while this is entered. Raises LimitError."""
        if self._associations[share] >= self._associations_limit:
            raise LimitError(f"more than {self._associations_limit} associations of one source")
        self._associations[share] += 1
        try:
            yield
        finally:
            self._associations[share] -= 1
            if not self._associations[share]:
                del self._associations[share]

    def _share(self, place: Place) -> Hashable:
        if place.share is None:
            place.share = self._share_of(place.stream.peer, place.stream.bound)
        return place.share

    def report(self) -> None:
        """Tell how many clients have lost their connections since the last call, by reason."""
        losses, self._losses = self._losses, {}
        for reason, (count, client) in losses.items():
            self._tell(reason, count, client)


def _three_quarters(number: int) -> int:
    """Return what is left of *number* beside a quarter; all of it where that is too small."""
    return number - number // 4
