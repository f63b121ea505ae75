"""Slots of shared memory: written by one process, read by others, whole."""

import os
import struct

import pytest

from geproxy.process.scoreboard import FIELDS, SLOT_BYTES, SLOTS, Reading, Scoreboard, Slot


def taken(scoreboard: Scoreboard, pid: int = 1, number: int = 1) -> Slot:
    slot = scoreboard.take()
    assert slot is not None
    slot.claim(pid, number)
    return slot


def test_the_memory_holds_one_cache_line_per_slot_in_the_order_of_the_fields() -> None:
    scoreboard = Scoreboard()
    taken(scoreboard, 11, 1)
    second = taken(scoreboard, 22, 2)
    second.beat(sessions=3, served=4, up_bytes=5, down_bytes=6)
    with open(f"/proc/self/fd/{scoreboard.descriptor}", "rb") as file:
        memory = file.read()
    assert len(memory) == SLOTS * SLOT_BYTES
    assert SLOT_BYTES == 64 == 8 * len(FIELDS)
    words = struct.unpack_from("=8Q", memory, second.index * SLOT_BYTES)
    seen = dict(zip(FIELDS, words, strict=True))
    assert seen.pop("beat_ns") > 0
    assert seen == {
        "pid": 22, "number": 2, "sessions": 3, "served": 4, "up_bytes": 5, "down_bytes": 6,
        "spare": 0,
    }  # fmt: skip


def test_the_fields_of_a_reading_are_those_of_the_memory() -> None:
    assert tuple(Reading.__dataclass_fields__) == FIELDS


def test_a_claimed_slot_is_not_given_again_until_it_is_free() -> None:
    scoreboard = Scoreboard()
    first, second = taken(scoreboard), taken(scoreboard)
    assert first.index != second.index
    assert not first.free
    first.claim(0, 0)
    assert first.free
    assert taken(scoreboard).index == first.index


def test_a_claim_forgets_what_the_one_before_has_counted() -> None:
    slot = taken(Scoreboard(), 11, 1)
    slot.beat(1, 2, 3, 4)
    slot.claim(12, 1)
    assert slot.read() == Reading(12, 1, 0, 0, 0, 0, 0, 0)


def test_a_full_board_has_no_slot_and_says_so() -> None:
    scoreboard = Scoreboard()
    slots = [taken(scoreboard, pid) for pid in range(1, SLOTS + 1)]
    assert scoreboard.take() is None
    slots[500].claim(0, 0)
    assert taken(scoreboard).index == slots[500].index


def test_each_beat_is_later_than_the_last() -> None:
    slot = taken(Scoreboard())
    beats = []
    for _ in range(3):
        slot.beat(0, 0, 0, 0)
        beats.append(slot.read().beat_ns)
    assert beats == sorted(beats)
    assert beats[0] > 0


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param((1, 2, 3, 4), id="small numbers"),
        pytest.param((0, 2**32, 2**63, 2**64 - 1), id="numbers of all 64 bits"),
    ],
)
def test_what_a_child_writes_its_parent_reads(numbers: tuple[int, int, int, int]) -> None:
    slot = taken(Scoreboard(), 11, 7)
    pid = os.fork()
    if pid == 0:
        try:
            slot.beat(*numbers)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    reading = slot.read()
    assert (reading.pid, reading.number) == (11, 7)
    counted = (reading.sessions, reading.served, reading.up_bytes, reading.down_bytes)
    assert counted == numbers
    assert reading.beat_ns > 0


def test_the_memory_does_not_follow_into_another_program() -> None:
    assert not os.get_inheritable(Scoreboard().descriptor)
