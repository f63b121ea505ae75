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
from contextlib import suppress
from functools import partial
from hashlib import blake2b

from geproxy.config.settings import Listen, Settings
from geproxy.datagram_session import serve_datagrams
from geproxy.ending import fault
from geproxy.errors import DeadlineError, GeproxyError, ShutdownError
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import Crew, greenlet, interrupt, sleep
from geproxy.net.handover import Line
from geproxy.net.lasting import Lasting
from geproxy.net.listening import listening_socket
from geproxy.process.listeners import Place
from geproxy.relay.mappings import Mappings
from geproxy.site import Site

# Chosen here
HANDOVER_SECONDS = 3.0  # datagrams wait in the sockets meanwhile
LAST_REPLIES_SECONDS = 2.0  # for clients whom nobody takes over, by a socket that nobody reads
LOOK_SECONDS = 1.0  # between two looks for a socket by which nothing is left to be sent


class Slots:
    """Every UDP socket of one worker, by its place among all of them."""

    def __init__(
        self,
        sockets: Mapping[Place, socket.socket],
        settings: Settings,
        site: Site,
        lasting: Lasting,
    ) -> None:
        """*lasting* sees to it that a reader, and what ends them, outlives an error of ours."""
        self._site = site
        self._lasting = lasting
        self._fingerprints = {one.name: _fingerprint(one, settings) for one in settings.listen}
        self._mappings: dict[Place, Mappings] = {}
        self._readers: dict[Place, greenlet] = {}
        self._heirs: list[tuple[frozenset[int], Line]] = []
        self._kept: set[Place] = set()
        self._arrivals = Crew(self._complain)
        self._departures = Crew(self._complain)
        for place, sock in sockets.items():
            self._add(place, sock)
        self._serving = self._left = False

    @property
    def busy(self) -> bool:
        """True while there is a UDP client, or a handover."""
        handovers = len(self._arrivals) + len(self._departures)
        return bool(handovers) or any(map(len, self._mappings.values()))

    @property
    def dropped(self) -> int:
        """Datagrams that belonged to no client."""
        counts: Iterable[Counter[str]] = (one.dropped for one in self._mappings.values())
        return sum(count.total() for count in counts)

    def _add(self, place: Place, sock: socket.socket) -> None:
        listener = self._site.listeners[place.listener]
        self._mappings[place] = serve_datagrams(listening_socket(sock), listener, self._site)

    # -- reading -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Begin to read, once everything has been taken over that was announced."""
        self._lasting.spawn("reader", self._serve)

    def _serve(self) -> None:
        enough = DeadlineError("a worker that leaves has kept its UDP clients")
        try:
            with Deadline(HANDOVER_SECONDS, "a handover", enough):
                self._arrivals.wait()
        except DeadlineError:
            self._site.log.warning("handover.late", seconds=HANDOVER_SECONDS)
        self._serving = True
        for place in self._mappings:
            self._read(place)

    def _read(self, place: Place) -> None:
        if self._serving and not self._left and place not in self._readers:
            # An error is one datagram's, which must not silence all others. Once there are no more
            # clients, those that there are may still be answered.
            self._readers[place] = self._lasting.spawn("reader", self._mappings[place].run)

    def leave(self, seconds: float) -> None:
        """Read nothing more; hand over what has an heir.

        The rest is answered for a little time; or until it is quiet, where *seconds* is for ever
        and the next worker reads the same socket by other settings.
        """
        self._left = True
        while self._readers:  # once: a greenlet that has ended may do another's work by then
            interrupt(self._readers.popitem()[1], ShutdownError("no more clients"))
        for slots, line in self._heirs:
            self._departures.spawn(partial(self._bequeath, slots, line))
        self._heirs.clear()
        self._lasting.spawn("drain", partial(self._wind_up, seconds))

    def _wind_up(self, seconds: float) -> None:
        """End those whom nobody takes over, and close the sockets.

        A socket that is bound still, and that nobody reads, would get a part of the clients of
        whoever binds the address next.
        """
        self._departures.wait()
        sleep(min(max(seconds / 2, 0.0), LAST_REPLIES_SECONDS))
        for place, mappings in self._mappings.items():
            if seconds != float("inf"):
                mappings.end_all(ShutdownError("the proxy stops"))
            elif place not in self._kept:
                mappings.end_all(ShutdownError("no worker goes on with this client"))
        there = list(self._mappings.values())
        while there:
            sleep(LOOK_SECONDS)
            for mappings in [one for one in there if not len(one)]:
                mappings.close()
                there.remove(mappings)

    # -- handing over --------------------------------------------------------------------------

    def expect(self, descriptor: int) -> None:
        """Take over what comes by the line *descriptor*."""
        self._arrivals.spawn(partial(self._inherit, Line(descriptor)))

    def has_heir(self, slots: frozenset[int], descriptor: int) -> None:
        """When we leave, hand *slots* over by the line *descriptor*."""
        if self._left:  # the command came again, behind the one to leave
            os.close(descriptor)
            return
        self._heirs.append((slots, Line(descriptor)))

    def _inherit(self, line: Line) -> None:
        new: list[Place] = []
        late = DeadlineError("a worker that leaves has kept its UDP clients")
        try:
            with suppress(OSError):  # who leaves is dead; the sockets are in the line all the same
                line.send(self._fingerprints, [])
            try:
                with Deadline(HANDOVER_SECONDS, "a handover", late):
                    self._take(line, new)
            except DeadlineError as error:
                if error is not late:
                    raise
                if new:
                    self._site.log.warning("handover.late", seconds=HANDOVER_SECONDS)
                self._read_all(new)
                self._take(line, new)
        finally:
            line.close()
            self._read_all(new)  # once their clients are here, who would be strangers before

    def _read_all(self, new: list[Place]) -> None:
        while new:
            self._read(new.pop(0))

    def _take(self, line: Line, new: list[Place]) -> None:
        """Take what comes to the end of the line; *new* gets the places of sockets that are."""
        while (received := line.receive()) is not None:
            message, descriptors = received
            if "source" in message:
                self._mappings[Place(*message["place"])].adopt(message, descriptors)
                continue
            for words, descriptor in zip(message["places"], descriptors, strict=True):
                place = Place(*words)
                if place in self._mappings:
                    os.close(descriptor)  # as after a reload: both have it from the master
                else:
                    self._add(place, socket.socket(fileno=descriptor))
                    new.append(place)

    def _bequeath(self, slots: frozenset[int], line: Line) -> None:
        """Hand *slots* over, and the clients of every listener that is the same there."""
        try:
            with Deadline(HANDOVER_SECONDS, "a handover"):
                self._arrivals.wait()  # whoever comes to us only now goes on at once
                received = line.receive()
                if received is None:
                    return
                theirs = received[0]
                for place in [place for place in self._mappings if place.slot in slots]:
                    ours, there = self._fingerprints[place.listener], theirs.get(place.listener)
                    if ours == there:
                        self._hand_over(place, line)
                    elif there is not None and there[0] == ours[0]:
                        self._kept.add(place)
        finally:
            line.close()

    def _hand_over(self, place: Place, line: Line) -> None:
        mappings = self._mappings[place]
        descriptor = mappings.copy_of_socket()
        try:
            line.send({"places": [place]}, [descriptor])
        finally:
            os.close(descriptor)
        for message, descriptors in mappings.bequeath():
            try:
                line.send({"place": place, **message}, descriptors)
            except BaseException:
                mappings.adopt(message, descriptors)  # it is ours again
                raise
            for descriptor in descriptors:
                os.close(descriptor)
        mappings.close()

    def _complain(self, error: Exception) -> None:
        if isinstance(error, GeproxyError | OSError):
            self._site.log.warning("handover.fail", reason=str(error))
        else:
            fault(error, self._site.log)


def _fingerprint(listen: Listen, settings: Settings) -> list[str]:
    """Which sockets a listener has; and what must be the same besides for a client to notice
    nothing of a change of workers.
    """
    url = listen.url
    where = (url.addresses, url.port, "UDP" in url.transports(udp=listen.udp))
    secrets = [(listen.secret.method, listen.secret.key)] if listen.secret else []
    ways = [(via.name, via.url.peer, via.secret.method, via.secret.key) for via in settings.via]
    what = (url.scheme, listen.target, listen.via, listen.udp_filtering, secrets, ways)
    return [blake2b(repr(one).encode(), digest_size=16).hexdigest() for one in (where, what)]
