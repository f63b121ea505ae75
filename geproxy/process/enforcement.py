"""What becomes of a worker that does not do as it was told: TERM, and KILL at last."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from geproxy.observe.log import Log
from geproxy.process.generation import kill
from geproxy.process.outbox import DEAF_KILL_SECONDS, DEAF_SECONDS
from geproxy.process.spawn import Child


def attend(children: Iterable[Child], log: Log, now: float) -> None:
    """Send what is due to *children* at *now* (monotonic), and end those that are deaf.

    A worker is asked to leave by TERM, which needs no line: it finishes its sessions, and another
    takes its place. One that does not even say that it leaves is killed.
    """
    for child in children:
        outbox = child.outbox
        outbox.look(now, listening=child.ready)
        limit_seconds = DEAF_SECONDS + (DEAF_KILL_SECONDS if outbox.enforced else 0.0)
        if outbox.unheard_seconds < limit_seconds:
            continue
        how = signal.SIGKILL if outbox.enforced else signal.SIGTERM
        log.error(
            "worker.deaf",
            worker=child.number,
            pid=child.pid,
            command=outbox.first,
            unheard_seconds=round(outbox.unheard_seconds, 1),
            signal=how.name,
        )
        if outbox.enforced:
            outbox.close()  # said once; Watch goes on should even KILL have no effect
        outbox.enforced = True
        kill(child, how)
