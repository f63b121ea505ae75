"""Where lines go: files, pipes, terminals, sockets and syslog, none of which may hold us up.

A sink never waits and never raises. What a channel does not take yet waits here, in order; what
it refuses is dropped and counted, and the count is the first line that goes out afterwards.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from geproxy.observe.line import Fields, Lines

# Chosen here
MAX_WAITING_LINES = 1000
MAX_WAITING_BYTES = 1 << 20
WARNING_SECONDS = 60.0  # a full disk is told to standard error, but must not flood that too
SYSLOG_PATH = "/dev/log"

STDERR = 2
_FILE_MODE = 0o640  # a log names users and where they go: not for everyone
_FILE_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Channel(Protocol):
    """The way out of one sink. Its owner closes it."""

    def write(self, data: bytes, /) -> int:
        """Hand over *data* without waiting; returns how many bytes were taken.

        Raises BlockingIOError where none are taken now, another OSError where none will be.
        """
        ...

    def close(self) -> None:
        """Give the descriptor back, be it with an OSError. Nothing is written afterwards."""
        ...


class Sink:
    """One place for lines. Used by one thread; a forked child goes on with the same descriptor."""

    def __init__(
        self,
        name: str,
        channel: Channel,
        lines: Lines,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take over *channel*; *name* is what warnings call it."""
        self.name = name
        self._channel = channel
        self._lines = lines
        self._monotonic = monotonic
        self._next_warning = -WARNING_SECONDS
        self._pid = os.getpid()
        self._rest = b""  # of a line whose beginning is out
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0

    def put(self, level: str, event: str, fields: Fields) -> None:
        """Send one line, or keep it, or count it as lost."""
        self.pass_on(self._lines.encode(level, event, fields))

    def pass_on(self, line: bytes) -> None:
        """Send one line that is encoded already, or keep it, or count it as lost."""
        self._leave_to_parent()
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        self._drain()
        if len(self._waiting) > MAX_WAITING_LINES or self._waiting_bytes > MAX_WAITING_BYTES:
            self._waiting_bytes -= len(self._waiting.pop())
            self._lost += 1

    def flush(self) -> None:
        """Send what waits, as far as the channel takes it."""
        self._leave_to_parent()
        self._drain()

    def close(self) -> None:
        """Flush, then close the channel; what it did not take is gone."""
        self.flush()
        self._close(self._channel)

    def _close(self, channel: Channel) -> None:
        """Give *channel* back. A file on NFS may say only now that a line was lost (close(2))."""
        try:
            channel.close()
        except OSError as error:
            self._warn(error)

    def _leave_to_parent(self) -> None:
        """Forget what waited at a fork: the parent still has it, and would say it again."""
        pid = os.getpid()
        if pid != self._pid:
            self._pid = pid
            self._forget()
            self._rest = b""
            self._lost = 0

    def _drain(self) -> None:
        try:
            while self._rest or self._lost or self._waiting:
                if self._rest:
                    # At once: on a full disk this fails, and no half of a line, which could look
                    # like one of ours, comes out later behind another worker's.
                    self._rest = self._send(self._rest)
                elif self._lost:
                    self._rest = self._send(self._notice())
                    self._lost = 0
                else:
                    self._rest = self._send(self._waiting[0])
                    self._waiting_bytes -= len(self._waiting.popleft())
        except BlockingIOError:
            pass  # the next line, or the next tick, tries again
        except OSError as error:
            self._give_up(error)

    def _send(self, data: bytes) -> bytes:
        """Return what the channel did not take."""
        taken = self._channel.write(data)
        if not taken:
            raise BlockingIOError  # no progress: trying again at once might never end
        return data[taken:]

    def _notice(self) -> bytes:
        return self._lines.encode("warning", "log.lost", {"lines": self._lost})

    def _give_up(self, error: OSError) -> None:
        self._lost += len(self._waiting)
        self._forget()
        if len(self._rest) > 1:
            self._lost += 1
            self._rest = b"\n"  # ends the torn line, so that the next one stands alone
        if self.name != "stderr":
            self._warn(error)

    def _forget(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _warn(self, error: OSError) -> None:
        """Tell standard error, at most once in WARNING_SECONDS.

        It is opened only now: held open, it would keep a daemon's terminal or pipe alive.
        """
        now = self._monotonic()
        if now < self._next_warning:
            return
        self._next_warning = now + WARNING_SECONDS
        try:
            stderr = Sink("stderr", open_stderr(), Lines("text"))
        except OSError:
            return  # there is no standard error
        fields = {"target": self.name, "reason": error.strerror, "lines": self._lost}
        stderr.put("warning", "log.fail", fields)
        stderr.close()


class Descriptor:
    """A file, or anything opened with O_NONBLOCK."""

    def __init__(self, descriptor: int) -> None:
        """Take over *descriptor*."""
        self._descriptor = descriptor

    def write(self, data: bytes, /) -> int:
        return os.write(self._descriptor, data)

    def close(self) -> None:
        # The number may soon be a client's socket; Linux gives it back whatever close() says.
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


class BlockingDescriptor(Descriptor):
    """A pipe or terminal that others share, whose O_NONBLOCK is not ours to set.

    A pipe that polls as writable takes a whole line (at most PIPE_BUF bytes), unless another
    process is faster.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, data: bytes, /) -> int:
        if not self._poll.poll(0):
            raise BlockingIOError
        return super().write(data)


class Socket:
    """A socket that was given to us as standard error: journald's is one."""

    def __init__(self, descriptor: int) -> None:
        """Take over *descriptor*."""
        self._socket = socket.socket(fileno=descriptor)

    def write(self, data: bytes, /) -> int:
        return self._socket.send(data, _SEND_FLAGS)

    def close(self) -> None:
        self._socket.close()


class Syslog:
    """The local syslog daemon's datagram socket; connected at the first line, and again when lost.

    A daemon that is not there yet is no reason not to start: syslog(3) does the same.
    """

    def __init__(self, path: str = SYSLOG_PATH) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def write(self, data: bytes, /) -> int:
        if self._socket is not None:
            try:
                return self._socket.send(data, _SEND_FLAGS)
            except BlockingIOError:
                raise
            except OSError:
                self.close()  # a daemon that was restarted listens on a new socket
        self._socket = self._connect()
        return self._socket.send(data, _SEND_FLAGS)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection


def stderr_is_file() -> bool:
    """Tell whether standard error is a file, which may hang as any other."""
    try:
        return stat.S_ISREG(os.fstat(STDERR).st_mode)
    except OSError:
        return False  # there is none


def open_stderr(descriptor: int = STDERR) -> Channel:
    """Open a channel to what *descriptor* is, which stays as it is. Raises OSError."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return Socket(os.dup(descriptor))
    if stat.S_ISREG(mode):
        return Descriptor(os.dup(descriptor))
    # O_NONBLOCK belongs to the open file, which the shell and others share with us. Opened
    # again, the pipe or terminal is the same and the flag is ours alone.
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return Descriptor(os.open(f"/proc/self/fd/{descriptor}", flags))
    except OSError:  # no /proc, or a pipe that another user made
        return BlockingDescriptor(os.dup(descriptor))


def open_append(path: str) -> int:
    """Open *path* to append to, and create it with mode 0640 where it is missing.

    Raises OSError: ELOOP for a symbolic link, ENXIO for a FIFO that nobody reads, EMLINK for a
    file with another name, which may be somebody's trap for a writer that is root.
    """
    try:
        descriptor = os.open(path, _FILE_FLAGS | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    except FileExistsError:
        descriptor = os.open(path, _FILE_FLAGS)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            os.close(descriptor)
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), path) from None
        return descriptor
    try:
        os.fchmod(descriptor, _FILE_MODE)  # whatever the umask was
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
