"""What the master has told one worker, until the worker says that it is done.

A worker that is busy or stopped leaves its line full, and one message lost would be a worker that
serves on by rules which no longer hold. So each command has a number, is kept until the worker
acknowledges the number, and is repeated meanwhile: the worker does each number once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from geproxy.process.control import Control, Verb

# Chosen here
REPEAT_SECONDS = 1.0  # a worker that runs answers within milliseconds
# A repeat that follows at once would only lengthen the queue of a worker that is stopped.
DEAF_SECONDS = 5.0  # then TERM: half the usual heartbeat_seconds, and far more than any one turn
DEAF_KILL_SECONDS = 10.0  # from TERM to KILL: a loop that is only slow says before that it drains
LOOK_SECONDS = 1.0  # the most that one look counts: a master that was stopped blames nobody
# The last word alone matters of these; so what a deaf worker has us keep stays small.
REPLACING = frozenset({Verb.SERVE, Verb.DRAIN, Verb.QUIT})


@dataclass(slots=True, eq=False)
class Command:
    """One command; *descriptors* are our own copies."""

    number: int
    verb: Verb
    argument: str
    descriptors: list[int]
    sent: float | None = None  # monotonic; None: never yet

    def close(self) -> None:
        """Give the descriptors back."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Outbox:
    """The commands that one worker has not acknowledged, in their order."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._commands: list[Command] = []
        self._last = 0
        self._looked: float | None = None
        self.full = False  # the line has no room: poll for it
        self.unheard_seconds = 0.0  # how long the oldest command has waited for its answer
        self.enforced = False  # TERM was sent: the worker's own way out is all that we wait for

    def __len__(self) -> int:
        return len(self._commands)

    @property
    def first(self) -> str:
        """The command that has waited for longest; "" where there is none."""
        return self._commands[0].verb.value if self._commands else ""

    def order(self, verb: Verb, argument: str = "", descriptors: Sequence[int] = ()) -> None:
        """Send a command as soon as the line takes it; *descriptors* stay the caller's.

        Raises OSError where there is no room for copies of them; nothing is sent then.
        """
        copies: list[int] = []
        try:
            for descriptor in descriptors:
                copies.append(os.dup(descriptor))
        except OSError:
            for copy in copies:
                os.close(copy)
            raise
        if verb in REPLACING:
            self._drop([one for one in self._commands if one.verb is verb])
        self._last += 1
        self._commands.append(Command(self._last, verb, argument, copies))
        # Behind one that found no room none may pass, or a worker would drain before it knows
        # its heir.
        if all(one.sent is not None for one in self._commands[:-1]):
            self._send(self._commands[-1], time.monotonic())

    def acknowledge(self, number: int) -> None:
        """Take the worker's word that it has done *number*."""
        self._drop([one for one in self._commands if one.number == number])
        self.unheard_seconds = 0.0

    def look(self, now: float, *, listening: bool) -> None:
        """Send what is due at *now* (monotonic); time counts for a worker that is *listening*."""
        passed = 0.0 if self._looked is None else min(now - self._looked, LOOK_SECONDS)
        self._looked = now
        self.unheard_seconds += passed if self._commands and listening else 0.0
        self.full = False
        for command in self._commands:
            due = command.sent is None or now - command.sent >= REPEAT_SECONDS
            if due and not self._send(command, now):
                return

    def _send(self, command: Command, now: float) -> bool:
        """Try once; False where the line has no room."""
        done = self._control.try_send(
            command.verb, command.argument, command.descriptors, command.number
        )
        self.full = not done
        if done:
            command.sent = now
        return done

    def _drop(self, commands: Sequence[Command]) -> None:
        for command in commands:
            command.close()
            self._commands.remove(command)

    def close(self) -> None:
        """Forget everything: the worker is gone, or leaves whatever we say."""
        self._drop(list(self._commands))
        self.full = False
        self.unheard_seconds = 0.0
