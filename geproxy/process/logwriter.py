"""The log's files, written by a process of their own, so that a frozen filesystem stops no other.

A write(2), open(2) or close(2) on a filesystem that hangs sleeps where no signal ends it. The
writer alone does these. Master and workers send it whole lines over one bounded queue, a
SOCK_SEQPACKET pair that outlives each writer, and never wait for room.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Sequence

from setproctitle import setproctitle

from geproxy.config.account import Account
from geproxy.errors import StartError
from geproxy.observe.line import Lines
from geproxy.observe.sink import Channel, Descriptor, Sink, open_append
from geproxy.process.privileges import prepare, settle
from geproxy.process.spawn import MASTERS_SIGNALS

# Chosen here
READY_SECONDS = 2.0  # to open the files: the master waits, and must stay below its workers' beats
FINISH_SECONDS = 1.0  # for a writer to write what it has; one that hangs is left to itself
RETRY_SECONDS = 5.0  # between two writers, where one has died
FLUSH_SECONDS = 1.0  # the longest that a line waits for a FIFO whose reader is slow
QUEUE_BYTES = 208 << 10  # what Linux allows by default: some 500 lines
MAX_LINE_BYTES = 1 << 17  # longer than a line can be

# Fixed by the system: any number may be open, whatever RLIMIT_NOFILE is by now
DESCRIPTOR_END = 1 << 20  # fs.nr_open, as Linux has it

_READY, _FINISH, _GO = b"ready", b"finish", b"go"


class Queued:
    """The way to one file: its number in a byte, then the line, as one message."""

    def __init__(self, queue: socket.socket, number: int) -> None:
        """Send on a copy of *queue*."""
        self._queue = queue.dup()
        self._prefix = bytes((number,))

    def write(self, data: bytes, /) -> int:
        self._queue.send(self._prefix + data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return len(data)

    def close(self) -> None:
        self._queue.close()


class LogFiles:
    """The files of one configuration's log, and the process that writes them."""

    def __init__(self, paths: Sequence[str], format: str, account: Account | None) -> None:
        """Bear a writer, which opens *paths*.

        Raises OSError, whose filename is the path that cannot be opened, and StartError.
        """
        self._paths = paths
        self._format = format
        self._account = account
        self._queue, self._outlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._queue.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        self._retry_at = 0.0
        self._control: socket.socket | None = None
        try:
            self._control = self._bear_ready()
        except BaseException:
            self.close()
            raise
        self._control.send(_GO)

    def channels(self) -> list[Channel]:
        """One channel for each path. Its owner closes it."""
        return [Queued(self._queue, number) for number in range(len(self._paths))]

    def reopen(self) -> None:
        """Have a new writer open the files anew; the old one ends. Raises as the birth does.

        Where that fails the old one goes on.
        """
        if self._queue.fileno() < 0:
            return
        new = self._bear_ready()
        if self._control is not None:
            _finish(self._control)
        self._control = new
        new.send(_GO)

    def tend(self, now: float) -> bool:
        """Replace a writer that has died; True where it has. *now* is monotonic. Raises OSError."""
        if self._queue.fileno() < 0:
            return False
        lost = self._control is not None and _has_ended(self._control)
        if lost and self._control is not None:
            self._control.close()
            self._control = None
        if self._control is None and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self._control = self._bear()
            self._control.send(_GO)
        return lost

    def close(self, wait_seconds: float = 0.0) -> None:
        """Let go; the writer ends once every channel is closed and every line is written.

        Waits for that, but no longer than *wait_seconds*.
        """
        self._queue.close()
        self._outlet.close()
        control, self._control = self._control, None
        if control is not None:
            if wait_seconds:
                _wait_for_end(control, wait_seconds)
            control.close()

    def forget(self) -> None:
        """Give back, in a child, what is the master's alone."""
        self._outlet.close()
        if self._control is not None:
            self._control.close()

    def _bear_ready(self) -> socket.socket:
        control = self._bear()
        try:
            control.settimeout(READY_SECONDS)
            answer = control.recv(1024)
            control.settimeout(None)  # MSG_DONTWAIT would wait for a timeout to pass
            if answer != _READY:
                self._raise(answer)
        except TimeoutError as error:
            control.close()
            raise StartError(
                f"cannot open {' or '.join(self._paths)}: the filesystem does not answer"
            ) from error
        except BaseException:
            control.close()
            raise
        return control

    def _raise(self, answer: bytes) -> None:
        """Say what the writer said before it ended."""
        kind, _, rest = answer.decode("utf-8", "replace").partition(" ")
        if kind == "errno":
            number, path = rest.split(" ", 1)
            raise OSError(int(number), os.strerror(int(number)), path)
        raise StartError(f"the log's writer cannot start: {rest or 'it died'}")

    def _bear(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            if os.fork() == 0:
                ours.close()
                self._become(theirs, mask)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        return ours

    def _become(self, control: socket.socket, mask: Iterable[int]) -> None:
        """Be the writer, to the end: nothing of the master's stack may ever run here again."""
        try:
            gc.disable()  # a dead socket of the master's would close a number that is a file now
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # It outlives the workers, to write their last lines: the queue tells it when to end.
            for ignored in (signal.SIGTERM, *MASTERS_SIGNALS):
                signal.signal(ignored, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            setproctitle("geproxy: log writer")
            _close_all_but(control.fileno(), self._outlet.fileno())
            self._write(control)
        except OSError as error:
            _say(control, f"errno {error.errno} {error.filename}")
        except BaseException as error:
            _say(control, f"error {error}")
        finally:
            os._exit(0)

    def _write(self, control: socket.socket) -> None:
        sinks = []
        for path in self._paths:
            sinks.append(Sink(path, Descriptor(open_append(path)), Lines(self._format)))
        prepare(self._account)
        settle(self._account)
        control.send(_READY)
        if control.recv(16) == _GO:
            copy_lines(self._outlet, control, sinks)


def copy_lines(queue: socket.socket, control: socket.socket, sinks: Sequence[Sink]) -> None:
    """Write what comes, until *control* says so, or nobody is left to send."""
    poll = select.poll()
    poll.register(queue, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        ready = dict(poll.poll(FLUSH_SECONDS * 1000))
        if control.fileno() in ready:
            if control.recv(16) == _FINISH:
                break
            poll.unregister(control)  # the master is dead or let go; workers may live still
        if queue.fileno() in ready:
            message = queue.recv(MAX_LINE_BYTES)
            if not message:
                break
            sinks[message[0]].pass_on(message[1:])
        else:
            for sink in sinks:
                sink.flush()
    for sink in sinks:
        sink.close()


def _finish(control: socket.socket) -> None:
    """Have an old writer end, and wait for that: what comes next is for the new file."""
    try:
        control.send(_FINISH, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        _wait_for_end(control, FINISH_SECONDS)
    except OSError:
        pass  # it has died
    control.close()


def _wait_for_end(control: socket.socket, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not _has_ended(control):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([control], [], [], left)[0]:
            return


def _has_ended(control: socket.socket) -> bool:
    try:
        return not control.recv(1024, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _say(control: socket.socket, text: str) -> None:
    try:
        control.send(text.encode("utf-8", "replace")[:1024], socket.MSG_NOSIGNAL)
    except OSError:
        pass  # nobody listens any more


def _close_all_but(*kept: int) -> None:
    """Keep the standard streams and *kept*: a writer that hangs must hold no listening socket."""
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, DESCRIPTOR_END)
