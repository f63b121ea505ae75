"""One worker: accept, serve, drain, and say how it goes."""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import signal
import socket
import sys
import time
from functools import partial
from types import FrameType

from setproctitle import setproctitle

from geproxy.errors import GeproxyError, ShutdownError
from geproxy.net import sockopt
from geproxy.net.accept import Gate, accept_clients
from geproxy.net.greenlets import (
    Event,
    assert_fork_safe,
    getcurrent,
    greenlet,
    interrupt,
    prepare_loop,
    sleep,
    spawn,
    stacks,
)
from geproxy.net.stream import SocketStream
from geproxy.net.watchers import READ, wait_ready
from geproxy.process.assignment import Assignment
from geproxy.process.control import Verb
from geproxy.process.heap import return_large_blocks, search_seldom
from geproxy.process.listeners import DATAGRAM, STREAM
from geproxy.process.privileges import prepare, settle
from geproxy.process.sandbox import Sandbox, describe
from geproxy.process.slots import Slots
from geproxy.seams import Listener
from geproxy.session import serve
from geproxy.site import Site

# Chosen here
BEAT_SECONDS = 1.0
FAREWELL_SECONDS = 1.0  # for sessions that were told to end
LEAVING_LOOK_SECONDS = 60.0  # a timer takes no inf
COMPLAINT_SECONDS = 1.0  # between two lines about the same shortage

STDERR = 2


def preload() -> None:
    """Hold the process that forks to its promise, once this module and all it needs is loaded."""
    assert_fork_safe()


def main(assignment: Assignment) -> int:
    """Be a worker until told to leave. Returns the exit status."""
    _set_title(assignment.number, 0)
    _die_with_a_word()
    return_large_blocks()
    search_seldom()
    prepare(assignment.settings.account)
    loop = prepare_loop()
    site = Site(
        assignment.settings,
        assignment.lent.endpoints(STREAM),
        assignment.lent.endpoints(DATAGRAM),
        assignment.log,
        assignment.salts,
        assignment.datagram_salts,
    )
    sockopt.exercise()
    sandbox = Sandbox()
    confined = assignment.settings.server.sandbox
    if confined:
        sandbox.confine_files()
    site.exercise()
    settle(assignment.settings.account)
    if confined:
        sandbox.confine_calls()
    _tell(assignment, sandbox, loop)
    worker = Worker(assignment, site)
    signal.signal(signal.SIGTERM, worker.asked_to_leave)
    assignment.slot.beat()  # or all the time until here would count as silence
    assignment.control.send(Verb.READY)
    return worker.run()


class Worker:
    """The sessions of one process, and the end of them."""

    def __init__(self, assignment: Assignment, site: Site) -> None:
        self._assignment = assignment
        self._control = assignment.control
        self._site = site
        self._gate = Gate(assignment.settings.limits.sessions)
        self._sessions: set[greenlet] = set()
        self._acceptors: list[greenlet] = []
        self._slots = Slots(assignment.datagrams, assignment.settings, site)
        self._serving = False
        self._served = 0
        self._complained = 0.0
        self._moved = (0, 0, 0, 0, 0)  # bytes up and down, datagrams up and down, dropped
        self._leave_by = math.inf  # monotonic; inf: when the last session has ended
        self._leaving = Event()
        self._news = Event()  # while leaving: a session has ended, or the time has changed

    def run(self) -> int:
        """Listen to the master, and leave when everything is done."""
        spawn(self._tick)
        spawn(self._sweep)
        spawn(self._obey)
        spawn(self._site.discover)
        self._leaving.wait()
        self._wait_for_sessions()
        for session in self._sessions:
            interrupt(session, ShutdownError("the proxy stops"))
        self._leave_by = time.monotonic() + FAREWELL_SECONDS
        self._wait_for_sessions()
        self._assignment.log.conclude()
        return 0

    def _wait_for_sessions(self) -> None:
        """Return when the last session has ended, or it is time to leave."""
        while self._sessions or self._slots.busy:
            left = self._leave_by - time.monotonic()
            if left <= 0:
                return
            self._news.clear()
            # UDP clients leave without a word.
            self._news.wait(min(left, BEAT_SECONDS if self._slots.busy else LEAVING_LOOK_SECONDS))

    # -- the master's word -----------------------------------------------------------------

    def _obey(self) -> None:
        while True:
            try:
                message = self._control.receive()
            except BlockingIOError:
                wait_ready(self._control.fileno(), READ)
                continue
            if message is None:  # the master is dead: nobody new, and the usual time for the rest
                self._drain(self._assignment.settings.server.drain_seconds)
                return
            verb, argument = message.verb, message.argument
            if verb is Verb.SERVE:
                self._accept()
            elif verb is Verb.DRAIN:
                self._drain(float(argument))
            elif verb is Verb.QUIT:
                self._drain(-1.0)
            elif verb is Verb.INHERIT:
                self._slots.expect(*message.descriptors)
            elif verb is Verb.BEQUEATH:
                slots = frozenset(map(int, argument.split()))
                self._slots.has_heir(slots, *message.descriptors)
            elif verb is Verb.REOPEN:
                self._assignment.log.replace_files(message.descriptors)

    def asked_to_leave(self, number: int, frame: FrameType | None) -> None:
        """TERM to this worker alone: the master puts another in its place while it drains."""
        self._control.send(Verb.DRAINING)
        self._drain(self._assignment.settings.server.drain_seconds)

    def _drain(self, seconds: float) -> None:
        """Accept nobody more, and leave when the last session has, or after *seconds*."""
        while self._acceptors:  # once: a greenlet that has ended may do another's work by then
            interrupt(self._acceptors.pop(), ShutdownError("no more clients"))
        self._slots.leave(seconds)
        if not self._serving:  # told to leave before
            for sockets in self._assignment.lent.streams.values():
                for sock in sockets:
                    sock.close()
        self._leave_by = time.monotonic() + seconds
        self._leaving.set()
        self._news.set()

    # -- clients -----------------------------------------------------------------------------

    def _accept(self) -> None:
        if self._leaving.is_set():  # told to leave by somebody else in the meantime
            return
        self._serving = True
        for name, sockets in self._assignment.lent.streams.items():
            for sock in sockets:
                run = partial(self._accept_from, sock, self._site.listeners[name])
                self._acceptors.append(spawn(run))
        self._slots.serve()

    def _accept_from(self, sock: socket.socket, listener: Listener) -> None:
        try:
            accept_clients(sock, self._gate, partial(self._welcome, listener), self._complain)
        except ShutdownError:
            pass  # only now is the socket closed: its watcher had to go first
        finally:
            sock.close()

    def _welcome(self, listener: Listener, client: SocketStream) -> None:
        self._gate.enter()
        self._served += 1
        self._sessions.add(spawn(partial(self._serve, client, listener)))

    def _serve(self, client: SocketStream, listener: Listener) -> None:
        try:
            serve(client, listener, self._site)
        except GeproxyError:
            pass  # told to end after its own end had begun
        finally:
            self._sessions.discard(getcurrent())
            self._gate.leave()
            if self._leaving.is_set():
                self._news.set()

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAINT_SECONDS:
            self._complained = now
            self._site.log.error(
                "accept.pause", reason=error.strerror, sessions=len(self._sessions)
            )

    # -- how it goes -------------------------------------------------------------------------

    def _tick(self) -> None:
        shown = 0
        while True:
            self._beat()
            if shown != len(self._sessions):
                shown = len(self._sessions)
                _set_title(self._assignment.number, shown)
            self._site.log.flush()
            sleep(self._pause_seconds)

    def _sweep(self) -> None:
        """Look at all that lives, again and again: it gives way, which no beat may wait for."""
        relays, associations = self._site.relays, self._site.associations
        while True:
            relays.sweep(time.monotonic())
            associations.sweep(time.monotonic())
            up_bytes, down_bytes = relays.totals()
            moved = associations.totals()
            self._moved = (
                up_bytes + moved.up_bytes,
                down_bytes + moved.down_bytes,
                moved.up_datagrams,
                moved.down_datagrams,
                moved.dropped,
            )
            sleep(self._pause_seconds)

    @property
    def _pause_seconds(self) -> float:
        relays, associations = self._site.relays, self._site.associations
        return min(BEAT_SECONDS, relays.sweep_seconds, associations.sweep_seconds)

    def _beat(self) -> None:
        up_bytes, down_bytes, up_datagrams, down_datagrams, dropped = self._moved
        self._assignment.slot.beat(
            len(self._sessions),
            self._served,
            up_bytes,
            down_bytes,
            len(self._site.associations),
            up_datagrams,
            down_datagrams,
            dropped + self._slots.dropped,
        )


def _tell(assignment: Assignment, sandbox: Sandbox, loop: str) -> None:
    assignment.slot.confined(sandbox.word)
    for part, reason in sandbox.faults.items():
        assignment.log.debug("sandbox.fail", part=part, reason=reason)
    walls = describe(sandbox.word)
    assignment.log.debug("worker.start", worker=assignment.number, loop=loop, sandbox=walls)


def _set_title(number: int, sessions: int) -> None:
    setproctitle(f"geproxy: worker {number} ({sessions} sessions)")


def _die_with_a_word() -> None:
    """On ABRT, which the master sends to a worker that hangs, say where it stands, and die.

    The fault handler speaks for an interpreter that no longer runs; then, if it does run, every
    greenlet's place follows.
    """

    def speak(number: int, frame: FrameType | None) -> None:
        places = stacks(one for one in gc.get_objects() if isinstance(one, greenlet))
        print(f"greenlets:\n{places}", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGABRT)

    signal.signal(signal.SIGABRT, speak)
    faulthandler.enable(STDERR)  # by number: sys.stderr is None for who started us without one
