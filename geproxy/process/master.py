"""The master: how many workers there are, which settings they have, and when it all ends.

It runs one loop, in which signals, the workers' messages, deaths and times that are due are dealt
with one after another. It serves nobody, starts no thread and never calls gevent, so that a fork
copies nothing that runs.
"""

from __future__ import annotations

import errno
import gc
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from geproxy.config.settings import Settings
from geproxy.errors import ConfigError, StartError
from geproxy.observe.log import Log
from geproxy.process.control import Control, Verb
from geproxy.process.generation import (
    KILL_AFTER_SECONDS,
    READY_SECONDS,
    Generation,
    Watch,
    kill,
)
from geproxy.process.limits import fitted
from geproxy.process.listeners import Lent, ListeningSockets, address_of
from geproxy.process.scoreboard import Scoreboard, Slot
from geproxy.process.spawn import Child, describe, reap, spawn
from geproxy.process.wakeup import Wakeup

TURN_SECONDS = 1.0  # the longest the loop sleeps
BUSY_TURN_SECONDS = 0.1  # while something is due soon


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one worker is born with."""

    number: int
    settings: Settings
    lent: Lent
    log: Log
    control: Control
    slot: Slot


WorkerMain = Callable[[Assignment], int]  # returns the exit status


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
        self._sockets = ListeningSockets()
        self._scoreboard = Scoreboard()
        self._watch = Watch()
        self._wakeup = Wakeup((*ACTIONS, signal.SIGCHLD))
        self._current: Generation | None = None
        self._candidate: Generation | None = None
        self._old: list[Generation] = []
        self._reload_again = False
        self._stop_by: float | None = None  # when what still runs is killed; None: not stopping

    def run(self, settings: Settings, log: Log) -> int:
        """Serve until a signal ends it. Returns the exit status. Raises StartError."""
        gc.freeze()  # what is here now stays for ever: no collection copies its pages in a child
        self._settings, self._log = settings, log
        try:
            self._candidate = self._generation(settings, log)
            while self._stop_by is None or self._generations():
                self._turn()
        finally:
            for generation in self._generations():
                generation.kill()
        self._log.info("end")
        self._log.flush()
        return 0

    # -- the loop --------------------------------------------------------------------------

    def _turn(self) -> None:
        self._wait()
        for number in self._wakeup.take():
            action = ACTIONS.get(number)
            if action is not None:
                action(self)
        for generation in self._generations():
            for child in generation.children:
                self._listen(generation, child)
        for pid, status in reap():
            self._bury(pid, status)
        self._manage(time.monotonic())
        self._log.flush()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        for generation in self._generations():
            for child in generation.children:
                if child.control.fileno() >= 0:
                    poll.register(child.control, select.POLLIN)
        busy = self._candidate is not None or self._stop_by is not None or self._missing()
        poll.poll((BUSY_TURN_SECONDS if busy else TURN_SECONDS) * 1000)

    def _missing(self) -> bool:
        current = self._current
        return current is not None and len(current.serving()) < current.wanted

    def _generations(self) -> list[Generation]:
        """Every generation that has a worker, or will."""
        young = [one for one in (self._candidate, self._current) if one is not None]
        return young + self._old

    # -- what workers say, and their ends -----------------------------------------------------

    def _listen(self, generation: Generation, child: Child) -> None:
        while child.control.fileno() >= 0:
            try:
                message = child.control.receive()
            except BlockingIOError:
                return
            if message is None:
                child.control.close()  # it is dead or dying; its status comes with SIGCHLD
                return
            verb, argument = message
            if verb is Verb.READY:
                self._greet(generation, child)
            elif verb is Verb.FAILED:
                child.failure = argument
            elif verb is Verb.DRAINING:
                child.draining = True

    def _greet(self, generation: Generation, child: Child) -> None:
        child.ready = True
        generation.throttle.succeeded(child.number)
        if generation is self._current:
            child.control.send(Verb.SERVE)
            self._log.info("worker.ready", worker=child.number, pid=child.pid)

    def _bury(self, pid: int, status: int) -> None:
        for generation in self._generations():
            for child in generation.children:
                if child.pid == pid:
                    self._listen(generation, child)  # its last words
                    self._mourn(generation, child, status)
                    return

    def _mourn(self, generation: Generation, child: Child, status: int) -> None:
        generation.children.remove(child)
        child.control.close()
        child.slot.claim(0, 0)
        how = child.failure or describe(status)
        if child.draining:
            self._log.info("worker.end", worker=child.number, pid=child.pid, how=how)
        elif generation is self._candidate:
            self._reject(f"worker {child.number} could not start: {how}")
        elif child.ready:
            self._log.warning("worker.lost", worker=child.number, pid=child.pid, how=how)
        else:
            delay = generation.throttle.failed(child.number, time.monotonic())
            self._log.error(
                "worker.fail", worker=child.number, pid=child.pid, how=how, retry_seconds=delay
            )

    # -- what is due ---------------------------------------------------------------------------

    def _manage(self, now: float) -> None:
        if self._candidate is not None:
            if self._candidate.ready:
                self._promote(self._candidate)
            elif now - self._candidate.born > READY_SECONDS:
                self._reject(f"not every worker was ready within {READY_SECONDS:g} seconds")
        if self._current is not None:
            try:
                self._current.replace_missing(now)
            except OSError as error:
                self._log.error("worker.fail", how=f"fork: {error.strerror}")
                for number in range(1, self._current.wanted + 1):
                    self._current.throttle.failed(number, now)
            self._check_beats(self._current, now)
        self._old = [generation for generation in self._old if generation.children]
        if self._stop_by is not None and now > self._stop_by:
            for generation in self._old:
                generation.kill()

    def _check_beats(self, current: Generation, now: float) -> None:
        heartbeat_seconds = current.settings.server.heartbeat_seconds
        children = [child for generation in self._generations() for child in generation.children]
        silent = self._watch.look(children, heartbeat_seconds, now)
        if silent is None:
            return
        # ABRT has the worker say where it stands, if its interpreter runs still.
        how = signal.SIGKILL if silent.aborted else signal.SIGABRT
        self._log.error(
            "worker.hang",
            worker=silent.number,
            pid=silent.pid,
            silent_seconds=silent.silent_seconds,
            signal=how.name,
        )
        silent.aborted = True
        kill(silent, how)

    # -- generations ---------------------------------------------------------------------------

    def _generation(self, settings: Settings, log: Log) -> Generation:
        """Open what *settings* listen on, and bear their workers. Raises StartError."""
        settings = fitted(settings, log)
        lent = self._sockets.open(settings.listen)
        wanted = settings.server.worker_count
        generation = Generation(settings, log, lent, self._bear, wanted)
        try:
            generation.start()
        except OSError as error:
            generation.kill()
            self._old.append(generation)
            raise StartError(f"cannot start a worker: {error.strerror}") from error
        return generation

    def _bear(self, generation: Generation, number: int) -> Child:
        slot = self._scoreboard.take()
        if slot is None:
            raise OSError(errno.EAGAIN, "too many workers of earlier reloads live still")
        siblings = [child for one in (*self._generations(), generation) for child in one.children]

        def main(control: Control) -> int:
            for sibling in siblings:
                # A copy left open here would hide the master's death from the sibling.
                sibling.control.close()
            self._wakeup.close()
            self._sockets.close_others(generation.settings.listen)
            settings, lent, log = generation.settings, generation.lent, generation.log
            return self._worker_main(Assignment(number, settings, lent, log, control, slot))

        return spawn(main, number, slot)

    def _promote(self, candidate: Generation) -> None:
        """All of them are ready: they serve, and those before them finish."""
        before, self._current, self._candidate = self._current, candidate, None
        self._settings, self._log = candidate.settings, candidate.log
        candidate.tell(Verb.SERVE)
        log = self._log
        if before is not None:
            before.log.close()
            before.drain(candidate.settings.server.reload_drain_seconds)
            self._old.append(before)
            for endpoint in self._sockets.close_others(candidate.settings.listen):
                log.info("listen.stop", address=endpoint)
        known = before.settings.listen if before is not None else ()
        for listen in candidate.settings.listen:
            if not any(listen.name == old.name and listen.url == old.url for old in known):
                for sock in candidate.lent[listen.name]:
                    log.info("listen.start", listen=listen.name, address=address_of(sock))
        event = "ready" if before is None else "reload.done"
        log.info(event, workers=candidate.wanted, config=candidate.settings.file)
        if self._reload_again:
            self._reload_again = False
            self.reload()

    def _reject(self, reason: str) -> None:
        """The candidate ends before it has served; what served before it goes on."""
        candidate, self._candidate = self._candidate, None
        assert candidate is not None
        for child in candidate.children:
            child.draining = True
        candidate.kill()
        self._old.append(candidate)
        if self._current is None:
            raise StartError(reason)
        candidate.log.close()
        self._sockets.close_others(self._current.settings.listen)
        self._log.error("reload.fail", reason=reason)
        if self._reload_again:
            self._reload_again = False
            self.reload()

    # -- what signals ask for ------------------------------------------------------------------

    def reload(self) -> None:
        """HUP: the file is read again; new workers take over when all of them are ready."""
        if self._stop_by is not None:
            return
        if self._candidate is not None:
            self._reload_again = True  # however many come now, one reload follows
            return
        try:
            settings = self._load()
            self._log.info("reload.start", config=settings.file)
            log = self._open_log(settings)
            try:
                self._candidate = self._generation(settings, log)
            except StartError:
                log.close()
                raise
        except ConfigError as error:
            for problem in error.problems:
                self._log.error("reload.fail", key=problem.key or None, reason=problem.text)
        except StartError as error:
            self._log.error("reload.fail", reason=str(error))

    def stop(self) -> None:
        """TERM, INT: finish within drain_seconds. Asked again: at once."""
        if self._stop_by is not None:
            self.quit()
            return
        seconds = self._settings.server.drain_seconds
        self._log.info("stop", drain_seconds=seconds)
        self._retire()
        for generation in self._old:
            generation.drain(max(seconds, 0.001))  # 0 would be without limit
        self._stop_by = time.monotonic() + seconds + KILL_AFTER_SECONDS

    def quit(self) -> None:
        """QUIT: end every session now."""
        self._log.info("quit")
        self._retire()
        for generation in self._old:
            for child in generation.children:
                child.draining = True
            generation.tell(Verb.QUIT)
        self._stop_by = time.monotonic() + KILL_AFTER_SECONDS

    def _retire(self) -> None:
        """Nobody is replaced any more, and nobody new can connect."""
        self._old += [one for one in (self._candidate, self._current) if one is not None]
        self._candidate = self._current = None
        self._sockets.close_others(())

    def grow(self) -> None:
        """TTIN: one worker more."""
        if self._current is not None:
            self._current.wanted += 1

    def shrink(self) -> None:
        """TTOU: one worker fewer, but never none."""
        if self._current is not None:
            self._current.wanted = max(self._current.wanted - 1, 1)


ACTIONS: dict[signal.Signals, Callable[[Master], None]] = {
    signal.SIGTERM: Master.stop,
    signal.SIGINT: Master.stop,
    signal.SIGQUIT: Master.quit,
    signal.SIGHUP: Master.reload,
    signal.SIGTTIN: Master.grow,
    signal.SIGTTOU: Master.shrink,
}
