"""What is known of one session, gathered on its way for the one line at its end."""

from __future__ import annotations

import time

from geproxy.errors import GeproxyError
from geproxy.observe.log import Log
from geproxy.terms import Endpoint, Request, Stream


class Record:
    """The fields of session.end; None is what the session never got to."""

    __slots__ = (
        "_started",
        "address",
        "client",
        "connect_ms",
        "down_bytes",
        "listen",
        "request",
        "up_bytes",
        "via",
    )

    def __init__(self, listen: str, client: Endpoint) -> None:
        self.listen = listen
        self.client = client
        self.request: Request | None = None
        self.address: Endpoint | None = None
        self.via: str | None = None
        self.connect_ms: int | None = None
        self.up_bytes = 0
        self.down_bytes = 0
        self._started = time.monotonic()

    def connected(self, target: Stream, dial_started: float) -> None:
        """Note where the way out ended, and how long it took since *dial_started* (monotonic)."""
        self.address = target.peer
        self.connect_ms = round((time.monotonic() - dial_started) * 1000)

    def write(self, log: Log, error: GeproxyError | None) -> None:
        """Write session.end; *error* is what ended the session early."""
        request = self.request
        fields: dict[str, object] = {
            "listen": self.listen,
            "client": self.client,
            "user": request.user if request else getattr(error, "user", None),
            "command": request.command.value if request else None,
            "target": request.target if request else None,
            "address": self.address,
            "via": self.via,
            "up": self.up_bytes,
            "down": self.down_bytes,
            "seconds": time.monotonic() - self._started,
            "connect_ms": self.connect_ms,
            "code": error.code if error else "ok",
        }
        if error is not None:
            fields["reason"] = str(error)
        log.session(**fields)
