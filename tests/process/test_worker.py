"""Parts of a worker that die of an error: each is begun anew, or the worker leaves in order."""

import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent import socket as gsocket

from geproxy.config.load import from_urls
from geproxy.net import accept, greenlets, lasting
from geproxy.net.deadline import Deadline
from geproxy.observe.line import Lines
from geproxy.observe.log import Log
from geproxy.observe.sink import Descriptor, Sink
from geproxy.process.assignment import Assignment
from geproxy.process.control import Control, Verb
from geproxy.process.listeners import ListeningSockets
from geproxy.process.scoreboard import Scoreboard, Slot
from geproxy.process.shared import Shared
from geproxy.process.worker import Worker
from geproxy.site import Site
from tests.support.conformance import HARD_SECONDS, until

LOG_BYTES = 1 << 20


class Held:
    """A worker in this process, and the master's end of its line."""

    def __init__(self) -> None:
        settings = from_urls(["socks5://127.0.0.1:0"])
        self._said, write = socket.socketpair()
        self._said.setblocking(False)
        sink = Sink("memory", Descriptor(write.detach()), Lines("text"))
        self.log = Log(sink, sink, level="info")
        lent = ListeningSockets().open(settings.listen, 1)
        self.master, control = Control.pair()
        slot = Scoreboard().take()
        assert slot is not None
        self.slot: Slot = slot
        self.site = Site(settings, [], [], self.log, Shared())
        self.worker = Worker(
            Assignment(1, settings, lent, {}, self.log, control, slot, Shared()), self.site
        )
        (self.listening,) = lent.streams[settings.listen[0].name]
        self._text = ""
        self.running = gevent.spawn(self.worker.run)

    def order(self, verb: Verb, argument: str = "", number: int = 1) -> None:
        self.master.try_send(verb, argument, (), number)

    def said(self, verb: Verb) -> bool:
        """True once the worker has said *verb*."""
        try:
            message = self.master.receive()
        except BlockingIOError:
            return False
        return message is not None and message.verb is verb

    def faults(self, part: str) -> int:
        self.log.flush()
        try:
            self._text += self._said.recv(LOG_BYTES).decode()
        except BlockingIOError:
            pass
        lines = self._text.splitlines()
        return sum(f"worker.fault part={part} error=MemoryError" in line for line in lines)

    def greets(self) -> None:
        """Have a client be answered."""
        client = gsocket.create_connection(self.listening.getsockname())
        client.sendall(b"\x05\x01\x00")
        assert client.recv(2) == b"\x05\x00"
        client.close()

    def close(self) -> None:
        self.order(Verb.QUIT, number=99)
        self.running.join()
        self.master.close()
        self.site.owners.close()
        self.log.close()
        self._said.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    monkeypatch.setenv("RES_OPTIONS", "")  # which a site sets
    monkeypatch.setattr(lasting, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("geproxy.process.pulse.show_title", lambda number, sessions: None)
    monkeypatch.setattr("geproxy.site.Site.discover", lambda site: None)
    gevent.get_hub()
    with Deadline(HARD_SECONDS, "a test"):
        made = Held()
        yield made
        made.close()


class Once:
    """Raises MemoryError at the first call, and does what it stands for afterwards."""

    def __init__(self, real: object) -> None:
        self.real, self.calls = real, 0

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        if self.calls == 1:
            raise MemoryError
        return self.real(*arguments)  # type: ignore[operator]


def test_an_acceptor_that_dies_accepts_again(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accept, "_accept", Once(accept._accept))
    held.order(Verb.SERVE)
    held.greets()
    assert held.faults("acceptor") == 1
    assert held.worker._lasting.sound


def test_a_client_whose_session_cannot_begin_takes_no_place(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = Once(greenlets.spawn)
    held.order(Verb.SERVE)
    held.greets()
    until(lambda: held.worker._places.gate.count == 0)
    monkeypatch.setattr("geproxy.process.worker.spawn", spawn)
    lost = gsocket.create_connection(held.listening.getsockname())
    assert lost.recv(1) == b""
    lost.close()
    assert held.worker._places.gate.count == 0
    held.greets()


def test_a_worker_whose_obedience_dies_leaves_in_order_and_hears_what_comes_again(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held.worker, "_accept", Once(held.worker._accept))
    held.order(Verb.SERVE)
    until(lambda: held.said(Verb.DRAINING))
    assert held.faults("obedience") == 1
    held.order(Verb.SERVE)  # which it had not acknowledged
    until(lambda: held.said(Verb.DONE))


def test_an_error_in_a_sweep_costs_one_look_and_not_the_beat(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(now: float) -> None:
        raise MemoryError

    monkeypatch.setattr(held.site.relays, "sweep", fail)
    until(lambda: held.faults("sweep"))
    beat = held.slot.read().beat_ns
    until(lambda: held.slot.read().beat_ns > beat)


@pytest.mark.slow
def test_a_worker_with_a_part_that_cannot_be_begun_anew_beats_no_more(held: Held) -> None:
    until(lambda: held.slot.read().beat_ns)
    held.worker._lasting.sound = False
    beat = held.slot.read().beat_ns
    gevent.sleep(1.5)  # in which it would have beaten
    assert held.slot.read().beat_ns == beat
