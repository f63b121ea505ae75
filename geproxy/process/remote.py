"""Act on the running daemon from outside: through its pidfile, its signals and what it tells."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from dataclasses import dataclass

from geproxy.errors import StartError
from geproxy.process import about, scoreboard
from geproxy.process.pidfile import running_pid
from geproxy.process.sandbox import describe

# Chosen here
LOOK_SECONDS = 0.02
STOP_EXTRA_SECONDS = 5.0  # beyond drain_seconds: what the master itself may take to end
RELOAD_SECONDS = 30.0  # a running reload, then ours: twice READY_SECONDS, and room


class NotRunningError(StartError):
    """Nobody holds the pidfile."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running master. *pidfd* is a handle on that very process: its pid may be reused."""

    pid: int
    pidfd: int

    @classmethod
    def find(cls, pidfile: str) -> Daemon:
        """Find the master that holds *pidfile*. Raises NotRunningError, StartError."""
        try:
            pid = running_pid(pidfile)
            if pid is None:
                raise NotRunningError("not running")
            pidfd = os.pidfd_open(pid)
            # Asked again: the handle is its, if it held the lock before and holds it after.
            if running_pid(pidfile) != pid:
                os.close(pidfd)
                raise NotRunningError("not running")
        except ProcessLookupError as error:
            raise NotRunningError("not running") from error
        except OSError as error:
            raise StartError(f"{pidfile}: {error.strerror}") from error
        return cls(pid, pidfd)

    @property
    def path(self) -> str:
        """The configuration that it runs with. Raises StartError."""
        return str(self._facts().get("path", ""))

    def stop(self, number: signal.Signals, seconds: float) -> None:
        """Send TERM or QUIT, and wait until the process is gone. Raises StartError."""
        self._signal(number)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise StartError(f"pid {self.pid} is running still after {seconds:g} seconds")

    def reload(self) -> None:
        """Have it reload, and wait for what becomes of it. Raises StartError with each problem."""
        begun = self._count("reloads_begun")
        self._act(signal.SIGHUP, "reloads_ended", begun + 1)

    def reopen(self) -> None:
        """Have it open its log files again. Raises StartError with the problem."""
        self._act(signal.SIGUSR1, "reopens", self._count("reopens") + 1)

    def _act(self, number: signal.Signals, counter: str, awaited: int) -> None:
        self._signal(number)
        give_up = time.monotonic() + RELOAD_SECONDS
        while self._count(counter) < awaited:
            if time.monotonic() > give_up:
                raise StartError(f"pid {self.pid} has not answered in {RELOAD_SECONDS:g} seconds")
            time.sleep(LOOK_SECONDS)
        problems = self._facts().get("problems")
        if isinstance(problems, list) and problems:
            raise StartError("\n".join(str(problem) for problem in problems))

    def _signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except OSError as error:
            raise StartError(f"pid {self.pid}: {error.strerror}") from error

    def _facts(self) -> dict[str, object]:
        try:
            return about.read(self.pid)
        except FileNotFoundError as error:
            raise NotRunningError("not running") from error
        except OSError as error:
            raise StartError(f"pid {self.pid}: {error.strerror}") from error

    def _count(self, name: str) -> int:
        count = self._facts().get(name, 0)
        return count if isinstance(count, int) else 0

    def status(self) -> dict[str, object]:
        """What it is, where it listens, and what each worker does. Raises StartError."""
        facts = self._facts()
        started = facts.get("started")
        uptime = time.time() - started if isinstance(started, float) else 0.0
        try:
            workers = scoreboard.read(about.read_memfd(self.pid, scoreboard.NAME))
        except OSError as error:
            raise StartError(f"pid {self.pid}: {error.strerror}") from error
        return {
            "pid": self.pid,
            "version": facts.get("version"),
            "config": facts.get("config"),
            "uptime_seconds": round(uptime, 1),
            "faults": facts.get("faults", 0),
            "listeners": facts.get("listeners", {}),
            "workers": [
                {
                    "worker": reading.number,
                    "pid": reading.pid,
                    "sessions": reading.sessions,
                    "associations": reading.associations,
                    "served": reading.served,
                    "up_bytes": reading.up_bytes,
                    "down_bytes": reading.down_bytes,
                    "up_datagrams": reading.up_datagrams,
                    "down_datagrams": reading.down_datagrams,
                    "dropped": reading.dropped,
                    "sandbox": describe(reading.sandbox),
                }
                for reading in workers
            ],
        }


def status_text(status: dict[str, object], *, as_json: bool) -> str:
    """Show what Daemon.status() found."""
    if as_json:
        return json.dumps(status)
    who = f"geproxy {status['version']} is running: pid {status['pid']}, {status['config']}"
    lines = [f"{who}, up {status['uptime_seconds']} s"]
    if status.get("faults"):
        lines.append(f"faults {status['faults']}: see master.fault in the log")
    listeners, workers = status["listeners"], status["workers"]
    assert isinstance(listeners, dict)
    assert isinstance(workers, list)
    lines += [f"listen {name}: {', '.join(where)}" for name, where in listeners.items()]
    lines += [" ".join(f"{key} {value}" for key, value in worker.items()) for worker in workers]
    return "\n".join(lines)
