"""The pidfile: one holder at a time, known to all, and never made up by somebody else."""

import fcntl
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from geproxy.errors import StartError
from geproxy.process import pidfile as pidfile_module
from geproxy.process.pidfile import Pidfile, running_pid


@contextmanager
def another_process(work: Callable[[], object]) -> Iterator[int]:
    """Do *work* in a child, which then stays until the end; yields its pid."""
    ready, ready_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ready)
            work()
            os.write(ready_end, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(ready_end)
    try:
        assert os.read(ready, 1) == b"x"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "pid")


def hold(path: str) -> Callable[[], None]:
    def work() -> None:
        Pidfile(path).write()

    return work


def test_it_holds_our_pid_for_all_to_read_whatever_the_umask(path: str) -> None:
    before = os.umask(0o077)
    try:
        pidfile = Pidfile(path)
    finally:
        os.umask(before)
    pidfile.write()
    assert Path(path).read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644
    pidfile.release()
    assert not os.path.exists(path)


def test_whoever_asks_is_told_the_holder(path: str) -> None:
    assert running_pid(path) is None
    with another_process(hold(path)) as pid:
        assert running_pid(path) == pid
    assert Path(path).read_text() == f"{pid}\n", "killed, it left the file behind"
    assert running_pid(path) is None


def test_a_second_one_is_refused_with_the_holders_pid(path: str) -> None:
    with another_process(hold(path)) as pid:
        with pytest.raises(StartError) as caught:
            Pidfile(path)
        assert str(caught.value) == f"server.pidfile: {path}: running already, as pid {pid}"
        assert Path(path).read_text() == f"{pid}\n"


def test_a_killed_holder_is_succeeded_at_once(path: str) -> None:
    with another_process(hold(path)):
        pass
    pidfile = Pidfile(path)
    pidfile.write()
    assert Path(path).read_text() == f"{os.getpid()}\n"
    pidfile.release()


def test_a_child_neither_holds_the_lock_nor_drops_it(path: str) -> None:
    pidfile = Pidfile(path)
    pidfile.write()
    pid = os.fork()
    if pid == 0:
        pidfile.forget()
        os._exit(0)
    os.waitpid(pid, 0)

    def look() -> None:
        assert running_pid(path) == os.getppid()

    with another_process(look):
        pass
    pidfile.release()


def test_the_lock_of_a_reader_is_neither_believed_nor_in_the_way(path: str) -> None:
    Path(path).write_text("1\n")

    def read() -> None:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.lockf(descriptor, fcntl.LOCK_SH)

    with another_process(read):
        assert running_pid(path) is None
        pidfile = Pidfile(path)
        pidfile.write()
        with another_process(lambda: os.getpid()):
            assert Path(path).read_text() == f"{os.getpid()}\n"
        pidfile.release()
        assert not os.path.exists(path)


def test_nobody_else_can_open_a_new_file_before_it_is_locked(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    lock = fcntl.lockf

    def watch(descriptor: int, how: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "lockf", watch)
    Pidfile(path).release()
    assert seen == [0o600]


def test_a_file_that_its_holder_removes_meanwhile_is_made_anew(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.lockf
    rounds = []

    def remove_first(descriptor: int, how: int) -> None:
        if len(rounds) < 2:
            os.unlink(path)
        rounds.append(descriptor)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    before = len(os.listdir("/proc/self/fd"))
    pidfile = Pidfile(path)
    pidfile.write()
    assert len(rounds) == 3
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert Path(path).read_text() == f"{os.getpid()}\n"
    pidfile.release()


def test_a_file_that_is_removed_for_ever_is_given_up(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: os.unlink(path))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match="removed again and again"):
        Pidfile(path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert pidfile_module.TRIES < 100


def test_what_is_not_ours_any_more_is_left_alone(path: str, tmp_path: Path) -> None:
    pidfile = Pidfile(path)
    pidfile.write()
    os.rename(path, tmp_path / "moved")
    Path(path).write_text("another's\n")
    pidfile.release()
    assert Path(path).read_text() == "another's\n"


def test_a_directory_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    pidfile = Pidfile(str(tmp_path / "run" / "pid"))
    (tmp_path / "run" / "pid").unlink()
    (tmp_path / "run").rmdir()
    pidfile.release()


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        pytest.param(lambda path, old: os.symlink(old, path), "it is a symbolic link", id="link"),
        pytest.param(
            lambda path, old: os.link(old, path), r"it has other names \(hard links\)", id="name"
        ),
        pytest.param(lambda path, old: os.mkfifo(path), "it is not a regular file", id="FIFO"),
        pytest.param(lambda path, old: os.mkdir(path), "Is a directory", id="directory"),
        pytest.param(
            lambda path, old: os.mknod(path, stat.S_IFSOCK | 0o600), "No such device", id="socket"
        ),
    ],
)
def test_only_a_file_of_our_own_is_used(
    path: str, tmp_path: Path, plant: Callable[[str, Path], None], reason: str
) -> None:
    old = tmp_path / "old"
    old.write_text("what must not change\n")
    old.chmod(0o640)
    plant(path, old)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError, match=f"^server.pidfile: cannot use {path}: {reason}"):
        Pidfile(path)
    assert len(os.listdir("/proc/self/fd")) == before
    assert old.read_text() == "what must not change\n"
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert os.path.lexists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="for root")
def test_a_file_of_another_user_is_not_used(path: str) -> None:
    Path(path).write_text("1\n")
    os.chown(path, 65534, 65534)
    with pytest.raises(StartError, match="it belongs to uid 65534"):
        Pidfile(path)
    assert Path(path).read_text() == "1\n"


def test_a_link_is_not_followed_to_ask_who_runs(path: str, tmp_path: Path) -> None:
    with another_process(hold(str(tmp_path / "other"))):
        os.symlink(tmp_path / "other", path)
        with pytest.raises(OSError, match="symbolic links"):
            running_pid(path)
