"""What is wrong with a command line or a file: one line each, status 2, no traceback."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.proxy import (
    PROGRAM,
    command,
    configuration,
)

pytestmark = pytest.mark.slow

SECRET = "s3cret-that-nobody-sees"


TEN_MISTAKES = """
[server]
workers = 0
drain_seconds = "long"
user = "no-such-user"
[log]
level = "loud"
colour = true
[limits]
sessions = 1.5
sessions_per_client = -1
[resolver]
nameservers = ["192.0.2.53"]
[listen.a]
url = "socks5://127.0.0.1:70000"
[listen.b]
url = "http://127.0.0.1:0"
"""
TEN_KEYS = [
    "limits.sessions",
    "limits.sessions_per_client",
    "listen.a.url",
    "listen.b.url",
    "log.colour",
    "log.level",
    "resolver.nameservers",
    "server.drain_seconds",
    "server.user",
    "server.workers",
]


@pytest.mark.parametrize("check", [["-t"], []], ids=["-t", "without -t"])
def test_ten_mistakes_are_ten_lines_and_status_2(tmp_path: Path, check: list[str]) -> None:
    path = tmp_path / "wrong.conf"
    path.write_text(TEN_MISTAKES)
    done = command("-f", str(path), *check)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 10
    prefix = f"geproxy: {path}: "
    assert all(line.startswith(prefix) for line in lines)
    assert sorted(line.removeprefix(prefix).split(":")[0] for line in lines) == TEN_KEYS


def test_a_sound_file_is_one_line_on_standard_output(tmp_path: Path) -> None:
    path = tmp_path / "good.conf"
    path.write_text(configuration())
    done = command("-f", str(path), "-t")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert str(path) in done.stdout


@pytest.mark.parametrize("check", [["-t"], []], ids=["-t", "without -t"])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="not text"),
        pytest.param(b"[" * 5000, id="deep"),
        pytest.param(b"a = " + b"9" * 5000, id="a number without end"),
    ],
)
def test_a_file_that_is_none_is_one_line_and_status_2(
    tmp_path: Path, content: bytes | None, check: list[str]
) -> None:
    path = tmp_path / "geproxy.conf"
    if content is not None:
        path.write_bytes(content)
    done = command("-f", str(path), *check)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"geproxy: {path}: ")


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    done = command("-f", str(tmp_path), "-t")
    assert done.returncode == 2
    assert done.stderr == f"geproxy: {tmp_path}: cannot be read: Is a directory\n"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["--nonsense"], id="an unknown option"),
        pytest.param(["serve"], id="an unknown command"),
        pytest.param(["-f"], id="a file without its name"),
        pytest.param(["-t"], id="a check of nothing"),
        pytest.param(["--listen"], id="a listener without its URL"),
        pytest.param(["-f", "a", "--listen", "b"], id="a file and a listener"),
        pytest.param(["passwd", "file"], id="a password of nobody"),
        pytest.param(["-f", "a", "-d"], id="a daemon, which is not in this version"),
        pytest.param(["\udcff\n\x1b[2J"], id="bytes that are no text"),
    ],
)
def test_a_command_line_that_is_not_understood_is_one_line_and_status_2(
    arguments: list[str],
) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("geproxy: ")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        pytest.param("socks5://0.0.0.0:0", "anyone who reaches", id="open to everybody"),
        pytest.param("socks5://[::]:0", "anyone who reaches", id="open to everybody, IPv6"),
        pytest.param("socks5://:0", "anyone who reaches", id="open to everybody, both"),
        pytest.param("http://127.0.0.1:0", "not in this version", id="a scheme of later"),
        pytest.param("ftp://127.0.0.1:0", "scheme is unknown", id="an unknown scheme"),
        pytest.param(f"socks5://u:{SECRET}@127.0.0.1:x", "port", id="a wrong port"),
        pytest.param(f"socks5://u:{SECRET}/@127.0.0.1:0", "%2F", id="a password not encoded"),
        pytest.param(SECRET, "no URL", id="no URL"),
        pytest.param("", "no URL", id="nothing"),
        pytest.param("socks5://\udcff", "percent-encode", id="bytes that are no text"),
    ],
)
def test_a_wrong_url_is_one_line_without_its_secret_and_status_2(url: str, text: str) -> None:
    done = command("--listen", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert text in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("option", ["-h", "--help", "--version"])
def test_help_and_version_are_status_0(option: str) -> None:
    done = command(option)
    assert (done.returncode, done.stderr) == (0, "")
    if option == "--version":
        assert re.fullmatch(r"geproxy \d+(\.\d+)+\S*\n", done.stdout)
    else:
        assert "Usage:" in done.stdout


def test_the_program_is_found_through_a_link_and_from_anywhere(tmp_path: Path) -> None:
    link = tmp_path / "geproxy"
    link.symlink_to(PROGRAM)
    (tmp_path / "gevent.py").write_text("raise SystemExit('taken from the current directory')")
    read, write = os.pipe()
    pid = os.posix_spawn(
        link, ["geproxy", "--version"], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    with open(read) as output:
        assert output.read().startswith("geproxy ")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
