"""The spine's twin: what comes to one UDP socket of a listener, by client.

There is no connection whose end could be a datagram client's. Its mapping, which is an association
that nobody asked for, ends when it has been quiet for long.
"""

from __future__ import annotations

from typing import Any

from geproxy.ending import fault, report
from geproxy.errors import GeproxyError, IdleError
from geproxy.net.datagram import DatagramSocket
from geproxy.observe.record import Record
from geproxy.relay.datagram import Association, Ended, Reply
from geproxy.relay.mappings import Mappings
from geproxy.seams import Listener, Subject
from geproxy.session import Site, open_association
from geproxy.terms import Command, Endpoint

# Fixed by the specification
DNS_PORT = 53  # RFC 1035 §4.2.1


def serve_datagrams(clients: DatagramSocket, listener: Listener, site: Site) -> Mappings:
    """Make what carries the clients of *clients*, a socket of *listener*, once it is run."""
    assert listener.codec is not None, "a listener with UDP sockets has a codec for them"
    return Mappings(clients, listener.codec, Reception(listener, site))


class Reception:
    """Admits the clients of one socket and writes their sessions' lines; see relay.Keeper."""

    def __init__(self, listener: Listener, site: Site) -> None:
        self._listener = listener
        self._site = site
        self._records: dict[Association, Record] = {}

    def meet(self, client: Endpoint, reply: Reply, ended: Ended) -> Association:
        """Make the association of a new client. Raises DeniedError."""
        listener = self._listener
        subject = Subject(listener, client.address, None, Command.UDP_ASSOCIATE)
        self._site.policy.admit(subject)
        association = open_association(subject, reply, ended, self._site)
        # A tunnel's clients have the one target; those of ss:// are peers, whose clients may have
        # more to ask by the same port.
        association.questions = listener.target is not None and listener.target.port == DNS_PORT
        record = self._records[association] = Record(listener.name, client)
        record.command, record.target = subject.command, listener.target
        return association

    def part(self, association: Association, error: Exception) -> None:
        """End one; to have been quiet for long is how each ends that went well."""
        self._site.associations.end(association)
        record = self._records.pop(association)
        record.relayed(association)
        if isinstance(error, IdleError):
            report(record, None, self._site.log)
        elif isinstance(error, GeproxyError):
            report(record, error, self._site.log)
        else:
            report(record, fault(error, self._site.log), self._site.log)

    def give(self, association: Association) -> tuple[dict[str, Any], list[int]]:
        """End one here without a line; its counts go with it."""
        ways, descriptors = association.duplicate()
        self._site.associations.give_away(association)
        started = self._records.pop(association).started
        return {"ways": ways, "started": started, "counts": association.counts()}, descriptors

    def take(self, association: Association, message: dict[str, Any], ports: list[int]) -> None:
        """Go on with what another worker gave."""
        self._records[association].started = message["started"]
        association.restore(*message["counts"])
        for (name, known), descriptor in zip(message["ways"], ports, strict=True):
            outbound = self._site.outbounds[name]
            association.take(name, outbound.adopt(descriptor, known, self._listener.filtering))
