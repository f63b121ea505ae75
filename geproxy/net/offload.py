"""Blocking calls on a few threads of their own, so that the loop never waits for them.

Not on gevent's default pool: ten stuck look-ups there would stop everything else that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from gevent.event import AsyncResult
from gevent.hub import spawn_raw
from gevent.threadpool import ThreadPool

from geproxy.errors import LimitError

T = TypeVar("T")


class Offload(Generic[T]):
    """Runs calls on *threads* threads; equal keys that overlap share one call.

    A Deadline around run() ends the wait, not the call: its thread stays busy until it returns.
    """

    def __init__(self, what: str, threads: int, waiting_limit: int) -> None:
        self._what = what
        self._pool = ThreadPool(threads)
        self._limit = threads + waiting_limit
        self._running: dict[Hashable, AsyncResult[_Answer[T]]] = {}

    def run(self, key: Hashable, function: Callable[[], T]) -> T:
        """Return what *function* returns, or raise what it raises.

        Raises LimitError when too many calls wait already, or the system has no thread for us.
        """
        result = self._running.get(key)
        if result is None:
            if len(self._running) >= self._limit:
                raise LimitError(f"too many {self._what} at once")
            result = self._running[key] = AsyncResult()
            spawn_raw(self._execute, key, function, result)
        answer = result.get()
        assert answer is not None, "None comes with a timeout alone"
        return answer.give()

    def call(self, function: Callable[[], T]) -> T:
        """Do as run(), with no other call shared and none counted: the caller sees to the limit."""
        return self._apply(function).give()

    def _execute(
        self, key: Hashable, function: Callable[[], T], result: AsyncResult[_Answer[T]]
    ) -> None:
        answer = self._apply(function)
        del self._running[key]
        # Not set_exception(): it imports what copies tracebacks, and no file may be there any more.
        result.set(answer)

    def _apply(self, function: Callable[[], T]) -> _Answer[T]:
        try:
            return self._pool.apply(_call, (function,))
        except RuntimeError:  # the system has no thread for us
            answer: _Answer[T] = _Answer()
            answer.error = LimitError(f"no thread for {self._what}")
            return answer


class _Answer(Generic[T]):
    """How a call ended. Errors are handed over: gevent prints what a pool's thread raises."""

    __slots__ = ("error", "value")
    value: T
    error: Exception | None

    def give(self) -> T:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


def _call(function: Callable[[], T]) -> _Answer[T]:
    answer: _Answer[T] = _Answer()
    try:
        answer.value, answer.error = function(), None
    except Exception as error:
        answer.error = error
    return answer
