"""What a stream is to every room: the Protocol of a connection's bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from geproxy.terms import Endpoint

M = TypeVar("M", covariant=True)
T = TypeVar("T")


class Decoder(Protocol[M]):
    """A message type of wire/: *decode* reads one message from the front of *data*.

    Returns the message and the bytes it used, or None while it is incomplete. Raises ProtocolError
    at the first byte that rules a message out.
    """

    def decode(self, data: bytes, /) -> tuple[M, int] | None: ...


class Lender(Protocol):
    """Whose buffers are lent for a moment."""

    def give(self, buffer: memoryview, /) -> None:
        """Take a lent buffer back."""
        ...


class Kernel(Protocol):
    """A connection below all that is sealed, as the kernel has it."""

    @property
    def blocked(self) -> bool:
        """True while a send waits, because the other side does not take what was sent."""
        ...

    @property
    def memory_bytes(self) -> int:
        """How much memory it takes, for what is unread and what is unsent or unacknowledged."""
        ...

    def cap(self) -> None:
        """Let it take no more memory than it has, and less as what waits goes on."""
        ...

    def uncap(self) -> None:
        """Take cap() back."""
        ...


class Stream(Protocol):
    """A connection's bytes in both directions; plain, sealed and in-memory ones act alike. One
    greenlet may read while another writes. An exception thrown into a greenlet ends its wait.
    Raises ResetError where the other side is gone.
    """

    @property
    def peer(self) -> Endpoint:
        """The other side's address."""
        ...

    @property
    def bound(self) -> Endpoint:
        """Our own address of this connection."""
        ...

    def recv(self, size_bytes: int) -> bytes:
        """Wait for bytes and return at most *size_bytes* of them; b"" is the end of the stream."""
        ...

    def recv_into(self, buffer: memoryview) -> int | None:
        """Like recv, into *buffer*, but without waiting: None when nothing is there."""
        ...

    def wait_readable(self) -> None:
        """Return once bytes, the end of the stream or an error are there to be read."""
        ...

    def call_when_readable(self, callback: Callable[[], None]) -> None:
        """Call back, from the loop, when wait_readable() would return; nobody waits meanwhile."""
        ...

    def stop_calling(self) -> None:
        """Forget the callback, if it has not been called."""
        ...

    def send_all(self, data: bytes | memoryview) -> None:
        """Return once the kernel has taken every byte of *data*."""
        ...

    def send_lent(self, buffer: memoryview, count: int, lender: Lender) -> None:
        """Like send_all() of the first *count* bytes of a lent *buffer*, which goes back to its
        lender as soon as they are elsewhere, and when this raises: whoever waits holds one
        buffer, not two.
        """
        ...

    def read_message(self, message: Decoder[T], limit_bytes: int) -> T:
        """Read one message; what follows it stays for the next read. Raises ProtocolError for one
        that is wrong, longer than *limit_bytes*, or cut off.
        """
        ...

    @property
    def holds_head(self) -> bool:
        """True while a head waits to be sent in front of the first bytes, or by send_all(b"")."""
        ...

    @property
    def sent_bytes(self) -> int:
        """How many bytes the kernel has taken of all that was sent, piece by piece."""
        ...

    @property
    def room_bytes(self) -> int:
        """How many bytes the kernel has room for, so that a send need not wait: counted as they
        leave, which is sealed for a sealed stream. 0 where nobody can tell.
        """
        ...

    @property
    def kernel(self) -> Kernel:
        """The connection that carries this stream."""
        ...

    @property
    def lost(self) -> bool:
        """True where the other side is gone, and nobody has read so: it has not answered for long
        what the kernel sent it, or has reset the connection.
        """
        ...

    def keep_alive(self) -> None:
        """Have the kernel find out, while nothing moves, that the other side is gone."""
        ...

    @property
    def left(self) -> bool:
        """True once the other side has ended its direction, read or not, or is gone."""
        ...

    def close_write(self) -> None:
        """Tell the other side that no more bytes come (half-close). Reading goes on."""
        ...

    def abort(self) -> None:
        """End with a reset, so that nobody takes the end for a complete one."""
        ...

    def linger(self, seconds: float) -> None:
        """Half-close, then read and drop for at most *seconds*, so that the last reply arrives."""
        ...

    def close(self) -> None:
        """Give the connection back to the kernel. May be called twice."""
        ...
