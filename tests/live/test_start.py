"""The command line, the start and what stops it: one line each, and never a traceback."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.proxy import (
    PATIENCE_SECONDS,
    PROGRAM,
    Proxy,
    command,
    configuration,
    running,
    started,
    title,
    wait_until,
)
from tests.support.socks import LoginError, Tunnel, connect, reply_to
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

SECRET = "s3cret-that-nobody-sees"


def errors(proxy: Proxy) -> list[str]:
    """What it said that is not an event of the log."""
    return [line.text for line in proxy.lines if not line.event]


def check_does_not_start(proxy: Proxy, status: int, text: str) -> None:
    assert proxy.wait_for_exit() == status
    wait_until(lambda: errors(proxy))
    assert len(errors(proxy)) == 1
    assert re.search(text, errors(proxy)[0]), errors(proxy)
    assert errors(proxy)[0].startswith("geproxy: ")
    assert proxy.left() == []
    assert not proxy.events("ready")


# -- what cannot run -------------------------------------------------------------------------------


def test_a_taken_port_is_one_line_and_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        config = configuration({"socks": {"url": f"socks5://{where}"}})
        with running(tmp_path, config, wait=False) as proxy:
            check_does_not_start(proxy, 1, f"listen.socks.url: .*{where}: Address already in use")


def test_an_address_of_somebody_else_is_one_line_and_status_1(tmp_path: Path) -> None:
    listen = {"socks": {"url": "socks5://192.0.2.77:0", "open": True}}
    with running(tmp_path, configuration(listen), wait=False) as proxy:
        check_does_not_start(proxy, 1, "listen.socks.url: cannot listen on 192.0.2.77:0: ")


def test_a_log_that_cannot_be_opened_is_one_line_and_status_1(tmp_path: Path) -> None:
    config = configuration(log={"target": "no/such/folder/log"})
    with running(tmp_path, config, wait=False) as proxy:
        check_does_not_start(proxy, 1, "log.target: cannot open .*: No such file or directory")


# -- what is wrong ---------------------------------------------------------------------------------

TEN_MISTAKES = """
[server]
workers = 0
drain_seconds = "long"
user = "nobody"
[log]
level = "loud"
colour = true
[limits]
sessions = 1.5
sessions_per_client = 4
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


# -- what runs -------------------------------------------------------------------------------------


def test_a_listener_on_the_command_line_announces_its_port_and_serves(tmp_path: Path) -> None:
    arguments = ["--listen", "socks5://127.0.0.1:0", "--listen", "socks5://127.0.0.1:0"]
    with started(tmp_path, arguments) as proxy, target(echo) as there:
        (first,), (second,) = proxy.addresses("listen1"), proxy.addresses("listen2")
        assert first != second
        for address in (first, second):
            assert reply_to(address, there.host, there.port) == 0
        assert title(proxy.pid) == "geproxy: master (command line)"
        assert proxy.reload().event == "reload.done"
        assert reply_to(first, there.host, there.port) == 0


def test_a_secret_on_the_command_line_is_seen_by_nobody(tmp_path: Path) -> None:
    url = f"socks5://alice:{SECRET}@127.0.0.1:0"
    with started(tmp_path, ["--listen", url]) as proxy, target(echo) as there:
        with connect(proxy.address, there.host, there.port, "alice", SECRET) as tunnel:
            tunnel.send(b"x")
            assert tunnel.receive(1) == b"x"
        with pytest.raises(LoginError):
            connect(proxy.address, there.host, there.port, "alice", "wrong")
        assert proxy.reload().event == "reload.done"
        for pid in proxy.left():
            for file in ("cmdline", "environ", "comm"):
                assert SECRET.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()
    assert SECRET not in proxy.log


def test_a_user_in_the_url_makes_an_open_address_safe(tmp_path: Path) -> None:
    url = f"socks5://alice:{SECRET}@0.0.0.0:0"
    with started(tmp_path, ["--listen", url]) as proxy:
        with Tunnel.dial(("127.0.0.1", proxy.address[1])) as tunnel:
            tunnel.log_in("alice", SECRET)
        with Tunnel.dial(("127.0.0.1", proxy.address[1])) as tunnel, pytest.raises(LoginError):
            tunnel.log_in()


def ended_client(proxy: Proxy, tunnel: Tunnel) -> str:
    """Who the client of the only session was, by the log."""
    tunnel.finish()
    tunnel.receive_all()
    tunnel.close()
    return proxy.wait_for("session.end", code="ok").fields["client"]


def test_an_ipv6_listener_serves(tmp_path: Path) -> None:
    config = configuration({"six": {"url": "socks5://[::1]:0"}})
    with running(tmp_path, config) as proxy, target(echo) as there:
        assert proxy.address[0] == "::1"
        tunnel = connect(proxy.address, there.host, there.port)
        port = tunnel.address[1]
        assert ended_client(proxy, tunnel) == f"[::1]:{port}"


def test_a_dual_stack_listener_shows_ipv4_clients_as_ipv4(tmp_path: Path) -> None:
    config = configuration({"both": {"url": "socks5://[::]:0", "users": "users"}})
    assert command("passwd", "users", "alice", folder=tmp_path, given=SECRET).returncode == 0
    with running(tmp_path, config) as proxy:
        (address,) = proxy.addresses("both")
        assert address[0] == "::"
        for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
            with Tunnel.dial((host, address[1])) as tunnel:
                port = tunnel.address[1]
                with pytest.raises(LoginError):
                    tunnel.log_in("alice", "wrong")
            proxy.wait_for("auth.fail", client=f"{shown}:{port}")


def test_an_empty_host_is_two_sockets_on_one_port(tmp_path: Path) -> None:
    config = configuration({"all": {"url": "socks5://:0", "open": True}})
    with running(tmp_path, config) as proxy:
        hosts = {host for host, _ in proxy.addresses("all")}
        ports = {port for _, port in proxy.addresses("all")}
        assert hosts == {"0.0.0.0", "::"}
        assert len(ports) == 1
        for host in ("127.0.0.1", "::1"):
            with Tunnel.dial((host, *ports)) as tunnel:
                tunnel.log_in()


# -- the log ---------------------------------------------------------------------------------------


def test_a_json_log_is_one_object_a_line(tmp_path: Path) -> None:
    with (
        running(tmp_path, configuration(log={"format": "json"})) as proxy,
        target(echo) as there,
        connect(proxy.address, there.host, there.port) as tunnel,
    ):
        tunnel.send(b"hello")
        tunnel.receive(5)
        assert reply_to(proxy.address, "na\nme.invalid", 80) == 4
        host, port = tunnel.address
        tunnel.finish()
        line = proxy.wait_for("session.end", client=f"{host}:{port}")
    values = json.loads(line.text)
    assert values["time"].endswith("Z")
    assert (values["level"], values["event"], values["code"]) == ("info", "session.end", "ok")
    assert (values["up"], values["down"], values["user"]) == (5, 5, None)
    assert (values["via"], values["command"], values["listen"]) == ("direct", "connect", "socks")
    for line in proxy.lines:
        assert {"time", "level", "event"} <= json.loads(line.text).keys()


def test_sessions_may_have_a_log_of_their_own(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    with (
        running(tmp_path, configuration(log={"access": "access.log"})) as proxy,
        target(echo) as there,
    ):
        for _ in range(10):
            assert reply_to(proxy.address, there.host, there.port) == 0
        wait_until(lambda: len(access.read_text().splitlines()) == 10)
        assert all(" info session.end " in line for line in access.read_text().splitlines())
        assert not proxy.events("session.end")
        assert access.stat().st_mode & 0o777 == 0o640


def test_the_log_may_be_a_file(tmp_path: Path) -> None:
    log = tmp_path / "geproxy.log"
    config = configuration(log={"target": "geproxy.log"})
    with running(tmp_path, config, wait=False) as proxy:
        wait_until(lambda: log.exists() and " info ready " in log.read_text())
        assert proxy.lines == []
        assert log.stat().st_mode & 0o777 == 0o640


# -- passwords -------------------------------------------------------------------------------------


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
