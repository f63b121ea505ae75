"""The log's files, written by a process of their own, so that a frozen filesystem stops no other.

A write(2), open(2) or close(2) on a filesystem that hangs sleeps where no signal ends it. A writer
alone does these. Master and workers send it whole lines over one bounded queue, a SOCK_SEQPACKET
pair that outlives each writer, and never wait for room; nor does the master wait for a writer, but
at a start, where nobody is served yet.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence

from geproxy.config.account import Account
from geproxy.errors import StartError
from geproxy.observe.sink import Channel
from geproxy.process import logwriter
from geproxy.process.logwriter import FINISH, GO, READY, Task

# Chosen here
READY_SECONDS = 5.0  # to open the files; an NFS server that is busy takes seconds
FINISH_SECONDS = 1.0  # for a writer to write what it has; one that hangs is left to itself
RETRY_SECONDS = 5.0  # between two writers, where one has died
QUEUE_BYTES = 208 << 10  # what Linux allows by default: some 500 lines
ANSWER_BYTES = 1024


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


class Writer:
    """A process that writes, as its master sees it; whoever bears it buries *pid*."""

    __slots__ = ("born", "control", "pid", "ready")

    def __init__(self, task: Task) -> None:
        """Bear it. Raises OSError."""
        self.pid, self.control = logwriter.bear(task)
        self.born = time.monotonic()
        self.ready = False  # it has opened the files

    def answer(self) -> bytes | None:
        """Return what it has said: None where that is nothing, b"" once it has ended."""
        try:
            return self.control.recv(ANSWER_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def wait(self, seconds: float) -> None:
        """Return once it has said something or ended, and after *seconds*."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.poll(seconds * 1000)

    def tell(self, word: bytes) -> None:
        """Say *word*; one that has died does not hear it."""
        try:
            self.control.send(word, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass


class LogFiles:
    """The files of one configuration's log, and the process that writes them.

    Lines may be sent from the beginning; they wait in the queue until the files are open.
    """

    def __init__(self, paths: Sequence[str], format: str, account: Account | None) -> None:
        """Bear a writer, which opens *paths*. Raises OSError."""
        self._paths = paths
        self._queue, self._outlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._queue.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
        self._task = Task(paths, format, account, self._outlet)
        self._writer: Writer | None = None
        self._next: Writer | None = None  # it opens the files, or waits for its turn
        self._parting: Writer | None = None  # it writes what it has
        self._part_by = 0.0
        self._retry_at = 0.0
        try:
            self._next = Writer(self._task)
        except BaseException:
            self.close()
            raise

    def channels(self) -> list[Channel]:
        """One channel for each path. Its owner closes it."""
        return [Queued(self._queue, number) for number in range(len(self._paths))]

    @property
    def opening(self) -> bool:
        """True until it is known whether the files could be opened."""
        return self._next is not None

    def wait_open(self) -> None:
        """Wait for that. Raises as advance() does."""
        while self._next is not None:
            awaited, seconds = self._next, READY_SECONDS
            if self._parting is not None:
                awaited, seconds = self._parting, FINISH_SECONDS
            awaited.wait(seconds)
            self.advance(time.monotonic())

    def reopen(self) -> None:
        """Have a new writer open the files anew, and the old one end; advance() goes on with it.

        Raises OSError.
        """
        if self._queue.fileno() < 0:
            return
        new = Writer(self._task)
        if self._next is not None:
            self._next.control.close()  # it may have opened what has been moved away since
        self._next = new

    def advance(self, now: float) -> bool:
        """Do what is due at *now* (monotonic). True where a writer has died, and is replaced.

        Raises OSError, whose filename is the path that cannot be opened, and StartError: then the
        writer that was there goes on.
        """
        if self._parting is not None and (self._parting.answer() == b"" or now >= self._part_by):
            self._parting.control.close()
            self._parting = None
        if self._next is not None:
            self._welcome(self._next, now)
        elif self._queue.fileno() >= 0:
            return self._replace_lost(now)
        return False

    def _welcome(self, new: Writer, now: float) -> None:
        """Let *new* write once it has the files and the old one has written what it had."""
        if not new.ready:
            answer = new.answer()
            if answer != READY:
                if answer is not None or now - new.born >= READY_SECONDS:
                    self._next = None
                    new.control.close()
                    self._retry_at = now + RETRY_SECONDS
                    self._raise(answer)
                return
            new.ready = True
            if self._writer is not None:
                self._writer.tell(FINISH)
                self._parting, self._writer = self._writer, None
                self._part_by = now + FINISH_SECONDS
        if self._parting is None:
            new.tell(GO)
            self._writer, self._next = new, None

    def _raise(self, answer: bytes | None) -> None:
        """Say what a writer said before it ended; None: nothing for too long."""
        if answer is None:
            names = " or ".join(self._paths)
            raise StartError(f"cannot open {names}: the filesystem does not answer")
        kind, _, rest = answer.decode("utf-8", "replace").partition(" ")
        if kind == "errno":
            number, path = rest.split(" ", 1)
            raise OSError(int(number), os.strerror(int(number)), path)
        raise StartError(f"the log's writer cannot start: {rest or 'it died'}")

    def _replace_lost(self, now: float) -> bool:
        lost = self._writer is not None and self._writer.answer() == b""
        if lost and self._writer is not None:
            self._writer.control.close()
            self._writer = None
        if self._writer is None and now >= self._retry_at:
            self._retry_at = now + RETRY_SECONDS
            self._next = Writer(self._task)
        return lost

    def close(self, wait_seconds: float = 0.0) -> None:
        """Let go; the writer ends once every channel is closed and every line is written.

        Waits for that, but no longer than *wait_seconds*.
        """
        self._queue.close()
        self._outlet.close()
        give_up = time.monotonic() + wait_seconds
        for writer in (self._next, self._writer, self._parting):
            if writer is None:
                continue
            if writer is self._next:
                writer.tell(GO)  # what it may find in the queue is all that is left to say
            _wait_for_end(writer, give_up)
            writer.control.close()
        self._next = self._writer = self._parting = None

    def forget(self) -> None:
        """Give back, in a child, what is the master's alone. Nothing is said or heard: the lines
        to writers are the master's still.
        """
        self._queue.close()
        self._outlet.close()
        for writer in (self._next, self._writer, self._parting):
            if writer is not None:
                writer.control.close()


def _wait_for_end(writer: Writer, give_up: float) -> None:
    while writer.answer() != b"":
        left = give_up - time.monotonic()
        if left <= 0:
            return
        writer.wait(left)
