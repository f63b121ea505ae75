"""What every message of wire/ must do, whichever document it comes from."""

from __future__ import annotations

from typing import Protocol, Self

from geproxy.errors import ProtocolError
from geproxy.terms import Outcome


class Codec(Protocol):
    """A message that reads and writes itself."""

    @classmethod
    def decode(cls, data: bytes, /) -> tuple[Self, int] | None: ...

    def encode(self) -> bytes: ...


def check_codec(message: Codec, wire: bytes) -> None:
    """Prove *message* and *wire* are each other: whole, with a tail, and at every cut."""
    decode = type(message).decode
    assert message.encode() == wire
    assert decode(wire) == (message, len(wire))
    assert decode(wire + b"tail") == (message, len(wire))
    assert decode(wire + wire) == (message, len(wire)), "a second message behind it was used"
    check_cuts(type(message), wire)


def check_cuts(kind: type[Codec], wire: bytes) -> None:
    """Prove that no part of *wire*, a whole message or the way to a wrong byte, is taken."""
    for cut in range(len(wire)):
        assert kind.decode(wire[:cut]) is None, f"decoded from {cut} of {len(wire)} bytes"


def check_refused(kind: type[Codec], wire: bytes, outcome: Outcome) -> None:
    """Prove that the last byte of *wire* is the one that rules the message out, and no other.

    What follows it changes nothing.
    """
    check_cuts(kind, wire)
    for tail in (b"", b"\x00", b"tail"):
        try:
            found = kind.decode(wire + tail)
        except ProtocolError as error:
            assert error.outcome is outcome, f"{error.outcome} instead of {outcome}"
            assert str(error), "an error that says nothing"
        else:
            raise AssertionError(f"{wire + tail!r} gave {found}")


def check_any_bytes(kind: type[Codec], data: bytes) -> None:
    """Prove that *data* gives a message, None or ProtocolError; a message must bear scrutiny."""
    try:
        found = kind.decode(data)
    except ProtocolError:
        return
    if found is None:
        return
    message, used = found
    assert 0 < used <= len(data)
    check_cuts(kind, data[:used])
    check_codec(message, message.encode())
