"""The salts that sealed listeners have seen: the master's memory, lent to every worker."""

from __future__ import annotations

from collections.abc import Iterable

from geproxy.config.settings import Listen
from geproxy.state.shared import SharedMemory

# Per listener: 17 MB, touched as they fill. A connection spends one, its client's.
SALTS = 1 << 20
DATAGRAM_SALTS = 1 << 18  # per listener with UDP: 4 MB; a datagram of a client spends one


class Salts:
    """The memories of each sealed listener, by its name; a reload finds them again."""

    def __init__(self) -> None:
        self.of_streams: dict[str, SharedMemory] = {}
        self.of_datagrams: dict[str, SharedMemory] = {}

    def open(self, listeners: Iterable[Listen]) -> None:
        """Make those that are missing. Raises OSError when the system has no room for one."""
        for listen in listeners:
            if listen.secret is None:
                continue
            name = listen.name
            if name not in self.of_streams:
                self.of_streams[name] = SharedMemory(f"geproxy-salts-{name}", SALTS)
            if name not in self.of_datagrams:
                memory = SharedMemory(f"geproxy-datagram-salts-{name}", DATAGRAM_SALTS)
                self.of_datagrams[name] = memory

    def close_others(self, listeners: Iterable[Listen]) -> None:
        """Give back what *listeners* no longer name; workers that finish have their own copies."""
        sealed = {listen.name for listen in listeners if listen.secret is not None}
        for memories in (self.of_streams, self.of_datagrams):
            for name in memories.keys() - sealed:
                memories.pop(name).close()
