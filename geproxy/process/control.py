"""The line between the master and one worker: short texts, whole or not at all.

A SOCK_SEQPACKET pair keeps message boundaries, carries descriptors, and ends at once for one side
when the other dies, however it dies.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

MAX_MESSAGE_BYTES = 1024
MAX_DESCRIPTORS = 2  # the log and the access log

# sendmsg(2), unix(7): the line is full, the kernel short of memory, too many descriptors under way
_NO_ROOM = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class Verb(enum.Enum):
    """What can be said."""

    # worker to master
    READY = "ready"
    FAILED = "failed"  # with the reason
    DRAINING = "draining"  # asked to by somebody else than the master
    DONE = "done"  # with the number of a command
    # master to worker: commands, which process.outbox numbers and repeats
    SERVE = "serve"
    DRAIN = "drain"  # with seconds; inf is without limit
    QUIT = "quit"
    INHERIT = "inherit"  # with a line to a worker that is about to leave its UDP clients to us
    BEQUEATH = "bequeath"  # with the slots, and a line to the one who gets them when we leave


class Message(NamedTuple):
    """What was said."""

    verb: Verb
    argument: str
    descriptors: list[int]  # the receiver's own
    number: int = 0  # of a command; 0: nobody waits for an answer
    cut: bool = False  # descriptors came with it for which this process had no room


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
        """Say something that nobody answers, and hand over copies of *descriptors*.

        To a side that has died, or never listens, it is lost: its end, or its silence, tells that.
        """
        self.try_send(verb, argument, descriptors)

    def try_send(
        self,
        verb: Verb,
        argument: str = "",
        descriptors: Sequence[int] = (),
        number: int = 0,
    ) -> bool:
        """Say something; False where the line has no room for it now.

        True for a side that has died: there is nothing to try again.
        """
        text = f"{verb.value} {number} {argument}"
        message = text.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
        try:
            socket.send_fds(self._socket, [message], descriptors, socket.MSG_NOSIGNAL)
        except OSError as error:
            return error.errno not in _NO_ROOM
        return True

    def receive(self) -> Message | None:
        """Take the next message.

        None: the other side is gone, or no longer makes sense. BlockingIOError: nothing there.
        """
        try:
            message, descriptors, flags, _ = socket.recv_fds(
                self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS
            )
        except ConnectionResetError:
            return None
        cut = bool(flags & socket.MSG_CTRUNC)  # no descriptor was free here
        if cut:
            for descriptor in descriptors:
                os.close(descriptor)
            descriptors = []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # recv_fds passes no flags on (Python 3.11)
        if not message:
            return None
        verb, _, rest = message.decode("utf-8", "replace").partition(" ")
        number, _, argument = rest.partition(" ")
        try:
            return Message(Verb(verb), argument, descriptors, int(number), cut)
        except ValueError:
            return None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
