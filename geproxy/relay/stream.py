"""Both directions of a session, until both are done or nothing has moved for too long."""

from __future__ import annotations

from functools import partial

from geproxy.errors import IdleError
from geproxy.net.forward import BufferPool, Flow, forward
from geproxy.net.greenlets import getcurrent, greenlet, interrupt, run_both
from geproxy.terms import Stream


class Relays:
    """The live relays of one worker, their buffers and their limits.

    There is no timer per relay: sweep() looks at all of them now and then, and what moves bytes
    pays nothing for it.
    """

    def __init__(self, pool: BufferPool, idle_seconds: float, half_close_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._half_close_seconds = half_close_seconds
        self._pool = pool
        self._live: set[_Relay] = set()
        self._ended_up_bytes = 0
        self._ended_down_bytes = 0

    def run(self, client: Stream, target: Stream, up: Flow, down: Flow) -> None:
        """Relay until both sides have ended their direction; EOF is passed on as half-close.

        Counts into *up* (client to target) and *down*. Closes neither stream.
        Raises ResetError or DeadlineError when a side breaks, IdleError when nothing moves.
        """
        relay = _Relay(getcurrent(), up, down)
        self._live.add(relay)
        try:
            run_both(
                partial(forward, client, target, up, self._pool),
                partial(forward, target, client, down, self._pool),
            )
        finally:
            self._live.discard(relay)
            self._ended_up_bytes += up.bytes
            self._ended_down_bytes += down.bytes

    def sweep(self, now_seconds: float) -> None:
        """End what has been quiet for too long; *now_seconds* is monotonic."""
        for relay in self._live:
            if relay.moved():
                relay.quiet_since = now_seconds
                continue
            quiet_seconds = now_seconds - relay.quiet_since
            half_closed = relay.up.ended or relay.down.ended
            limit_seconds = self._half_close_seconds if half_closed else self._idle_seconds
            if quiet_seconds >= limit_seconds:
                side = "half-closed and silent" if half_closed else "silent"
                interrupt(relay.owner, IdleError(f"{side} for {limit_seconds:g} seconds"))

    @property
    def sweep_seconds(self) -> float:
        """How often to sweep: often enough for the shorter limit, never more than four a second."""
        return min(max(min(self._idle_seconds, self._half_close_seconds) / 4, 0.25), 5.0)

    def totals(self) -> tuple[int, int]:
        """Bytes up and down since this worker started, the live relays' included."""
        up = self._ended_up_bytes + sum(relay.up.bytes for relay in self._live)
        down = self._ended_down_bytes + sum(relay.down.bytes for relay in self._live)
        return up, down


class _Relay:
    """What a sweep must know of one relay."""

    __slots__ = ("_seen", "down", "owner", "quiet_since", "up")

    def __init__(self, owner: greenlet, up: Flow, down: Flow) -> None:
        self.owner = owner
        self.up = up
        self.down = down
        self.quiet_since = 0.0
        self._seen = (-1, False, False)

    def moved(self) -> bool:
        """True if anything happened since the last call; the first call says so too."""
        seen = (self.up.bytes + self.down.bytes, self.up.ended, self.down.ended)
        changed = seen != self._seen
        self._seen = seen
        return changed
