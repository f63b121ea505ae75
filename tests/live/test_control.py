"""geproxy status, reload, reopen, stop and quit, against a running daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from geproxy import VERSION
from tests.support.daemon import (
    NOBODY,
    SOMEBODY,
    as_user,
    daemon_configuration,
    daemon_folder,
    daemon_running,
    public_folder,
)
from tests.support.proxy import wait_until
from tests.support.socks import Tunnel, connect, reply_to
from tests.support.targets import echo, refused_port, target

pytestmark = pytest.mark.slow

for_root = pytest.mark.skipif(os.geteuid() != 0, reason="for root")

UP_BYTES, DOWN_BYTES = 30_000, 30_000
WORKER_KEYS = {
    *("worker", "pid", "sessions", "associations", "served", "up_bytes", "down_bytes"),
    *("up_datagrams", "down_datagrams", "dropped", "sandbox"),
}


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def check_talks(tunnel: Tunnel) -> None:
    tunnel.send(b"x")
    assert tunnel.receive(1) == b"x"


# -- status


def test_status_tells_of_a_transfer_while_it_runs(folder: Path) -> None:
    with daemon_running(folder, prefix=as_user()) as daemon, target(echo) as there:
        quiet = daemon.status()
        assert (quiet["pid"], quiet["version"]) == (daemon.pid, VERSION)
        assert quiet["config"] == str(daemon.config)
        host, port = daemon.address()
        assert quiet["listeners"] == {"socks": [f"{host}:{port}"]}
        workers = quiet["workers"]
        assert isinstance(workers, list)
        assert [(one["worker"], one["sessions"]) for one in workers] == [(1, 0), (2, 0)]
        assert sorted(one["pid"] for one in workers) == sorted(daemon.workers())
        assert all(set(one) == WORKER_KEYS for one in workers)

        def total(key: str) -> int:
            workers = daemon.status()["workers"]
            assert isinstance(workers, list)
            return sum(worker[key] for worker in workers)

        with connect(daemon.address(), there.host, there.port) as tunnel:
            tunnel.send(bytes(UP_BYTES))
            tunnel.receive(DOWN_BYTES)
            wait_until(lambda: total("down_bytes") == DOWN_BYTES)
            assert (total("up_bytes"), total("sessions"), total("served")) == (UP_BYTES, 1, 1)
            text = daemon.run("status").stdout
        first, second, *rows = text.splitlines()
        uptime = first.rpartition(", up ")[2].removesuffix(" s")
        assert 0 <= float(uptime) < 60
        assert first.startswith(
            f"geproxy {VERSION} is running: pid {daemon.pid}, {daemon.config}, up "
        )
        assert second == f"listen socks: {host}:{port}"
        assert len(rows) == 2
        assert rows[0].startswith(f"worker 1 pid {workers[0]['pid']} sessions ")
        assert f"down_bytes {DOWN_BYTES}" in text
        wait_until(lambda: total("sessions") == 0)
        assert total("down_bytes") == DOWN_BYTES, "what was counted stays"


def test_status_follows_a_reload(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        before = daemon.status()
        config = daemon_configuration({"other": {"url": "socks5://127.0.0.1:0"}}, workers=1)
        daemon.config.write_text(config)
        assert daemon.run("reload").returncode == 0
        host, port = daemon.address("other")
        after = daemon.status()
        assert after["listeners"] == {"other": [f"{host}:{port}"]}
        assert after["pid"] == before["pid"]

        def workers() -> list[int]:
            found = daemon.status()["workers"]
            assert isinstance(found, list)
            return [one["worker"] for one in found]

        wait_until(lambda: workers() == [1])


@for_root
def test_root_sees_the_daemon_of_another_user(folder: Path) -> None:
    with daemon_folder(folder, prefix=as_user()) as daemon:
        daemon.start()
        done = daemon.run("status", "--json", prefix=[])
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["pid"] == daemon.pid


@for_root
@pytest.mark.parametrize("owner", [0, NOBODY], ids=["of root", "of an ordinary user"])
def test_another_user_neither_sees_nor_signals_a_daemon(folder: Path, owner: int) -> None:
    with daemon_folder(folder, prefix=as_user(owner) if owner else []) as daemon:
        daemon.start()
        family = sorted(daemon.left())
        said = f"geproxy: {daemon.config}: pid {daemon.pid}: "
        for name in ("status", "reload", "reopen", "stop", "quit"):
            done = daemon.run(name, prefix=as_user(SOMEBODY))
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr in (
                f"{said}Permission denied\n",
                f"{said}Operation not permitted\n",
            ), done.stderr
        for pid in family:
            for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP):
                kill = subprocess.run(
                    ["kill", f"-{number}", str(pid)],
                    user=SOMEBODY, group=SOMEBODY, extra_groups=[], capture_output=True,
                )  # fmt: skip
                assert kill.returncode != 0
        assert sorted(daemon.left()) == family


def test_status_of_what_does_not_run_is_3_whatever_is_wrong_with_the_file(folder: Path) -> None:
    with daemon_folder(folder) as daemon:
        done = daemon.run("status")
        said = f"geproxy: {daemon.config}: not running\n"
        assert (done.returncode, done.stdout, done.stderr) == (3, "", said)
        daemon.config.write_text('[server]\npidfile = "geproxy.pid"\nworkers = "many"\n')
        assert daemon.run("status").returncode == 3
        assert daemon.run("status", "--json").returncode == 3


@pytest.mark.parametrize("name", ["status", "reload", "reopen", "stop", "quit"])
def test_a_configuration_that_is_not_there_is_status_2(folder: Path, name: str) -> None:
    with daemon_folder(folder) as daemon:
        daemon.config.unlink()
        done = daemon.run(name)
        said = f"geproxy: {daemon.config}: cannot be read: No such file or directory\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


# -- reload and reopen


def test_reload_returns_when_the_new_workers_serve(folder: Path) -> None:
    with daemon_running(folder, prefix=as_user()) as daemon, target(echo) as there:
        before = set(daemon.workers())
        done = daemon.run("reload")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert len(daemon.lines("reload.done")) == 1, "before it returned"
        assert reply_to(daemon.address(), there.host, there.port) == 0
        wait_until(lambda: not before & set(daemon.workers()))


def test_reload_tells_every_problem_of_a_broken_file(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        family = sorted(daemon.left())
        sound = daemon.config.read_text()
        daemon.config.write_text(sound + "\n[limits]\nsessions = 0\nidle_seconds = 0\n")
        done = daemon.run("reload")
        assert (done.returncode, done.stdout) == (1, "")
        first, second = done.stderr.splitlines()
        assert first.startswith(f"geproxy: {daemon.config}: limits.sessions: ")
        assert second.startswith(f"geproxy: {daemon.config}: limits.idle_seconds: ")
        assert sorted(daemon.left()) == family
        assert reply_to(daemon.address(), there.host, there.port) == 0
        daemon.config.write_text(sound)
        done = daemon.run("reload")
        assert (done.returncode, done.stderr) == (0, ""), "what was wrong is forgotten"


def test_reload_tells_why_a_port_could_not_be_had(folder: Path) -> None:
    port = refused_port()
    with daemon_running(folder) as daemon, target(echo) as there:
        taken = {"url": f"socks5://127.0.0.1:{there.port}"}
        free = {"url": f"socks5://127.0.0.1:{port}"}
        daemon.config.write_text(daemon_configuration({"free": free, "taken": taken}))
        done = daemon.run("reload")
        where = f"127.0.0.1:{there.port}"
        said = f"listen.taken.url: cannot listen on {where}: Address already in use\n"
        assert (done.returncode, done.stderr) == (1, f"geproxy: {daemon.config}: {said}")
        assert reply_to(daemon.address(), there.host, there.port) == 0
        with pytest.raises(ConnectionError):
            Tunnel.dial(("127.0.0.1", port))


@for_root
@pytest.mark.parametrize(
    ("log", "who"),
    [
        pytest.param({}, "the log's writer cannot start", id="the writer of the log"),
        pytest.param({"target": "syslog"}, "could not start", id="a worker"),
    ],
)
def test_reload_rolls_back_when_a_process_cannot_start(
    folder: Path, log: dict[str, object], who: str
) -> None:
    with daemon_folder(folder) as daemon, target(echo) as there:
        daemon.prefix = ["setpriv", "--bounding-set=-setgid", "--inh-caps=-setgid"]
        daemon.start()
        daemon.config.write_text(daemon_configuration(server={"user": "nobody"}, log=log))
        before = sorted(daemon.workers())
        done = daemon.run("reload")
        assert done.returncode == 1
        assert f"{who}: PermissionError" in done.stderr
        wait_until(lambda: sorted(daemon.workers()) == before)
        assert reply_to(daemon.address(), there.host, there.port) == 0


def test_reloads_by_many_at_once_all_get_an_answer(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        answers: list[int] = []

        def reload() -> None:
            answers.append(daemon.run("reload").returncode)

        threads = [threading.Thread(target=reload, daemon=True) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
        assert answers == [0] * 6
        wait_until(lambda: len(daemon.workers()) == 2)


def test_reopen_tells_why_a_log_cannot_be_opened(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        (folder / "log").rename(folder / "log.1")
        (folder / "log").mkdir()
        done = daemon.run("reopen")
        assert (done.returncode, done.stdout) == (1, "")
        said = f"cannot open {folder}/log: Is a directory\n"
        assert done.stderr == f"geproxy: {daemon.config}: {said}"
        assert len(daemon.lines("reopen.fail", "log.1")) == 1, "the old one serves on"
        (folder / "log").rmdir()
        done = daemon.run("reopen")
        assert (done.returncode, done.stderr) == (0, "")
        assert daemon.lines("log.reopen")


# -- stop and quit


@pytest.mark.parametrize("name", ["stop", "quit"])
def test_it_is_gone_when_the_command_returns(folder: Path, name: str) -> None:
    with daemon_running(folder, prefix=as_user() if name == "stop" else ()) as daemon:
        done = daemon.run(name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert daemon.left() == []
        assert sorted(os.listdir(folder)) == ["geproxy.conf", "log"]
        assert daemon.lines()[-1].event == "end"
        done = daemon.run(name)
        assert (done.returncode, done.stderr) == (1, f"geproxy: {daemon.config}: not running\n")


def test_stop_waits_for_sessions_and_quit_does_not(folder: Path) -> None:
    with daemon_folder(folder) as daemon, target(echo) as there:
        for name, code in (("stop", "ok"), ("quit", "shutdown")):
            daemon.start()
            begun = time.monotonic()
            with connect(daemon.address(), there.host, there.port) as tunnel:
                check_talks(tunnel)
                answers: list[int] = []
                command = threading.Thread(
                    target=lambda name=name, answers=answers: answers.append(
                        daemon.run(name).returncode
                    )
                )
                command.start()
                if name == "stop":
                    daemon.wait_for("stop")
                    check_talks(tunnel)
                    assert command.is_alive()
                    tunnel.finish()
                    assert tunnel.receive_all() == b""
                command.join(20)
            assert answers == [0]
            assert time.monotonic() - begun < 20, "drain_seconds are 30"
            assert daemon.lines("session.end")[-1].fields["code"] == code


def test_a_stop_ends_sessions_that_outlast_their_time(folder: Path) -> None:
    config = daemon_configuration(server={"drain_seconds": 1})
    with daemon_running(folder, config) as daemon, target(echo) as there:
        with connect(daemon.address(), there.host, there.port) as tunnel:
            check_talks(tunnel)
            assert daemon.run("stop").returncode == 0
        assert daemon.lines("session.end")[-1].fields["code"] == "shutdown"
        assert daemon.left() == []


@pytest.mark.parametrize("name", ["stop", "quit"])
@pytest.mark.parametrize(
    "rest",
    [
        pytest.param('workers = "many"\n', id="a wrong value"),
        pytest.param("drain_seconds = 1\n[listen.a]\nurl = 'x://y'\n[nonsense]\n", id="more"),
    ],
)
def test_a_daemon_whose_configuration_is_broken_by_now_can_be_ended(
    folder: Path, name: str, rest: str
) -> None:
    with daemon_running(folder) as daemon:
        daemon.config.write_text(f'[server]\npidfile = "geproxy.pid"\n{rest}')
        done = daemon.run(name)
        assert (done.returncode, done.stderr) == (0, "")
        assert daemon.left() == []
