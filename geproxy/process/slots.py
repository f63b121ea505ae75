"""The UDP sockets that one worker reads, and how they and their clients pass to another worker.

A UDP socket outlives the worker that reads it. Its clients do as well: who takes over gets their
ports by a line from the one who leaves, and only then begins to read, so that to a target a client
stays who it was.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from hashlib import blake2b

from geproxy.config.settings import Listen, Settings
from geproxy.datagram_session import serve_datagrams
from geproxy.errors import DeadlineError, GeproxyError, ShutdownError
from geproxy.net.datagram import DatagramSocket
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import Crew, greenlet, interrupt, sleep, spawn
from geproxy.net.handover import Line, Message
from geproxy.process.listeners import Place
from geproxy.relay.mappings import Mappings
from geproxy.session import fault
from geproxy.site import Site

# Chosen here
PAUSE_SECONDS = 0.1  # after a fault of ours, so that it does not fill the log
HANDOVER_SECONDS = 3.0  # datagrams wait in the sockets meanwhile
LAST_REPLIES_SECONDS = 2.0  # for clients whom nobody takes over when the program stops


class Slots:
    """Every UDP socket of one worker, by its place among all of them."""

    def __init__(
        self, sockets: Mapping[Place, socket.socket], settings: Settings, site: Site
    ) -> None:
        self._site = site
        self._fingerprints = {one.name: _fingerprint(one, settings) for one in settings.listen}
        self._mappings: dict[Place, Mappings] = {}
        self._readers: dict[Place, greenlet] = {}
        self._heirs: list[tuple[frozenset[int], Line]] = []
        self._handovers = Crew(self._complain)
        for place, sock in sockets.items():
            self._add(place, sock)
        self._serving = self._left = False

    @property
    def busy(self) -> bool:
        """True while there is a UDP client, or a handover."""
        return bool(self._handovers) or any(map(len, self._mappings.values()))

    @property
    def dropped(self) -> int:
        """Datagrams that belonged to no client."""
        counts: Iterable[Counter[str]] = (one.dropped for one in self._mappings.values())
        return sum(count.total() for count in counts)

    def _add(self, place: Place, sock: socket.socket) -> None:
        listener = self._site.listeners[place.listener]
        self._mappings[place] = serve_datagrams(DatagramSocket(sock), listener, self._site)

    # -- reading -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Begin to read, once everything has been taken over that was announced."""
        spawn(self._serve)

    def _serve(self) -> None:
        enough = DeadlineError("a worker that leaves has kept its UDP clients")
        try:
            with Deadline(HANDOVER_SECONDS, "a handover", enough):
                self._handovers.wait()
        except DeadlineError:
            self._site.log.warning("handover.late", seconds=HANDOVER_SECONDS)
        self._serving = True
        for place in self._mappings:
            self._read(place)

    def _read(self, place: Place) -> None:
        if self._serving and not self._left and place not in self._readers:
            self._readers[place] = spawn(partial(self._run, self._mappings[place]))

    def _run(self, mappings: Mappings) -> None:
        while True:
            try:
                mappings.run()
            except ShutdownError:
                return  # no more clients; those that there are may still be answered
            except Exception as bug:  # one datagram's, which must not silence all others
                fault(bug, self._site.log)
                sleep(PAUSE_SECONDS)

    def leave(self, seconds: float) -> None:
        """Read nothing more; hand over what has an heir. The rest has *seconds*, if that is less
        than for ever: a little time for the last replies.
        """
        self._left = True
        for reader in self._readers.values():
            interrupt(reader, ShutdownError("no more clients"))
        for slots, line in self._heirs:
            self._handovers.spawn(partial(self._bequeath, slots, line))
        self._heirs.clear()
        if seconds != float("inf"):
            spawn(self._say_goodbye)

    def _say_goodbye(self) -> None:
        sleep(LAST_REPLIES_SECONDS)
        for mappings in self._mappings.values():
            mappings.end_all(ShutdownError("the proxy stops"))

    # -- handing over --------------------------------------------------------------------------

    def expect(self, descriptor: int) -> None:
        """Take over what comes by the line *descriptor*."""
        self._handovers.spawn(partial(self._inherit, Line(descriptor)))

    def has_heir(self, slots: frozenset[int], descriptor: int) -> None:
        """When we leave, hand *slots* over by the line *descriptor*."""
        self._heirs.append((slots, Line(descriptor)))

    def _inherit(self, line: Line) -> None:
        new: list[Place] = []
        try:
            line.send(self._fingerprints, [])
            while (received := line.receive()) is not None:
                message, descriptors = received
                place = Place(*message["place"])
                if "source" in message:
                    self._mappings[place].adopt(message, descriptors)
                elif place in self._mappings:
                    os.close(descriptors[0])  # as after a reload: both have it from the master
                else:
                    self._add(place, socket.socket(fileno=descriptors[0]))
                    new.append(place)
        finally:
            line.close()
            for place in new:  # once its clients are here, who would be strangers before
                self._read(place)

    def _bequeath(self, slots: frozenset[int], line: Line) -> None:
        """Hand *slots* over, and the clients of every listener that is the same there."""
        try:
            with Deadline(HANDOVER_SECONDS, "a handover"):
                received = line.receive()
                theirs: Message = received[0] if received else {}
                for place in [place for place in self._mappings if place.slot in slots]:
                    if self._fingerprints[place.listener] == theirs.get(place.listener):
                        self._hand_over(place, line)
        finally:
            line.close()

    def _hand_over(self, place: Place, line: Line) -> None:
        mappings = self._mappings[place]
        line.send({"place": place}, [mappings.copy_of_socket()])
        for message, descriptors in mappings.bequeath():
            line.send({"place": place, **message}, descriptors)

    def _complain(self, error: Exception) -> None:
        if isinstance(error, GeproxyError | OSError):
            self._site.log.warning("handover.fail", reason=str(error))
        else:
            fault(error, self._site.log)


def _fingerprint(listen: Listen, settings: Settings) -> str:
    """What must be the same for a client of *listen* to notice nothing of a change of workers."""
    secrets = [(listen.secret.method, listen.secret.key)] if listen.secret else []
    ways = [(via.name, via.url.peer, via.secret.method, via.secret.key) for via in settings.via]
    what = (listen.url.scheme, listen.target, listen.via, listen.udp_filtering, secrets, ways)
    return blake2b(repr(what).encode(), digest_size=16).hexdigest()
