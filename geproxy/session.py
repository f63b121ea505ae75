"""The spine: one client connection, from its first byte to its last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from geproxy.errors import (
    AuthenticationError,
    CommandError,
    DeadlineError,
    GeproxyError,
    ResetError,
    ShutdownError,
)
from geproxy.net.deadline import Deadline
from geproxy.net.forward import Flow
from geproxy.observe.log import Log
from geproxy.observe.record import Record
from geproxy.relay.stream import Relays
from geproxy.terms import Command, Listener, Policy, Request, Route, Stream

# RFC 1928 §6 wants the connection closed within 10 s of a refusal; this is enough to deliver it.
LINGER_SECONDS = 2.0


class Site(Protocol):
    """What one worker serves with."""

    @property
    def handshake_seconds(self) -> float: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def relays(self) -> Relays: ...
    @property
    def log(self) -> Log: ...


def serve(client: Stream, listener: Listener, site: Site) -> None:
    """Carry one client connection from its first byte to its last. Closes *client*."""
    record = Record(listener.name, client.peer)
    try:
        with Deadline(site.handshake_seconds, "the handshake"):
            request = listener.inbound.negotiate(client)
        record.request = request
        route = site.policy.decide(request, listener)
        record.via = route.outbound.name
        match request.command:
            case Command.CONNECT:
                connect(request, route, record, site)
            case Command.BIND | Command.UDP_ASSOCIATE:
                raise CommandError(f"{request.command.value} is not in this version")
    except GeproxyError as error:
        part(client, record, error, site.log)
    except Exception as bug:
        part(client, record, fault(bug, site.log), site.log)
    else:
        report(record, None, site.log)
    finally:
        client.close()


def connect(request: Request, route: Route, record: Record, site: Site) -> None:
    """Open the way to the target, say so, and relay until both sides are done."""
    dial_started = time.monotonic()
    target = route.outbound.connect(request.target, route.permit, record.client)
    record.connected(target, dial_started)
    up, down = Flow(), Flow()
    with whole_or_reset(target):
        try:
            request.grant(target.bound)
            site.relays.run(request.stream, target, up, down)
        finally:
            record.up_bytes, record.down_bytes = up.bytes, down.bytes


@contextmanager
def whole_or_reset(stream: Stream) -> Iterator[None]:
    """Close *stream* when all went well; otherwise reset it, so that no cut looks like an end."""
    try:
        yield
    except BaseException:
        stream.abort()
        raise
    stream.close()


def part(client: Stream, record: Record, error: GeproxyError, log: Log) -> None:
    """End a session early: a refusal before the target was reached, a reset after."""
    report(record, error, log)
    if record.address is None:
        turn_away(client, record.request, error, log)
    else:
        client.abort()  # a clean end here would pass a cut answer off as a whole one


def turn_away(client: Stream, request: Request | None, error: GeproxyError, log: Log) -> None:
    """Tell the client why not, and give the answer time to arrive.

    Without a request the inbound has said already what its protocol can say.
    """
    if isinstance(error, (ResetError, DeadlineError, ShutdownError)) and request is None:
        return  # nobody there, or one who had all the time there is
    try:
        if request is not None:
            with Deadline(LINGER_SECONDS, "the refusal"):
                request.refuse(error.outcome)
        client.linger(LINGER_SECONDS)
    except GeproxyError:
        pass  # the session has its verdict; that its bearer left early adds nothing
    except Exception as bug:
        fault(bug, log)


def report(record: Record, error: GeproxyError | None, log: Log) -> None:
    """Write the session's line; a failed authentication gets one of its own besides."""
    # With a request in hand the client has proven itself; then it is a peer that has not.
    if isinstance(error, AuthenticationError) and record.request is None:
        log.warning(
            "auth.fail",
            listen=record.listen,
            client=record.client,
            user=error.user,
            reason=str(error),
        )
    record.write(log, error)


def fault(error: Exception, log: Log) -> GeproxyError:
    """Log a bug of ours, with the place where it happened, and give it a code."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else None
    log.error("session.fault", error=repr(error), where=where)
    return GeproxyError(type(error).__name__)
