"""The line between the master and one worker: short texts, whole or not at all.

A SOCK_SEQPACKET pair keeps message boundaries, carries descriptors, and ends at once for one side
when the other dies, however it dies.
"""

from __future__ import annotations

import enum
import socket

MAX_MESSAGE_BYTES = 1024


class Verb(enum.Enum):
    """What can be said."""

    # worker to master
    READY = "ready"
    FAILED = "failed"  # with the reason
    DRAINING = "draining"  # asked to by somebody else than the master
    # master to worker
    SERVE = "serve"
    DRAIN = "drain"  # with seconds; inf is without limit
    QUIT = "quit"


class Control:
    """One end of the line. Never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    @classmethod
    def pair(cls) -> tuple[Control, Control]:
        """Make both ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """The descriptor, to wait on; -1 once closed."""
        return self._socket.fileno()

    def send(self, verb: Verb, argument: str = "") -> None:
        """Say something; to a side that has died it is lost, which its death tells already."""
        message = f"{verb.value} {argument}".encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
        try:
            self._socket.send(message, socket.MSG_NOSIGNAL)
        except OSError:
            pass

    def receive(self) -> tuple[Verb, str] | None:
        """Take the next message.

        None: the other side is gone, or no longer makes sense. BlockingIOError: nothing there.
        """
        try:
            message = self._socket.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            return None
        if not message:
            return None
        verb, _, argument = message.decode("utf-8", "replace").partition(" ")
        try:
            return Verb(verb), argument
        except ValueError:
            return None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
