"""A line between two workers: whole messages, with descriptors that change hands."""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from typing import Any

from geproxy.net.watchers import READ, WRITE, wait_ready

# Chosen here
MAX_MESSAGE_BYTES = 64 * 1024  # a UDP client with 4096 remembered targets is cut to fewer
MAX_DESCRIPTORS = 64  # ways out of one UDP client: the kernel takes 253

Message = dict[str, Any]  # from our own program, of the same start


class Line:
    """One end of a SOCK_SEQPACKET pair that the master has made."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)

    def send(self, message: Message, descriptors: list[int]) -> None:
        """Hand over copies of *descriptors*; ours stay open. Raises OSError."""
        data = json.dumps(message).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        while True:
            try:
                self._socket.sendmsg([data], rights if descriptors else [])
                return
            except BlockingIOError:
                wait_ready(self._socket.fileno(), WRITE)

    def receive(self) -> tuple[Message, list[int]] | None:
        """Take the next message; None at the end. Raises OSError."""
        while True:
            try:
                data, descriptors, flags, _ = socket.recv_fds(
                    self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS
                )
                break
            except BlockingIOError:
                wait_ready(self._socket.fileno(), READ)
            except ConnectionResetError:
                continue  # the other side has died: told once, ahead of what it has said
        if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            for descriptor in descriptors:
                os.close(descriptor)
            raise OSError(errno.EMFILE, "no room for a message and its descriptors")
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # recv_fds passes no flags on (Python 3.11)
        return (json.loads(data), descriptors) if data else None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
