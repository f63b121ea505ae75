"""The pidfile against another user of the host, who was there first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import (
    NOBODY,
    daemon_configuration,
    daemon_folder,
    daemon_running,
    public_folder,
)
from tests.support.proxy import PROGRAM, configuration, running, wait_until

pytestmark = pytest.mark.slow

for_root = pytest.mark.skipif(os.geteuid() != 0, reason="for root")

VICTIM = "what must not change\n"
COMMANDS = ("reload", "reopen", "stop", "quit")


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def symbolic_link(pidfile: Path, victim: Path) -> None:
    pidfile.symlink_to(victim)


def dangling_link(pidfile: Path, victim: Path) -> None:
    pidfile.symlink_to(victim.with_name("new"))


def hard_link(pidfile: Path, victim: Path) -> None:
    pidfile.hardlink_to(victim)


def fifo(pidfile: Path, victim: Path) -> None:
    os.mkfifo(pidfile)


def directory(pidfile: Path, victim: Path) -> None:
    pidfile.mkdir()


def somebody_elses(pidfile: Path, victim: Path) -> None:
    pidfile.write_text(VICTIM)
    os.chown(pidfile, NOBODY, NOBODY)


PLANTED = [
    pytest.param(symbolic_link, "it is a symbolic link", id="a symbolic link"),
    pytest.param(dangling_link, "it is a symbolic link", id="a link to what is not there"),
    pytest.param(hard_link, "it has other names (hard links)", id="a hard link"),
    pytest.param(fifo, "it is not a regular file", id="a FIFO"),
    pytest.param(directory, "Is a directory", id="a directory"),
    pytest.param(
        somebody_elses, f"it belongs to uid {NOBODY}", id="a file of another user", marks=for_root
    ),
]


@pytest.mark.parametrize(("plant", "reason"), PLANTED)
def test_what_somebody_planted_is_refused_and_left_as_it_is(
    folder: Path, plant: Callable[[Path, Path], None], reason: str
) -> None:
    with daemon_folder(folder) as daemon:
        victim = folder / "victim"
        victim.write_text(VICTIM)
        plant(daemon.pidfile, victim)
        planted = daemon.pidfile.lstat()
        there = sorted(os.listdir(folder))
        done = daemon.run("-d")
        assert (done.returncode, done.stdout) == (1, "")
        said = f"server.pidfile: cannot use {daemon.pidfile}: {reason}\n"
        assert done.stderr == f"geproxy: {daemon.config}: {said}"
        assert victim.read_text() == VICTIM
        after = daemon.pidfile.lstat()
        assert (after.st_ino, after.st_mode, after.st_mtime) == (
            planted.st_ino,
            planted.st_mode,
            planted.st_mtime,
        )
        assert sorted(os.listdir(folder)) == there
        assert daemon.left() == []


def test_the_file_of_a_killed_master_is_taken_over(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        first, inode = daemon.pid, daemon.pidfile.stat().st_ino
        os.kill(first, signal.SIGKILL)
        daemon.wait_for_end()
        daemon.start()
        assert daemon.pid != first
        assert daemon.pidfile.stat().st_ino == inode
        assert daemon.run("stop").returncode == 0
        assert not daemon.pidfile.exists()


def test_a_longer_text_left_behind_is_replaced_wholly(folder: Path) -> None:
    with daemon_folder(folder) as daemon:
        daemon.pidfile.write_text("1" * 400)
        daemon.start()
        assert daemon.pidfile.read_text() == f"{daemon.pid}\n"
        assert daemon.pid in daemon.left()


def test_a_number_of_some_other_process_is_not_believed(folder: Path) -> None:
    with (
        daemon_folder(folder) as daemon,
        subprocess.Popen(["sleep", "60"]) as bystander,
    ):
        daemon.pidfile.write_text(f"{bystander.pid}\n")
        for name in COMMANDS:
            done = daemon.run(name)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr == f"geproxy: {daemon.config}: not running\n"
        assert daemon.run("status").returncode == 3
        assert bystander.poll() is None
        bystander.kill()


LOCK = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
fcntl.lockf(descriptor, fcntl.LOCK_SH)
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_reader_who_locks_a_file_that_was_left_behind_holds_up_nobody(folder: Path) -> None:
    with daemon_folder(folder) as daemon:
        daemon.pidfile.write_text("1\n")
        reader = subprocess.Popen(
            [sys.executable, "-c", LOCK, str(daemon.pidfile)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout is not None
        assert reader.stdout.readline() == "locked\n"
        assert "not running" in daemon.run("quit").stderr
        assert reader.poll() is None, "it was not taken for the daemon"
        daemon.start()
        assert daemon.pid in daemon.left()
        assert daemon.run("stop").returncode == 0
        reader.communicate("", timeout=20)
        assert reader.returncode == 0


def test_a_foreground_run_has_its_pidfile_for_as_long_as_it_lives(tmp_path: Path) -> None:
    config = configuration(server={"pidfile": "geproxy.pid"})
    with running(tmp_path, config) as proxy:
        path = tmp_path / "geproxy.pid"
        assert path.read_text() == f"{proxy.pid}\n"
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_for_exit() == 0
        assert not path.exists()


def test_without_one_a_foreground_run_writes_none(tmp_path: Path) -> None:
    with running(tmp_path):
        assert os.listdir(tmp_path) == ["geproxy.conf"]


def test_a_file_that_took_the_place_of_ours_is_not_removed(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        pid = daemon.pid
        daemon.pidfile.rename(folder / "moved")
        daemon.pidfile.write_text(VICTIM)
        os.kill(pid, signal.SIGTERM)
        daemon.wait_for_end()
        assert daemon.pidfile.read_text() == VICTIM
        assert (folder / "moved").read_text() == "", "no number that means nothing any more"


def test_a_pidfile_whose_directory_is_missing_is_one_line_and_status_1(folder: Path) -> None:
    with daemon_folder(folder, daemon_configuration(server={"pidfile": "none/pid"})) as daemon:
        done = daemon.run("-d")
        path = folder / "none" / "pid"
        said = f"server.pidfile: cannot use {path}: No such file or directory\n"
        assert (done.returncode, done.stderr) == (1, f"geproxy: {daemon.config}: {said}")


def test_many_starts_at_once_leave_one_master(folder: Path) -> None:
    with daemon_folder(folder) as daemon:
        starts = [
            subprocess.Popen(
                [str(PROGRAM), "-f", str(daemon.config), "-d"], stderr=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        ends = [(start.communicate(timeout=40)[1], start.returncode) for start in starts]
        assert sorted(status for _, status in ends) == [0] + [1] * 3
        for said, status in ends:
            assert status == 0 or "running already, as pid" in said
        assert daemon.pid in daemon.left()
        wait_until(lambda: len(daemon.left()) == 4)  # it, two workers, and who writes the log
