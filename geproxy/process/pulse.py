"""How a worker does: it beats for the master, shows its figures, and looks after all that lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized

from setproctitle import setproctitle

from geproxy.net.greenlets import sleep
from geproxy.net.lasting import Lasting
from geproxy.process.assignment import Assignment
from geproxy.process.slots import Slots
from geproxy.site import Site

# Chosen here
BEAT_SECONDS = 1.0


class Pulse:
    """The beat of one worker, which vouches for all that is meant to run for ever (*lasting*)."""

    def __init__(
        self,
        assignment: Assignment,
        site: Site,
        slots: Slots,
        lasting: Lasting,
        sessions: Sized,
        served: Callable[[], int],
    ) -> None:
        self._assignment = assignment
        self._site = site
        self._slots = slots
        self._lasting = lasting
        self._sessions = sessions
        self._served = served
        # Of one look, so that they agree: Reading's fields from up_bytes on.
        self._moved = (0, 0, 0, 0, 0, 0)
        self._pause_seconds = min(
            BEAT_SECONDS, site.relays.sweep_seconds, site.associations.sweep_seconds
        )

    def begin(self) -> None:
        """Beat and sweep from now on."""
        self._lasting.spawn("beat", self._tick)
        self._lasting.spawn("sweep", self._sweep)

    def _tick(self) -> None:
        shown = 0
        while True:
            if self._lasting.sound:  # else the master finds us silent, and has another begin
                self._beat()
            if shown != len(self._sessions):
                shown = len(self._sessions)
                show_title(self._assignment.number, shown)
            self._site.places.report()
            self._site.log.flush()
            sleep(self._pause_seconds)

    def _sweep(self) -> None:
        """Look at all that lives, again and again: it gives way, which no beat may wait for."""
        relays, associations = self._site.relays, self._site.associations
        while True:
            # An error costs one look, and not the looks at others.
            self._lasting.attempt("sweep", lambda: relays.sweep(time.monotonic()))
            self._lasting.attempt("sweep", lambda: associations.sweep(time.monotonic()))
            self._lasting.attempt("sweep", self._count)
            sleep(self._pause_seconds)

    def _count(self) -> None:
        up_bytes, down_bytes = self._site.relays.totals()
        associations = len(self._site.associations)  # first: one that ends meanwhile has moved all
        moved = self._site.associations.totals()
        self._moved = (
            up_bytes + moved.up_bytes,
            down_bytes + moved.down_bytes,
            associations,
            moved.up_datagrams,
            moved.down_datagrams,
            moved.dropped + self._slots.dropped,
        )

    def _beat(self) -> None:
        self._assignment.slot.beat(len(self._sessions), self._served(), *self._moved)


def show_title(number: int, sessions: int) -> None:
    """Have ps(1) show who this is, and how busy."""
    setproctitle(f"geproxy: worker {number} ({sessions} sessions)")
