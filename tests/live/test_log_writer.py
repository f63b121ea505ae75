"""The log's files belong to one process: whatever holds it up holds up nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import (
    NOBODY,
    Daemon,
    daemon_configuration,
    daemon_running,
    descriptors,
    public_folder,
    status_rows,
)
from tests.support.logs import writes_logs
from tests.support.proxy import PROGRAM, configuration, wait_until
from tests.support.socks import connect, reply_to
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

AS_NOBODY = {"user": "nobody"} if os.geteuid() == 0 else {}


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def writers(daemon: Daemon) -> list[int]:
    """The processes of the daemon that write its log."""
    return [pid for pid in daemon.left() if writes_logs(pid)]


def test_the_writer_alone_has_the_file_and_nothing_that_listens(folder: Path) -> None:
    with daemon_running(folder, daemon_configuration(server=AS_NOBODY)) as daemon:
        (writer,) = writers(daemon)
        log = str(folder / "log")
        holders = [pid for pid in daemon.left() if log in descriptors(pid).values()]
        assert holders == [writer]
        held = descriptors(writer).values()
        assert sum(one.startswith("socket:") for one in held) == 2  # the queue, and the control
        if AS_NOBODY:
            assert status_rows(writer)["Uid"].split() == [str(NOBODY)] * 4
            assert int(status_rows(writer)["CapEff"], 16) == 0


def test_a_writer_that_is_held_up_holds_up_no_client_no_reload_and_no_stop(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        address = daemon.address()
        (writer,) = writers(daemon)
        os.kill(writer, signal.SIGSTOP)
        try:
            for _ in range(20):
                assert reply_to(address, there.host, there.port) == 0
            assert daemon.run("reload").returncode == 0
            assert reply_to(address, there.host, there.port) == 0
            assert daemon.run("stop").returncode == 0
            assert not daemon.pidfile.exists()
            wait_until(lambda: daemon.left() == [writer])
        finally:
            os.kill(writer, signal.SIGCONT)
        wait_until(lambda: daemon.left() == [])
        assert len(daemon.lines("session.end")) == 21


def test_lines_beyond_the_queue_are_counted(folder: Path) -> None:
    with daemon_running(folder, daemon_configuration(server={"workers": 1})) as daemon:
        address = daemon.address()
        (writer,) = writers(daemon)
        count = 2500  # more than the queue and what waits in the worker hold
        os.kill(writer, signal.SIGSTOP)
        try:
            with target(echo) as there:
                for _ in range(count):
                    assert reply_to(address, there.host, there.port) == 0
        finally:
            os.kill(writer, signal.SIGCONT)
        daemon.wait_for("log.lost")
        (lost,) = daemon.lines("log.lost")
        number = int(lost.fields["lines"])
        wait_until(lambda: len(daemon.lines("session.end")) + number == count)


def test_a_writer_that_was_killed_is_replaced(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        (writer,) = writers(daemon)
        os.kill(writer, signal.SIGKILL)
        daemon.wait_for("log.writer.lost")
        assert reply_to(daemon.address(), there.host, there.port) == 0
        daemon.wait_for("session.end")
        assert len(writers(daemon)) == 1


def test_a_log_with_another_name_is_refused(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        victim = folder / "victim"
        victim.write_text("what must not change\n")
        (folder / "log").rename(folder / "log.1")
        os.link(victim, folder / "log")
        done = daemon.run("reopen")
        assert done.returncode == 1
        problem = f"cannot open {folder}/log: it has another name (a hard link)\n"
        assert done.stderr.endswith(problem)
        assert victim.read_text() == "what must not change\n"


def test_a_writer_that_is_held_up_does_not_hold_up_those_who_open_the_log_again(
    folder: Path,
) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        (writer,), address = writers(daemon), daemon.address()
        os.kill(writer, signal.SIGSTOP)
        try:
            (folder / "log").rename(folder / "log.1")
            assert daemon.run("reopen").returncode == 0
            assert reply_to(address, there.host, there.port) == 0
            daemon.wait_for("session.end")
        finally:
            os.kill(writer, signal.SIGCONT)
        wait_until(lambda: writer not in daemon.left())
        assert len(writers(daemon)) == 1


def test_workers_need_no_descriptor_for_a_new_log(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        address = daemon.address()
        before = {worker: descriptors(worker) for worker in daemon.workers()}
        (folder / "log").rename(folder / "log.1")
        assert daemon.run("reopen").returncode == 0
        assert {worker: descriptors(worker) for worker in daemon.workers()} == before
        assert reply_to(address, there.host, there.port) == 0
        daemon.wait_for("session.end")


def test_the_last_lines_are_written_although_the_master_was_killed(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        (writer,) = writers(daemon)
        with connect(daemon.address(), there.host, there.port):
            os.kill(daemon.pid, signal.SIGKILL)
            wait_until(lambda: daemon.pid not in daemon.left())
        daemon.wait_for("session.end")
        wait_until(lambda: daemon.left() == [])
        assert writer not in daemon.left()


def test_a_writer_that_cannot_open_the_log_is_tried_again(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        (writer,), address = writers(daemon), daemon.address()
        (folder / "log").rename(folder / "log.1")
        (folder / "log").mkdir()
        os.kill(writer, signal.SIGKILL)
        wait_until(lambda: writer not in daemon.left())
        assert reply_to(address, there.host, there.port) == 0
        wait_until(lambda: not writers(daemon))
        (folder / "log").rmdir()
        daemon.wait_for("log.writer.lost")
        daemon.wait_for("session.end")
        assert len(writers(daemon)) == 1


def test_standard_error_that_is_a_file_is_written_by_the_writer(folder: Path) -> None:
    errors = folder / "errors"
    config = folder / "geproxy.conf"
    config.write_text(configuration(workers=1))
    with errors.open("wb") as stderr:
        process = subprocess.Popen([PROGRAM, "-f", str(config)], stderr=stderr)
    try:
        wait_until(lambda: " ready " in errors.read_text())
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        (writer,) = [pid for pid in map(int, children.read_text().split()) if writes_logs(pid)]
        os.kill(writer, signal.SIGSTOP)
        process.send_signal(signal.SIGHUP)
        process.terminate()
        process.wait(20)
        os.kill(writer, signal.SIGCONT)
        wait_until(lambda: " end" in errors.read_text())
    finally:
        process.kill()
        process.wait(20)
