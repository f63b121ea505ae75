"""Signals as a queue: the handlers do nothing, the kernel's bytes say which came, in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from types import FrameType


class Wakeup:
    """Catches *signals*; its descriptor is readable while some wait to be taken."""

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, _queued)

    def fileno(self) -> int:
        """The descriptor, to wait on."""
        return self._read

    def take(self) -> list[signal.Signals]:
        """Take every signal that came since the last call."""
        try:
            return [signal.Signals(number) for number in os.read(self._read, 4096)]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Give both descriptors back: what a child does with its copy."""
        os.close(self._read)
        os.close(self._write)


def _queued(number: int, frame: FrameType | None) -> None:
    """Nothing to do: the wake-up descriptor has the number. No logging in a handler."""
