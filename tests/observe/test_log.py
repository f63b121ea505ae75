"""The log as the other rooms and the operator see it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from geproxy.errors import StartError
from geproxy.observe.log import LEVELS, Failure, Log
from geproxy.observe.repeats import SINGLE_LINES
from geproxy.terms import Endpoint, plain_address
from tests.support.logs import open_again, open_log
from tests.support.proxy import wait_until


def events(path: Path) -> list[str]:
    """Level and event of every line."""
    return [" ".join(line.split(" ")[1:3]) for line in path.read_text().splitlines()]


def say_everything(log: Log) -> None:
    log.debug("a")
    log.info("b")
    log.session(code="ok")
    log.warning("c")
    log.error("d")
    log.close()


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_silences_those_below_it(tmp_path: Path, level: str) -> None:
    say_everything(open_log(str(tmp_path / "log"), "", level, "text"))
    everything = ["debug a", "info b", "info session.end", "warning c", "error d"]
    wanted = LEVELS[LEVELS.index(level) :]
    assert events(tmp_path / "log") == [line for line in everything if line.split()[0] in wanted]


def test_sessions_can_be_off(tmp_path: Path) -> None:
    say_everything(open_log(str(tmp_path / "log"), "off", "info", "text"))
    assert events(tmp_path / "log") == ["info b", "warning c", "error d"]


def test_sessions_in_a_file_of_their_own_do_not_depend_on_the_level(tmp_path: Path) -> None:
    say_everything(open_log(str(tmp_path / "log"), str(tmp_path / "access"), "error", "text"))
    assert events(tmp_path / "log") == ["error d"]
    assert events(tmp_path / "access") == ["info session.end"]


def test_the_same_path_twice_is_one_sink(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    before = len(os.listdir("/proc/self/fd"))
    log = open_log(path, path, "info", "text")
    assert len(os.listdir("/proc/self/fd")) == before + 4  # the queue, its ends and the control
    say_everything(log)
    assert events(tmp_path / "log") == ["info b", "info session.end", "warning c", "error d"]


def test_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    log = open_log("stderr", "", "info", "text", clock=lambda: 0.0)
    log.info("start", workers=2)
    log.close()
    assert capfd.readouterr().err == "1970-01-01T00:00:00.000Z info start workers=2\n"


def test_json(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), "", "info", "json", clock=lambda: 0.0)
    log.session(user=None)
    log.close()
    assert (tmp_path / "log").read_text() == (
        '{"time":"1970-01-01T00:00:00.000Z","level":"info","event":"session.end","user":null}\n'
    )


def test_a_start_does_not_depend_on_the_syslog_daemon(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = open_log("syslog", "", "info", "text", syslog_path=str(tmp_path / "none"))
    log.info("start")
    log.flush()
    log.close()
    assert " warning log.fail target=syslog " in capfd.readouterr().err


def test_a_new_file_is_not_for_everyone_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o077):
        path = tmp_path / f"{umask}"
        before = os.umask(umask)
        try:
            open_log(str(path), "", "info", "text").close()
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_that_exists_keeps_its_mode_and_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("x x before\n")
    path.chmod(0o600)
    say_everything(open_log(str(path), "off", "error", "text"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert events(path) == ["x before", "error d"]


def test_a_fifo_with_a_reader_is_a_log(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    say_everything(open_log(str(path), "off", "error", "text"))
    assert os.read(reader, 4096).endswith(b" error d\n")
    os.close(reader)


def make_link(path: Path) -> None:
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(make_link, "it is a symbolic link", id="a link, even to nothing"),
        pytest.param(os.mkfifo, "nobody reads it", id="a FIFO without a reader"),
        pytest.param(Path.mkdir, "Is a directory", id="a directory"),
    ],
)
def test_what_is_no_log_file_stops_the_start(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "log"
    make(path)
    with pytest.raises(StartError) as caught:
        open_log(str(path), "", "info", "text")
    assert str(caught.value) == f"log.target: cannot open {path}: {reason}"
    assert not (tmp_path / "elsewhere").exists()


def test_an_access_file_that_cannot_be_opened_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "none" / "access"
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StartError) as caught:
        open_log(str(tmp_path / "log"), str(path), "info", "text")
    assert str(caught.value) == f"log.access: cannot open {path}: No such file or directory"
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("target", "access", "files"),
    [
        pytest.param("stderr", "", [], id="standard error"),
        pytest.param("syslog", "", [], id="syslog"),
        pytest.param("log", "", ["log"], id="a file"),
        pytest.param("log", "off", ["log"], id="a file alone"),
        pytest.param("log", "log", ["log"], id="the same file twice"),
        pytest.param("log", "access", ["log", "access"], id="two files"),
        pytest.param("stderr", "access", ["access"], id="a file for sessions"),
    ],
)
def test_only_files_are_opened_again(
    tmp_path: Path, target: str, access: str, files: list[str]
) -> None:
    def place(name: str) -> str:
        return str(tmp_path / name) if name in ("log", "access") else name

    log = open_log(place(target), place(access), "info", "text")
    for name in files:
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    before = len(os.listdir("/proc/self/fd"))
    open_again(log)
    assert len(os.listdir("/proc/self/fd")) == before, "the old ones are closed"
    log.close()
    assert sorted(os.listdir(tmp_path)) == sorted(files + [f"{name}.1" for name in files])


def test_lines_go_to_the_file_that_was_open_when_they_were_said(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), str(tmp_path / "access"), "info", "text")
    log.info("a")
    log.session(code="ok")
    for name in ("log", "access"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    log.info("b")
    open_again(log)
    log.info("c")
    log.session(code="ok")
    log.close()
    assert events(tmp_path / "log.1") == ["info a", "info b"]
    assert events(tmp_path / "log") == ["info c"]
    assert events(tmp_path / "access.1") == events(tmp_path / "access") == ["info session.end"]


def test_a_file_that_is_opened_again_is_not_for_everyone(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), "", "info", "text")
    (tmp_path / "log").unlink()
    before = os.umask(0)
    try:
        open_again(log)
    finally:
        os.umask(before)
    log.close()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640


def test_a_file_that_cannot_be_opened_again_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), str(tmp_path / "access"), "info", "text")
    for name in ("log", "access"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    (tmp_path / "access").symlink_to(tmp_path / "elsewhere")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError) as caught:
        open_again(log)
    problem = f"cannot open {tmp_path / 'access'}: it is a symbolic link"
    assert str(caught.value) == problem
    assert len(os.listdir("/proc/self/fd")) == before
    log.info("a")
    log.close()
    assert events(tmp_path / "log.1") == ["info a"]


@pytest.mark.parametrize("finish", [Log.conclude, Log.close])
def test_failures_that_were_counted_are_written_before_the_end(
    tmp_path: Path, finish: Callable[[Log], None]
) -> None:
    log = open_log(str(tmp_path / "log"), "", "info", "text", clock=lambda: 0.0)
    failure = Failure("lan", Endpoint(plain_address("192.0.2.1"), 1), "alice", "wrong password")
    for _ in range(SINGLE_LINES + 37):
        log.authentication_failed("source", failure, 1)
    log.flush()
    wait_until(lambda: len(events(tmp_path / "log")) == SINGLE_LINES)
    finish(log)
    wait_until(lambda: len(events(tmp_path / "log")) > SINGLE_LINES)
    *_, last = (tmp_path / "log").read_text().splitlines()
    assert last == (
        "1970-01-01T00:00:00.000Z warning auth.fail listen=lan client=192.0.2.1:1 user=alice"
        ' reason="wrong password" repeated=37'
    )
    if finish is not Log.close:
        log.close()


def test_failures_below_the_level_are_not_even_counted(tmp_path: Path) -> None:
    log = open_log(str(tmp_path / "log"), "", "error", "text")
    failure = Failure("lan", Endpoint(plain_address("192.0.2.1"), 1), None, "wrong password")
    log.authentication_failed("source", failure, 1)
    log.close()
    assert events(tmp_path / "log") == []
