"""Memories of keys: one suite for all of them, then what only the shared one can get wrong."""

import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from geproxy.seams import Store
from geproxy.state.memory import ProcessMemory
from geproxy.state.shared import BUCKET_BYTES, RING, SharedMemory, make_memory

# What one listener remembers
KEYS = 1 << 20
WAIT_SECONDS = 20.0

MakeStore = Callable[[int], Store]
EVERY_STORE = pytest.mark.parametrize(
    "make",
    [
        pytest.param(ProcessMemory, id="one process's"),
        pytest.param(lambda keys: SharedMemory("test", keys), id="shared"),
    ],
)


def numbered(number: int, kind: bytes = b"key") -> bytes:
    return kind + number.to_bytes(13, "big")


@pytest.mark.parametrize("change", [0, 1 << 12, 1 << 24])
def test_nobody_who_has_the_memory_can_change_its_size(change: int) -> None:
    """A worker that could would kill the master, which maps it too, by SIGBUS."""
    descriptor, memory = make_memory("test", 1 << 20)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, change)
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        memory[-1:] = b"x"
        assert os.fstat(descriptor).st_size == 1 << 20
    finally:
        memory.close()
        os.close(descriptor)


# -- every memory --------------------------------------------------------------------------------


@EVERY_STORE
def test_only_the_first_to_say_a_key_is_told_yes(make: MakeStore) -> None:
    store = make(1000)
    assert store.remember_once(b"salt")
    assert not store.remember_once(b"salt")
    assert not store.remember_once(b"salt")


@EVERY_STORE
@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([b"", b"\0", b"\0\0"], id="zeros, of different length"),
        pytest.param([bytes(32), bytes(31) + b"\x01"], id="all but the last bit alike"),
        pytest.param([b"ab", b"a", b"b"], id="parts of each other"),
        pytest.param([b"a" * 16, b"a" * 32], id="the salts of two key sizes"),
    ],
)
def test_keys_are_told_apart(make: MakeStore, keys: list[bytes]) -> None:
    store = make(1000)
    assert [store.remember_once(key) for key in keys] == [True] * len(keys)
    assert [store.remember_once(key) for key in keys] == [False] * len(keys)


@EVERY_STORE
def test_two_memories_know_nothing_of_each_other(make: MakeStore) -> None:
    one, other = make(1000), make(1000)
    assert one.remember_once(b"salt")
    assert other.remember_once(b"salt")


@EVERY_STORE
def test_the_oldest_is_forgotten_and_no_other(make: MakeStore) -> None:
    store = make(RING)
    for number in range(RING + 1):
        assert store.remember_once(numbered(number))
    for number in range(RING, 0, -1):
        assert not store.remember_once(numbered(number))
    assert store.remember_once(numbered(0))
    assert store.remember_once(numbered(1))
    assert not store.remember_once(numbered(3))


@EVERY_STORE
def test_to_ask_again_does_not_make_a_key_younger(make: MakeStore) -> None:
    store = make(RING)
    for number in range(RING):
        store.remember_once(numbered(number))
        assert not store.remember_once(numbered(0))
    assert store.remember_once(b"another")
    assert store.remember_once(numbered(0))


@EVERY_STORE
def test_it_goes_on_forgetting_in_order_for_many_rounds(make: MakeStore) -> None:
    store = make(RING)
    for number in range(10 * RING):
        assert store.remember_once(numbered(number))
        assert not store.remember_once(numbered(max(0, number - RING + 1)))


@pytest.mark.slow
@EVERY_STORE
def test_no_fresh_key_of_a_hundred_thousand_is_refused(make: MakeStore) -> None:
    store = make(KEYS)
    assert all(store.remember_once(os.urandom(16)) for _ in range(100_000))


# -- the shared one's size -----------------------------------------------------------------------


def descriptor_of(name: str) -> int:
    """One of our descriptors of the memory called *name*."""
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}").startswith(f"/memfd:{name}"):
                return int(entry)
        except FileNotFoundError:
            pass  # that of the listing itself
    raise AssertionError(f"no memory called {name}")


def test_a_listeners_memory_takes_less_than_18_mib_and_shows_its_name() -> None:
    memory = SharedMemory("salts-of-a-test", KEYS)
    status = os.fstat(descriptor_of("salts-of-a-test"))
    assert status.st_size <= 18 * 1024 * 1024
    assert memory.remember_once(b"salt")
    assert os.fstat(descriptor_of("salts-of-a-test")).st_blocks * 512 <= 65_536, "filled already"


def test_a_memory_of_few_keys_remembers_a_ring_of_them() -> None:
    memory = SharedMemory("test", 1)
    assert memory.remember_once(b"salt")
    assert not memory.remember_once(b"salt")


def test_no_program_that_is_started_inherits_it() -> None:
    memory = SharedMemory("closed-on-exec", RING)
    assert not os.get_inheritable(descriptor_of("closed-on-exec"))
    assert memory.remember_once(b"salt")


def test_buckets_together_remember_about_as_much_as_one_ring_would() -> None:
    """A bucket that got more than its share forgets sooner; few get many more."""
    keys = 256 * RING
    memory = SharedMemory("test", keys)
    for number in range(keys):
        assert memory.remember_once(numbered(number))
    # The youngest first: to find one forgotten makes it the youngest of its bucket.
    remembered = [not memory.remember_once(numbered(number)) for number in reversed(range(keys))]
    assert sum(remembered) >= 0.9 * keys
    youngest = remembered[: int(0.8 * keys)]
    assert sum(youngest) >= 0.99 * len(youngest)
    assert all(remembered[: keys // 4])


def test_nobody_can_choose_keys_that_push_out_a_given_one() -> None:
    """Where a key falls depends on a secret of the memory, so it differs between two of them."""
    fates = set()
    for _ in range(4):
        memory = SharedMemory("test", 64 * RING)
        memory.remember_once(b"victim")
        for number in range(80 * RING):
            memory.remember_once(numbered(number))
        # The youngest first: each one that is found forgotten pushes out an older one.
        fates.add(tuple(memory.remember_once(numbered(n)) for n in reversed(range(2000))))
    assert len(fates) == 4


# -- many processes ------------------------------------------------------------------------------


class Child:
    """A forked process that runs *main* and hands back what it returns."""

    def __init__(self, main: Callable[[], bytes]) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.close(reading)
                os.write(writing, main())
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        self._reading = reading
        self._status: int | None = None

    def result(self) -> bytes:
        """Wait for what *main* returned."""
        data = b""
        while True:
            ready, _, _ = select.select([self._reading], [], [], WAIT_SECONDS)
            assert ready, "a child hangs"
            piece = os.read(self._reading, 65_536)
            if not piece:
                assert self.bury() == 0, "a child failed"
                return data
            data += piece

    def stop(self) -> None:
        """Stop it, and wait until it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def kill(self) -> None:
        """Kill it at once, and wait until it is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.bury()

    def bury(self) -> int:
        """Wait for its end."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        return self._status

    def close(self) -> None:
        """End it if it lives."""
        if self._status is None:
            self.kill()
        os.close(self._reading)


@contextmanager
def children(*mains: Callable[[], bytes]) -> Iterator[list[Child]]:
    """Run *mains*, each in a process of its own, ended with the body."""
    with ExitStack() as stack:
        born = []
        for main in mains:
            child = Child(main)
            stack.callback(child.close)
            born.append(child)
        yield born


class Gate:
    """Holds processes until all may start."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def wait(self) -> None:
        """In a child: return when the gate is opened."""
        os.close(self._writing)
        os.read(self._reading, 1)

    def open(self) -> None:
        """In the parent: let all go."""
        os.close(self._reading)
        os.close(self._writing)


@pytest.mark.slow
def test_of_eight_processes_that_claim_a_key_at_once_exactly_one_wins() -> None:
    memory, gate, keys = SharedMemory("test", KEYS), Gate(), 200

    def claim() -> bytes:
        gate.wait()
        return bytes(memory.remember_once(numbered(number)) for number in range(keys))

    with children(*[claim] * 8) as claimants:
        gate.open()
        results = [child.result() for child in claimants]
    assert [sum(column) for column in zip(*results, strict=True)] == [1] * keys
    assert not any(memory.remember_once(numbered(number)) for number in range(keys))


def test_what_a_child_remembered_outlives_it() -> None:
    memory = SharedMemory("test", KEYS)

    def claim() -> bytes:
        return bytes((memory.remember_once(b"salt"),))

    for expected in (b"\x01", b"\x00"):
        with children(claim) as (child,):
            assert child.result() == expected
    assert not memory.remember_once(b"salt")


def claim_for_ever(memory: SharedMemory, telling: int) -> bytes:
    """Say that we are about to begin, then claim until we are killed."""
    number = 0
    while True:
        memory.remember_once(numbered(number, b"for ever"))
        number += 1
        if number == 100:
            os.write(telling, b"x")


@pytest.mark.slow
def test_a_child_killed_while_it_claims_leaves_no_lock() -> None:
    """One bucket, so that nearly all of its time goes by inside it."""
    memory = SharedMemory("test", RING)
    for round_number in range(20):
        reading, writing = os.pipe()
        with children(lambda writing=writing: claim_for_ever(memory, writing)) as (child,):
            assert os.read(reading, 1) == b"x"
            child.kill()
        os.close(reading)
        os.close(writing)
        assert memory.remember_once(numbered(round_number, b"after"))
        assert not memory.remember_once(numbered(round_number, b"after"))


@pytest.mark.slow
def test_the_others_go_on_when_one_is_killed() -> None:
    memory, each = SharedMemory("test", KEYS), 3000
    reading, writing = os.pipe()

    def work(kind: bytes) -> bytes:
        return bytes(memory.remember_once(numbered(number, kind)) for number in range(each))

    with children(
        lambda: claim_for_ever(memory, writing), lambda: work(b"one"), lambda: work(b"two")
    ) as (victim, *others):
        assert os.read(reading, 1) == b"x"
        victim.kill()
        for other in others:
            assert sum(other.result()) == each
    os.close(reading)
    os.close(writing)


def hold_every_lock(descriptor: int, size_bytes: int, telling: int) -> bytes:
    """Take the locks of all buckets as a claim does, then stay in the middle of it."""
    fcntl.lockf(descriptor, fcntl.LOCK_EX, size_bytes)
    os.write(telling, b"x")
    signal.pause()
    return b""


@contextmanager
def holder(name: str) -> Iterator[Child]:
    """A process stopped while it holds all locks of the memory called *name*."""
    descriptor = descriptor_of(name)
    size_bytes = os.fstat(descriptor).st_size
    reading, writing = os.pipe()
    with children(lambda: hold_every_lock(descriptor, size_bytes, writing)) as (child,):
        assert os.read(reading, 1) == b"x"
        child.stop()
        yield child
    os.close(reading)
    os.close(writing)


def test_whoever_is_stopped_in_the_middle_of_a_claim_does_not_stop_the_others() -> None:
    """To refuse one client is better than to serve a replay, or to wait for ever."""
    memory = SharedMemory("stopped", 16 * RING)
    assert memory.remember_once(b"before")
    with holder("stopped") as child:
        began = time.monotonic()
        assert not memory.remember_once(b"salt")
        assert not memory.remember_once(b"before")
        assert time.monotonic() < began + WAIT_SECONDS
        child.kill()
        assert memory.remember_once(b"salt"), "the dead one's lock is held still"
    assert not memory.remember_once(b"before")


def test_a_claim_locks_its_own_bucket_and_no_other() -> None:
    memory = SharedMemory("one-bucket", 16 * RING)
    descriptor = descriptor_of("one-bucket")
    reading, writing = os.pipe()
    with children(lambda: hold_every_lock(descriptor, BUCKET_BYTES, writing)) as (child,):
        assert os.read(reading, 1) == b"x"
        child.stop()
        told = [memory.remember_once(numbered(number)) for number in range(320)]
    # A sixteenth of them on average; 320 keys fall into one of 16 buckets between 2 and 60 times.
    assert 2 <= told.count(False) <= 60
    os.close(reading)
    os.close(writing)


def test_a_lock_is_given_back_after_every_claim() -> None:
    memory = SharedMemory("given-back", RING)
    descriptor = descriptor_of("given-back")

    def look() -> bytes:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, BUCKET_BYTES)
        return b"free"

    for key in (b"new", b"new", b"another"):
        memory.remember_once(key)
        with children(look) as (child,):
            assert child.result() == b"free"
