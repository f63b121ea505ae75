"""The line between two workers: messages arrive whole, and descriptors change hands."""

import json
import os
import socket
from collections.abc import Iterator

import gevent
import pytest

from geproxy.errors import DeadlineError
from geproxy.net.deadline import Deadline
from geproxy.net.handover import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, Line, Message
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, settle

MANY = 500


@pytest.fixture
def ends() -> Iterator[tuple[Line, Line]]:
    gevent.get_hub()
    before = len(os.listdir("/proc/self/fd"))
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    here, there = (Line(one.detach()) for one in pair)
    with Deadline(HARD_SECONDS, "a test"):
        yield here, there
    here.close()
    there.close()
    assert len(os.listdir("/proc/self/fd")) == before


def largest() -> Message:
    """A message that just fits."""
    around = len(json.dumps({"text": ""}))
    return {"text": "x" * (MAX_MESSAGE_BYTES - around)}


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"place": ["a", 0, 1], "counts": [1, 2, {"full": 3}]}, id="what it is for"),
        pytest.param({"name": "ünïcödé \N{SNOWMAN} \0"}, id="any text"),
        pytest.param(largest(), id="as large as may be"),
    ],
)
def test_a_message_arrives_as_it_was(ends: tuple[Line, Line], message: Message) -> None:
    here, there = ends
    for sender, receiver in ((here, there), (there, here)):
        sender.send(message, [])
        assert receiver.receive() == (message, [])


def test_descriptors_arrive_in_their_order_and_the_senders_stay(ends: tuple[Line, Line]) -> None:
    here, there = ends
    pipes = [os.pipe() for _ in range(MAX_DESCRIPTORS)]
    here.send({"of": "all"}, [write for _, write in pipes])
    received = there.receive()
    assert received is not None
    message, descriptors = received
    assert message == {"of": "all"}
    assert len(descriptors) == MAX_DESCRIPTORS
    for number, ((read, write), copy) in enumerate(zip(pipes, descriptors, strict=True)):
        assert not os.get_inheritable(copy)
        os.close(write)
        os.write(copy, b"%d" % number)
        os.close(copy)
        assert os.read(read, 10) == b"%d" % number
        assert os.read(read, 10) == b"", "nobody else has a copy"
        os.close(read)


def test_messages_and_descriptors_keep_together(ends: tuple[Line, Line]) -> None:
    here, there = ends
    read, write = os.pipe()
    for number in range(3):
        here.send({"number": number}, [write] if number == 1 else [])
    os.close(write)
    for number in range(3):
        received = there.receive()
        assert received is not None
        message, descriptors = received
        assert (message, len(descriptors)) == ({"number": number}, number == 1)
        for copy in descriptors:
            os.close(copy)
    os.close(read)


def test_a_sender_waits_for_a_receiver_that_is_slow(ends: tuple[Line, Line]) -> None:
    here, there = ends
    sent: list[int] = []

    def send() -> None:
        for number in range(MANY):
            here.send({"number": number, **largest_but_a_little()}, [])
            sent.append(number)

    with beside(send):
        settle()
        assert len(sent) < MANY, "what nobody reads has no end"
        for number in range(MANY):
            received = there.receive()
            assert received is not None
            assert received[0]["number"] == number


def largest_but_a_little() -> Message:
    return {"text": "x" * (MAX_MESSAGE_BYTES - 100)}


def test_a_wait_for_a_message_leaves_the_loop_to_others_and_can_be_ended(
    ends: tuple[Line, Line],
) -> None:
    here, there = ends
    with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "waiting"):
        here.receive()
    with beside(lambda: there.send({"late": True}, [])):
        assert here.receive() == ({"late": True}, [])


def test_the_end_comes_behind_what_was_said(ends: tuple[Line, Line]) -> None:
    here, there = ends
    here.send({"last": "words"}, [])
    here.close()
    assert there.receive() == ({"last": "words"}, [])
    assert there.receive() is None
    assert there.receive() is None


def test_an_end_wakes_who_waits_for_a_message(ends: tuple[Line, Line]) -> None:
    here, there = ends
    with beside(here.close):
        assert there.receive() is None


def test_who_speaks_to_nobody_is_told(ends: tuple[Line, Line]) -> None:
    here, there = ends
    there.close()
    read, write = os.pipe()
    with pytest.raises(BrokenPipeError):
        here.send({}, [write])
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


def test_an_end_wakes_who_waits_for_room(ends: tuple[Line, Line]) -> None:
    here, there = ends

    def read_one_and_leave() -> None:
        settle()
        there.receive()
        there.close()

    with beside(read_one_and_leave), pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            here.send(largest(), [])


def test_descriptors_that_nobody_took_are_closed_with_the_line(ends: tuple[Line, Line]) -> None:
    here, there = ends
    read, write = os.pipe()
    here.send({}, [write])
    os.close(write)
    there.close()
    assert os.read(read, 1) == b""
    os.close(read)
