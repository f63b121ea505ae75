"""What a master says of itself, read through /proc by another process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from geproxy.process import about, scoreboard
from geproxy.process.about import About

ROOT = Path(__file__).parents[2]


@pytest.fixture
def told() -> Iterator[About]:
    facts = About()
    yield facts
    facts.forget()


def test_facts_are_read_as_they_were_told_last(told: About) -> None:
    told.tell(pid=1, name="Zürich", listeners={"a": ["127.0.0.1:1"]})
    told.tell(pid=2)
    facts = {"pid": 2, "name": "Zürich", "listeners": {"a": ["127.0.0.1:1"]}}
    assert about.read(os.getpid()) == facts
    told.tell(name="x")
    assert about.read(os.getpid()) == {**facts, "name": "x"}, "a shorter text"


def test_counts_begin_at_one_and_go_on(told: About) -> None:
    told.count("reopens")
    told.count("reopens")
    assert about.read(os.getpid()) == {"reopens": 2}


def test_a_process_that_says_nothing_is_no_master() -> None:
    with pytest.raises(FileNotFoundError, match="is no geproxy master"):
        about.read(os.getpid())
    with pytest.raises(FileNotFoundError):
        about.read(2**22)  # no such pid


def test_what_was_given_back_cannot_be_read(told: About) -> None:
    before = len(os.listdir("/proc/self/fd"))
    other = About()
    other.tell(a=1)
    other.forget()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_text_that_changes_is_not_read(told: About) -> None:
    told.tell(a=1)
    told._words[0] += 1  # in the middle of a change
    with pytest.raises(OSError, match="changes its facts all the time"):
        about.read(os.getpid())
    told._words[0] += 1
    assert about.read(os.getpid()) == {"a": 1}


READER = """
import sys
from geproxy.process import about
pid = int(sys.argv[1])
print("here", flush=True)
last = 0
while last < 400:
    facts = about.read(pid)
    assert facts["text"] == "x" * (facts["number"] * 37 % 5000), "torn"
    assert facts["number"] >= last
    last = facts["number"]
print("whole")
"""


@pytest.mark.slow
def test_a_reader_never_sees_half_a_change(told: About) -> None:
    told.tell(number=0, text="")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(os.getpid())],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert reader.stdout is not None
    assert reader.stdout.readline() == "here\n"
    for number in range(401):
        told.tell(number=number, text="x" * (number * 37 % 5000))
        time.sleep(0.002)  # the pace of changes: without a pause there is nothing whole to read
    assert reader.stdout.read() == "whole\n"
    assert reader.wait(20) == 0
    reader.stdout.close()


def test_the_scoreboard_is_found_the_same_way() -> None:
    board = scoreboard.Scoreboard()
    slot = board.take()
    assert slot is not None
    slot.claim(77, 3)
    slot.beat(1, 2, 3, 4)
    (found,) = scoreboard.read(about.read_memfd(os.getpid(), scoreboard.NAME))
    assert (found.pid, found.number, found.sessions, found.down_bytes) == (77, 3, 1, 4)
    os.close(board.descriptor)
