"""The line between master and worker: whole messages, and the end at once when a side dies."""

import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from geproxy.process.control import MAX_MESSAGE_BYTES, Control, Verb


def said(control: Control) -> tuple[Verb, str] | None:
    """What comes next, without the descriptors."""
    message = control.receive()
    return None if message is None else message[:2]


@pytest.fixture
def line() -> Iterator[tuple[Control, Control]]:
    ours, theirs = Control.pair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("verb", list(Verb), ids=lambda verb: verb.value)
@pytest.mark.parametrize(
    "argument",
    [
        pytest.param("", id="no argument"),
        pytest.param("12.5", id="a number"),
        pytest.param("two words\nand a line", id="spaces and a line's end"),
        pytest.param("Zürich ⚙", id="more than ASCII"),
    ],
)
def test_a_message_arrives_as_it_was_sent(
    line: tuple[Control, Control], verb: Verb, argument: str
) -> None:
    line[0].send(verb, argument)
    assert said(line[1]) == (verb, argument)


def test_both_ends_can_speak(line: tuple[Control, Control]) -> None:
    line[0].send(Verb.SERVE)
    line[1].send(Verb.READY)
    assert said(line[0]) == (Verb.READY, "")
    assert said(line[1]) == (Verb.SERVE, "")


def test_messages_keep_their_boundaries_and_order(line: tuple[Control, Control]) -> None:
    sent = [(Verb.DRAIN, str(number)) for number in range(50)]
    for verb, argument in sent:
        line[0].send(verb, argument)
    assert [said(line[1]) for _ in sent] == sent


def test_nothing_there_is_not_the_end(line: tuple[Control, Control]) -> None:
    with pytest.raises(BlockingIOError):
        line[0].receive()


def test_what_was_said_before_the_end_is_heard_before_it(line: tuple[Control, Control]) -> None:
    line[1].send(Verb.FAILED, "no memory")
    line[1].close()
    assert said(line[0]) == (Verb.FAILED, "no memory")
    assert line[0].receive() is None
    assert line[0].receive() is None


def test_the_end_is_seen_when_the_other_side_left_words_unread(
    line: tuple[Control, Control],
) -> None:
    line[0].send(Verb.SERVE)
    line[1].close()
    assert line[0].receive() is None


def test_speaking_to_a_side_that_is_gone_does_nothing(line: tuple[Control, Control]) -> None:
    line[1].close()
    line[0].send(Verb.QUIT)


def test_speaking_to_a_side_that_never_listens_does_not_wait(line: tuple[Control, Control]) -> None:
    for _ in range(5000):
        line[0].send(Verb.SERVE, "x" * 500)
    assert said(line[1]) == (Verb.SERVE, "x" * 500)


@pytest.mark.parametrize(
    "letter", [pytest.param("x", id="ASCII"), pytest.param("€", id="three bytes a letter")]
)
def test_an_oversize_argument_is_cut_not_lost(line: tuple[Control, Control], letter: str) -> None:
    line[0].send(Verb.FAILED, letter * 5000)
    message = line[1].receive()
    assert message is not None
    assert message.verb is Verb.FAILED
    argument = message.argument
    whole = argument.rstrip("\N{REPLACEMENT CHARACTER}")  # the cut may go through a letter
    assert set(whole) == {letter}
    assert MAX_MESSAGE_BYTES - 20 < len(argument.encode()) <= MAX_MESSAGE_BYTES + 3
    with pytest.raises(BlockingIOError):
        line[1].receive()


def test_a_text_that_is_no_unicode_is_sent_all_the_same(line: tuple[Control, Control]) -> None:
    line[0].send(Verb.FAILED, "path \udcff")
    assert said(line[1]) == (Verb.FAILED, "path ?")


def test_a_killed_process_ends_the_line(line: tuple[Control, Control]) -> None:
    ours, theirs = line
    pid = os.fork()
    if pid == 0:
        ours.close()
        while True:
            time.sleep(60)
    theirs.close()
    with pytest.raises(BlockingIOError):
        ours.receive()
    os.kill(pid, signal.SIGKILL)
    assert select.select([ours], [], [], 10)[0] == [ours]
    assert ours.receive() is None
    os.waitpid(pid, 0)


def test_descriptors_arrive_as_the_receivers_own(
    line: tuple[Control, Control], tmp_path: Path
) -> None:
    sent = [os.open(tmp_path / name, os.O_CREAT | os.O_WRONLY, 0o600) for name in ("a", "b")]
    line[0].send(Verb.INHERIT, "", sent)
    line[0].send(Verb.SERVE)
    for descriptor in sent:
        os.close(descriptor)
    message = line[1].receive()
    assert message is not None
    assert message[:2] == (Verb.INHERIT, "")
    assert len(message.descriptors) == 2
    for name, descriptor in zip(("a", "b"), message.descriptors, strict=True):
        assert not os.get_inheritable(descriptor)
        os.write(descriptor, name.encode())
        os.close(descriptor)
        assert (tmp_path / name).read_text() == name
    assert line[1].receive() == (Verb.SERVE, "", [], 0, False)


def test_descriptors_for_a_side_that_is_gone_are_lost_and_ours_stay_open(
    line: tuple[Control, Control], tmp_path: Path
) -> None:
    line[1].close()
    with (tmp_path / "a").open("w") as file:
        line[0].send(Verb.INHERIT, "", [file.fileno()])
        file.write("x")


def test_a_closed_end_has_no_descriptor(line: tuple[Control, Control]) -> None:
    line[0].close()
    assert line[0].fileno() == -1
    line[0].close()


def test_a_message_whose_descriptors_find_no_room_says_so_and_the_next_one_is_heard(
    line: tuple[Control, Control],
) -> None:
    line[0].send(Verb.BEQUEATH, "0 1", [0])
    line[0].send(Verb.DRAIN, "30.0")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        cut = line[1].receive()
        heard = said(line[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert cut == (Verb.BEQUEATH, "0 1", [], 0, True)
    assert heard == (Verb.DRAIN, "30.0")


def test_a_full_line_says_that_it_has_no_room_and_a_dead_one_that_nothing_can_be_done(
    line: tuple[Control, Control],
) -> None:
    sent = 0
    while line[0].try_send(Verb.SERVE, "x" * 500):
        sent += 1
        assert sent < 5000, "what nobody reads has no end"
    line[1].receive()
    line[1].close()
    assert line[0].try_send(Verb.SERVE)
