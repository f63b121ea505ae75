"""Fragments of SOCKS5's datagrams, put together again (RFC 1928 §7)."""

from __future__ import annotations

from typing import NoReturn

from geproxy.errors import DropError

# Fixed by the specification
LAST = 0x80  # in FRAG: the end of the sequence
POSITION = 0x7F  # in FRAG: 1 to 127
# Chosen here
REASSEMBLY_SECONDS = 5.0  # RFC 1928 §7: not less
MAX_DATA_BYTES = 65_507  # what an IPv4 packet has room for: 65535 - 20 - 8 (RFC 791, RFC 768)


class Reassembly:
    """The reassembly queue and timer of one association: at most one sequence is under way.

    Positions come in order, or not at all: the document gives up a sequence for a FRAG lower than
    the highest so far, so one with a gap will never be whole, and is given up at the gap. There is
    nothing to tell two sequences apart but their heads, so that only an equal copy of the newest
    fragment passes for a duplicate.
    """

    __slots__ = ("_began_seconds", "_bytes", "_head", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._head = b""
        self._began_seconds = 0.0

    @property
    def pending(self) -> bool:
        """Whether a sequence is under way. If none is, FRAG 0 need not come here."""
        return bool(self._pieces)

    def add(
        self, frag: int, head: bytes, data: bytes, now_seconds: float
    ) -> tuple[bytes, bytes] | None:
        """Take a datagram whose FRAG is *frag*; give head and data of one that is whole with it.

        None: it is kept, for others to follow. Raises DropError if it is of no use: a copy, one
        behind a gap, of another target, or that makes too much; all but the copy end the sequence.
        Fragments that were kept are forgotten in silence when their sequence ends before it is
        whole, and an end by the timer comes to light in the next call.
        """
        if self._pieces and now_seconds - self._began_seconds >= REASSEMBLY_SECONDS:
            self._forget()
        if not frag:
            self._forget()
            return head, data
        if self._is_copy(frag, head, data):
            raise DropError("fragment")
        position = frag & POSITION
        if position == 1:
            self._forget()
            self._head, self._began_seconds = head, now_seconds
        elif position != len(self._pieces) + 1 or head != self._head:
            self._give_up()
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes > MAX_DATA_BYTES:
            self._give_up()
        return self._finish() if frag & LAST else None

    def _is_copy(self, frag: int, head: bytes, data: bytes) -> bool:
        """Whether the newest fragment of the sequence under way is just this one."""
        pieces = self._pieces
        return frag == len(pieces) and head == self._head and data == pieces[-1]

    def _finish(self) -> tuple[bytes, bytes]:
        whole = self._head, b"".join(self._pieces)
        self._forget()
        return whole

    def _give_up(self) -> NoReturn:
        self._forget()
        raise DropError("fragment")

    def _forget(self) -> None:
        self._pieces.clear()
        self._bytes = 0
