"""Leave the terminal: a parent that waits for the outcome, and a daemon that tells it."""

from __future__ import annotations

import os
from collections.abc import Callable

from geproxy.errors import StartError

OUTCOME_BYTES = 4096
READY = b"ready"
STDERR = 2


class Birth:
    """The daemon's side: what became of the start is told once to whoever waits for it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def ready(self) -> None:
        """Every worker serves: let the parent go."""
        self._tell(READY)

    def failed(self, reason: str) -> None:
        """Nothing came of it: the parent says why."""
        self._tell(reason.encode("utf-8", "replace")[:OUTCOME_BYTES])

    def _tell(self, outcome: bytes) -> None:
        try:
            os.write(self._descriptor, outcome)
        except BrokenPipeError:
            pass  # the parent was killed; the daemon is none the worse for it
        self.forget()

    def forget(self) -> None:
        """Close our end, in a worker too: the parent waits for as long as one is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def fill_standard_streams() -> None:
    """Open those that the starter closed: a file or a client that got such a number would be
    written to as standard error.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        pass
    os.close(descriptor)


def _let_go_of_all_but(kept: int) -> None:
    """Hold no terminal, and no file or pipe of the starter: who waits for its end would hang."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(STDERR + 1):
        os.dup2(null, stream)
    for entry in os.listdir("/proc/self/fd"):  # the limit may be lower now than what is open
        if int(entry) > STDERR and int(entry) != kept:
            try:
                os.close(int(entry))
            except OSError:
                pass  # the listing's own


def daemonize(run: Callable[[Birth], int]) -> int:
    """Run *run* in a daemon: a session of its own without a terminal, and / as its directory.

    In the parent: returns 0 once the daemon has said that it is ready. Raises StartError with the
    reason when it is not. *run* is called in the daemon, and its status is the daemon's.
    """
    fill_standard_streams()
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        status = 1
        try:
            os.setsid()
            # Forked once more: who leads a session could be given a terminal by opening one.
            if os.fork() == 0:
                os.chdir("/")
                _let_go_of_all_but(write_end)
                status = run(Birth(write_end))
            else:
                status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    os.wait()
    outcome = os.read(read_end, OUTCOME_BYTES)  # one write, which a pipe keeps whole
    if outcome != READY:
        raise StartError(outcome.decode("utf-8", "replace") or "the daemon died while it started")
    return 0
