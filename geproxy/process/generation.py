"""One generation of workers: all born of the same settings, on the same sockets."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

from geproxy.config.settings import Settings
from geproxy.observe.log import Log
from geproxy.process.control import Verb
from geproxy.process.listeners import Lent, Place
from geproxy.process.spawn import Child, Throttle

# Chosen here
READY_SECONDS = 10.0  # for all of a new generation
KILL_AFTER_SECONDS = 2.0  # between a signal that asks and the one that does not
# As net.handover.Line takes them (the kernel takes 253). The line has room for about 50 messages:
# 3 000 sockets.
SOCKETS_PER_MESSAGE = 64


@dataclass(slots=True, eq=False)
class Generation:
    """The workers of one configuration."""

    settings: Settings
    log: Log
    lent: Lent
    bear: Callable[[Generation, int], Child]
    wanted: int  # how many workers; TTIN and TTOU change it
    children: list[Child] = field(default_factory=list)
    throttle: Throttle = field(default_factory=Throttle)
    born: float = field(default_factory=time.monotonic)
    # Which slots of the UDP sockets a worker reads, by its number.
    shares: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for slot in range(self.lent.slots):
            self.shares.setdefault(slot % self.wanted + 1, []).append(slot)

    def start(self) -> None:
        """Bear every worker. Raises OSError."""
        for number in range(1, self.wanted + 1):
            self.children.append(self.bear(self, number))

    def serving(self) -> list[Child]:
        """Those that accept, or will as soon as they are ready."""
        return [child for child in self.children if not child.draining]

    @property
    def ready(self) -> bool:
        """True when every worker has said so, and the log is open."""
        ready = all(child.ready for child in self.children) and len(self.children) == self.wanted
        return ready and not self.log.opening

    def addresses(self) -> dict[str, list[str]]:
        """Where each listener listens."""
        return {name: [str(one) for one in places] for name, places in self.lent.addresses.items()}

    def bequeath(self, heirs: Generation) -> None:
        """Have every worker leave the clients of its UDP sockets to whoever reads them next.

        Before these are told to drain, and *heirs* to serve. Clients for whom that fails get new
        ports there.
        """
        for child in self.children:
            for heir in heirs.children:
                both = set(self.shares.get(child.number, ())) & set(
                    heirs.shares.get(heir.number, ())
                )
                if both and not child.draining:
                    self._link(child, heir, both)

    def _link(
        self, child: Child, heir: Child, slots: Collection[int], *, whole: bool = False
    ) -> bool:
        """Connect two workers for *slots*, with their sockets where *whole*; False: not now."""
        try:
            link(child, heir, slots, self.lent.at(slots) if whole else ())
        except OSError as error:
            self.log.warning("handover.fail", reason=error.strerror)
            return False
        return True

    def _let_go(self, child: Child) -> None:
        """Have *child*, which is one too many, leave its UDP sockets to the first and finish.

        Where the two are not ready for that, the next look finds them so.
        """
        share = self.shares.get(child.number, [])
        if share:
            heir = next((one for one in self.serving() if one.number == 1 and one.ready), None)
            if heir is None or not child.ready:
                return
            if not self._link(child, heir, share, whole=True):
                return
            del self.shares[child.number]
            self.shares.setdefault(1, []).extend(share)
        drain(child, self.settings.server.drain_seconds)

    def tell(self, verb: Verb, argument: str = "", descriptors: Sequence[int] = ()) -> None:
        """Say the same to all. Raises OSError where *descriptors* cannot be copied."""
        for child in self.children:
            child.outbox.order(verb, argument, descriptors)

    def drain(self, seconds: float) -> None:
        """Have all of them stop accepting and finish within *seconds*; inf is without limit."""
        for child in self.children:
            drain(child, seconds)

    def quit(self) -> None:
        """Have all of them end their sessions now."""
        for child in self.children:
            child.draining = True
        self.tell(Verb.QUIT)

    def kill(self) -> None:
        """End all of them at once."""
        for child in self.children:
            kill(child, signal.SIGKILL)

    def replace_missing(self, now: float) -> None:
        """Bear those that are missing and due; let those that are too many go. Raises OSError."""
        serving = self.serving()
        for child in serving:
            if child.number > self.wanted:
                self._let_go(child)
        present = {child.number for child in serving}
        # One too many that has died left slots that nobody reads: born again, it can be let go.
        for number in sorted({*range(1, self.wanted + 1), *self.shares} - present):
            if self.throttle.due(number, now):
                self.children.append(self.bear(self, number))


def link(
    child: Child,
    heir: Child,
    slots: Iterable[int],
    sockets: Iterable[tuple[Place, socket.socket]] = (),
) -> None:
    """Connect two workers for what the one leaves to the other. Raises OSError.

    *sockets*, which the heir does not have, come from us: nobody else would read them if the one
    who leaves died over it. A *child* that hangs is passed over: the heir reads at once what it
    has, and has from us.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        rest = list(sockets)
        while rest:  # the line holds few messages, whatever their size, before somebody reads it
            piece, rest = rest[:SOCKETS_PER_MESSAGE], rest[SOCKETS_PER_MESSAGE:]
            message = json.dumps({"places": [place for place, _ in piece]}).encode()
            socket.send_fds(ours, [message], [sock.fileno() for _, sock in piece])
        heir.outbox.order(Verb.INHERIT, "", [theirs.fileno()])
        if not child.hangs:
            child.outbox.order(Verb.BEQUEATH, " ".join(map(str, slots)), [ours.fileno()])


def drain(child: Child, seconds: float) -> None:
    """Have one worker stop accepting and finish within *seconds*."""
    child.draining = True
    child.outbox.order(Verb.DRAIN, repr(seconds))


def kill(child: Child, number: signal.Signals) -> None:
    """Send a signal to a child that has not been reaped, so the pid is its own still.

    A master without CAP_KILL may not: the worker is another user's. Then its line is cut, which
    tells it to leave if it can hear at all.
    """
    try:
        os.kill(child.pid, number)
    except PermissionError:
        child.control.close()
