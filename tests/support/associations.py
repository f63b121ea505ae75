"""An association with everything around it: real ports and look-ups, a policy made of lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, ip_address

from gevent.event import Event

from geproxy.errors import DeniedError
from geproxy.net.budget import Budget
from geproxy.net.dialer import Dialer
from geproxy.outbound.direct import DirectOutbound
from geproxy.relay.associations import STATE_BYTES
from geproxy.relay.datagram import Association
from geproxy.seams import Route
from geproxy.terms import Address, Endpoint, Filtering
from geproxy.wire.address import encode_address
from tests.support.conformance import HARD_SECONDS, until
from tests.support.names import knowing

CLIENT = IPv4Address("192.0.2.1")


class Named(DirectOutbound):
    """The way straight out under another name."""

    def __init__(self, name: str, dialer: Dialer) -> None:
        super().__init__(dialer)
        self.name = name


class Around:
    """What one association meets."""

    def __init__(
        self, filtering: Filtering = Filtering.NONE, memory_bytes: int = STATE_BYTES
    ) -> None:
        self.names = {"target.example": "127.0.0.1"}
        self.go_on = Event()  # until then the names that begin with "slow" hang
        self.asked: list[str] = []
        self.decided: list[Endpoint] = []
        self.denied: set[Address | str] = set()
        self.fault: Exception | None = None  # of the policy
        self.replies: list[tuple[bytes, bytes]] = []
        self.reply_fault: Exception | None = None
        self.ended: list[Exception] = []
        self.budget = Budget(memory_bytes)
        dialer = Dialer(knowing(self._look_up, 0.0), HARD_SECONDS)
        self.direct = DirectOutbound(dialer)
        self.other = Named("other", dialer)
        self.by_other: set[Address | str] = set()
        self.association = Association(
            CLIENT, self._decide, self._reply, filtering, self.ended.append, self.budget
        )

    def _look_up(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        if name.startswith("slow"):
            assert self.go_on.wait(HARD_SECONDS)
        found = self.names.get(name, "127.0.0.1" if name.startswith("slow") else "")
        return (ip_address(found),) if found else ()

    def _decide(self, target: Endpoint) -> Route:
        self.decided.append(target)
        if self.fault is not None:
            raise self.fault
        if target.host in self.denied:
            raise DeniedError("no")
        outbound = self.other if target.host in self.by_other else self.direct
        return Route(outbound, target, self._permit)

    def _permit(self, endpoint: Endpoint) -> None:
        if endpoint.host in self.denied:
            raise DeniedError("no")

    def _reply(self, head: bytes, data: bytes) -> None:
        if self.reply_fault is not None:
            raise self.reply_fault
        self.replies.append((head, data))

    def send(self, to: Endpoint, data: bytes = b"x") -> None:
        """Send *data* to *to*, a name or an address."""
        self.association.send(encode_address(to), data)

    def wait_for_replies(self, count: int) -> None:
        """Return once so many have come."""
        until(lambda: len(self.replies) >= count)

    def wait_for_drops(self, **dropped: int) -> None:
        """Return once just these were dropped, by reason."""
        until(lambda: self.association.dropped == dropped)

    def finish(self) -> None:
        """End the look-ups and the association."""
        self.go_on.set()
        self.association.close()
        assert not len(self.association.crew), "a greenlet of it runs on"


@contextmanager
def association(
    filtering: Filtering = Filtering.NONE, memory_bytes: int = STATE_BYTES
) -> Iterator[Around]:
    """Make one, and close it."""
    around = Around(filtering, memory_bytes)
    try:
        yield around
    finally:
        around.finish()
