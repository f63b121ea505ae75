"""What every stream has that waits: messages, read off bytes that come in any pieces."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from gevent import get_hub

from geproxy.errors import ProtocolError, ResetError
from geproxy.net.timeslice import begin, give_way
from geproxy.streams import Decoder, Stream

if TYPE_CHECKING:
    from gevent._types import _Callback as Callback

T = TypeVar("T")

# Chosen here
MESSAGE_READ_BYTES = 4096  # one page holds any handshake message, and often what is glued to it


class MessageReader:
    """Reads messages off a stream whose bytes come in any pieces; what is left over waits here."""

    __slots__ = ("_leftover", "_soon")

    def __init__(self) -> None:
        self._leftover = b""
        self._soon: Callback | None = None

    def recv(self, size_bytes: int) -> bytes:
        """See streams.Stream: the leftover first."""
        raise NotImplementedError

    def _call_soon(self, callback: Callable[[], None]) -> None:
        self._soon = get_hub().loop.run_callback(callback)

    def stop_calling(self) -> None:
        """Forget the callback, if it has not been called."""
        if self._soon is not None:
            self._soon.stop()
            self._soon = None

    def _take_leftover(self, size_bytes: int) -> bytes:
        data, self._leftover = self._leftover[:size_bytes], self._leftover[size_bytes:]
        return data

    def read_message(self, message: Decoder[T], limit_bytes: int) -> T:
        """Read one message; what follows it is kept for the next read."""
        data = self._leftover
        self._leftover = b""
        while True:
            found = message.decode(data) if data else None
            if found is not None:
                # recv() may have a leftover of its own, and what it gave us came before that.
                self._leftover = data[found[1] :] + self._leftover
                return found[0]
            if len(data) >= limit_bytes:
                raise ProtocolError(f"a message longer than {limit_bytes} bytes")
            more = self.recv(MESSAGE_READ_BYTES)
            if not more:
                raise ProtocolError(f"the stream ended {len(data)} bytes into a message")
            data += more


class _FirstByte:
    """The message that is there as soon as anything is. It uses nothing: who reads next has it."""

    @staticmethod
    def decode(data: bytes) -> tuple[int, int] | None:
        """Give the first byte, and that 0 bytes were used; None before it is here."""
        return (data[0], 0) if data else None


def peek(stream: Stream) -> int:
    """Wait for the first byte of what comes next, and leave it there.

    Raises ProtocolError at the end of the stream, and ResetError.
    """
    return stream.read_message(_FirstByte, 1)


def read_to_end(stream: Stream) -> None:
    """Wait for the end of a stream that has nothing more to say; what it says is dropped."""
    slice_ends = begin()
    while stream.recv(MESSAGE_READ_BYTES):
        if monotonic() >= slice_ends:
            slice_ends = give_way()


def tell(stream: Stream, answer: bytes) -> None:
    """Send the last *answer* to a client whose fate is known; it may have left before it."""
    try:
        stream.send_all(answer)
    except ResetError:
        pass  # or the log would have this in the place of the reason


def has_given_up(stream: Stream) -> bool:
    """Tell whether the client will hear and ask nothing more: it is gone, or has ended its
    direction with nothing unread. One that sent its whole handshake ahead of its end still waits.

    To be called where nobody else reads; waits a turn of the loop at most.
    """
    try:
        stream.send_all(b"")  # meets a reset, even one that stands behind unread bytes
        if stream.left:
            peek(stream)  # the end has arrived, and so has all that comes before it
    except (ProtocolError, ResetError):
        return True
    return False
