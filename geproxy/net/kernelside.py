"""What the kernel knows of one connection, and is told about it, apart from its bytes."""

from __future__ import annotations

import os
from contextlib import suppress
from socket import SocketType
from typing import TYPE_CHECKING

from geproxy.net.messages import MessageReader
from geproxy.net.sockopt import (
    cap_buffers,
    has_left,
    is_lost,
    keep_alive,
    memory_bytes,
    send_room_bytes,
    uncap_buffers,
)

if TYPE_CHECKING:
    from gevent._types import _IoWatcher as Watcher

TCP_MEM = "/proc/sys/net/ipv4/tcp_mem"  # tcp(7): low, pressure and high, in pages


class KernelSide(MessageReader):
    """One connection, as the kernel has it; see streams.Stream and streams.Kernel."""

    __slots__ = ("_socket", "_writer")
    _socket: SocketType
    _writer: Watcher | None  # made at the first wait for writing, and kept

    @property
    def kernel(self) -> KernelSide:
        """See streams.Stream."""
        return self

    @property
    def room_bytes(self) -> int:
        """See streams.Stream."""
        return send_room_bytes(self._socket)

    @property
    def lost(self) -> bool:
        """See streams.Stream."""
        return is_lost(self._socket)

    def keep_alive(self) -> None:
        """Turn keepalive on."""
        keep_alive(self._socket)

    @property
    def left(self) -> bool:
        """True once the other side has sent FIN or is gone."""
        return has_left(self._socket)

    @property
    def blocked(self) -> bool:
        """See streams.Kernel."""
        writer = self._writer
        return writer is not None and bool(writer.active)  # type: ignore[attr-defined]

    @property
    def memory_bytes(self) -> int:
        """See streams.Kernel."""
        return memory_bytes(self._socket)

    def cap(self) -> None:
        """See streams.Kernel."""
        cap_buffers(self._socket)

    def uncap(self) -> None:
        """See streams.Kernel."""
        uncap_buffers(self._socket)


def tcp_memory_bytes() -> int:
    """How much the kernel lets all TCP sockets of this host have before it begins to save.

    A network namespace does not see the figure: there it is what Linux sets by itself
    (tcp_init_mem), three quarters of a sixteenth of the memory.
    """
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError, IndexError), open(TCP_MEM, encoding="ascii") as file:
        return int(file.read().split()[0]) * page_bytes
    return os.sysconf("SC_PHYS_PAGES") * page_bytes * 3 // 64
