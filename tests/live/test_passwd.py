"""geproxy passwd, from a pipe and on a terminal."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.proxy import (
    PATIENCE_SECONDS,
    PROGRAM,
    command,
    configuration,
    running,
)
from tests.support.socks import Tunnel

pytestmark = pytest.mark.slow

SECRET = "s3cret-that-nobody-sees"


def passwd(folder: Path, user: str, given: str) -> int:
    return command("passwd", "users", user, folder=folder, given=given).returncode


def users(folder: Path) -> list[str]:
    return [line.partition(":")[0] for line in (folder / "users").read_text().splitlines()]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(SECRET, id="one line without its end"),
        pytest.param(f"{SECRET}\n", id="one line"),
        pytest.param(f"{SECRET}\n{SECRET}\n", id="the same twice"),
    ],
)
def test_passwd_takes_the_password_from_standard_input(tmp_path: Path, given: str) -> None:
    assert passwd(tmp_path, "alice", given) == 0
    content = (tmp_path / "users").read_text()
    assert re.fullmatch(r"alice:\$scrypt\$ln=14,r=8,p=1\$[^$]+\$[^$]+\n", content)
    assert (tmp_path / "users").stat().st_mode & 0o777 == 0o600
    config = configuration({"socks": {"url": "socks5://127.0.0.1:0", "users": "users"}})
    with running(tmp_path, config) as proxy, Tunnel.dial(proxy.address) as tunnel:
        tunnel.log_in("alice", SECRET)


@pytest.mark.parametrize(
    ("user", "given"),
    [
        pytest.param("alice", f"{SECRET}\nanother\n", id="two passwords that differ"),
        pytest.param("alice", "", id="no password"),
        pytest.param("alice", "\n", id="an empty password"),
        pytest.param("alice", "x" * 256, id="a password too long"),
        pytest.param("a:b", SECRET, id="a user with a colon"),
        pytest.param("a\nb", SECRET, id="a user of two lines"),
        pytest.param("", SECRET, id="no user"),
    ],
)
def test_passwd_refuses_and_changes_nothing(tmp_path: Path, user: str, given: str) -> None:
    assert passwd(tmp_path, "bob", SECRET) == 0
    before = (tmp_path / "users").read_bytes()
    done = command("passwd", "users", user, folder=tmp_path, given=given)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert SECRET not in done.stdout + done.stderr
    assert (tmp_path / "users").read_bytes() == before


def test_passwd_without_standard_input_is_one_line_and_status_2(tmp_path: Path) -> None:
    line = f"exec {shlex.quote(str(PROGRAM))} passwd users alice <&-"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"geproxy: the password is empty")
    assert len(done.stderr.splitlines()) == 1


def test_passwd_warns_of_a_weak_password_and_takes_it(tmp_path: Path) -> None:
    done = command("passwd", "users", "alice", folder=tmp_path, given="1234")
    assert done.returncode == 0
    assert "warning" in done.stderr
    assert users(tmp_path) == ["alice"]


def test_passwd_delete_takes_one_user_out(tmp_path: Path) -> None:
    for user in ("alice", "bob"):
        assert passwd(tmp_path, user, SECRET) == 0
    assert command("passwd", "--delete", "users", "alice", folder=tmp_path).returncode == 0
    assert users(tmp_path) == ["bob"]
    again = command("passwd", "--delete", "users", "alice", folder=tmp_path)
    assert again.returncode == 1
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["passwd"], ["passwd", "--delete"]], ids=["set", "delete"])
def test_passwd_without_the_folder_is_one_line_and_status_1(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = command(*arguments, "no/such/folder/users", "alice", folder=tmp_path, given=SECRET)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def type_into_passwd(folder: Path, answers: Sequence[bytes]) -> tuple[int, bytes]:
    """Run passwd on a terminal and answer each question; returns the status and the screen."""
    pid, terminal = os.forkpty()
    if pid == 0:
        os.chdir(folder)
        os.execv(PROGRAM, ["geproxy", "passwd", "users", "alice"])
    screen = b""
    questions = [b"Password: ", b"Again: "]
    try:
        for question, answer in zip(questions, answers, strict=False):
            screen += read_to(terminal, question)
            os.write(terminal, answer)
        screen += read_to(terminal, None)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen


def read_to(terminal: int, wanted: bytes | None) -> bytes:
    """Read a terminal until it shows *wanted*, or for None until the program is gone."""
    shown = b""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while wanted is None or not shown.endswith(wanted):
        assert select.select([terminal], [], [], give_up - time.monotonic())[0], shown
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # EIO: nobody has it open any more
            assert wanted is None, shown
            break
    return shown


def test_passwd_asks_twice_on_a_terminal_and_shows_nothing(tmp_path: Path) -> None:
    answer = SECRET.encode() + b"\n"
    status, screen = type_into_passwd(tmp_path, [answer, answer])
    assert status == 0
    assert SECRET.encode() not in screen
    assert users(tmp_path) == ["alice"]


def test_passwd_on_a_terminal_refuses_two_that_differ(tmp_path: Path) -> None:
    status, screen = type_into_passwd(tmp_path, [SECRET.encode() + b"\n", b"another one\n"])
    assert status == 2
    assert b"differ" in screen
    assert SECRET.encode() not in screen
    assert not (tmp_path / "users").exists()


@pytest.mark.parametrize(
    "key", [pytest.param(b"\x03", id="Ctrl-C"), pytest.param(b"\x04", id="Ctrl-D")]
)
@pytest.mark.parametrize("before", [[], [SECRET.encode() + b"\n"]], ids=["first", "second"])
def test_passwd_on_a_terminal_can_be_left(tmp_path: Path, before: list[bytes], key: bytes) -> None:
    status, screen = type_into_passwd(tmp_path, [*before, key])
    assert status in (1, 2)
    assert b"Traceback" not in screen
    assert not (tmp_path / "users").exists()
