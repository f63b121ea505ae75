"""A LookUp that is a function of the test: one question for each name, no thread, no system."""

from __future__ import annotations

import socket
from collections.abc import Callable

from geproxy.net.lookup import Found, Question
from geproxy.net.resolver import Resolver
from tests.support.conformance import HARD_SECONDS

MOST = 72  # questions of one client under way: it leaves a third as many to others


class Answers:
    """A LookUp that gives what a function gives for a name; it may wait in its greenlet."""

    families: tuple[int, ...] = (socket.AF_INET,)
    places = 96

    def __init__(self, answer: Callable[[str], Found]) -> None:
        self._answer = answer

    def ask(self, question: Question) -> Found:
        """Return the addresses of a name, of whatever family they are."""
        return self._answer(question.name)


def knowing(answer: Callable[[str], Found], cache_seconds: float = 60.0) -> Resolver:
    """Make a resolver that knows the names that *answer* knows."""
    return Resolver(Answers(answer), HARD_SECONDS, cache_seconds)
