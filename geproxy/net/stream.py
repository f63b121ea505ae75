"""A TCP connection as a Stream: the system call first, a wait only when it would block."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from socket import MSG_DONTWAIT, SocketType
from typing import TYPE_CHECKING

from gevent import get_hub
from gevent.hub import Waiter

from geproxy.errors import DeadlineError, ResetError, VanishedError
from geproxy.net.deadline import Deadline
from geproxy.net.kernelside import KernelSide
from geproxy.net.messages import read_to_end
from geproxy.net.pipes import Pipe
from geproxy.net.sockopt import no_delay, reset_on_close
from geproxy.net.watchers import WRITE, give_reader, take_reader
from geproxy.streams import Lender
from geproxy.terms import Endpoint

if TYPE_CHECKING:
    from gevent._types import _IoWatcher as Watcher


class SocketStream(KernelSide):
    """A connected TCP socket; see streams.Stream for what each call promises.

    No call on it waits in the kernel: recv() and send() say so each time (MSG_DONTWAIT), which
    spares a system call that would say it once; only splice() has to have it said.
    SocketType is what socket.socket wraps: to make and to close one takes 2 µs less.
    """

    __slots__ = (
        "_bound",
        "_broken",
        "_expects_answer",
        "_nodelay",
        "_reader",
        "_splices",
        "peer",
        "sent_bytes",
    )

    holds_head = False

    def __init__(self, sock: SocketType, peer: Endpoint, *, nodelay: bool = True) -> None:
        """*peer* is the other side's address; *nodelay*: TCP_NODELAY is set."""
        super().__init__()
        self._socket = sock
        self.peer = peer
        self._bound: Endpoint | None = None
        self.sent_bytes = 0
        self._expects_answer = False  # recv() had better wait before it tries
        self._nodelay = nodelay
        self._splices = False
        self._broken: ResetError | None = None
        # Made at the first wait and kept: most connections wait for reading, few for writing.
        self._reader: Watcher | None = None
        self._writer = None

    @property
    def bound(self) -> Endpoint:
        """Our own address of this connection."""
        if self._bound is None:
            self._bound = Endpoint.from_sockaddr(self._socket.getsockname())
        return self._bound

    def recv(self, size_bytes: int) -> bytes:
        """Wait for bytes; b"" is the end of the stream."""
        if self._leftover:
            return self._take_leftover(size_bytes)
        if self._expects_answer:  # it is not here yet, and an attempt in vain takes an exception
            self._expects_answer = False
            self.wait_readable()
        while True:
            try:
                data = self._socket.recv(size_bytes, MSG_DONTWAIT)
            except BlockingIOError:
                self.wait_readable()
            except OSError as error:
                raise self._break(error) from error
            else:
                return data or self._end()

    def recv_into(self, buffer: memoryview) -> int | None:
        """Read what is there: a count, 0 at the end of the stream, None when nothing is there."""
        if self._leftover:
            data = self._take_leftover(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        try:
            count = self._socket.recv_into(buffer, 0, MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._break(error) from error
        return count or len(self._end())

    def fill(self, pipe: Pipe) -> int | None:
        """Like recv_into, into *pipe*, without a copy; the leftover must have been read before.

        In front of an urgent byte both 0 and None are false: Linux splices none, and calls it
        nothing, or the end once FIN has come (tcp_splice_read). recv_into() tells the truth.
        """
        assert not self._leftover, "bulk reads have taken it"
        try:
            if not self._splices:
                self._begin_to_splice()
            return pipe.fill(self._socket.fileno())
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._break(error) from error

    def pour(self, pipe: Pipe) -> int:
        """Return once the kernel has taken some of what *pipe* holds, and how much that was."""
        while True:
            try:
                if not self._splices:
                    self._begin_to_splice()
                count = pipe.pour(self._socket.fileno())
            except BlockingIOError:
                self._wait_writable()
            except OSError as error:
                raise self._break(error) from error
            else:
                self.sent_bytes += count
                return count

    def _begin_to_splice(self) -> None:
        self._socket.setblocking(False)
        if not self._nodelay:
            self._set_nodelay()
        self._splices = True

    def _end(self) -> bytes:
        """Give the end of the stream, if it is one.

        The kernel reports a reset once: if a send met it first, reading sees a clean end after it.
        """
        if self._broken is not None:
            raise self._broken
        return b""

    def _break(self, error: OSError) -> ResetError:
        """Note that the connection is broken, and say how."""
        if error.errno == errno.ETIMEDOUT:
            self._broken = VanishedError("the other side no longer answers")
        else:
            self._broken = ResetError(error.strerror or str(error))
        return self._broken

    def wait_readable(self) -> None:
        """Return once there is something to read: bytes, the end, or an error."""
        if self._leftover:
            return
        reader = self._reader
        if reader is None:
            reader = self._reader = take_reader(self._socket.fileno())
        waiter: Waiter[None] = Waiter()
        reader.start(waiter.switch, None)
        try:
            waiter.get()
        finally:
            if self._reader is reader:  # or it was closed, and the watcher is another's by now
                reader.stop()

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        """Call back, from the loop, once there is something to read; nobody may wait meanwhile."""
        if self._leftover:
            self._call_soon(callback)
            return
        if self._reader is None:
            self._reader = take_reader(self._socket.fileno())
        self._reader.start(self._call, self._reader, callback)

    @staticmethod
    def _call(reader: Watcher, callback: Callable[[], None]) -> None:
        reader.stop()
        callback()

    def stop_calling(self) -> None:
        """See streams.Stream."""
        super().stop_calling()
        if self._reader is not None:
            self._reader.stop()

    def _wait_writable(self) -> None:
        if self._writer is None:
            self._writer = get_hub().loop.io(self._socket.fileno(), WRITE)
        get_hub().wait(self._writer)

    def send_all(self, data: bytes | memoryview) -> None:
        """Return once the kernel has taken all of *data*."""
        left = len(data)
        self._expects_answer = True
        while True:
            try:
                if self.sent_bytes and not self._nodelay:
                    self._set_nodelay()
                sent = self._socket.send(data, MSG_DONTWAIT)
            except BlockingIOError:
                self._wait_writable()
                continue
            except OSError as error:
                raise self._break(error) from error
            self.sent_bytes += sent
            left -= sent
            if not left:
                return
            data = memoryview(data)[sent:]

    def _set_nodelay(self) -> None:
        """Have what follows sent at once.

        The first send() needs it not: Linux holds a short segment back only behind another short
        one that is not acknowledged (tcp_minshall_check). Many connections send no second time.
        """
        no_delay(self._socket)
        self._nodelay = True

    def send_lent(self, buffer: memoryview, count: int, lender: Lender) -> None:
        """See streams.Stream."""
        try:
            self.send_all(buffer[:count])
        finally:
            lender.give(buffer)

    def close_write(self) -> None:
        """Send FIN; reading goes on."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._break(error) from error

    def abort(self) -> None:
        """Send RST."""
        if self._socket.fileno() >= 0:
            reset_on_close(self._socket)
        self.close()

    def linger(self, seconds: float) -> None:
        """FIN, then read and drop until the other side's FIN, at most *seconds*.

        Where nothing was sent there is no reply to deliver, and nothing to wait for.
        """
        if not self.sent_bytes:
            return
        enough = DeadlineError("the last reply has had its time")
        try:
            with Deadline(seconds, "the last reply", enough):
                self.close_write()
                read_to_end(self)
        except ResetError:
            pass  # gone already: there is nobody to deliver to
        except DeadlineError as error:
            if error is not enough:  # one around this call
                raise

    def close(self) -> None:
        """Close the socket; its watchers first, for the loop must not see a reused descriptor."""
        reader, self._reader = self._reader, None
        if reader is not None:
            give_reader(reader)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        # Its traceback holds the frames that it came through, and they this stream: a cycle.
        self._broken = None
        self._socket.close()
