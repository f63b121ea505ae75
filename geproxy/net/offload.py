"""Blocking calls on a few threads of their own, so that the loop never waits for them.

Not on gevent's default pool: ten stuck look-ups there would stop everything else that uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gevent.hub import spawn_raw
from gevent.threadpool import ThreadPool

from geproxy.errors import LimitError

T = TypeVar("T")


class Offload(Generic[T]):
    """Runs calls on *threads* threads; the caller sees to how many wait for one.

    A Deadline around call() ends the wait, not the call: its thread stays busy until it returns.
    """

    def __init__(self, what: str, threads: int) -> None:
        self._what = what
        self._pool = ThreadPool(threads)

    def call(self, function: Callable[[], T]) -> T:
        """Return what *function* returns, or raise what it raises.

        Raises LimitError when the system has no thread for us.
        """
        return self._apply(function).give()

    def start(self, function: Callable[[], T], ended: Callable[[Answer[T]], None]) -> None:
        """Call *function* on a thread, and then *ended*, on the loop, whoever has left by then."""
        spawn_raw(lambda: ended(self._apply(function)))

    def _apply(self, function: Callable[[], T]) -> Answer[T]:
        try:
            return self._pool.apply(_call, (function,))
        except RuntimeError:  # the system has no thread for us
            answer: Answer[T] = Answer()
            answer.error = LimitError(f"no thread for {self._what}")
            return answer


class Answer(Generic[T]):
    """How a call ended. Errors are handed over: gevent prints what a pool's thread raises."""

    __slots__ = ("error", "value")
    value: T
    error: Exception | None

    def give(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


def _call(function: Callable[[], T]) -> Answer[T]:
    answer: Answer[T] = Answer()
    try:
        answer.value, answer.error = function(), None
    except Exception as error:
        answer.error = error
    return answer
