"""Slots of shared memory: written by one process, read by others, whole."""

import dataclasses
import os
import struct

import pytest

from geproxy.process.scoreboard import SLOT_BYTES, SLOTS, Reading, Scoreboard, Slot, read

NAMES = [field.name for field in dataclasses.fields(Reading)]


def taken(scoreboard: Scoreboard, pid: int = 1, number: int = 1) -> Slot:
    slot = scoreboard.take()
    assert slot is not None
    slot.claim(pid, number)
    return slot


def memory_of(scoreboard: Scoreboard) -> bytes:
    """What another process reads."""
    with open(f"/proc/self/fd/{scoreboard.descriptor}", "rb") as file:
        return file.read()


def test_the_memory_holds_two_cache_lines_per_slot_in_the_order_of_the_fields() -> None:
    scoreboard = Scoreboard()
    taken(scoreboard, 11, 1)
    second = taken(scoreboard, 22, 2)
    second.beat(3, 4, 5, 6, 7, 8, 9, 10)
    second.confined(263)
    memory = memory_of(scoreboard)
    assert len(memory) == SLOTS * SLOT_BYTES
    assert SLOT_BYTES == 128
    words = struct.unpack_from("=16Q", memory, second.index * SLOT_BYTES)
    assert words[len(NAMES) :] == (0,) * 4, "room for more"
    seen = dict(zip(NAMES, words, strict=False))
    assert seen.pop("beat_ns") > 0
    assert seen == {
        "pid": 22, "number": 2, "sessions": 3, "served": 4, "up_bytes": 5, "down_bytes": 6,
        "associations": 7, "up_datagrams": 8, "down_datagrams": 9, "dropped": 10, "sandbox": 263,
    }  # fmt: skip


def test_slots_that_are_taken_are_read_in_the_order_of_their_workers() -> None:
    scoreboard = Scoreboard()
    for pid, number in ((44, 2), (11, 3), (33, 1), (22, 2)):
        taken(scoreboard, pid, number).beat(pid)
    scoreboard.take()  # found, and not claimed
    readings = read(memory_of(scoreboard))
    seen = [(one.number, one.pid, one.sessions) for one in readings]
    assert seen == [(1, 33, 33), (2, 22, 22), (2, 44, 44), (3, 11, 11)]


def test_a_beat_alone_counts_nothing_and_forgets_nothing() -> None:
    slot = taken(Scoreboard())
    slot.beat()
    assert slot.read().beat_ns > 0
    assert dataclasses.replace(slot.read(), beat_ns=0) == Reading(1, 1, *(0,) * 10)
    slot.beat(1, 2, 3, 4, 5, 6, 7, 8)
    slot.confined(9)
    slot.beat()
    told = Reading(1, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert dataclasses.replace(slot.read(), beat_ns=0) == told


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
    slot.beat(1, 2, 3, 4, 5, 6, 7, 8)
    slot.claim(12, 1)
    assert slot.read() == Reading(12, 1, *(0,) * 10)


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
        slot.beat(*(0,) * 8)
        beats.append(slot.read().beat_ns)
    assert beats == sorted(beats)
    assert beats[0] > 0


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(tuple(range(1, 9)), id="small numbers"),
        pytest.param((0, 2**32, 2**63, 2**64 - 1) * 2, id="numbers of all 64 bits"),
    ],
)
def test_what_a_child_writes_its_parent_reads(numbers: tuple[int, ...]) -> None:
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
    assert dataclasses.astuple(reading)[3:-1] == numbers
    assert reading.beat_ns > 0


def test_the_memory_does_not_follow_into_another_program() -> None:
    assert not os.get_inheritable(Scoreboard().descriptor)
