"""What all workers know together, in memory that the master lends them: the salts that sealed
listeners have seen, and the connections on ways out.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable

from geproxy.config.settings import Listen
from geproxy.net.ownways import TABLE_BYTES
from geproxy.state.shared import SharedMemory

# Per listener: 17 MB, touched as they fill. A connection spends one, its client's.
SALTS = 1 << 20
DATAGRAM_SALTS = 1 << 18  # per listener with UDP: 4 MB; a datagram of a client spends one


class Shared:
    """The memories of each sealed listener, by its name, and that of all ways out.

    A reload finds them again.
    """

    def __init__(self) -> None:
        self.salts: dict[str, SharedMemory] = {}
        self.datagram_salts: dict[str, SharedMemory] = {}
        self.ways = mmap.mmap(-1, TABLE_BYTES)  # forks share it; nobody else can have it

    def open(self, listeners: Iterable[Listen]) -> None:
        """Make those that are missing. Raises OSError when the system has no room for one."""
        for listen in listeners:
            if listen.secret is None:
                continue
            name = listen.name
            if name not in self.salts:
                self.salts[name] = SharedMemory(f"geproxy-salts-{name}", SALTS)
            if name not in self.datagram_salts:
                memory = SharedMemory(f"geproxy-datagram-salts-{name}", DATAGRAM_SALTS)
                self.datagram_salts[name] = memory

    def close_others(self, listeners: Iterable[Listen]) -> None:
        """Give back what *listeners* no longer name; workers that finish have their own copies."""
        sealed = {listen.name for listen in listeners if listen.secret is not None}
        for memories in (self.salts, self.datagram_salts):
            for name in memories.keys() - sealed:
                memories.pop(name).close()
