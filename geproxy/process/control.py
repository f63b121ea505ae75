"""The line between the master and one worker: short texts, whole or not at all.

A SOCK_SEQPACKET pair keeps message boundaries, carries descriptors, and ends at once for one side
when the other dies, however it dies.
"""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

MAX_MESSAGE_BYTES = 1024
MAX_DESCRIPTORS = 2  # the log and the access log


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
    REOPEN = "reopen"  # with the descriptors of the log's files
    INHERIT = "inherit"  # with a line to a worker that is about to leave its UDP clients to us
    BEQUEATH = "bequeath"  # with the slots, and a line to the one who gets them when we leave


class Message(NamedTuple):
    """What was said."""

    verb: Verb
    argument: str
    descriptors: list[int]  # the receiver's own


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

    def send(self, verb: Verb, argument: str = "", descriptors: Sequence[int] = ()) -> None:
        """Say something, and hand over copies of *descriptors*.

        To a side that has died it is lost, which its death tells already.
        """
        message = f"{verb.value} {argument}".encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
        try:
            socket.send_fds(self._socket, [message], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            pass

    def receive(self) -> Message | None:
        """Take the next message.

        One whose descriptors this process has no room for is passed over. None: the other side is
        gone, or no longer makes sense. BlockingIOError: nothing there.
        """
        try:
            message, descriptors, flags, _ = socket.recv_fds(
                self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS
            )
        except ConnectionResetError:
            return None
        if flags & socket.MSG_CTRUNC:  # no descriptor was free here: what came with them is lost
            for descriptor in descriptors:
                os.close(descriptor)
            return self.receive()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # recv_fds passes no flags on (Python 3.11)
        if not message:
            return None
        verb, _, argument = message.decode("utf-8", "replace").partition(" ")
        try:
            return Message(Verb(verb), argument, descriptors)
        except ValueError:
            return None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
