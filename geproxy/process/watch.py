"""Which workers hang: they beat once a second, and one that does not is asked to die, then made to.

With the default heartbeat of ten seconds it is gone twelve seconds after its last beat.
"""

from __future__ import annotations

from collections.abc import Iterable

from geproxy.process.generation import READY_SECONDS
from geproxy.process.spawn import Child

# Chosen here
LOOK_SECONDS = 0.25
BEAT_SECONDS = 1.0  # between two beats of a worker, as far as its loop turns
WARY_SECONDS = 2.0  # without a beat: from now on each look counts
PAUSE_SECONDS = 2.0  # a longer time between two looks counts as so much
# Whatever is configured: a pause counts PAUSE_SECONDS, and as much again must bring no beat.
LEAST_SECONDS = 2 * PAUSE_SECONDS
DEATH_SECONDS = 1.5  # to say where it stands, which takes an interpreter a few milliseconds


class Watch:
    """Finds workers that no longer beat, by looking again and again with the master's own clock.

    A look after a long pause of the master counts as a short one: a master that was stopped, or a
    machine that slept, kills nobody. One hanging worker is dealt with at a time.
    """

    def __init__(self, now: float) -> None:
        self._last = now
        self._again = now  # not before that is KILL sent: a death takes a moment to be seen
        self.wary = False  # a worker is silent: the next look must not be late

    def look(self, children: Iterable[Child], heartbeat_seconds: float, now: float) -> Child | None:
        """Return a worker to act on, if there is one: ABRT it first, KILL it when asked again."""
        passed = min(now - self._last, PAUSE_SECONDS)
        if passed < LOOK_SECONDS:
            return None
        self._last = now
        self.wary = False
        silent = dying = None
        for child in children:
            if not _is_silent(child, passed, now):
                continue
            self.wary = self.wary or child.silent_seconds >= WARY_SECONDS
            limit_seconds = max(heartbeat_seconds, LEAST_SECONDS) if child.ready else READY_SECONDS
            if child.aborted:
                limit_seconds += DEATH_SECONDS
                dying = child
            if child.silent_seconds >= limit_seconds and (silent is None or child.aborted):
                silent = child
        if silent is None or not silent.aborted:
            return None if dying else silent
        if now < self._again:
            return None
        self._again = now + DEATH_SECONDS
        return silent


def _is_silent(child: Child, passed: float, now: float) -> bool:
    """Note whether *child* has beaten since the last look, *passed* seconds ago, and how long not.

    A beat was given some time before the look that finds it; of one that is older than it can be,
    all of us have slept since.
    """
    beat_ns = child.slot.read().beat_ns
    if beat_ns == child.beat_ns:
        child.silent_seconds += passed
        return True
    child.beat_ns = beat_ns
    child.silent_seconds = min(max(now - beat_ns / 1e9, 0.0), BEAT_SECONDS)
    return False
