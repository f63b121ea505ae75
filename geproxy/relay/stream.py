"""Both directions of a session, until both are done or nothing has moved for too long."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

from geproxy.errors import DeadlineError, IdleError, LimitError, ResetError
from geproxy.net.both import run_both
from geproxy.net.buffers import BufferPool
from geproxy.net.forward import Flow, forward, move
from geproxy.net.greenlets import getcurrent, greenlet, interrupt
from geproxy.net.timeslice import in_slices
from geproxy.relay.stuck import StuckReaders
from geproxy.streams import Stream

# Chosen here
ASK_SECONDS = 30.0  # a relay in which nothing moves: two system calls


class Relays:
    """The live relays of one worker, their buffers and their limits.

    There is no timer per relay: sweep() looks at all of them now and then, and what moves bytes
    pays nothing for it.
    """

    def __init__(
        self, pool: BufferPool, idle_seconds: float, half_close_seconds: float, stuck_bytes: int
    ) -> None:
        """*stuck_bytes* is how much of the kernel's memory may wait for readers that stopped."""
        self._stuck = StuckReaders(stuck_bytes)
        self._idle_seconds = idle_seconds
        self._half_close_seconds = half_close_seconds
        self._pool = pool
        self._live: dict[greenlet, _Relay] = {}
        self._ended_up_bytes = 0
        self._ended_down_bytes = 0

    def run(self, client: Stream, target: Stream, up: Flow, down: Flow) -> None:
        """Relay until both sides have ended their direction; EOF is passed on as half-close.

        Counts into *up* (client to target) and *down*. Closes neither stream.
        Raises ResetError or DeadlineError when a side breaks, IdleError when nothing moves.
        """
        relay = _Relay(getcurrent(), client, target, up, down)
        self._live[relay.owner] = relay
        try:
            run_both(
                partial(self._carry, forward, client, target, up, down),
                partial(self._carry, move, target, client, down, up),
                target,
            )
        finally:
            del self._live[relay.owner]
            if relay.stuck_looks:
                self._stuck.forget(relay)
            self._ended_up_bytes += up.bytes
            self._ended_down_bytes += down.bytes

    def _carry(
        self, how: Callable[..., None], source: Stream, sink: Stream, flow: Flow, back: Flow
    ) -> Stream | None:
        """Move bytes; returns *source* if more may come of it.

        Leaves it to the way back to meet the break of a sink that takes no more.
        Such a sink may have spoken before it broke (a server that refuses an upload), and what it
        said waits to be read: the way back carries that first, and then meets the same break.
        """
        try:
            how(source, sink, flow, self._pool, back)
        except ResetError:
            if not flow.broken or back.broken or back.ended:
                raise
        return None if flow.ended or flow.broken else source

    def sweep(self, now_seconds: float) -> None:
        """End what has been quiet for too long; *now_seconds* is monotonic.

        Gives way between slices, so that others begin and end.
        """
        for relay in in_slices(list(self._live.values())):
            if self._live.get(relay.owner) is not relay:
                continue  # its owner may do another's work by now
            moved = relay.moved()
            self._stuck.look(relay, relay.moved_bytes)
            if moved:
                relay.quiet_since = relay.asked = now_seconds
                continue
            relay.keep_alive()
            if now_seconds - relay.asked >= ASK_SECONDS:
                relay.asked = now_seconds
                if relay.client.lost or relay.target.lost:
                    # No ResetError: the owner would take it for the break of the sink that it
                    # waits for, and leave the way back to meet that.
                    interrupt(relay.owner, DeadlineError("a side no longer answers, or has reset"))
                    continue
            quiet_seconds = now_seconds - relay.quiet_since
            half_closed = relay.up.ended or relay.down.ended
            limit_seconds = self._half_close_seconds if half_closed else self._idle_seconds
            if quiet_seconds >= limit_seconds:
                side = "half-closed and silent" if half_closed else "silent"
                interrupt(relay.owner, IdleError(f"{side} for {limit_seconds:g} seconds"))
        for stuck in self._stuck.excess():
            interrupt(stuck.owner, LimitError("too much waits for readers that stopped"))

    def quiet_since(self, session: greenlet) -> float:
        """When nothing of *session* moved any more (monotonic), to within two sweeps.

        Infinite where nobody has looked yet, or nothing is relayed.
        """
        relay = self._live.get(session)
        return inf if relay is None else relay.quiet_since

    @property
    def sweep_seconds(self) -> float:
        """How often to sweep: often enough for the shorter limit, never more than four a second."""
        return min(max(min(self._idle_seconds, self._half_close_seconds) / 4, 0.25), 5.0)

    def totals(self) -> tuple[int, int]:
        """Bytes up and down since this worker started, the live relays' included.

        Gives way between slices. Those that end meanwhile are counted once, as they are then.
        """
        up_bytes, down_bytes = self._ended_up_bytes, self._ended_down_bytes
        for relay in in_slices(list(self._live.values())):
            up_bytes += relay.up.bytes
            down_bytes += relay.down.bytes
        return up_bytes, down_bytes


class _Relay:
    """What a sweep must know of one relay."""

    __slots__ = (
        "_kept_alive",
        "_seen",
        "asked",
        "client",
        "down",
        "moved_bytes",
        "owner",
        "quiet_since",
        "stuck_looks",
        "target",
        "up",
    )

    def __init__(
        self, owner: greenlet, client: Stream, target: Stream, up: Flow, down: Flow
    ) -> None:
        self.owner = owner
        self.client = client
        self.target = target
        self.up = up
        self.down = down
        self.quiet_since = inf  # until the first sweep
        self.asked = 0.0  # when the kernel was last asked whether both sides answer
        self._seen = (-1, False, False)
        self._kept_alive = False
        self.moved_bytes = 0  # between the last two calls of moved()
        self.stuck_looks = 0  # in a row that found a reader stuck, see relay.stuck

    def keep_alive(self) -> None:
        """Have the kernel watch over the target, as it does over the client from the beginning."""
        if not self._kept_alive:
            self._kept_alive = True
            self.target.keep_alive()

    def moved(self) -> bool:
        """True if anything happened since the last call; the first call says so too."""
        # Not the flows' bytes, which grow by whole buffers: a slow reader of one is not silent.
        sent_bytes = self.client.sent_bytes + self.target.sent_bytes
        seen = (sent_bytes, self.up.ended, self.down.ended)
        changed = seen != self._seen
        self.moved_bytes = sent_bytes - self._seen[0]
        self._seen = seen
        return changed
