"""One client's datagrams: where they may go, by which ways, and how many have gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from geproxy.errors import DeniedError, DropError, GeproxyError
from geproxy.net.budget import Budget
from geproxy.net.greenlets import Crew
from geproxy.net.timeslice import begin, give_way
from geproxy.net.udp import head_of, target_of
from geproxy.relay.queue import Queue
from geproxy.seams import Datagrams, Outbound, Place, Route
from geproxy.terms import Address, Endpoint, Filtering

# Chosen here
FOUND_LIMIT = 1024  # targets whose way is remembered; beyond that all are found anew
WAITING_NAMES = 64  # names being looked up for one association
TARGET_BYTES = 400  # what one remembered target takes besides its heads, measured

Decide = Callable[[Endpoint], Route]
Reply = Callable[[bytes, bytes], None]  # raises DropError
Ended = Callable[[Exception], None]


class Association:
    """The way of one client's datagrams to any number of targets, and back.

    Every target keeps meeting the same port of ours (RFC 4787 §4.1: endpoint-independent mapping).
    Nothing that a target, the network or the client does to one datagram ends an association.
    """

    __slots__ = (
        *("_decide", "_filtering", "_found", "_found_bytes", "_holding", "_reply", "_seen"),
        *("_waiting", "_ways", "client", "crew", "down_bytes", "down_datagrams", "dropped"),
        *("ended", "questions", "quiet_since", "up_bytes", "up_datagrams"),
    )

    def __init__(
        self,
        client: Address,
        decide: Decide,
        reply: Reply,
        filtering: Filtering,
        ended: Ended,
        budget: Budget,
    ) -> None:
        """*decide* is policy; *reply* sends to the client; *ended* hears of what cannot go on;
        *budget* is of the memory that all associations share.
        """
        self.client = client
        self._decide = decide
        self._reply = reply
        self._filtering = filtering
        self.ended = ended
        self.crew = Crew(ended)
        self._ways: dict[str, Datagrams] = {}
        # By the head as it came: the way, the head as it is sent on, and what the way found.
        self._found: dict[bytes, tuple[Datagrams | _Denied, bytes, Place]] = {}
        self._found_bytes = 0
        self._holding = budget.holding(client)
        self._waiting: dict[bytes, Queue] = {}
        self.up_datagrams = self.up_bytes = self.down_datagrams = self.down_bytes = 0
        self.dropped: Counter[str] = Counter()
        self.quiet_since = 0.0
        self.questions = False  # each datagram is one, and its answer the end of it, as in DNS
        self._seen = -1

    # -- from the client -------------------------------------------------------------------------

    def send(self, head: bytes, data: bytes) -> None:
        """Send *data* to the target that *head* names. Never waits."""
        found = self._found.get(head)
        if found is None:
            self._find(head, data)
            return
        way, onward, place = found
        try:
            way.send(onward, data, place)
        except DropError as error:
            self.dropped[error.code] += 1
            return
        self.up_datagrams += 1
        self.up_bytes += len(data)

    def _find(self, head: bytes, data: bytes) -> None:
        """Find the way for a new target: at once where nothing has to be waited for."""
        queue = self._waiting.get(head)
        if queue is not None:
            if not queue.put(data):
                self.drop("limit")
            return
        try:
            target = target_of(head)
            if not isinstance(target.host, str):
                route = self._decide(target)
                if route.outbound.name in self._ways or not route.outbound.waits:
                    self._open(route.outbound)
                    self._arrive(head, route, [data])
                    return
        except GeproxyError as error:
            self._refuse(head, error)
            return
        if len(self._waiting) >= WAITING_NAMES:
            self.drop("limit")
            return
        queue = Queue(self._holding)
        if not queue.put(data):
            self.drop("limit")
            return
        self._waiting[head] = queue
        self.crew.spawn(partial(self._look_up, head, target, queue))

    def _look_up(self, head: bytes, target: Endpoint, queue: Queue) -> None:
        """Decide, open the way and resolve, in a greenlet of its own; then send what waits."""
        try:
            route = self._decide(target)
            self._open(route.outbound)
            self._arrive(head, route, queue.datagrams)
        except GeproxyError as error:
            self._refuse(head, error, len(queue.datagrams))
        finally:
            self._waiting.pop(head).close()

    def _open(self, outbound: Outbound) -> None:
        name = outbound.name
        if name in self._ways:
            return
        way = outbound.associate(self.client, self._filtering)
        if name in self._ways:  # another look-up was faster
            way.close()
        else:
            self.take(name, way)

    def take(self, name: str, way: Datagrams) -> None:
        """Use *way*, and take from it what comes back."""
        self._ways[name] = way
        way.charge(self._holding)
        way.on_loss(self._lose_up)
        self.crew.spawn(partial(self._carry_down, way))

    def _arrive(self, head: bytes, route: Route, datagrams: list[bytes]) -> None:
        way = self._ways[route.outbound.name]
        place = way.find(route.target, route.permit, self.client)
        # Not the head as it came: what was judged is what is sent on.
        self._remember(head, way, head_of(route.target), place)
        for data in datagrams:
            self.send(head, data)

    def _refuse(self, head: bytes, error: GeproxyError, datagrams: int = 1) -> None:
        """Count what is not sent. A verdict of policy is remembered, so that it costs no second."""
        self.dropped[error.code] += datagrams
        if isinstance(error, DeniedError):
            self._remember(head, _DENIED, b"", None)

    def _remember(self, head: bytes, way: Datagrams | _Denied, onward: bytes, place: Place) -> None:
        size_bytes = TARGET_BYTES + len(head) + len(onward)
        if len(self._found) >= FOUND_LIMIT or not self._holding.take(size_bytes):
            self.forget()
            if not self._holding.take(size_bytes):
                size_bytes = 0  # nobody pays for this one, but it is sent by what is remembered
        self._found[head] = way, onward, place
        self._found_bytes += size_bytes

    # -- to the client ---------------------------------------------------------------------------

    def _carry_down(self, way: Datagrams) -> None:
        """Take what comes back by *way* to the client, for ever."""
        take_down = self._take_down
        slice_ends = begin()
        while True:
            if monotonic() >= slice_ends:
                slice_ends = give_way()
            if not take_down(way):
                way.wait_readable()
                slice_ends = begin()

    def _take_down(self, way: Datagrams) -> bool:
        """Take the next datagram of *way* to the client; False where there is none."""
        try:
            received = way.receive()
            if received is None:
                return False
            head, data = received
            self._reply(head, data)
        except GeproxyError as error:
            self.dropped[error.code] += 1
            return True
        self.down_datagrams += 1
        self.down_bytes += len(data)
        return True

    # -- its life --------------------------------------------------------------------------------

    def _lose_up(self, code: str, size: int) -> None:
        """Count as dropped what was counted as sent, and which the system did not take."""
        self.dropped[code] += 1
        self.up_datagrams -= 1
        self.up_bytes -= size

    def lose_down(self, code: str, size: int) -> None:
        """The same on the way to the client."""
        self.dropped[code] += 1
        self.down_datagrams -= 1
        self.down_bytes -= size

    def drop(self, code: str) -> None:
        """Count a datagram that goes nowhere."""
        self.dropped[code] += 1

    def forget(self) -> None:
        """Find every target anew from now on: names change their addresses."""
        self._found.clear()
        self._holding.give(self._found_bytes)
        self._found_bytes = 0

    def moved(self) -> bool:
        """True if a datagram has passed since the last call; the first call says so too."""
        seen = self.up_datagrams + self.down_datagrams
        changed = seen != self._seen
        self._seen = seen
        return changed

    @property
    def answered(self) -> bool:
        """True where questions were asked, and nothing is to be expected any more."""
        return self.questions and 0 < self.up_datagrams <= self.down_datagrams

    def silent_ways(self) -> list[Datagrams]:
        """The ways by which something was sent since the last call, and nothing has come back."""
        return [way for way in self._ways.values() if way.take_silence()]

    @property
    def via(self) -> str | None:
        """The ways that were taken, for the log."""
        return ",".join(self._ways) or None

    def duplicate(self) -> tuple[list[tuple[str, list[Any]]], list[int]]:
        """Return the ways for another worker: by name what each must know, and the descriptors."""
        known, descriptors = [], []
        for name, way in self._ways.items():
            while way.in_burst:  # the kernel has given it: the other worker cannot read it
                self._take_down(way)
            descriptor, what = way.duplicate()
            descriptors.append(descriptor)
            known.append((name, what))
        return known, descriptors

    def counts(self) -> tuple[int, int, int, int, dict[str, int]]:
        """What restore() takes in another worker."""
        moved = (self.up_datagrams, self.up_bytes, self.down_datagrams, self.down_bytes)
        return *moved, dict(self.dropped)

    def restore(
        self,
        up_datagrams: int,
        up_bytes: int,
        down_datagrams: int,
        down_bytes: int,
        dropped: dict[str, int],
    ) -> None:
        """Go on counting where another worker has stopped."""
        self.up_datagrams, self.up_bytes = up_datagrams, up_bytes
        self.down_datagrams, self.down_bytes = down_datagrams, down_bytes
        self.dropped.update(dropped)

    def close(self) -> None:
        """End it: its greenlets, then its ports."""
        try:
            self.crew.end()
        finally:
            for way in self._ways.values():
                way.close()
            self._holding.give_all()


class _Denied:
    """The way of datagrams whose target is not allowed."""

    def send(self, head: bytes, data: bytes, place: Place) -> None:
        """Send nothing."""
        raise DropError(DeniedError.code)


_DENIED = _Denied()
