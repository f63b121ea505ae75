"""The salts that sealed listeners have seen: the master's memory, lent to every worker."""

from __future__ import annotations

from collections.abc import Iterable

from geproxy.config.settings import Listen
from geproxy.state.shared import SharedMemory

# Per listener: 17 MiB, touched as they fill. A connection spends two, its client's and our own.
SALTS = 1 << 20


class Salts:
    """One memory for each sealed listener, by its name; a reload finds it again."""

    def __init__(self) -> None:
        self.by_listener: dict[str, SharedMemory] = {}

    def open(self, listeners: Iterable[Listen]) -> None:
        """Make those that are missing. Raises OSError when the system has no room for one."""
        for listen in listeners:
            if listen.secret is not None and listen.name not in self.by_listener:
                memory = SharedMemory(f"geproxy-salts-{listen.name}", SALTS)
                self.by_listener[listen.name] = memory

    def close_others(self, listeners: Iterable[Listen]) -> None:
        """Give back what *listeners* no longer name; workers that finish have their own copies."""
        sealed = {listen.name for listen in listeners if listen.secret is not None}
        for name in self.by_listener.keys() - sealed:
            self.by_listener.pop(name).close()
