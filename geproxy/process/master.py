"""The master: one loop, in which signals, workers' messages, deaths and times that are due are
dealt with one after another.

It serves nobody, starts no thread and never calls gevent, so that a fork copies nothing that runs.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial

from geproxy import VERSION
from geproxy.config.settings import WORKERS_MAX, Settings
from geproxy.errors import ConfigError, StartError
from geproxy.observe.log import Log
from geproxy.process.about import About
from geproxy.process.assignment import WorkerMain
from geproxy.process.generation import KILL_AFTER_SECONDS
from geproxy.process.heap import share_with_children
from geproxy.process.logfiles import FINISH_SECONDS
from geproxy.process.notify import notify_ready, notify_reloading, notify_stopping
from geproxy.process.succession import Succession
from geproxy.process.wakeup import Wakeup

TURN_SECONDS = 1.0  # the longest the loop sleeps
BUSY_TURN_SECONDS = 0.1  # while something is due soon
FAULT_SECONDS = 1.0  # between two lines about the same fault: a lasting one returns every turn


class Master:
    """One running geproxy."""

    def __init__(
        self,
        load: Callable[[], Settings],
        open_log: Callable[[Settings], Log],
        worker_main: WorkerMain,
    ) -> None:
        """*load* reads the configuration again (ConfigError), *open_log* opens its log files."""
        self._load = load
        self._open_log = open_log
        self._worker_main = worker_main
        self.on_ready: Callable[[], None] | None = None  # called once, when every worker serves
        self.forgets: list[Callable[[], None]] = []  # what a child does with what is ours alone
        self._about = About()
        self._wakeup = Wakeup((*ACTIONS, signal.SIGCHLD))
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # not in this version, no reason to die
        self._served = False
        self._reload_again = False
        self._faults: dict[str, float] = {}  # when each was last told, by what it was
        self._reopening: list[str] | None = None  # what went wrong so far; None: nobody asked
        self._stop_by: float | None = None  # when what still runs is killed; None: not stopping

    def run(self, settings: Settings, log: Log) -> int:
        """Serve until a signal ends it. Returns the exit status. Raises StartError."""
        share_with_children()
        self._settings = settings
        self._workers = Succession(self._worker_main, self._forget, self._decided, log)
        self._about.tell(pid=os.getpid(), version=VERSION, started=time.time())
        self._about.tell(reloads_begun=0, reloads_ended=0, reopens=0, faults=0, problems=[])
        warn(settings, log)
        try:
            self._workers.propose(settings, log)
            while self._stop_by is None or self._workers.generations():
                self._turn()
        finally:
            self._workers.kill()
        self._workers.log.info("end")
        self._workers.log.close(FINISH_SECONDS)
        return 0

    def _turn(self) -> None:
        if not self._attempt("wait", self._wait):
            time.sleep(BUSY_TURN_SECONDS)  # or the loop would spin for as long as that lasts
        self._attempt("signals", self._obey)
        now = time.monotonic()
        self._attempt("listen", self._workers.listen)
        self._attempt("advance", partial(self._workers.advance, now))
        if self._reload_again and self._workers.candidate is None:
            self._reload_again = False
            self._attempt("reload", self.reload)
        if self._stop_by is not None and now > self._stop_by:
            self._attempt("kill", self._workers.kill)
        self._attempt("log", partial(self._tend_logs, now))
        self._workers.log.flush()

    def _obey(self) -> None:
        for number in self._wakeup.take():
            action = ACTIONS.get(number)
            if action is not None:
                self._attempt(number.name, partial(action, self))

    def _attempt(self, what: str, action: Callable[[], None]) -> bool:
        """Do *action*; False where it failed.

        An error ends a start, but once we serve it ends nothing: it is told and counted, and the
        next turn goes on with what there is. Raises what a start meets.
        """
        try:
            action()
        except Exception as error:
            if not self._served:
                raise
            self._tell_fault(what, error)
            return False
        return True

    def _tell_fault(self, what: str, error: Exception) -> None:
        self._about.count("faults")
        now = time.monotonic()
        if now - self._faults.get(what, -FAULT_SECONDS) >= FAULT_SECONDS:
            self._faults[what] = now
            self._workers.log.error("master.fault", action=what, reason=repr(error))

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        for generation in self._workers.generations():
            for child in generation.children:
                if child.control.fileno() >= 0:
                    room = select.POLLOUT if child.outbox.full else 0
                    poll.register(child.control, select.POLLIN | room)
        poll.poll((BUSY_TURN_SECONDS if self._workers.busy else TURN_SECONDS) * 1000)

    def _decided(self, reason: str) -> None:
        """A candidate serves, or does not for a *reason*."""
        current = self._workers.current
        if current is not None and not reason:
            settings = current.settings
            self._about.tell(config=settings.file, path=settings.path)
            self._about.tell(listeners=current.addresses())
        notify_ready()
        if not self._served:
            self._served = True
            if self.on_ready is not None:
                self.on_ready()
        else:
            self._end_reload([reason] if reason else [])

    def _forget(self) -> None:
        self._wakeup.close()
        self._about.forget()
        for forget in self.forgets:
            forget()

    def _end_reload(self, problems: list[str]) -> None:
        self._about.tell(problems=problems)
        self._about.count("reloads_ended")

    # -- what signals ask for ------------------------------------------------------------------

    def reload(self) -> None:
        """HUP: the file is read again; new workers take over when all of them are ready."""
        if self._stop_by is not None:
            return
        if self._workers.candidate is not None:
            self._reload_again = True  # however many come now, one reload follows
            return
        log = self._workers.log
        self._about.count("reloads_begun")
        notify_reloading()
        try:
            settings = self._load()
            log.info("reload.start", config=settings.file)
            warn(settings, log)
            self._propose(settings)
        except ConfigError as error:
            for problem in error.problems:
                log.error("reload.fail", key=problem.key or None, reason=problem.text)
            self._end_reload([str(problem) for problem in error.problems])
            notify_ready()
        except Exception as error:
            reason = str(error) if isinstance(error, StartError) else repr(error)
            log.error("reload.fail", reason=reason)
            self._end_reload([reason])
            notify_ready()

    def _propose(self, settings: Settings) -> None:
        if settings.server.pidfile != self._settings.server.pidfile:
            self._workers.log.warning(
                "config.warning",
                key="server.pidfile",
                reason="a reload keeps the pidfile; restart to change it",
            )
        log = self._open_log(settings)
        share_with_children()
        try:
            self._workers.propose(settings, log)
        except BaseException:
            log.close()
            raise

    def stop(self) -> None:
        """TERM, INT: finish within drain_seconds. Asked again: at once."""
        if self._stop_by is not None:
            self.quit()
            return
        current = self._workers.current
        settings = current.settings if current is not None else self._settings
        seconds = settings.server.drain_seconds
        notify_stopping()
        self._workers.log.info("stop", drain_seconds=seconds)
        self._workers.retire()
        for generation in self._workers.generations():
            generation.drain(seconds)
        self._stop_by = time.monotonic() + seconds + KILL_AFTER_SECONDS

    def quit(self) -> None:
        """QUIT: end every session now."""
        if self._stop_by is None:
            notify_stopping()
        self._workers.log.info("quit")
        self._workers.retire()
        for generation in self._workers.generations():
            generation.quit()
        self._stop_by = time.monotonic() + KILL_AFTER_SECONDS

    def reopen(self) -> None:
        """USR1: begin to open the log files again under their names."""
        self._reopening = []
        for generation in self._workers.generations():
            try:
                generation.log.reopen()
            except StartError as error:
                self._reopening.append(str(error))

    def _tend_logs(self, now: float) -> None:
        """Go on with it, and say how it went; replace what has died meanwhile."""
        problems = self._workers.tend_logs(now)
        if self._reopening is None:
            for problem in problems:
                self._workers.log.error("log.writer.fail", reason=problem)
            return
        self._reopening += problems
        if self._workers.opening_logs:
            return
        problems, self._reopening = self._reopening, None
        for problem in problems:
            self._workers.log.error("reopen.fail", reason=problem)
        if not problems:
            self._workers.log.info("log.reopen")
        self._about.tell(problems=problems)
        self._about.count("reopens")

    def grow(self) -> None:
        """TTIN: one worker more."""
        current = self._workers.current
        if current is not None:
            current.wanted = min(current.wanted + 1, WORKERS_MAX)

    def shrink(self) -> None:
        """TTOU: one worker fewer, but never none."""
        current = self._workers.current
        if current is not None:
            current.wanted = max(current.wanted - 1, 1)


def warn(settings: Settings, log: Log) -> None:
    """Log what works in the configuration and should not stay."""
    if os.geteuid() == 0 and settings.account is None:
        reason = "workers run as root; name an account for them"
        log.warning("config.warning", key="server.user", reason=reason)
    for problem in settings.warnings:
        log.warning("config.warning", key=problem.key, reason=problem.text)


ACTIONS: dict[signal.Signals, Callable[[Master], None]] = {
    signal.SIGTERM: Master.stop,
    signal.SIGINT: Master.stop,
    signal.SIGQUIT: Master.quit,
    signal.SIGHUP: Master.reload,
    signal.SIGUSR1: Master.reopen,
    signal.SIGTTIN: Master.grow,
    signal.SIGTTOU: Master.shrink,
}
