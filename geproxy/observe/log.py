"""The log: events with fields, one line and one write each."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from geproxy.errors import StartError
from geproxy.observe.line import Clock, Lines
from geproxy.observe.repeats import Repeats
from geproxy.observe.sink import (
    SYSLOG_PATH,
    Channel,
    Descriptor,
    Sink,
    Syslog,
    open_append,
    open_file,
    open_stderr,
)
from geproxy.terms import Endpoint

LEVELS = ("debug", "info", "warning", "error")
_DEBUG, _INFO, _WARNING, _ERROR = range(4)

_REASONS = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "nobody reads it",
}


class Failure(NamedTuple):
    """A client that did not prove who it is."""

    listen: str
    client: Endpoint
    user: str | None
    reason: str


class Log:
    """What everyone writes events to. Never waits, never raises for a full disk or a slow reader.

    Values are None, text, numbers, booleans, or objects whose str() says it all; those of events
    below the level are not even looked at. For one thread; forked workers go on with the same
    object.
    """

    def __init__(self, main: Sink, access: Sink | None, *, level: str) -> None:
        """Take over both sinks, which may be the same; without *access* no session is written."""
        self._main = main
        self._access = access
        self._level = LEVELS.index(level)
        self._failures = Repeats(self._write_failures)

    def debug(self, event: str, **fields: object) -> None:
        """Write what only somebody who looks for a fault wants to see."""
        if self._level <= _DEBUG:
            self._main.put("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write what happened as it should."""
        if self._level <= _INFO:
            self._main.put("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write what the operator should look into."""
        if self._level <= _WARNING:
            self._main.put("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write what keeps us from doing our work."""
        self._main.put("error", event, fields)

    def authentication_failed(self, source: Hashable, failure: Failure, count: int) -> None:
        """Warn that *source* did not prove itself, *count* times; a flood is counted: Repeats."""
        if self._level <= _WARNING:
            self._failures.add(source, failure, count)

    def _write_failures(self, newest: Failure, count: int) -> None:
        fields = {
            "listen": newest.listen,
            "client": newest.client,
            "user": newest.user,
            "reason": newest.reason,
        }
        whole = fields if count == 1 else {**fields, "repeated": count}
        self._main.put("warning", "auth.fail", whole)

    @property
    def writes_sessions(self) -> bool:
        """False where session() writes nothing, and need not be called."""
        return self._access is not None

    def session(self, **fields: object) -> None:
        """Write the end of one session, whatever it was, to where sessions go."""
        if self._access is not None:
            self._access.put("info", "session.end", fields)

    def flush(self) -> None:
        """Send what had to wait; called about once a second."""
        self._failures.flush()
        for sink in self._sinks():
            sink.flush()

    def conclude(self) -> None:
        """Send all that waits, every count included; called before the end of a process."""
        self._failures.flush(everything=True)
        self.flush()

    def close(self) -> None:
        """Conclude, then close what open_log opened."""
        self._failures.flush(everything=True)
        for sink in self._sinks():
            sink.close()

    def file_paths(self) -> list[str]:
        """The files that this log writes to, each once; the same order in every worker."""
        return [sink.name for sink in self._files()]

    def replace_files(self, descriptors: Sequence[int]) -> None:
        """Write to other files from now on: one descriptor for each of file_paths(), ours now."""
        for sink, descriptor in zip(self._files(), descriptors, strict=True):
            sink.flush()
            sink.replace(Descriptor(descriptor))

    def _files(self) -> list[Sink]:
        sinks = [self._main] if self._access is None else [self._main, self._access]
        return [sink for sink in dict.fromkeys(sinks) if sink.name not in ("stderr", "syslog")]

    def _sinks(self) -> set[Sink]:
        return {self._main, self._access or self._main}


def open_log(
    target: str,
    access: str,
    level: str,
    format: str,
    *,
    clock: Clock = time.time,
    syslog_path: str = SYSLOG_PATH,
) -> Log:
    """Open the log as [log] says it; all four values are checked already.

    *target* is "stderr", "syslog" or a path. *access* is "" (sessions go with the rest, and end
    with the level), "off", or a target of its own, which gets every session at any level.
    Raises StartError, which names the key, the path and the reason.
    """

    def open_sink(key: str, name: str) -> Sink:
        try:
            channel = _open_channel(name, syslog_path)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0) or error.strerror
            raise StartError(f"{key}: cannot open {name}: {reason}") from error
        return Sink(name, channel, Lines(format, syslog=name == "syslog", clock=clock))

    main = open_sink("log.target", target)
    if access == "off":
        return Log(main, None, level=level)
    if access == "":
        return Log(main, main if LEVELS.index(level) <= _INFO else None, level=level)
    if access == target:
        return Log(main, main, level=level)
    try:
        return Log(main, open_sink("log.access", access), level=level)
    except StartError:
        main.close()
        raise


def reopen(log: Log) -> list[int]:
    """Open the files of *log* again, for whoever moved them away. Raises StartError."""
    descriptors: list[int] = []
    try:
        for path in log.file_paths():
            descriptors.append(open_append(path))
    except OSError as error:
        for descriptor in descriptors:
            os.close(descriptor)
        reason = _REASONS.get(error.errno or 0) or error.strerror
        raise StartError(f"cannot open {path}: {reason}") from error
    return descriptors


def _open_channel(name: str, syslog_path: str) -> Channel:
    if name == "stderr":
        return open_stderr()
    if name == "syslog":
        return Syslog(syslog_path)
    return open_file(name)
