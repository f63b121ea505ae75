"""The log: events with fields, one line and one write each."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from geproxy.errors import StartError
from geproxy.observe.line import Clock, Lines
from geproxy.observe.repeats import Repeats
from geproxy.observe.sink import (
    SYSLOG_PATH,
    Channel,
    Sink,
    Syslog,
    open_stderr,
    stderr_is_file,
)
from geproxy.terms import Endpoint

LEVELS = ("debug", "info", "warning", "error")
_DEBUG, _INFO, _WARNING, _ERROR = range(4)

_REASONS = {
    errno.ELOOP: "it is a symbolic link",
    errno.EMLINK: "it has another name (a hard link)",
    errno.ENXIO: "nobody reads it",
}


class Failure(NamedTuple):
    """A client that did not prove who it is."""

    listen: str
    client: Endpoint
    user: str | None
    reason: str


class Files(Protocol):
    """The files of a log, which a process of their own writes."""

    @property
    def opening(self) -> bool:
        """True until it is known whether the paths could be opened."""
        ...

    def channels(self) -> list[Channel]:
        """One channel for each path, in order."""
        ...

    def wait_open(self) -> None:
        """Wait until the paths are open. Raises as advance() does."""
        ...

    def reopen(self) -> None:
        """Begin to open the paths again. Raises OSError."""
        ...

    def advance(self, now: float, /) -> bool:
        """Do what is due at *now* (monotonic). True where the writer has died, and is replaced.

        Raises OSError with the path as filename where that cannot be opened, and StartError.
        """
        ...

    def close(self, wait_seconds: float = 0.0) -> None:
        """Let go, and wait for the last line at most *wait_seconds*."""
        ...

    def forget(self) -> None:
        """Give back, in a child, what is the master's alone."""
        ...


class Log:
    """What everyone writes events to. Never waits, never raises for a full disk or a slow reader.

    Values are None, text, numbers, booleans, or objects whose str() says it all; those of events
    below the level are not even looked at. For one thread; forked workers go on with the same
    object.
    """

    def __init__(
        self,
        main: Sink,
        access: Sink | None,
        *,
        level: str,
        files: Files | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        """Take over both sinks, which may be the same; without *access* no session is written.

        *files*, ours from now on, write what the sinks send them; *keys* are those of the
        configuration that name each.
        """
        self._files = files
        self._keys = keys or {}
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

    def close(self, wait_seconds: float = 0.0) -> None:
        """Conclude, then close what open_log opened; wait for files at most *wait_seconds*."""
        self._failures.flush(everything=True)
        for sink in self._sinks():
            sink.close()
        if self._files is not None:
            self._files.close(wait_seconds)

    @property
    def opening(self) -> bool:
        """True until it is known whether the files could be opened; see advance()."""
        return self._files is not None and self._files.opening

    def wait_open(self) -> None:
        """Wait until the files are open. Raises StartError."""
        if self._files is not None:
            with self._told():
                self._files.wait_open()

    def reopen(self) -> None:
        """Begin to open the files again, for whoever moved them away. Raises StartError."""
        self._keys = {}  # the configuration is right: what fails from now on is the system's
        if self._files is not None:
            with self._told():
                self._files.reopen()

    def advance(self, now: float) -> None:
        """Do what is due for the files at *now* (monotonic).

        Raises StartError where they cannot be opened, or opened again; what was open stays so.
        """
        if self._files is not None:
            with self._told():
                if self._files.advance(now):
                    self.warning("log.writer.lost")

    def forget(self) -> None:
        """Give back, in a child that goes on with this log, what is the master's alone."""
        if self._files is not None:
            self._files.forget()

    def drop(self) -> None:
        """Give everything back, in a child that has another log."""
        for sink in self._sinks():
            sink.close()
        self.forget()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn an OSError into a StartError that names the key, the file and the reason."""
        try:
            yield
        except OSError as error:
            name = error.filename or "the log"
            raise StartError(_cannot_open(self._keys.get(name, ""), name, error)) from error

    def _sinks(self) -> set[Sink]:
        return {self._main, self._access or self._main}


OpenFiles = Callable[[Sequence[str]], Files]


def open_log(
    target: str,
    access: str,
    level: str,
    format: str,
    *,
    open_files: OpenFiles,
    clock: Clock = time.time,
    syslog_path: str = SYSLOG_PATH,
) -> Log:
    """Open the log as [log] says it; all four values are checked already.

    *target* is "stderr", "syslog" or a path. *access* is "" (sessions go with the rest, and end
    with the level), "off", or a target of its own, which gets every session at any level.
    *open_files* has a process begin to write the paths; standard error is one of them where it is
    a file. Raises StartError, which names the key, the path and the reason.
    """
    own = access not in ("", "off", target)
    keys = {target: "log.target"} | ({access: "log.access"} if own else {})
    paths = [name for name in keys if name not in ("stderr", "syslog")]
    if "stderr" in keys and stderr_is_file():
        paths.append("stderr")
    channels: dict[str, Channel] = {}
    files: Files | None = None
    try:
        name = target
        for name in keys:
            if name not in paths:
                channels[name] = open_stderr() if name == "stderr" else Syslog(syslog_path)
        if paths:
            name = paths[0]
            files = open_files(paths)
            channels |= zip(paths, files.channels(), strict=True)
    except OSError as error:
        for channel in channels.values():
            channel.close()
        raise StartError(_cannot_open(keys[name], name, error)) from error

    def sink(name: str) -> Sink:
        lines = Lines(format, syslog=name == "syslog", clock=clock)
        return Sink(name, channels[name], lines)

    main = sink(target)
    sessions: Sink | None = main
    if own:
        sessions = sink(access)
    elif access == "off" or (access == "" and LEVELS.index(level) > _INFO):
        sessions = None
    return Log(main, sessions, level=level, files=files, keys=keys)


def _cannot_open(key: str, name: str, error: OSError) -> str:
    reason = _REASONS.get(error.errno or 0) or error.strerror
    return f"{key}{': ' if key else ''}cannot open {name}: {reason}"
