"""Workers die, hang, come and go; clients notice as little as can be."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.proxy import Address, Proxy, configuration, running, title, wait_until
from tests.support.socks import Tunnel, connect
from tests.support.targets import Target, echo, target
from tests.support.udp_client import BUFFER_BYTES, datagram_target, udp_socket

pytestmark = pytest.mark.slow

STORM_SECONDS = 8.0
KILL_EVERY_SECONDS = 2.0
RATE = 200  # connections per second
CALLERS = 8
SESSIONS = 10
UDP_CLIENTS = 40
BACK_SECONDS = 1.0  # a lost worker is replaced within this


def talks(tunnel: Tunnel) -> bool:
    """True where the session lives still."""
    try:
        tunnel.send(b"x")
        return tunnel.receive(1) == b"x"
    except (OSError, EOFError):
        return False


def refuses(address: Address) -> bool:
    try:
        with Tunnel.dial(address) as tunnel:
            tunnel.log_in()
    except (OSError, EOFError):
        return True
    return False


def is_dead(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


def open_sessions(proxy: Proxy, there: Target, count: int) -> dict[int, list[Tunnel]]:
    """Open sessions until every worker has some, *count* at least; returns them by worker."""
    by_worker: dict[int, list[Tunnel]] = {pid: [] for pid in proxy.workers()}
    give_up = time.monotonic() + 20
    opened = 0
    while opened < count or not all(by_worker.values()):
        assert time.monotonic() < give_up, f"a worker gets no clients: {by_worker}"
        tunnel = connect(proxy.address, there.host, there.port)
        by_worker.setdefault(proxy.owner(tunnel.socket), []).append(tunnel)
        opened += 1
    return by_worker


def close_all(by_worker: dict[int, list[Tunnel]]) -> None:
    for tunnels in by_worker.values():
        for tunnel in tunnels:
            tunnel.close()


@dataclass(frozen=True)
class Attempt:
    """One connection through the proxy, from its start to its answer."""

    started: float
    ended: float
    failure: str


class Storm:
    """Callers that connect, say one byte, hear it and leave, RATE times a second together."""

    def __init__(self, proxy: Proxy, there: Target) -> None:
        self._proxy, self._there = proxy, there
        self._over = threading.Event()
        self._address = proxy.address
        self.attempts: list[Attempt] = []
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]

    def __enter__(self) -> Storm:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive(), "a caller waits still"

    def _call(self) -> None:
        due = time.monotonic() + random.random() * CALLERS / RATE
        while not self._over.wait(max(due - time.monotonic(), 0)):
            due += CALLERS / RATE
            started, failure = time.monotonic(), ""
            try:
                with connect(self._address, self._there.host, self._there.port) as tunnel:
                    tunnel.send(b"x")
                    assert tunnel.receive(1) == b"x"
            except Exception as error:
                failure = repr(error)
            self.attempts.append(Attempt(started, time.monotonic(), failure))


def test_workers_killed_in_a_storm_take_their_own_sessions_alone(tmp_path: Path) -> None:
    kills: list[tuple[float, float]] = []  # when it was sent, when the worker was dead
    back_seconds = []
    with running(tmp_path) as proxy, target(echo) as there:
        end = time.monotonic() + STORM_SECONDS
        with Storm(proxy, there) as storm:
            while time.monotonic() < end:
                next_kill = time.monotonic() + KILL_EVERY_SECONDS
                sessions = open_sessions(proxy, there, SESSIONS)
                victim = random.choice(proxy.workers())
                since, sent = proxy.mark(), time.monotonic()
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda victim=victim: is_dead(victim))
                kills.append((sent, time.monotonic()))
                lost = proxy.wait_for("worker.lost", since=since, pid=victim)
                assert lost.fields["how"] == "signal SIGKILL"
                ready = proxy.wait_for("worker.ready", since=since, worker=lost.fields["worker"])
                back_seconds.append(ready.arrived - sent)
                for pid, tunnels in sessions.items():
                    for tunnel in tunnels:
                        assert talks(tunnel) is (pid != victim)
                close_all(sessions)
                time.sleep(max(next_kill - time.monotonic(), 0))  # the pace of the kills
        assert len(proxy.wait_for_workers(2)) == 2
        assert len(kills) >= 3
        failures = [attempt for attempt in storm.attempts if attempt.failure]
        for attempt in failures:
            # Its worker was killed while it ran: then, and only then, may it fail.
            assert any(attempt.started <= dead and sent <= attempt.ended for sent, dead in kills), (
                attempt
            )
        assert len(storm.attempts) > RATE * STORM_SECONDS / 4, "that was no storm"
        # The machine may be busy with other things once, but not each time.
        assert min(back_seconds) < BACK_SECONDS
        assert sorted(back_seconds)[len(back_seconds) // 2] < BACK_SECONDS, back_seconds


def test_ttin_and_ttou_change_the_number_of_workers(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        before = set(proxy.workers())
        proxy.signal(signal.SIGTTIN)
        grown = set(proxy.wait_for_workers(3))
        assert before < grown
        proxy.wait_for("worker.ready", worker=3)
        proxy.signal(signal.SIGTTOU)
        proxy.wait_for("worker.end", worker=3)
        assert set(proxy.wait_for_workers(2)) == before
        since = proxy.mark()
        for _ in range(3):
            proxy.signal(signal.SIGTTOU)
        proxy.wait_for("worker.end", since=since, worker=2)
        assert len(proxy.wait_for_workers(1)) == 1
        assert talks(connect(proxy.address, there.host, there.port))
        since = proxy.mark()
        proxy.signal(signal.SIGTTIN)
        proxy.wait_for("worker.ready", since=since, worker=2)
        assert len(proxy.wait_for_workers(2)) == 2
        assert not proxy.events("worker.lost")


def test_a_worker_that_ttou_takes_finishes_its_sessions(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        sessions = open_sessions(proxy, there, SESSIONS)
        proxy.signal(signal.SIGTTOU)
        wait_until(lambda: len(proxy.accepting()) == 1)
        assert len(proxy.workers()) == 2
        for tunnels in sessions.values():
            assert all(talks(tunnel) for tunnel in tunnels)
        close_all(sessions)
        assert len(proxy.wait_for_workers(1)) == 1


def test_no_udp_socket_is_left_unread_by_a_worker_that_dies_as_ttou_takes_it(
    tmp_path: Path,
) -> None:
    with datagram_target() as there:
        tunnel = {"url": "udp://127.0.0.1:0", "target": f"127.0.0.1:{there.port}"}
        with running(tmp_path, configuration({"tunnel": tunnel})) as proxy:
            (second,) = [pid for pid in proxy.workers() if "worker 2" in title(pid)]
            os.kill(second, signal.SIGTERM)
            proxy.signal(signal.SIGTTOU)
            proxy.wait_for("worker.end", pid=second)
            proxy.wait_for_workers(1)
            for _ in range(UDP_CLIENTS):  # the kernel spreads them over all sockets
                with udp_socket() as client:
                    client.sendto(b"x", proxy.address)
                    assert client.recv(BUFFER_BYTES) == b"x"


def test_term_to_one_worker_drains_it_while_another_takes_its_place(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        sessions = open_sessions(proxy, there, SESSIONS)
        leaver, stayer = sessions
        os.kill(leaver, signal.SIGTERM)
        ready = proxy.wait_for("worker.ready")
        assert int(ready.fields["pid"]) not in (leaver, stayer)
        for tunnels in sessions.values():
            assert all(talks(tunnel) for tunnel in tunnels)
        wait_until(lambda: proxy.accepting() == {stayer, int(ready.fields["pid"])})
        close_all(sessions)
        proxy.wait_for("worker.end", pid=leaver)
        assert set(proxy.wait_for_workers(2)) == {stayer, int(ready.fields["pid"])}
        assert not proxy.events("worker.lost")


def test_without_a_master_workers_accept_nobody_and_finish(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        sessions = open_sessions(proxy, there, SESSIONS)
        proxy.signal(signal.SIGKILL)
        wait_until(lambda: refuses(proxy.address))
        for tunnels in sessions.values():
            assert all(talks(tunnel) for tunnel in tunnels)
        assert len([pid for pid in proxy.left() if pid != proxy.pid]) == 2
        close_all(sessions)
        wait_until(lambda: not proxy.left())


def test_without_a_master_a_session_has_the_drain_time(tmp_path: Path) -> None:
    config = configuration(server={"drain_seconds": 1})
    with running(tmp_path, config) as proxy, target(echo) as there:
        with connect(proxy.address, there.host, there.port) as tunnel:
            proxy.signal(signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                tunnel.receive(1)
        proxy.wait_for("session.end", code="shutdown")
        wait_until(lambda: not proxy.left())


def test_a_worker_that_hangs_is_replaced_and_the_others_serve(tmp_path: Path) -> None:
    config = configuration(server={"heartbeat_seconds": 2})
    with running(tmp_path, config) as proxy, target(echo) as there:
        sessions = open_sessions(proxy, there, SESSIONS)
        stopped, other = sessions
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: in_state(stopped, "T"))
        while not proxy.events("worker.lost"):
            # A connection that the stopped worker had accepted already cannot be among these.
            with connect(proxy.address, there.host, there.port) as tunnel:
                assert talks(tunnel)
                assert all(talks(tunnel) for tunnel in sessions[other])
            time.sleep(0.05)  # the pace of the clients
        hangs = proxy.events("worker.hang")
        assert [line.fields["signal"] for line in hangs] == ["SIGABRT", "SIGKILL"]
        assert {int(line.fields["pid"]) for line in hangs} == {stopped}
        assert float(hangs[0].fields["silent_seconds"]) >= 2
        ready = proxy.wait_for("worker.ready")
        assert set(proxy.wait_for_workers(2)) == {other, int(ready.fields["pid"])}
        assert not any(talks(tunnel) for tunnel in sessions[stopped])
        assert all(talks(tunnel) for tunnel in sessions[other])
        close_all(sessions)


def in_state(pid: int, state: str) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == state


def test_a_master_that_was_stopped_kills_nobody(tmp_path: Path) -> None:
    config = configuration(server={"heartbeat_seconds": 2})
    with running(tmp_path, config) as proxy, target(echo) as there:
        workers = proxy.workers()
        proxy.signal(signal.SIGSTOP)
        stop_until = time.monotonic() + 5
        while time.monotonic() < stop_until:
            with connect(proxy.address, there.host, there.port) as tunnel:
                assert talks(tunnel)
            time.sleep(0.1)  # the pace of the clients
        proxy.signal(signal.SIGCONT)
        time.sleep(3)  # in which it would have killed: the master looks once a second
        assert proxy.workers() == workers
        assert not proxy.events("worker.hang")
        assert not proxy.events("worker.lost")


def test_titles_tell_master_from_worker_and_count_sessions(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        assert title(proxy.pid) == f"geproxy: master ({tmp_path / 'geproxy.conf'})"
        titles = {title(pid) for pid in proxy.workers()}
        assert titles == {f"geproxy: worker {number} (0 sessions)" for number in (1, 2)}
        sessions = open_sessions(proxy, there, SESSIONS)
        for pid, tunnels in sessions.items():
            ending = f" ({len(tunnels)} sessions)"
            wait_until(lambda pid=pid, ending=ending: title(pid).endswith(ending))
        close_all(sessions)
        for pid in sessions:
            wait_until(lambda pid=pid: title(pid).endswith(" (0 sessions)"))
