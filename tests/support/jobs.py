"""What greenlets of a test do: wait, fail or return, at once or a little later."""

import gevent
from gevent.event import Event

from geproxy.errors import ResetError

LATER_SECONDS = 0.005


def wait_for_ever() -> None:
    """Until it is ended."""
    Event().wait()


def fail_at_once() -> None:
    """Raise ResetError."""
    raise ResetError("broken")


def fail_later() -> None:
    """Raise ResetError after a wait."""
    gevent.sleep(LATER_SECONDS)
    raise ResetError("broken")


def return_at_once() -> None:
    """Do nothing."""


def return_later() -> None:
    """Do nothing, after a wait."""
    gevent.sleep(LATER_SECONDS)


SHORT = [return_at_once, return_later]
FAILING = [fail_at_once, fail_later]
