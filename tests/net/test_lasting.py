"""What is to live for ever survives its errors, and ends when it is told to."""

import gevent
import pytest

from geproxy.errors import ShutdownError
from geproxy.net import lasting as module
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import interrupt, sleep
from geproxy.net.lasting import Lasting
from tests.support.conformance import HARD_SECONDS, settle, until


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.001)
    gevent.get_hub()


def test_what_dies_is_begun_anew_and_told() -> None:
    told: list[tuple[str, str]] = []
    lives: list[int] = []

    def live() -> None:
        lives.append(1)
        if len(lives) < 4:
            raise MemoryError(f"life {len(lives)}")
        sleep(HARD_SECONDS)

    keeper = Lasting(lambda name, error: told.append((name, str(error))))
    one = keeper.spawn("reader", live)
    with Deadline(HARD_SECONDS, "a test"):
        until(lambda: len(lives) == 4)
    assert told == [("reader", f"life {number}") for number in (1, 2, 3)]
    assert keeper.sound
    interrupt(one, ShutdownError("enough"))
    settle()
    assert len(lives) == 4


def test_an_error_of_the_telling_ends_nothing() -> None:
    lives: list[int] = []

    def live() -> None:
        lives.append(1)
        raise MemoryError

    def died(name: str, error: Exception) -> None:
        if len(lives) == 3:
            raise ShutdownError("by way of the one who tells") from error
        raise MemoryError

    keeper = Lasting(died)
    one = keeper.spawn("reader", live)
    with Deadline(HARD_SECONDS, "a test"):
        until(lambda: len(lives) >= 4)
    interrupt(one, ShutdownError("enough"))
    settle()
    count = len(lives)
    settle()
    assert len(lives) == count


def test_what_is_interrupted_in_its_pause_does_not_begin_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", HARD_SECONDS)
    lives: list[int] = []

    def live() -> None:
        lives.append(1)
        raise MemoryError

    one = Lasting(lambda name, error: None).spawn("reader", live)
    settle()
    interrupt(one, ShutdownError("enough"))
    settle()
    assert lives == [1]


def test_where_nothing_can_be_begun_anew_the_beat_learns_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_timer(seconds: float) -> None:
        raise MemoryError

    def live() -> None:
        raise KeyError

    monkeypatch.setattr(module, "sleep", no_timer)
    keeper = Lasting(lambda name, error: None)
    with pytest.raises(MemoryError):
        keeper.run("reader", live)
    assert not keeper.sound
