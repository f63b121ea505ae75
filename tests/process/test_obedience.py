"""A worker does each command once, says so, and hears again what it could not take."""

import os
import resource
from collections.abc import Iterator

import gevent
import pytest

from geproxy.net.deadline import Deadline
from geproxy.process.control import Control, Verb
from geproxy.process.obedience import Obedience
from tests.support.conformance import HARD_SECONDS, beside


@pytest.fixture
def ends() -> Iterator[tuple[Control, Obedience]]:
    gevent.get_hub()
    ours, theirs = Control.pair()
    with Deadline(HARD_SECONDS, "a test"):
        yield ours, Obedience(theirs)
    ours.close()
    theirs.close()


def test_a_command_that_comes_again_is_answered_and_not_done_again(
    ends: tuple[Control, Obedience],
) -> None:
    master, worker = ends
    read, write = os.pipe()
    for number in (1, 1, 2):
        master.try_send(Verb.INHERIT, "", [write], number)
    os.close(write)
    heard = []
    for _ in range(2):
        message = worker.hear()
        assert message is not None
        heard.append(message.number)
        os.close(message.descriptors[0])
        worker.done(message)
    assert heard == [1, 2]
    assert [master.receive()[:2] for _ in range(3)] == [  # type: ignore[index]
        (Verb.DONE, "1"),
        (Verb.DONE, "1"),
        (Verb.DONE, "2"),
    ]
    assert os.read(read, 1) == b"", "the copy's descriptor is closed too"
    os.close(read)


def test_a_command_that_met_an_error_is_heard_again(ends: tuple[Control, Obedience]) -> None:
    master, worker = ends
    for _ in range(2):
        master.try_send(Verb.DRAIN, "5.0", (), 1)
        message = worker.hear()  # and never done
        assert message is not None
        assert message.argument == "5.0"


def test_a_line_that_found_no_descriptor_is_heard_when_it_comes_again(
    ends: tuple[Control, Obedience],
) -> None:
    master, worker = ends
    master.try_send(Verb.INHERIT, "", [0], 1)
    master.try_send(Verb.DRAIN, "5.0", (), 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        message = worker.hear()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert message is not None
    assert message.verb is Verb.DRAIN, "it waits for nothing"
    master.try_send(Verb.INHERIT, "", [0], 1)
    again = worker.hear()
    assert again is not None
    assert again.verb is Verb.INHERIT
    os.close(again.descriptors[0])


def test_the_masters_end_is_heard_by_who_waits(ends: tuple[Control, Obedience]) -> None:
    master, worker = ends
    with beside(master.close):
        assert worker.hear() is None
