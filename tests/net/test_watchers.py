"""Watchers that are used again: each tells of one descriptor at a time, and of no other."""

import os
import socket
from collections.abc import Iterator

import gevent
import pytest

from geproxy.errors import DeadlineError
from geproxy.net import watchers
from geproxy.net.deadline import Deadline
from geproxy.net.watchers import PARKED_WATCHERS, READ, give_reader, take_reader, wait_ready
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, settle, tcp_pair

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    made = [socket.socketpair() for _ in range(3)]
    yield made
    for pair in made:
        for sock in pair:
            sock.close()


def is_told(descriptor: int) -> bool:
    """Whether a watcher, be it new or not, tells within a moment that there is something."""
    watcher = take_reader(descriptor)
    try:
        with Deadline(SHORT_SECONDS, "a moment"):
            gevent.get_hub().wait(watcher)
    except DeadlineError:
        return False
    finally:
        give_reader(watcher)
    return True


def test_a_watcher_that_was_given_back_tells_of_its_new_descriptor_alone(
    pairs: list[Pair],
) -> None:
    for near, far in pairs:
        assert not is_told(near.fileno())
        far.send(b"x")
        assert is_told(near.fileno())
    assert not is_told(pairs[0][1].fileno()), "what was told of others is not told of this one"


def test_a_descriptor_that_was_closed_and_is_open_again_is_another(pairs: list[Pair]) -> None:
    """The kernel gives the lowest number that is free: the next socket has the last one's."""
    (near, far), (other, _), _ = pairs
    number = near.fileno()
    far.send(b"x")
    assert is_told(number)
    watcher = take_reader(number)
    watcher.start(lambda: None)
    give_reader(watcher)  # in one turn of the loop with all that follows
    near.close()
    twin = other.dup()
    assert twin.fileno() == number
    with twin:
        assert not is_told(number)
        pairs[1][1].send(b"x")
        assert is_told(number)


def test_what_is_kept_is_bounded(pairs: list[Pair]) -> None:
    taken = [take_reader(pairs[0][0].fileno()) for _ in range(PARKED_WATCHERS + 10)]
    for watcher in taken:
        give_reader(watcher)
    assert len(watchers._parked) == PARKED_WATCHERS
    watchers._parked.clear()


def test_a_stream_that_is_closed_while_somebody_waits_leaves_the_next_owner_alone() -> None:
    """The one who waited ends later, and what it waited with is another stream's by then."""
    near, far = tcp_pair()
    other, sender = tcp_pair()
    told = []

    def listen() -> None:
        other.wait_readable()
        told.append(True)

    with beside(near.wait_readable) as (waiting,):
        settle()
        near.close()
        with beside(listen):
            settle()
            waiting.kill()
            assert not told
            sender.send_all(b"x")
    assert told
    for stream in (far, other, sender):
        stream.close()


def test_a_descriptor_is_waited_for_until_it_has_something() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(DeadlineError), Deadline(0.01, "nothing there"):
            wait_ready(reading, READ)
        os.write(writing, b"x")
        wait_ready(reading, READ)
        os.read(reading, 1)
    finally:
        os.close(writing)
    wait_ready(reading, READ)  # its end counts
    os.close(reading)
