"""The reference loop: the same work for ever, timed on the core that was asked for."""

import os

from benchmarks import reference

# What 1000 turns of VERSION 1 add up to. Another sum is another loop, and needs another VERSION:
# figures in the two would be compared.
SUM = {1: 80_616}


def test_a_version_of_the_loop_does_what_it_always_did() -> None:
    assert reference.TURNS == 1000
    assert reference.run(1) == SUM[reference.VERSION]


def test_more_loops_are_more_work() -> None:
    assert reference.run(0) == 0
    assert reference.run(2) > 1.9 * reference.run(1)


def test_a_loop_takes_user_time() -> None:
    assert 0 < reference.seconds() < 1


def test_a_core_is_left_as_it_was() -> None:
    before = os.sched_getaffinity(0)
    last = max(before)
    with reference.on_core(last):
        assert os.sched_getaffinity(0) == {last}
    assert os.sched_getaffinity(0) == before
