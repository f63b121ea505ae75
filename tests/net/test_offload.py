"""Calls on threads of their own: shared, bounded, and their errors where they belong."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import gevent
import pytest

from geproxy.errors import AuthenticationError, DeadlineError, LimitError
from geproxy.net.deadline import Deadline
from geproxy.net.offload import Offload
from tests.support.conformance import HARD_SECONDS, beside, settle, until

THREADS = 2
WAITING = 3


@pytest.fixture
def offload() -> Iterator[Offload[object]]:
    made: Offload[object] = Offload("verifications", THREADS, WAITING)
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
    assert offload.run("key", lambda: 42) == 42
    assert offload.run("key", lambda: None) is None


def test_a_call_runs_on_a_thread_that_is_not_the_callers(offload: Offload[object]) -> None:
    assert offload.run("key", threading.get_ident) != threading.get_ident()


@pytest.mark.parametrize("error", [AuthenticationError("no"), ZeroDivisionError(), OSError(5, "x")])
def test_an_error_is_raised_in_the_caller_and_printed_nowhere(
    offload: Offload[object], error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        offload.run("key", fail)
    assert caught.value is error
    settle()
    assert capfd.readouterr() == ("", "")
    assert offload.run("key", lambda: "works again") == "works again"


def test_the_loop_turns_while_a_call_blocks(offload: Offload[object], blocking: Blocking) -> None:
    with beside(lambda: offload.run("key", blocking)):
        until(lambda: blocking.calls)
        gevent.sleep(0.001)
        blocking.released.set()


def test_equal_keys_that_overlap_share_one_call(
    offload: Offload[object], blocking: Blocking
) -> None:
    results = []
    with beside(*[lambda: results.append(offload.run("key", blocking))] * 50):
        until(lambda: blocking.calls)
        settle()
        blocking.released.set()
    assert results == [1] * 50
    assert offload.run("key", blocking) == 2  # a later one is a call of its own


def test_equal_keys_share_the_error_too(offload: Offload[object]) -> None:
    begun, go_on = threading.Event(), threading.Event()
    errors = []

    def fail() -> None:
        begun.set()
        go_on.wait(HARD_SECONDS)
        raise AuthenticationError("no")

    def ask() -> None:
        with pytest.raises(AuthenticationError) as caught:
            offload.run("key", fail)
        errors.append(str(caught.value))

    with beside(*[ask] * 5):
        until(begun.is_set)
        settle()
        go_on.set()
    assert errors == ["no"] * 5


def test_other_keys_go_on_beside_a_blocked_one(
    offload: Offload[object], blocking: Blocking
) -> None:
    with beside(lambda: offload.run("stuck", blocking)):
        until(lambda: blocking.calls)
        assert [offload.run(number, lambda: "done") for number in range(10)] == ["done"] * 10
        blocking.released.set()


def test_what_the_threads_cannot_take_waits_its_turn_up_to_a_limit(
    offload: Offload[object], blocking: Blocking
) -> None:
    with beside(*[lambda key=key: offload.run(key, blocking) for key in range(THREADS + WAITING)]):
        until(lambda: blocking.calls == THREADS)
        settle()
        assert blocking.calls == THREADS
        with pytest.raises(LimitError, match="too many verifications at once"):
            offload.run("one more", blocking)
        blocking.released.set()
    assert offload.run("one more", lambda: "room again") == "room again"


def test_a_deadline_ends_the_wait_and_not_the_call(
    offload: Offload[object], blocking: Blocking
) -> None:
    with pytest.raises(DeadlineError), Deadline(0.02, "a verification"):
        offload.run("key", blocking)
    until(lambda: blocking.calls)
    results = []
    with beside(lambda: results.append(offload.run("key", blocking))):
        settle()
        blocking.released.set()
    assert results == [1], "the call that goes on is shared"


def test_a_call_that_shares_nothing_returns_or_raises_what_its_function_does(
    offload: Offload[object],
) -> None:
    assert offload.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        offload.call(lambda: 1 // 0)


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

offload = Offload("look-ups", 2, 2)
for run in (offload.call, lambda function: offload.run("key", function)) * 2:
    try:
        with Deadline(5, "nobody answered"):
            run(lambda: 5)
    except GeproxyError as error:
        print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_AS, limits)
with Deadline(5, "nobody answered"):
    print(offload.run("key", lambda: 5))
"""


@pytest.mark.slow
def test_without_a_thread_to_be_had_the_caller_hears_so_and_the_key_stays_usable() -> None:
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
offload = Offload("calls", 1, 1)
offload.call(lambda: None)
before = set(sys.modules)
def fail():
    raise OSError("no")
try:
    offload.run("key", fail)
except OSError:
    print(sorted(set(sys.modules) - before))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")
