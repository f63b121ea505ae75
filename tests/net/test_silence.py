"""Strangers are read in silence until their time is over, and cost no greenlet."""

from __future__ import annotations

import gc
import time

from greenlet import greenlet

from geproxy.net.silence import Silence
from geproxy.streams import Stream
from tests.support.conformance import noise, read_to_end, tcp_pair, until

HELD_SECONDS = 0.2


def greenlets() -> int:
    return sum(isinstance(one, greenlet) and not one.dead for one in gc.get_objects())


def test_each_is_closed_at_its_own_time_and_not_in_the_order_of_failure() -> None:
    over: list[Stream] = []
    silence = Silence(over.append)
    (late_client, late), (early_client, early) = tcp_pair(), tcp_pair()
    began = time.monotonic()
    silence.hold(late, began + HELD_SECONDS)
    silence.hold(early, began + HELD_SECONDS / 2)
    until(lambda: len(over) == 2)
    assert over == [early, late]
    assert time.monotonic() - began >= HELD_SECONDS
    assert len(silence) == 0
    for client in (late_client, early_client):
        assert read_to_end(client) == b""
        client.close()


def test_what_comes_is_read_so_that_the_end_is_no_reset() -> None:
    over: list[Stream] = []
    client, stream = tcp_pair()
    Silence(over.append).hold(stream, time.monotonic() + HELD_SECONDS)
    client.send_all(noise(100_000))
    client.close_write()
    until(lambda: over)
    assert read_to_end(client) == b""
    client.close()


def test_one_that_waits_has_no_greenlet() -> None:
    over: list[Stream] = []
    silence = Silence(over.append)
    pairs = [tcp_pair() for _ in range(20)]
    before = greenlets()
    for client, stream in pairs:
        client.close_write()
        silence.hold(stream, time.monotonic() + HELD_SECONDS)
    assert (len(silence), greenlets()) == (20, before)
    until(lambda: len(over) == 20)
    for client, _ in pairs:
        client.close()


def test_a_reset_ends_it_at_once_and_so_does_an_abort() -> None:
    over: list[Stream] = []
    silence = Silence(over.append)
    (one, reset), (other, dropped) = tcp_pair(), tcp_pair()
    for stream in (reset, dropped):
        silence.hold(stream, time.monotonic() + 600)
    one.abort()
    until(lambda: over == [reset])
    silence.abort(dropped)
    assert over == [reset, dropped]
    other.close()
