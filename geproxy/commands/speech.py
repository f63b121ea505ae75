"""What commands say, and the status that they leave with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from geproxy.config.settings import Settings
from geproxy.errors import ConfigError

DONE, COULD_NOT_RUN, WRONG = 0, 1, 2
STATUS_NOT_RUNNING = 3  # LSB, for the status command alone


def say(text: str) -> None:
    """Say something about the work, on one line of standard error."""
    try:
        print(f"geproxy: {one_line(text)}", file=sys.stderr)
    except OSError:
        silence(2)


def fail(text: str, status: int) -> int:
    """Say what went wrong; returns *status*."""
    say(text)
    return status


def one_line(text: str) -> str:
    """Escape what does not print, such as the line's end in the name of a file."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def silence(descriptor: int) -> None:
    """Have what could not be written go nowhere, before the interpreter tries again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def read_or_explain(read: Callable[[], Settings], label: str) -> Settings | None:
    """Read the configuration; where it is wrong, say all that is, and return None."""
    try:
        return read()
    except ConfigError as error:
        for problem in error.problems:
            say(f"{label}: {problem}")
        return None
