"""The watch over the workers, with a clock of our own making."""

import os

import pytest

from geproxy.process.control import Control
from geproxy.process.generation import READY_SECONDS
from geproxy.process.scoreboard import BEAT, Scoreboard
from geproxy.process.spawn import Child
from geproxy.process.watch import DEATH_SECONDS, LEAST_SECONDS, Watch

HEARTBEAT_SECONDS = 10.0


class Clock:
    """The master's loop: it looks about once a second, and the children do what they do."""

    def __init__(self, *children: Child, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.children = list(children)
        self.heartbeat_seconds = heartbeat_seconds
        self.now = 1000.0
        self.watch = Watch(self.now)
        self.acted: list[tuple[float, int, str]] = []
        self._start = self.now

    def look(self, later_seconds: float = 1.0) -> None:
        """Let time pass and look once, acting on what is found as the master does."""
        self.now += later_seconds
        found = self.watch.look(self.children, self.heartbeat_seconds, self.now)
        if found is not None:
            how = "KILL" if found.aborted else "ABRT"
            found.aborted = True
            self.acted.append((round(self.now - self._start, 3), found.number, how))

    def run(self, seconds: int, beating: tuple[Child, ...] = ()) -> None:
        for _ in range(seconds):
            for child in beating:
                beat(child, self.now + 1.0)
            self.look()

    def die(self, child: Child) -> None:
        self.children.remove(child)

    @property
    def actions(self) -> list[tuple[int, str]]:
        return [(number, how) for _, number, how in self.acted]


def make_child(number: int, *, ready: bool = True) -> Child:
    slot = Scoreboard().take()
    assert slot is not None
    ours, theirs = Control.pair()
    theirs.close()
    ours.close()
    slot.claim(os.getpid(), number)
    return Child(os.getpid(), number, ours, slot, ready=ready)


def beat(child: Child, now: float) -> None:
    """Have *child* beat at *now*."""
    child.slot._words[BEAT] = int(now * 1e9)


def test_a_worker_that_beats_is_left_alone() -> None:
    child = make_child(1)
    clock = Clock(child)
    clock.run(100, beating=(child,))
    assert clock.acted == []


@pytest.mark.parametrize("before_seconds", [0.0, 0.3, 0.9])
def test_a_silent_worker_is_gone_twelve_seconds_after_its_last_beat(before_seconds: float) -> None:
    child = make_child(1)
    clock = Clock(child)
    clock.run(5, beating=(child,))
    last_beat = clock.now + 1.0 - before_seconds
    beat(child, last_beat)
    while len(clock.acted) < 2:
        # As the master does: about once a second, and more often once it is wary.
        clock.look(0.3 if clock.watch.wary else 1.0)
    (aborted_at, _, first), (killed_at, _, second) = clock.acted
    assert (first, second) == ("ABRT", "KILL")
    silent_seconds = 1000.0 - last_beat
    assert HEARTBEAT_SECONDS <= aborted_at + silent_seconds <= HEARTBEAT_SECONDS + 0.4
    assert killed_at - aborted_at >= DEATH_SECONDS - 0.01
    assert killed_at + silent_seconds <= 12.0


def test_a_worker_that_has_missed_beats_is_watched_closely() -> None:
    child = make_child(1)
    clock = Clock(child)
    clock.run(5, beating=(child,))
    assert not clock.watch.wary
    clock.run(3)
    assert clock.watch.wary
    clock.run(1, beating=(child,))
    assert not clock.watch.wary


def test_silence_counts_from_the_last_beat() -> None:
    child = make_child(1)
    clock = Clock(child)
    clock.run(9)
    clock.run(1, beating=(child,))
    clock.run(9)
    assert clock.acted == []
    clock.run(1)
    assert clock.actions == [(1, "ABRT")]


def test_a_worker_that_beats_again_after_the_abort_was_due_starts_anew() -> None:
    child = make_child(1)
    clock = Clock(child)
    clock.run(50, beating=())
    clock.acted.clear()
    child.aborted = False
    clock.run(20, beating=(child,))
    assert clock.acted == []


def test_one_worker_is_dealt_with_at_a_time() -> None:
    first, second = make_child(1), make_child(2)
    clock = Clock(first, second)
    while not clock.acted:
        clock.look()
    stuck = clock.acted[0][1]
    clock.look()  # the first has been asked to die, and has not
    assert clock.actions == [(stuck, "ABRT")]
    clock.look()
    assert clock.actions == [(stuck, "ABRT"), (stuck, "KILL")]
    clock.die(first if stuck == 1 else second)
    clock.look()
    assert clock.actions[2:] == [(3 - stuck, "ABRT")]


def test_the_silence_of_one_does_not_touch_the_others() -> None:
    silent, lively = make_child(1), make_child(2)
    clock = Clock(lively, silent)
    clock.run(20, beating=(lively,))
    assert {number for number, _ in clock.actions} == {1}


@pytest.mark.parametrize(
    "pause_seconds",
    [
        pytest.param(8.0, id="less than the heartbeat time"),
        pytest.param(60.0, id="a minute"),
        pytest.param(8 * 3600.0, id="a night's sleep"),
    ],
)
def test_a_master_that_was_paused_kills_nobody(pause_seconds: float) -> None:
    child = make_child(1)
    clock = Clock(child)
    clock.run(5, beating=(child,))
    clock.look(pause_seconds)  # the workers slept as well: no beat in between
    clock.run(10, beating=(child,))
    assert clock.acted == []


def test_pauses_again_and_again_kill_nobody() -> None:
    child = make_child(1)
    clock = Clock(child)
    for _ in range(20):
        clock.look(100.0)
        clock.run(1, beating=(child,))
    assert clock.acted == []


@pytest.mark.parametrize("heartbeat_seconds", [0.01, 1.0, 2.0])
def test_a_short_heartbeat_time_kills_no_worker_that_beats_once_a_second(
    heartbeat_seconds: float,
) -> None:
    child = make_child(1)
    clock = Clock(child, heartbeat_seconds=heartbeat_seconds)
    # The worker's turns drift against the master's: a look can find no new beat.
    beats = [clock.now + 1.07 * number for number in range(1, 200)]
    while beats:
        while beats and beats[0] <= clock.now + 1.0:
            beat(child, beats.pop(0))
        clock.look()
    assert clock.acted == []


def test_a_short_heartbeat_time_and_a_pause_kill_nobody() -> None:
    child = make_child(1)
    clock = Clock(child, heartbeat_seconds=1.0)
    clock.run(5, beating=(child,))
    clock.look(60.0)
    clock.run(5, beating=(child,))
    assert clock.acted == []


def test_a_worker_with_a_short_heartbeat_time_is_found_all_the_same() -> None:
    child = make_child(1)
    clock = Clock(child, heartbeat_seconds=0.5)
    clock.run(10)
    assert clock.actions[:2] == [(1, "ABRT"), (1, "KILL")]


def test_a_worker_that_never_becomes_ready_is_ended_whatever_the_heartbeat_time() -> None:
    child = make_child(1, ready=False)
    clock = Clock(child, heartbeat_seconds=3600.0)
    clock.run(9)
    assert clock.acted == []
    clock.run(int(READY_SECONDS) + 5)
    assert clock.actions[:2] == [(1, "ABRT"), (1, "KILL")]


def test_a_worker_that_is_slow_to_be_ready_has_more_than_a_short_heartbeat_time() -> None:
    child = make_child(1, ready=False)
    clock = Clock(child, heartbeat_seconds=2.0)
    clock.run(8)
    assert clock.acted == []


def test_looks_that_come_too_fast_are_none() -> None:
    child = make_child(1)
    clock = Clock(child)
    for _ in range(90):
        clock.look(0.1)
    assert clock.acted == []
    assert child.silent_seconds == pytest.approx(9.0, abs=1.0)


def test_a_pause_of_the_master_counts_as_two_looks_however_often_it_looks() -> None:
    child = make_child(1)
    clock = Clock(child, heartbeat_seconds=LEAST_SECONDS)
    clock.run(3, beating=(child,))
    clock.look(600.0)
    for _ in range(9):
        clock.look(0.1)
    assert clock.acted == []


def test_a_worker_that_was_killed_is_not_killed_again_before_its_death_can_be_seen() -> None:
    child = make_child(1)
    clock = Clock(child)
    while len(clock.acted) < 2:
        clock.look()
    clock.look(0.1)
    assert clock.actions == [(1, "ABRT"), (1, "KILL")]
