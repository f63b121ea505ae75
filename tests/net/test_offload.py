"""Calls on threads of their own, and their errors where they belong."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import gevent
import pytest

from geproxy.errors import AuthenticationError, DeadlineError
from geproxy.net.deadline import Deadline
from geproxy.net.offload import Answer, Offload
from tests.support.conformance import HARD_SECONDS, beside, settle, until

THREADS = 2


@pytest.fixture
def offload() -> Iterator[Offload[object]]:
    made: Offload[object] = Offload("verifications", THREADS)
    with Deadline(HARD_SECONDS, "a test"):
        yield made
    made._pool.kill()  # a worker's own threads end with its process


class Blocking:
    """A call that counts itself and blocks its thread until it is released."""

    def __init__(self) -> None:
        self.calls = 0
        self.released = threading.Event()

    def __call__(self) -> int:
        self.calls += 1
        assert self.released.wait(HARD_SECONDS)
        return self.calls


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    call = Blocking()
    yield call
    call.released.set()


def test_a_result_comes_back(offload: Offload[object]) -> None:
    assert offload.call(lambda: 42) == 42
    assert offload.call(lambda: None) is None


def test_a_call_runs_on_a_thread_that_is_not_the_callers(offload: Offload[object]) -> None:
    assert offload.call(threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("error", [AuthenticationError("no"), ZeroDivisionError(), OSError(5, "x")])
def test_an_error_is_raised_in_the_caller_and_printed_nowhere(
    offload: Offload[object], error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        offload.call(fail)
    assert caught.value is error
    settle()
    assert capfd.readouterr() == ("", "")
    assert offload.call(lambda: "works again") == "works again"


def test_the_loop_turns_while_a_call_blocks(offload: Offload[object], blocking: Blocking) -> None:
    with beside(lambda: offload.call(blocking)):
        until(lambda: blocking.calls)
        gevent.sleep(0.001)
        blocking.released.set()


def test_other_calls_go_on_beside_a_blocked_one(
    offload: Offload[object], blocking: Blocking
) -> None:
    with beside(lambda: offload.call(blocking)):
        until(lambda: blocking.calls)
        assert [offload.call(lambda: "done") for _ in range(10)] == ["done"] * 10
        blocking.released.set()


def test_what_the_threads_cannot_take_waits_its_turn(
    offload: Offload[object], blocking: Blocking
) -> None:
    with beside(*[lambda: offload.call(blocking)] * (THREADS + 3)):
        until(lambda: blocking.calls == THREADS)
        settle()
        assert blocking.calls == THREADS
        blocking.released.set()
    assert blocking.calls == THREADS + 3


def test_a_deadline_ends_the_wait_and_not_the_call(
    offload: Offload[object], blocking: Blocking
) -> None:
    with pytest.raises(DeadlineError), Deadline(0.02, "a verification"):
        offload.call(blocking)
    until(lambda: blocking.calls)
    blocking.released.set()
    assert offload.call(lambda: "works again") == "works again"


def test_a_call_that_nobody_waits_for_says_how_it_ended(
    offload: Offload[object], blocking: Blocking
) -> None:
    answers: list[Answer[object]] = []
    offload.start(blocking, answers.append)
    until(lambda: blocking.calls)
    assert answers == []
    blocking.released.set()
    until(lambda: answers)
    assert answers[0].give() == 1

    offload.start(lambda: 1 // 0, answers.append)
    until(lambda: len(answers) == 2)
    with pytest.raises(ZeroDivisionError):
        answers[1].give()


NO_THREADS = """
import resource, threading
from geproxy.errors import GeproxyError
from geproxy.net.deadline import Deadline
from geproxy.net.offload import Offload

# No room for a thread's stack: what a limit on processes does to a service that is not root.
threading.stack_size(256 << 20)
with open("/proc/self/statm") as statm:
    pages = int(statm.read().split()[0])
room = pages * resource.getpagesize() + (64 << 20)
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (room, limits[1]))

offload = Offload("look-ups", 2)
for _ in range(4):
    try:
        with Deadline(5, "nobody answered"):
            offload.call(lambda: 5)
    except GeproxyError as error:
        print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_AS, limits)
with Deadline(5, "nobody answered"):
    print(offload.call(lambda: 5))
"""


@pytest.mark.slow
def test_without_a_thread_to_be_had_the_caller_hears_so_and_the_next_may_have_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_THREADS], capture_output=True, text=True, timeout=HARD_SECONDS
    )
    assert done.stdout.splitlines() == ["LimitError no thread for look-ups"] * 4 + ["5"], (
        done.stderr
    )
    assert done.stderr == ""


def test_a_failure_needs_no_module_that_is_not_there_yet() -> None:
    """A worker that has dropped its privileges may be unable to read any file of ours."""
    program = """
import sys
from geproxy.net.offload import Offload
offload = Offload("calls", 1)
offload.call(lambda: None)
before = set(sys.modules)
def fail():
    raise OSError("no")
try:
    offload.call(fail)
except OSError:
    print(sorted(set(sys.modules) - before))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")
