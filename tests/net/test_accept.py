"""Accepting: up to a limit, through a lack of descriptors, and never spinning."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import gevent
import pytest

from geproxy.net.accept import ACCEPTS_PER_WAKE, Gate, accept_clients
from geproxy.net.deadline import Deadline
from geproxy.net.sockopt import RENO, TCP_CA_NAME_MAX
from geproxy.net.stream import SocketStream
from geproxy.terms import Endpoint
from tests.support.conformance import HARD_SECONDS, beside, settle, until


class Door:
    """A listening socket with its acceptor, its gate, and who came in."""

    def __init__(self, limit: int) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.listening.setblocking(False)
        self.gate = Gate(limit)
        self.inside: list[SocketStream] = []
        self.clients: list[socket.socket] = []
        self.complaints: list[OSError] = []
        self.acceptor = gevent.spawn(
            accept_clients, self.listening, self.gate, self.welcome, self.complaints.append
        )

    def welcome(self, stream: SocketStream) -> None:
        self.gate.enter()
        self.inside.append(stream)

    def knock(self, count: int) -> None:
        """Let so many clients more connect."""
        address = self.listening.getsockname()
        self.clients += [socket.create_connection(address) for _ in range(count)]

    def leave(self) -> None:
        """One session ends."""
        self.inside.pop().close()
        self.gate.leave()

    def close(self) -> None:
        self.acceptor.kill()
        for one in (self.listening, *self.inside, *self.clients):
            one.close()


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door(3)
    with Deadline(HARD_SECONDS, "a test"):
        yield made
    made.close()


def test_a_client_is_welcomed_with_its_address(door: Door) -> None:
    door.knock(1)
    until(lambda: door.inside)
    assert door.inside[0].peer == Endpoint.from_sockaddr(door.clients[0].getsockname())
    door.inside[0].send_all(b"hello")
    assert door.clients[0].recv(10) == b"hello"


def test_an_accepted_connection_never_blocks_the_loop(door: Door) -> None:
    door.knock(1)
    until(lambda: door.inside)
    assert door.inside[0].recv_into(memoryview(bytearray(10))) is None


def test_where_the_system_paces_a_client_on_this_machine_is_spared(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geproxy.net.sockopt._system_paces", lambda: True)
    door.knock(1)
    until(lambda: door.inside)
    sock = door.inside[0]._socket
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, TCP_CA_NAME_MAX)
    assert name.rstrip(b"\0") == RENO


def test_clients_beyond_the_limit_wait_in_the_kernels_queue(door: Door) -> None:
    door.knock(5)
    until(lambda: len(door.inside) == 3)
    settle()
    assert len(door.inside) == 3
    assert door.gate.full
    for count in (4, 5):
        door.leave()
        until(lambda: door.gate.full)
        settle()
        assert len(door.inside) == 3, count
    for count in (2, 1, 0):
        door.leave()
        settle()
        assert len(door.inside) == count


def test_a_burst_larger_than_one_wake_up_is_accepted_whole() -> None:
    door = Door(100)
    with Deadline(HARD_SECONDS, "a burst"):
        door.knock(ACCEPTS_PER_WAKE * 5 + 1)
        until(lambda: len(door.inside) == ACCEPTS_PER_WAKE * 5 + 1)
    door.close()


def test_a_client_that_gave_up_in_the_queue_does_no_harm(door: Door) -> None:
    door.knock(3)
    door.clients.pop().close()
    until(lambda: len(door.inside) == 3)
    for _ in range(3):
        door.leave()
    door.knock(1)
    until(lambda: len(door.inside) == 1)
    assert not door.complaints


def test_two_acceptors_of_one_gate_share_its_limit(door: Door) -> None:
    second = socket.create_server(("127.0.0.1", 0))
    second.setblocking(False)
    acceptor = gevent.spawn(accept_clients, second, door.gate, door.welcome, door.complaints.append)
    door.knock(3)
    extra = [socket.create_connection(second.getsockname()) for _ in range(3)]
    until(lambda: door.gate.full)
    settle()
    assert door.gate.count == 3
    acceptor.kill()
    for sock in (second, *extra):
        sock.close()


def test_a_gate_counts_and_lets_wait() -> None:
    gate = Gate(2)
    gate.enter()
    assert not gate.full
    gate.wait()
    gate.enter()
    assert gate.full
    with beside(gate.wait) as (waiting,):
        settle()
        assert not waiting.dead
        gate.leave()
        until(lambda: waiting.dead)
    assert (gate.count, gate.full) == (1, False)


NO_DESCRIPTORS = """
import os, resource, socket, time
import gevent
from geproxy.net.accept import PAUSE_SECONDS, Gate, accept_clients
from geproxy.net.deadline import Deadline

gate, inside, complaints = Gate(100), [], []
listening = socket.create_server(("127.0.0.1", 0))
listening.setblocking(False)
clients = [socket.create_connection(listening.getsockname()) for _ in range(5)]

def welcome(stream):
    gate.enter()
    inside.append(stream)

gevent.get_hub()
gevent.sleep(0.001)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
hoard = []
try:
    while True:
        hoard.append(os.dup(0))
except OSError:
    pass
os.close(hoard.pop())
started = time.monotonic()
acceptor = gevent.spawn(accept_clients, listening, gate, welcome, complaints.append)
with Deadline(15, "the whole"):
    while len(complaints) < 3:
        gevent.sleep(0.01)
    most = 2 + (time.monotonic() - started) / PAUSE_SECONDS
    print(len(inside), {error.strerror for error in complaints}, len(complaints) <= most)
    for descriptor in hoard:
        os.close(descriptor)
    while len(inside) < 5:
        gevent.sleep(0.01)
    told = len(complaints)
    gevent.sleep(PAUSE_SECONDS * 2)
print(len(inside), len(complaints) == told)
"""


@pytest.mark.slow
def test_out_of_descriptors_it_complains_pauses_and_recovers() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_DESCRIPTORS],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HARD_SECONDS,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["1 {'Too many open files'} True", "5 True"]
