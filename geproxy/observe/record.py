"""What is known of one session, gathered on its way for the one line at its end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from geproxy.errors import GeproxyError
from geproxy.observe.log import Log
from geproxy.seams import Request
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint


class Record:
    """The fields of session.end; None is what the session never got to."""

    __slots__ = (
        "_datagrams",
        "address",
        "client",
        "command",
        "connect_ms",
        "down_bytes",
        "listen",
        "request",
        "started",
        "target",
        "up_bytes",
        "via",
    )

    def __init__(self, listen: str, client: Endpoint) -> None:
        self.listen = listen
        self.client = client
        self.request: Request | None = None
        self.command: Command | None = None
        self.target: Endpoint | None = None
        self.address: Endpoint | None = None
        self.via: str | None = None
        self.connect_ms: int | None = None
        self.up_bytes = 0
        self.down_bytes = 0
        self._datagrams: Traffic | None = None
        self.started = time.monotonic()

    def asked(self, request: Request) -> None:
        """Note what the client wants; the target follows once its host is known to be one."""
        self.request, self.command = request, request.command

    def connected(self, target: Stream, dial_started: float) -> None:
        """Note where the way out ended, and how long it took since *dial_started* (monotonic)."""
        self.address = target.peer
        self.connect_ms = round((time.monotonic() - dial_started) * 1000)

    def relayed(self, traffic: Traffic) -> None:
        """Note what an association has moved."""
        self.via = traffic.via
        self.up_bytes, self.down_bytes = traffic.up_bytes, traffic.down_bytes
        self._datagrams = traffic

    def write(self, log: Log, error: GeproxyError | None) -> None:
        """Write session.end; *error* is what ended the session early."""
        if not log.writes_sessions:
            return
        request, traffic = self.request, self._datagrams
        fields: dict[str, object] = {
            "listen": self.listen,
            "client": self.client,
            "user": request.user if request else getattr(error, "user", None),
            "command": self.command.value if self.command else None,
            "target": self.target,
            "address": self.address,
            "via": self.via,
            "up": self.up_bytes,
            "down": self.down_bytes,
            "seconds": time.monotonic() - self.started,
            "connect_ms": self.connect_ms,
            "code": error.code if error else "ok",
        }
        if traffic is not None:
            fields["up_datagrams"] = traffic.up_datagrams
            fields["down_datagrams"] = traffic.down_datagrams
            fields["dropped"] = by_reason(traffic.dropped)
        if request is not None and request.claimed is not None:
            fields["claimed"] = request.claimed
        if error is not None:
            fields["reason"] = str(error)
        log.session(**fields)


class Traffic(Protocol):
    """What an association has moved."""

    up_bytes: int
    down_bytes: int
    up_datagrams: int
    down_datagrams: int
    dropped: Counter[str]

    @property
    def via(self) -> str | None: ...


def by_reason(dropped: Mapping[str, int]) -> str | None:
    """Write counts as REASON:COUNT,REASON:COUNT; None where there is none."""
    return ",".join(f"{reason}:{dropped[reason]}" for reason in sorted(dropped)) or None
