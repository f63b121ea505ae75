"""How a worker hears the master: each command is done once, and said to be done."""

from __future__ import annotations

import os

from geproxy.net.watchers import READ, wait_ready
from geproxy.process.control import Control, Message, Verb


class Obedience:
    """The worker's end of its line."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._done: set[int] = set()  # a handful in a worker's life

    def hear(self) -> Message | None:
        """Wait for a command that is new; None once the master is gone.

        The caller does what it says, then calls done(): a command that meets an error comes again.
        The caller owns the descriptors.
        """
        while True:
            try:
                message = self._control.receive()
            except BlockingIOError:
                wait_ready(self._control.fileno(), READ)
                continue
            if message is None:
                return None
            if message.number in self._done:  # our answer and its repetition have crossed
                for descriptor in message.descriptors:
                    os.close(descriptor)
                self.done(message)
                continue
            if message.cut and message.verb is Verb.INHERIT:
                # Without the line nobody would read the sockets that come by it. It comes again,
                # when a session may have given a descriptor back.
                continue
            return message

    def done(self, message: Message) -> None:
        """Tell the master that *message* need not be repeated."""
        self._done.add(message.number)
        self._control.send(Verb.DONE, str(message.number))
