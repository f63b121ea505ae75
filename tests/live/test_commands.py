"""Commands reach workers that are stopped, full or hanging; their clients suffer little of it."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.test_workers import in_state
from tests.support.proxy import Proxy, configuration, running, title, wait_until
from tests.support.socks import reply_to
from tests.support.targets import echo, target
from tests.support.udp_client import BUFFER_BYTES, datagram_target, sockname, udp_socket

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
TUNNELS = 300
CLIENTS = 60
STORM = 600  # signals that ask for a command each: more than a line holds


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: in_state(pid, "T"))


def worker(proxy: Proxy, number: int) -> int:
    (found,) = [pid for pid in proxy.workers() if f"worker {number} " in title(pid)]
    return found


def test_a_worker_whose_line_is_full_serves_nobody_by_the_rules_from_before_a_reload(
    tmp_path: Path,
) -> None:
    log = {"target": str(tmp_path / "log")}
    with (
        running(tmp_path, configuration(log=log, workers=1), wait=False) as proxy,
        target(echo) as there,
    ):
        path = tmp_path / "log"
        wait_until(lambda: path.exists() and " ready " in path.read_text())
        address = next(line for line in path.read_text().splitlines() if "listen.start" in line)
        host, _, port = address.rpartition("address=")[2].partition(":")
        (old,) = proxy.workers()
        stop(old)
        for _ in range(STORM):
            proxy.signal(signal.SIGUSR1)
            wait_until(lambda: not pending(proxy.pid))
        rule = "[[rule]]\naction = 'deny'\n"
        proxy.rewrite(configuration(log=log, workers=1) + rule)
        proxy.signal(signal.SIGHUP)
        wait_until(lambda: "reload.done" in path.read_text())
        os.kill(old, signal.SIGCONT)
        wait_until(lambda: old not in proxy.accepting())
        answers = {reply_to((host, int(port)), there.host, there.port) for _ in range(40)}
        assert answers == {2}
        assert "worker.lost" not in path.read_text()


def pending(pid: int) -> bool:
    text = Path(f"/proc/{pid}/status").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("ShdPnd")]
    return bool(int(row.split()[1], 16))


def test_ttou_hands_over_300_udp_sockets_and_nobody_is_left_unanswered(tmp_path: Path) -> None:
    with datagram_target() as there, ExitStack() as stack:
        tunnel = {"url": f"udp://{HOST}:0", "target": f"{HOST}:{there.port}"}
        listen = {f"t{number}": tunnel for number in range(TUNNELS)}
        proxy = stack.enter_context(running(tmp_path, configuration(listen)))
        doors = [proxy.addresses(name)[0] for name in listen]
        clients = [stack.enter_context(udp_socket()) for _ in range(CLIENTS)]
        for number, client in enumerate(clients):
            ask(client, doors[number * TUNNELS // CLIENTS])
        proxy.signal(signal.SIGTTOU)
        proxy.wait_for("worker.end", worker=2)
        for number, client in enumerate(clients):
            ask(client, doors[number * TUNNELS // CLIENTS])
        for door in doors:
            with udp_socket() as stranger:
                ask(stranger, door)
        assert not proxy.events("handover.fail")
        assert not proxy.events("worker.lost")


def ask(client: socket.socket, door: tuple[str, int]) -> None:
    client.sendto(b"%d" % sockname(client)[1], door)
    assert client.recv(BUFFER_BYTES) == b"%d" % sockname(client)[1]


@pytest.mark.parametrize("how", [signal.SIGHUP, signal.SIGTTOU])
def test_the_udp_clients_of_a_worker_that_hangs_are_answered_by_the_next(
    tmp_path: Path, how: signal.Signals
) -> None:
    with datagram_target() as there, ExitStack() as stack:
        tunnel = {"url": f"udp://{HOST}:0", "target": f"{HOST}:{there.port}"}
        proxy = stack.enter_context(running(tmp_path, configuration({"tunnel": tunnel})))
        clients = [stack.enter_context(udp_socket()) for _ in range(CLIENTS)]
        for client in clients:
            ask(client, proxy.address)
        hanging = worker(proxy, 2)
        stop(hanging)
        began = time.monotonic()
        proxy.signal(how)
        for client in clients:
            ask(client, proxy.address)
        # It is not waited for until it is killed, which takes twelve seconds.
        assert hanging in proxy.workers()
        assert time.monotonic() - began < 9.0


def test_a_stopped_worker_that_has_lost_its_master_does_not_block_a_restart(
    tmp_path: Path,
) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    config = configuration({"socks": {"url": f"socks5://{HOST}:{port}"}})
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    with running(before, config) as first, target(echo) as there:
        stopped = worker(first, 1)
        stop(stopped)
        first.signal(signal.SIGKILL)
        first.wait_for_exit()
        os.kill(stopped, signal.SIGSTOP)  # the kernel may wake those whom it finds alone
        with running(after, config) as second:
            assert reply_to((HOST, port), there.host, there.port) == 0
            assert second.events("worker.orphan")[0].fields["pid"] == str(stopped)
        wait_until(lambda: stopped not in first.left())


def test_a_worker_that_has_a_master_is_nobodys_orphan(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "one") as first:
        stopped = worker(first, 1)
        stop(stopped)
        host, port = first.address
        config = configuration({"socks": {"url": f"socks5://{host}:{port}"}})
        with running(tmp_path / "two", config, wait=False) as second:
            assert second.wait_for_exit() == 1
            assert "cannot listen on" in second.log
        assert in_state(stopped, "T")
        assert not second.events("worker.orphan")


def test_a_worker_that_hangs_is_gone_12_seconds_after_its_last_beat(tmp_path: Path) -> None:
    with running(tmp_path) as proxy:
        hanging = worker(proxy, 2)
        stop(hanging)
        lost = proxy.wait_for("worker.lost", pid=hanging)
        hangs = proxy.events("worker.hang")
        assert [line.fields["signal"] for line in hangs] == ["SIGABRT", "SIGKILL"]
        # Silence counts from the last beat.
        silent_seconds = float(hangs[1].fields["silent_seconds"])
        assert silent_seconds + lost.said - hangs[1].said <= 12.0
