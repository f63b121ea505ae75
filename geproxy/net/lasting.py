"""Greenlets that are meant to live as long as their process: one that dies is begun anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from geproxy.errors import ShutdownError
from geproxy.net.greenlets import greenlet, sleep, spawn

# Chosen here
FIRST_PAUSE_SECONDS = 0.1  # a client hardly feels it, and a lasting fault does not spin
LAST_PAUSE_SECONDS = 1.0  # who finds a datagram that we fall over must not silence others for long
SOUND_SECONDS = 30.0  # one that has lived so long pauses for the shortest time again

Died = Callable[[str, Exception], None]


class Lasting:
    """Keeps functions running that are never to return but by a ShutdownError.

    *died* hears what ran and what ended it; an error of its own is passed over, for where memory
    is short the next thing to fail is the telling.
    """

    def __init__(self, died: Died) -> None:
        self._died = died
        self.sound = True  # False once something could not even be begun anew

    def spawn(self, name: str, function: Callable[[], None]) -> greenlet:
        """Run *function* in a greenlet of its own until it returns, or is interrupted."""
        return spawn(partial(self.run, name, function))

    def run(self, name: str, function: Callable[[], None]) -> None:
        """Run *function* here, again and again, until it returns or a ShutdownError ends it."""
        try:
            self._run(name, function)
        except BaseException:
            self.sound = False
            raise

    def _run(self, name: str, function: Callable[[], None]) -> None:
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            try:
                if self.attempt(name, function):
                    return
                if time.monotonic() - began >= SOUND_SECONDS:
                    pause_seconds = FIRST_PAUSE_SECONDS
                sleep(pause_seconds)
            except ShutdownError:
                return
            pause_seconds = min(2 * pause_seconds, LAST_PAUSE_SECONDS)

    def attempt(self, name: str, function: Callable[[], None]) -> bool:
        """Run *function* once; False where an error ended it. Raises ShutdownError."""
        try:
            function()
        except ShutdownError:
            raise
        except Exception as error:
            try:
                self._died(name, error)
            except Exception:
                return False  # see above
            return False
        return True
