"""No command is lost on a line that is full, none is done twice, none outlives its worker."""

import os
import time
from collections.abc import Iterator

import pytest

from geproxy.process import outbox as module
from geproxy.process.control import Control, Message, Verb
from geproxy.process.outbox import LOOK_SECONDS, REPEAT_SECONDS, Outbox


class Ends:
    """The master's outbox and the worker's end."""

    def __init__(self) -> None:
        self.ours, self.theirs = Control.pair()
        self.box = Outbox(self.ours)
        self.now = time.monotonic()

    def fill(self) -> int:
        """Leave the line full, as a worker does that is stopped; returns the messages in it."""
        count = 0
        while self.ours.try_send(Verb.READY, "x" * 900):
            count += 1
        return count

    def heard(self) -> list[Message]:
        found = []
        while True:
            try:
                message = self.theirs.receive()
            except BlockingIOError:
                return found
            assert message is not None
            if message.number:
                found.append(message)

    def look(self, later_seconds: float = 0.0) -> None:
        self.now += later_seconds
        self.box.look(self.now, listening=True)


@pytest.fixture
def ends() -> Iterator[Ends]:
    before = len(os.listdir("/proc/self/fd"))
    made = Ends()
    yield made
    made.box.close()
    made.ours.close()
    made.theirs.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_full_line_does_not_take_comes_in_its_order_once_there_is_room(ends: Ends) -> None:
    ends.fill()
    for verb, argument in ((Verb.SERVE, ""), (Verb.BEQUEATH, "0"), (Verb.DRAIN, "5.0")):
        ends.box.order(verb, argument)
    assert len(ends.box) == 3
    assert ends.heard() == []
    ends.look()
    expected = [(Verb.SERVE, ""), (Verb.BEQUEATH, "0"), (Verb.DRAIN, "5.0")]
    heard = ends.heard()
    assert [one[:2] for one in heard] == expected
    assert [one.number for one in heard] == [1, 2, 3]


def test_none_passes_one_that_found_no_room(ends: Ends) -> None:
    ends.fill()
    ends.box.order(Verb.BEQUEATH, "0")
    ends.heard()
    ends.box.order(Verb.DRAIN, "5.0")  # there is room for it, and it waits all the same
    assert ends.heard() == []
    ends.look()
    assert [one.verb for one in ends.heard()] == [Verb.BEQUEATH, Verb.DRAIN]


def test_a_command_is_repeated_with_its_number_until_it_is_acknowledged(ends: Ends) -> None:
    ends.box.order(Verb.DRAIN, "5.0")
    (first,) = ends.heard()
    ends.look()
    assert ends.heard() == [], "not at once"
    ends.look(REPEAT_SECONDS + 0.1)
    (again,) = ends.heard()
    assert again == first
    ends.box.acknowledge(first.number)
    ends.box.acknowledge(first.number)  # both were answered
    ends.look(10 * REPEAT_SECONDS)
    assert ends.heard() == []
    assert len(ends.box) == 0


def test_descriptors_are_the_outboxs_own_until_they_are_acknowledged(ends: Ends) -> None:
    read, write = os.pipe()
    ends.fill()
    ends.box.order(Verb.INHERIT, "", [write])
    os.close(write)
    ends.heard()
    ends.look()
    (message,) = ends.heard()
    os.write(message.descriptors[0], b"x")
    os.close(message.descriptors[0])
    assert os.read(read, 1) == b"x"
    ends.box.acknowledge(message.number)
    assert os.read(read, 1) == b"", "nobody has a copy any more"
    os.close(read)


def test_what_nobody_acknowledged_is_closed_with_the_outbox(ends: Ends) -> None:
    read, write = os.pipe()
    ends.fill()
    ends.box.order(Verb.BEQUEATH, "0", [write])
    os.close(write)
    ends.box.close()
    assert os.read(read, 1) == b""
    os.close(read)


def test_without_a_descriptor_for_the_copies_nothing_is_sent(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(module.os, "dup", full)
    with pytest.raises(OSError, match="Too many"):
        ends.box.order(Verb.BEQUEATH, "0", [0])
    assert len(ends.box) == 0
    assert ends.heard() == []


def test_a_thousand_commands_to_a_stopped_worker_keep_the_last_of_a_kind(ends: Ends) -> None:
    ends.fill()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        ends.box.order(Verb.DRAIN, str(number), [0, 1])
    assert len(ends.box) == 1
    assert len(os.listdir("/proc/self/fd")) == before + 2
    ends.heard()
    ends.look()
    (message,) = ends.heard()
    assert message.argument == "999"
    for descriptor in message.descriptors:
        os.close(descriptor)


def test_a_pause_of_the_master_does_not_make_a_worker_deaf(ends: Ends) -> None:
    ends.box.order(Verb.DRAIN, "5.0")
    ends.look()
    ends.look(3600.0)
    assert ends.box.unheard_seconds <= LOOK_SECONDS
    ends.look(0.5)
    assert ends.box.unheard_seconds == pytest.approx(LOOK_SECONDS + 0.5)


def test_a_worker_that_is_not_ready_yet_is_not_deaf(ends: Ends) -> None:
    ends.box.order(Verb.DRAIN, "")
    for _ in range(20):
        ends.now += 1.0
        ends.box.look(ends.now, listening=False)
    assert ends.box.unheard_seconds == 0.0
