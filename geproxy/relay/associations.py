"""The live associations of one worker, their limits and their totals."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from geproxy.errors import GeproxyError, IdleError
from geproxy.net.budget import Budget
from geproxy.net.greenlets import spawn
from geproxy.net.timeslice import in_slices
from geproxy.relay.datagram import Association
from geproxy.seams import Datagrams

# Chosen here
FORGET_SECONDS = 30.0  # how long the way to a target is used before it is found anew
# Of a client all of whose questions have been answered. A resolver takes a port for each, and with
# udp_idle_seconds each port would keep a mapping, which is a descriptor, for minutes.
ANSWERED_SECONDS = 10.0
# What all associations of a worker may remember, and keep waiting: 10 000 of them ten targets each.
# One alone can use 2 MiB, and more while names are looked up.
STATE_BYTES = 64 << 20


class Totals(NamedTuple):
    """What all associations have moved since the worker started."""

    up_datagrams: int = 0
    down_datagrams: int = 0
    up_bytes: int = 0
    down_bytes: int = 0
    dropped: int = 0


class Associations:
    """As with relays there is no timer for each: sweep() looks at all of them now and then."""

    def __init__(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        self.budget = Budget(STATE_BYTES)
        self._live: set[Association] = set()
        self._ending: set[Association] = set()
        self._ended = Totals()
        self._forgot = 0.0
        self._renewing = False

    def __len__(self) -> int:
        return len(self._live)

    def add(self, association: Association) -> None:
        """Watch over *association*."""
        self._live.add(association)

    def end(self, association: Association) -> None:
        """Close *association*, and keep what it has moved in the totals."""
        self._live.discard(association)
        self._ending.add(association)
        try:
            association.close()
        finally:
            self._ending.discard(association)
            self._ended = _sum(self._ended, association)

    def give_away(self, association: Association) -> None:
        """Close *association* here; what it has moved counts where it goes on."""
        self._live.discard(association)
        association.close()

    def sweep(self, now_seconds: float) -> None:
        """Tell those that were quiet for too long, and have silent ways out follow the world.

        *now_seconds* is monotonic. Gives way between slices, so that others join and leave.
        """
        forget = now_seconds - self._forgot >= FORGET_SECONDS
        if forget:
            self._forgot = now_seconds
        silent: list[tuple[Association, Datagrams]] = []
        for association in in_slices(list(self._live)):
            if association not in self._live:
                continue
            if forget:
                association.forget()
            silent += [(association, way) for way in association.silent_ways()]
            if association.moved():
                association.quiet_since = now_seconds
                continue
            limit_seconds = self.idle_seconds
            if association.answered:
                limit_seconds = min(limit_seconds, ANSWERED_SECONDS)
            if now_seconds - association.quiet_since >= limit_seconds:
                association.ended(IdleError(f"no datagram for {limit_seconds:g} seconds"))
        if silent and not self._renewing:
            self._renewing = True
            spawn(partial(self._renew, silent))

    def _renew(self, silent: list[tuple[Association, Datagrams]]) -> None:
        """Renew one after the other, since those of one peer wait for the same look-up."""
        try:
            for association, way in in_slices(silent):
                if association in self._live:
                    _renew_way(association, way)
        finally:
            self._renewing = False

    @property
    def sweep_seconds(self) -> float:
        """How often to sweep."""
        return min(max(self.idle_seconds / 4, 0.25), 5.0)

    def totals(self) -> Totals:
        """Count everything since this worker started, the live associations' included.

        Gives way between slices. Those that end meanwhile are counted once, as they are then.
        """
        up_datagrams, down_datagrams, up_bytes, down_bytes, dropped = self._ended
        for association in in_slices([*self._live, *self._ending]):
            up_datagrams += association.up_datagrams
            down_datagrams += association.down_datagrams
            up_bytes += association.up_bytes
            down_bytes += association.down_bytes
            dropped += association.dropped.total()
        return Totals(up_datagrams, down_datagrams, up_bytes, down_bytes, dropped)


def _renew_way(association: Association, way: Datagrams) -> None:
    try:
        way.renew(association.client)
    except GeproxyError:
        pass  # it is as good as it was, and the next sweep tries again
    except Exception as bug:
        association.ended(bug)


def _sum(totals: Totals, association: Association) -> Totals:
    return Totals(
        totals.up_datagrams + association.up_datagrams,
        totals.down_datagrams + association.down_datagrams,
        totals.up_bytes + association.up_bytes,
        totals.down_bytes + association.down_bytes,
        totals.dropped + association.dropped.total(),
    )
