"""How a session ends: its client hears why not, and its line is written."""

from __future__ import annotations

from geproxy.errors import (
    AuthenticationError,
    DeadlineError,
    GeproxyError,
    ResetError,
    ShutdownError,
    UncheckedError,
)
from geproxy.net.deadline import Deadline
from geproxy.net.turns import share_of
from geproxy.observe.log import Failure, Log
from geproxy.observe.record import Record
from geproxy.seams import Request
from geproxy.streams import Stream

# RFC 1928 §6 wants the connection closed within 10 s of a refusal; this is enough to deliver it.
LINGER_SECONDS = 2.0


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
    if record.request is None and isinstance(error, AuthenticationError | UncheckedError):
        user = error.user if isinstance(error, AuthenticationError) else None
        failure = Failure(record.listen, record.client, user, str(error))
        log.authentication_failed(share_of(record.client.address), failure, error.count)
    record.write(log, error)


def fault(error: Exception, log: Log) -> GeproxyError:
    """Log a bug of ours, with the place where it happened, and give it a code."""
    log.error("session.fault", error=repr(error), where=where_of(error))
    return GeproxyError(type(error).__name__)


def where_of(error: Exception) -> str | None:
    """The file and the line where *error* was raised."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else None
