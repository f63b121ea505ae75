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

from geproxy.ending import where_of
from geproxy.errors import GeproxyError, ShutdownError
from geproxy.net import sockopt
from geproxy.net.accept import accept_clients
from geproxy.net.greenlets import (
    Event,
    assert_fork_safe,
    getcurrent,
    greenlet,
    interrupt,
    prepare_loop,
    spawn,
    stacks,
)
from geproxy.net.lasting import Lasting
from geproxy.net.places import Place
from geproxy.net.stream import SocketStream
from geproxy.process.assignment import Assignment
from geproxy.process.control import Message, Verb
from geproxy.process.heap import return_large_blocks, search_seldom
from geproxy.process.listeners import DATAGRAM, STREAM
from geproxy.process.obedience import Obedience
from geproxy.process.privileges import prepare, settle
from geproxy.process.pulse import BEAT_SECONDS, Pulse, show_title
from geproxy.process.sandbox import Sandbox, describe
from geproxy.process.slots import Slots
from geproxy.seams import Listener
from geproxy.session import serve
from geproxy.site import Site

# Chosen here
FAREWELL_SECONDS = 1.0  # for sessions that were told to end
LEAVING_LOOK_SECONDS = 60.0  # a timer takes no inf
COMPLAINT_SECONDS = 1.0  # between two lines about the same shortage

STDERR = 2


def preload() -> None:
    """Hold the process that forks to its promise, once this module and all it needs is loaded."""
    assert_fork_safe()


def main(assignment: Assignment) -> int:
    """Be a worker until told to leave. Returns the exit status."""
    show_title(assignment.number, 0)
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
        assignment.shared,
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
        self._orders = Obedience(assignment.control)
        self._site = site
        self._places = site.places
        self._sessions: set[greenlet] = set()
        self._acceptors: list[greenlet] = []
        self._lasting = Lasting(self._died)
        self._slots = Slots(assignment.datagrams, assignment.settings, site, self._lasting)
        self._serving = False
        self._served = 0
        self._complained = 0.0
        self._leave_by = math.inf  # monotonic; inf: when the last session has ended
        self._leaving = Event()
        self._news = Event()  # while leaving: a session has ended, or the time has changed

    def run(self) -> int:
        """Listen to the master, and leave when everything is done."""
        pulse = Pulse(
            self._assignment, self._site, self._slots, self._lasting, self._sessions, self.served
        )
        pulse.begin()
        self._lasting.spawn("obedience", self._obey)
        self._lasting.spawn("discovery", self._site.discover)
        self._leaving.wait()
        self._lasting.run("drain", self._wait_for_sessions)
        self._lasting.attempt("farewell", self._farewell)
        self._site.places.report()
        self._assignment.log.conclude()
        return 0

    def served(self) -> int:
        """Count the clients of all time."""
        return self._served

    def _died(self, name: str, error: Exception) -> None:
        """Tell what has died, and will be begun anew; a worker that was deaf meanwhile leaves."""
        if name == "obedience":
            self.leave()
        self._site.log.error("worker.fault", part=name, error=repr(error), where=where_of(error))

    def _farewell(self) -> None:
        for session in list(self._sessions):
            interrupt(session, ShutdownError("the proxy stops"))
        self._leave_by = time.monotonic() + FAREWELL_SECONDS
        self._wait_for_sessions()

    def _wait_for_sessions(self) -> None:
        """Return when the last session has ended, or it is time to leave."""
        while self._sessions or self._slots.busy or self._places.silence:
            left = self._leave_by - time.monotonic()
            if left <= 0:
                return
            self._news.clear()
            # UDP clients leave without a word, and so do strangers.
            quiet = self._slots.busy or self._places.silence
            self._news.wait(min(left, BEAT_SECONDS if quiet else LEAVING_LOOK_SECONDS))

    # -- the master's word -----------------------------------------------------------------

    def _obey(self) -> None:
        while (message := self._orders.hear()) is not None:
            self._do(message)
            self._orders.done(message)
        # The master is dead: nobody new, and the usual time for the rest.
        self._drain(self._assignment.settings.server.drain_seconds)

    def _do(self, message: Message) -> None:
        verb, argument = message.verb, message.argument
        if verb is Verb.SERVE:
            self._accept()
        elif verb is Verb.DRAIN:
            self._drain(float(argument))
        elif verb is Verb.QUIT:
            self._drain(-1.0)
        elif message.cut:
            pass  # no room for what came with it: the old log goes on, clients get new ports
        elif verb is Verb.INHERIT:
            self._slots.expect(*message.descriptors)
        elif verb is Verb.BEQUEATH:
            slots = frozenset(map(int, argument.split()))
            self._slots.has_heir(slots, *message.descriptors)

    def asked_to_leave(self, number: int, frame: FrameType | None) -> None:
        """TERM to this worker alone."""
        self.leave()

    def leave(self) -> None:
        """Drain without the master's word: it puts another worker in our place meanwhile."""
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
        if self._leaving.is_set() or self._serving:  # told to leave by somebody else meanwhile
            return
        self._serving = True
        for name, sockets in self._assignment.lent.streams.items():
            for sock in sockets:
                run = partial(self._accept_from, sock, self._site.listeners[name])
                self._acceptors.append(spawn(run))
        self._slots.serve()

    def _accept_from(self, sock: socket.socket, listener: Listener) -> None:
        welcome = partial(self._welcome, listener)
        accept = partial(accept_clients, sock, self._places.gate, welcome, self._complain)
        try:
            self._lasting.run("acceptor", accept)
        finally:
            sock.close()  # only now: its watcher had to go first

    def _welcome(self, listener: Listener, client: SocketStream) -> None:
        place = self._places.enter(client)
        if place is None:
            client.abort()
            return
        try:
            session = spawn(partial(self._serve, place, listener))
        except BaseException:
            self._places.leave(place)
            client.close()
            raise
        place.session = session
        self._served += 1
        self._sessions.add(session)

    def _serve(self, place: Place, listener: Listener) -> None:
        try:
            serve(place.stream, listener, self._site)
        except GeproxyError:
            pass  # told to end after its own end had begun
        finally:
            self._sessions.discard(getcurrent())
            self._places.leave(place)
            if self._leaving.is_set():
                self._news.set()

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAINT_SECONDS:
            self._complained = now
            self._site.log.error(
                "accept.pause", reason=error.strerror, sessions=len(self._sessions)
            )


def _tell(assignment: Assignment, sandbox: Sandbox, loop: str) -> None:
    assignment.slot.confined(sandbox.word)
    for part, reason in sandbox.faults.items():
        assignment.log.debug("sandbox.fail", part=part, reason=reason)
    walls = describe(sandbox.word)
    assignment.log.debug("worker.start", worker=assignment.number, loop=loop, sandbox=walls)


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
