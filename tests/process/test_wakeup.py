"""Signals as a queue: none is lost, none acts before it is taken."""

import os
import select
import signal
from collections.abc import Iterator

import pytest

from geproxy.process.wakeup import Wakeup

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGTTIN, signal.SIGTTOU)


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    """A queue whose signals mean again what they meant when the test is over."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    descriptor = signal.set_wakeup_fd(-1)
    wakeup = Wakeup(SIGNALS)
    yield wakeup
    signal.set_wakeup_fd(descriptor)
    for number, handler in before.items():
        signal.signal(number, handler)
    wakeup.close()


def readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup], [], [], 0)[0])


def test_nothing_came(wakeup: Wakeup) -> None:
    assert not readable(wakeup)
    assert wakeup.take() == []


def test_a_signal_makes_the_descriptor_readable_until_it_is_taken(wakeup: Wakeup) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert readable(wakeup)
    assert wakeup.take() == [signal.SIGTERM]
    assert not readable(wakeup)
    assert wakeup.take() == []


def test_signals_are_taken_in_the_order_in_which_they_came(wakeup: Wakeup) -> None:
    sent = [*SIGNALS, *reversed(SIGNALS), signal.SIGHUP]
    for number in sent:
        signal.raise_signal(number)
    assert wakeup.take() == sent


def test_more_signals_than_the_pipe_holds_raise_and_print_nothing(
    wakeup: Wakeup, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(70_000):  # a pipe holds 65,536 bytes (pipe(7))
        signal.raise_signal(signal.SIGHUP)
    count = 0
    while some := wakeup.take():
        assert set(some) == {signal.SIGHUP}
        count += len(some)
    assert count >= 4096
    assert capfd.readouterr().err == ""
    signal.raise_signal(signal.SIGTERM)
    assert wakeup.take() == [signal.SIGTERM]


def test_a_closed_queue_gives_both_descriptors_back() -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    descriptor = signal.set_wakeup_fd(-1)
    open_before = len(os.listdir("/proc/self/fd"))
    wakeup = Wakeup(SIGNALS)
    signal.set_wakeup_fd(descriptor)
    for number, handler in before.items():
        signal.signal(number, handler)
    wakeup.close()
    assert len(os.listdir("/proc/self/fd")) == open_before
