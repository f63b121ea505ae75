"""Which workers there are: one generation serves, one may be about to, the others finish.

Mechanism is elsewhere (spawn, listeners, scoreboard); when to reload or stop is the master's word.
"""

from __future__ import annotations

import errno
import math
import signal
import time
from collections.abc import Callable

from geproxy.config.settings import Settings
from geproxy.errors import StartError
from geproxy.observe.log import Log
from geproxy.process.assignment import Assignment, WorkerMain
from geproxy.process.control import Control, Verb
from geproxy.process.enforcement import attend
from geproxy.process.generation import READY_SECONDS, Generation, kill
from geproxy.process.limits import fitted
from geproxy.process.listeners import ListeningSockets
from geproxy.process.orphans import Claim
from geproxy.process.scoreboard import Scoreboard
from geproxy.process.shared import Shared
from geproxy.process.spawn import Child, describe, reap, spawn
from geproxy.process.watch import Watch


class Succession:
    """Every worker of one master, in generations, and the sockets that they share."""

    def __init__(
        self,
        worker_main: WorkerMain,
        forget: Callable[[], None],
        decided: Callable[[str], None],
        log: Log,
    ) -> None:
        """*forget* gives back, in a child, what is the master's alone; *decided* hears what became
        of each candidate: "" when it serves now, else why it does not.
        """
        self.log = log  # of the configuration in force
        self._decided = decided
        self.current: Generation | None = None
        self.candidate: Generation | None = None
        self._old: list[Generation] = []
        self._worker_main = worker_main
        self._forget = forget
        self._sockets = ListeningSockets()
        self._shared = Shared()
        self._scoreboard = Scoreboard()
        self._watch = Watch(time.monotonic())

    def generations(self) -> list[Generation]:
        """Every generation that has a worker, or will."""
        return [one for one in (self.candidate, self.current) if one is not None] + self._old

    # -- births ------------------------------------------------------------------------------

    def propose(self, settings: Settings, log: Log) -> None:
        """Open what *settings* listen on, and bear a candidate's workers.

        Raises StartError; whatever is raised, what stood before stands.
        """
        settings = fitted(settings, log)
        wanted = settings.server.worker_count
        lent = self._sockets.open(settings.listen, wanted, Claim.of(settings.account, log))
        self.candidate = candidate = Generation(settings, log, lent, self._bear, wanted)
        try:
            self._shared.open(settings.listen)
            candidate.start()
        except BaseException as error:
            self._dismiss()
            if isinstance(error, OSError):
                raise StartError(f"cannot start a worker: {error.strerror}") from error
            raise

    def _bear(self, generation: Generation, number: int) -> Child:
        slot = self._scoreboard.take()
        if slot is None:
            raise OSError(errno.EAGAIN, "too many workers of earlier reloads live still")
        siblings = [child for one in self.generations() for child in one.children]

        def main(control: Control) -> int:
            for sibling in siblings:
                # A copy left open here would hide the master's death from the sibling.
                sibling.close()
            self._forget()
            for other in self.generations():
                if other is not generation:
                    other.log.drop()  # or its writer would never see the end of the queue
            generation.log.forget()
            self._sockets.close_others(generation.settings.listen)
            return self._worker_main(
                Assignment(
                    number,
                    generation.settings,
                    generation.lent,
                    generation.lent.keep(generation.shares.get(number, ())),
                    generation.log,
                    control,
                    slot,
                    self._shared,
                )
            )

        return spawn(main, number, slot)

    # -- what workers say, and their ends ------------------------------------------------------

    def listen(self) -> None:
        """Hear every worker's messages, and bury the dead. Raises StartError for a failed start."""
        for generation in self.generations():
            for child in generation.children:
                self._hear(generation, child)
        for pid, status in reap():
            self._bury(pid, status)

    def _hear(self, generation: Generation, child: Child) -> None:
        while child.control.fileno() >= 0:
            try:
                message = child.control.receive()
            except BlockingIOError:
                return
            if message is None:
                child.control.close()  # it is dead or dying; its status comes with SIGCHLD
                return
            verb, argument = message.verb, message.argument
            if verb is Verb.READY:
                self._greet(generation, child)
            elif verb is Verb.FAILED:
                child.failure = argument
            elif verb is Verb.DRAINING:
                child.draining = True
                if child.outbox.enforced:
                    child.outbox.close()  # it leaves, which is all that is still wanted of it
            elif verb is Verb.DONE and argument.isdecimal():
                child.outbox.acknowledge(int(argument))

    def _greet(self, generation: Generation, child: Child) -> None:
        child.ready = True
        generation.throttle.succeeded(child.number)
        if generation is self.current:
            child.outbox.order(Verb.SERVE)
            self.log.info("worker.ready", worker=child.number, pid=child.pid)

    def _bury(self, pid: int, status: int) -> None:
        for generation in self.generations():
            for child in generation.children:
                if child.pid == pid:
                    self._hear(generation, child)  # its last words
                    self._mourn(generation, child, status)
                    return

    def _mourn(self, generation: Generation, child: Child, status: int) -> None:
        generation.children.remove(child)
        child.close()
        child.slot.claim(0, 0)
        how = child.failure or describe(status)
        if child.draining:
            self.log.info("worker.end", worker=child.number, pid=child.pid, how=how)
        elif generation is self.candidate:
            self._reject(f"worker {child.number} could not start: {how}")
        elif child.ready:
            self.log.warning("worker.lost", worker=child.number, pid=child.pid, how=how)
        else:
            delay = generation.throttle.failed(child.number, time.monotonic())
            self.log.error(
                "worker.fail", worker=child.number, pid=child.pid, how=how, retry_seconds=delay
            )

    # -- what is due ---------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Do what the time *now* (monotonic) asks for. Raises StartError for a failed start."""
        if self.candidate is not None:
            if self.candidate.ready:
                self._promote(self.candidate)
            elif now - self.candidate.born > READY_SECONDS:
                self._reject(f"not every worker was ready within {READY_SECONDS:g} seconds")
        if self.current is not None:
            self._replace_missing(self.current, now)
        children = [child for generation in self.generations() for child in generation.children]
        attend(children, self.log, now)
        if self.current is not None:
            self._check_beats(children, self.current.settings.server.heartbeat_seconds, now)
        self._old = [generation for generation in self._old if not self._is_over(generation)]

    def _is_over(self, generation: Generation) -> bool:
        if generation.children:
            return False
        if generation.log is not self.log:
            generation.log.close()
        return True

    @property
    def busy(self) -> bool:
        """True while something is due soon, so that the next look must not be late."""
        current = self.current
        missing = current is None or len(current.serving()) < current.wanted
        return missing or self.candidate is not None or self._watch.wary or self.opening_logs

    def _replace_missing(self, current: Generation, now: float) -> None:
        try:
            current.replace_missing(now)
        except OSError as error:
            self.log.error("worker.fail", how=f"fork: {error.strerror}")
            present = {child.number for child in current.serving()}
            for number in set(range(1, current.wanted + 1)) - present:
                current.throttle.failed(number, now)

    def _check_beats(self, children: list[Child], heartbeat_seconds: float, now: float) -> None:
        silent = self._watch.look(children, heartbeat_seconds, now)
        if silent is None:
            return
        # ABRT has the worker say where it stands, if its interpreter runs still.
        how = signal.SIGKILL if silent.aborted else signal.SIGABRT
        self.log.error(
            "worker.hang",
            worker=silent.number,
            pid=silent.pid,
            silent_seconds=round(silent.silent_seconds, 1),
            signal=how.name,
        )
        silent.aborted = True
        kill(silent, how)

    # -- generations ---------------------------------------------------------------------------

    def _promote(self, candidate: Generation) -> None:
        """All of them are ready: they serve, and those before them finish."""
        before, self.current, self.candidate = self.current, candidate, None
        self.log = candidate.log
        if before is not None:
            before.bequeath(candidate)
        candidate.tell(Verb.SERVE)
        if before is not None:
            before.log.flush()
            before.drain(candidate.settings.server.reload_drain_seconds or math.inf)
            self._old.append(before)
            for endpoint in self._sockets.close_others(candidate.settings.listen):
                self.log.info("listen.stop", address=endpoint)
        self._shared.close_others(candidate.settings.listen)
        known = before.settings.listen if before is not None else ()
        for listen in candidate.settings.listen:
            if not any(listen.name == old.name and listen.url == old.url for old in known):
                for address in candidate.lent.addresses[listen.name]:
                    self.log.info("listen.start", listen=listen.name, address=address)
        event = "ready" if before is None else "reload.done"
        self.log.info(event, workers=candidate.wanted, config=candidate.settings.file)
        self._decided("")

    def _reject(self, reason: str) -> None:
        """The candidate ends before it has served; what served before it goes on."""
        candidate = self._dismiss()
        if self.current is None:
            raise StartError(reason)
        candidate.log.close()
        self.log.error("reload.fail", reason=reason)
        self._decided(reason)

    def _dismiss(self) -> Generation:
        candidate, self.candidate = self.candidate, None
        assert candidate is not None
        for child in candidate.children:
            child.draining = True
        candidate.kill()
        self._old.append(candidate)
        self._sockets.close_others(self.current.settings.listen if self.current else ())
        return candidate

    @property
    def opening_logs(self) -> bool:
        """True until it is known whether all files of logs could be opened."""
        return any(generation.log.opening for generation in self.generations())

    def tend_logs(self, now: float) -> list[str]:
        """Do what is due for the logs' files; returns what went wrong with those in use."""
        problems = []
        for generation in self.generations():
            try:
                generation.log.advance(now)
            except StartError as error:
                if generation is self.candidate:
                    self._reject(str(error))
                else:
                    problems.append(str(error))
        return problems

    def retire(self) -> None:
        """Nobody is replaced any more, and nobody new can connect."""
        self._old += [one for one in (self.candidate, self.current) if one is not None]
        self.candidate = self.current = None
        self._sockets.close_others(())

    def kill(self) -> None:
        """End every worker, whatever it is doing."""
        for generation in self.generations():
            generation.kill()
