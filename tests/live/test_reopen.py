"""USR1 after a rename: what is said from then on stands in a new file."""

from __future__ import annotations

import os
import signal
import stat
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
from tests.support.proxy import wait_until
from tests.support.socks import connect, reply_to
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

AS_NOBODY = {"user": "nobody"} if os.geteuid() == 0 else {}


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def rotate(daemon: Daemon, *names: str) -> None:
    """Move the logs away, as logrotate does, and wait until the new ones are in use."""
    for name in names:
        (daemon.folder / name).rename(daemon.folder / f"{name}.1")
    os.kill(daemon.pid, signal.SIGUSR1)
    daemon.wait_for("log.reopen")


def held(daemon: Daemon, name: str) -> list[int]:
    """The processes of the daemon that have the log *name* open."""
    path = str(daemon.folder / name)
    return [pid for pid in daemon.left() if path in descriptors(pid).values()]


def ends(daemon: Daemon, log: str) -> int:
    return len(daemon.lines("session.end", log))


def test_the_new_file_gets_the_lines_of_workers_without_privileges(folder: Path) -> None:
    config = daemon_configuration(server=AS_NOBODY)
    with daemon_running(folder, config) as daemon, target(echo) as there:
        if AS_NOBODY:
            uids = {status_rows(pid)["Uid"] for pid in daemon.workers()}
            assert uids == {" ".join([str(NOBODY)] * 4)}
        assert reply_to(daemon.address(), there.host, there.port) == 0
        daemon.wait_for("session.end")
        address = daemon.address()
        with connect(address, there.host, there.port) as living:
            rotate(daemon, "log")
            wait_until(lambda: held(daemon, "log.1") == [])
            assert held(daemon, "log") == [pid for pid in daemon.left() if writes_logs(pid)]
            file = (folder / "log").stat()
            assert stat.S_IMODE(file.st_mode) == 0o640
            assert (file.st_uid, file.st_gid) == (os.geteuid(), os.getegid())
            living.send(b"x")
            assert living.receive(1) == b"x"
        before = ends(daemon, "log.1")
        for _ in range(20):
            assert reply_to(address, there.host, there.port) == 0
        wait_until(lambda: ends(daemon, "log") == 21)
        assert ends(daemon, "log.1") == before == 1


def test_the_access_log_moves_too(folder: Path) -> None:
    # Nothing is asked about NAT64 then: a look-up has a descriptor for a while.
    quiet = {"family": "ipv4"}
    config = daemon_configuration(server=AS_NOBODY, log={"access": "access"}, resolver=quiet)
    with daemon_running(folder, config) as daemon, target(echo) as there:
        address = daemon.address()
        rotate(daemon, "log", "access")
        wait_until(lambda: not held(daemon, "log.1") and not held(daemon, "access.1"))
        assert reply_to(address, there.host, there.port) == 0
        wait_until(lambda: ends(daemon, "access") == 1)
        assert ends(daemon, "log") == 0
        assert stat.S_IMODE((folder / "access").stat().st_mode) == 0o640
        # One more and nothing has been used up.
        counts = [len(descriptors(pid)) for pid in daemon.left()]
        for _ in range(5):
            assert daemon.run("reopen").returncode == 0
        assert [len(descriptors(pid)) for pid in daemon.left()] == counts


def test_a_worker_that_replaces_another_writes_to_the_new_file(folder: Path) -> None:
    config = daemon_configuration(server=AS_NOBODY, workers=1)
    with daemon_running(folder, config) as daemon, target(echo) as there:
        address = daemon.address()
        rotate(daemon, "log")
        (first,) = daemon.workers()
        os.kill(first, signal.SIGKILL)
        daemon.wait_for("worker.ready")
        assert reply_to(address, there.host, there.port) == 0
        wait_until(lambda: ends(daemon, "log") == 1)


def test_workers_of_an_earlier_configuration_reopen_their_own_logs(folder: Path) -> None:
    with daemon_running(folder, daemon_configuration(server=AS_NOBODY)) as daemon:
        with target(echo) as there, connect(daemon.address(), there.host, there.port) as living:
            living.send(b"x")
            assert living.receive(1) == b"x"
            other = daemon_configuration(server=AS_NOBODY, log={"target": "other"})
            daemon.config.write_text(other)
            assert daemon.run("reload").returncode == 0
            (folder / "log").rename(folder / "log.1")
            (folder / "other").rename(folder / "other.1")
            assert daemon.run("reopen").returncode == 0
            wait_until(lambda: not held(daemon, "log.1") and not held(daemon, "other.1"))
        wait_until(lambda: ends(daemon, "log") == 1)
        assert ends(daemon, "other") == 0
        assert daemon.lines("log.reopen", "other")


def test_a_link_in_the_place_of_the_log_is_not_followed(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        victim = folder / "victim"
        victim.write_text("what must not change\n")
        (folder / "log").rename(folder / "log.1")
        (folder / "log").symlink_to(victim)
        done = daemon.run("reopen")
        assert done.returncode == 1
        assert done.stderr.endswith(f"cannot open {folder}/log: it is a symbolic link\n")
        assert victim.read_text() == "what must not change\n"
