"""Pipes: as large as they must be, lent one by one, and never given back with bytes in them."""

import errno
import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from geproxy.net import pipes
from geproxy.net.pipes import (
    LEAST_PIPE_BYTES,
    PIPE_BYTES,
    POOL_PIPES,
    SPARE_DESCRIPTORS,
    Pipe,
    PipePool,
)
from tests.support.conformance import noise

F_GETPIPE_SZ = 1032  # linux/fcntl.h


def descriptors() -> set[str]:
    """The descriptors of this process, but for that of the look itself."""
    looking = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        return set(os.listdir(looking)) - {str(looking)}
    finally:
        os.close(looking)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def pool() -> Iterator[PipePool]:
    made = PipePool()
    yield made
    for free in made._free:
        free.close()


def dirty(pipe: Pipe) -> None:
    """Leave a byte in *pipe*."""
    near, far = socket.socketpair()
    with near, far:
        near.send(b"x")
        assert pipe.fill(far.fileno()) == 1


# -- one pipe ------------------------------------------------------------------------------------


def test_a_pipe_is_as_large_as_the_kernel_made_it(pipe: Pipe) -> None:
    assert LEAST_PIPE_BYTES <= pipe.size_bytes <= PIPE_BYTES
    assert fcntl.fcntl(pipe.reader, F_GETPIPE_SZ) == pipe.size_bytes


def test_a_pipe_neither_blocks_nor_outlives_an_exec(pipe: Pipe) -> None:
    for end in (pipe.reader, pipe.writer):
        assert not os.get_blocking(end)
        assert not os.get_inheritable(end)


def test_bytes_come_out_as_they_went_in(
    pipe: Pipe, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    data = noise(20_000)
    near.send(data)
    assert pipe.fill(far.fileno()) == len(data) == pipe.held_bytes
    assert pipe.pour(far.fileno()) == len(data)
    assert pipe.held_bytes == 0
    assert near.recv(len(data) + 1) == data


def test_a_sink_that_is_full_takes_a_part_and_the_pipe_knows_the_rest(
    pipe: Pipe, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    for sock in pair:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
    sent, received = bytearray(), bytearray()
    while pipe.held_bytes == 0:
        data = noise(4096, len(sent))
        near.send(data)
        sent += data
        pipe.fill(far.fileno())
        try:
            while pipe.held_bytes:
                pipe.pour(far.fileno())
        except BlockingIOError:
            break  # nobody has read what was poured
    assert pipe.held_bytes
    while len(received) < len(sent):
        received += near.recv(1000)
        try:
            if pipe.held_bytes:
                pipe.pour(far.fileno())
        except BlockingIOError:
            pass
    assert received == sent
    assert pipe.held_bytes == 0


def test_the_end_of_the_source_is_0_and_nothing_is_held(
    pipe: Pipe, pair: tuple[socket.socket, socket.socket]
) -> None:
    near, far = pair
    with pytest.raises(BlockingIOError):
        pipe.fill(far.fileno())
    near.shutdown(socket.SHUT_WR)
    assert pipe.fill(far.fileno()) == 0
    assert pipe.held_bytes == 0


def set_size(answer: int | OSError) -> object:
    """Stand in for fcntl, where the system grants a pipe of *answer* bytes or refuses."""

    def fcntl_(descriptor: int, command: int, argument: int) -> int:
        assert (command, argument) == (pipes.F_SETPIPE_SZ, PIPE_BYTES)
        if isinstance(answer, OSError):
            raise answer
        return answer

    return fcntl_


# Pages are granted per user, not per process, so that no test can use them up on its own.
REFUSALS = [
    pytest.param(4096, id="a page is all there is"),
    pytest.param(LEAST_PIPE_BYTES - 1, id="little less than is of use"),
    pytest.param(PermissionError(errno.EPERM, "no"), id="no more pages for this user"),
    pytest.param(OSError(errno.ENOMEM, "no"), id="no memory"),
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_pipe_that_cannot_be_of_use_is_not_made(
    pool: PipePool, monkeypatch: pytest.MonkeyPatch, answer: int | OSError
) -> None:
    monkeypatch.setattr(pipes, "REFUSAL_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(pipes.fcntl, "fcntl", set_size(answer))
        with pytest.raises(OSError):
            Pipe()
        assert [pool.take() for _ in range(POOL_PIPES + 1)] == [None] * (POOL_PIPES + 1)
    lent = [pool.take() for _ in range(POOL_PIPES)]  # what was refused does not count
    for pipe in lent:
        assert pipe is not None
        pool.give(pipe)


def test_without_descriptors_there_is_no_pipe(
    pool: PipePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe2(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pipes, "REFUSAL_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(pipes.os, "pipe2", pipe2)
        assert pool.take() is None
    pipe = pool.take()
    assert pipe is not None
    pool.give(pipe)


def test_after_a_refusal_the_system_is_not_asked_again_at_once(
    pool: PipePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pipe2(flags: int) -> tuple[int, int]:
        asked.append(flags)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pipes.os, "pipe2", pipe2)
    assert [pool.take() for _ in range(10)] == [None] * 10
    assert len(asked) == 1


def test_the_last_descriptors_are_left_to_connections(pool: PipePool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(number) for number in descriptors())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + SPARE_DESCRIPTORS, hard))
    try:
        lent = []
        while (pipe := pool.take()) is not None:  # in gaps below the highest there may be room
            lent.append(pipe)
        assert all(pipe.writer <= highest for pipe in lent)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for pipe in lent:
        pool.give(pipe)
    made = pool.take()
    assert made is not None
    pool.give(made)


# -- the pool ------------------------------------------------------------------------------------


def test_a_pool_makes_only_so_many(pool: PipePool) -> None:
    before = len(descriptors())
    lent = [pool.take() for _ in range(POOL_PIPES)]
    assert len({id(pipe) for pipe in lent}) == POOL_PIPES
    assert pool.take() is None
    assert len(descriptors()) == before + 2 * POOL_PIPES
    for pipe in lent:
        assert pipe is not None
        pool.give(pipe)
    assert {id(pool.take()) for _ in lent} == {id(pipe) for pipe in lent}
    assert pool.take() is None
    for pipe in lent:
        assert pipe is not None
        pool.give(pipe)


def test_a_pool_of_which_nobody_takes_has_no_descriptors() -> None:
    before = descriptors()
    PipePool()
    assert descriptors() == before


def test_a_pipe_that_holds_bytes_is_closed_and_another_made(pool: PipePool) -> None:
    before = descriptors()
    for _ in range(2 * POOL_PIPES):
        pipe = pool.take()
        assert pipe is not None
        assert pipe.held_bytes == 0
        dirty(pipe)
        pool.give(pipe)
        assert descriptors() == before


def test_whoever_comes_next_never_sees_the_bytes_of_another(pool: PipePool) -> None:
    lent = [pool.take() for _ in range(POOL_PIPES)]
    for index, pipe in enumerate(lent):
        assert pipe is not None
        if index % 2:
            dirty(pipe)
        pool.give(pipe)
    again = [pool.take() for _ in range(POOL_PIPES)]
    for pipe in again:
        assert pipe is not None
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 1)
        pool.give(pipe)
