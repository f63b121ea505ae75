"""What people type: exit statuses, one line per error, and never a traceback."""

import io
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geproxy import VERSION, cli
from geproxy.config.userfile import parse
from geproxy.crypto.password import PasswordHash

ROOT = Path(__file__).parents[1]
LAUNCHER = str(ROOT / "bin" / "geproxy")
WAIT_SECONDS = 20.0

SOUND = '[listen.a]\nurl = "socks5://127.0.0.1:0"\n'
TEN_FAULTS = """
[server]
workers = 0
drain_seconds = -1
heartbeat_seconds = "soon"
[log]
level = "loud"
format = 7
[limits]
sessions = 0
idle_seconds = 0
[resolver]
family = "ipv5"
[listen.a]
url = "socks5://127.0.0.1:70000"
colour = "blue"
"""

LINES = re.compile(r"(geproxy: [^\x00-\x1f\x7f]+\n)*")


class Result:
    """How one command ended: its status, output and errors."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"Result({self.status}, {self.out!r}, {self.err!r})"

    def fails(self, status: int, *texts: str) -> None:
        """Check the status, that every line is one of ours, and that *texts* are said."""
        assert (self.status, self.out) == (status, ""), self
        assert self.err, self
        assert LINES.fullmatch(self.err), self
        for text in texts:
            assert text in self.err, self


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Shell:
    """Runs commands in this process."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.chdir(tmp_path)

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        assert isinstance(sys.stderr, io.TextIOWrapper)
        sys.stderr.reconfigure(errors="backslashreplace")  # as the real one is
        try:
            status = cli.main(list(arguments))
        except SystemExit as leave:  # docopt's way to show the help
            assert leave.code in (None, 0)
            status = 0
        return Result(status, *self._capsys.readouterr())


@pytest.fixture
def shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Shell]:
    before = signal.getsignal(signal.SIGINT)
    yield Shell(monkeypatch, capsys, tmp_path)
    signal.signal(signal.SIGINT, before)


def command(*arguments: str | bytes, redirect: str = "", stdin: bytes = b"", **env: str) -> Result:
    """Run the real launcher; *redirect* is what a shell does with its descriptors."""
    line = ["sh", "-c", f'exec "$0" "$@" {redirect}', LAUNCHER, *arguments]
    # Unbuffered, an error of a stream would show earlier than it does to users.
    inherited = {key: text for key, text in os.environ.items() if key != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        line, input=stdin, capture_output=True, timeout=WAIT_SECONDS, env={**inherited, **env}
    )
    decoded = (text.decode("utf-8", "backslashreplace") for text in (done.stdout, done.stderr))
    return Result(done.returncode, *decoded)


def users_in(path: Path) -> dict[str, PasswordHash]:
    problems: list[object] = []
    users = parse(path.read_bytes(), "users", problems)  # type: ignore[arg-type]
    assert problems == []
    return users


# -- the command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param([], id="nothing"),
        pytest.param(["-f"], id="-f without a file"),
        pytest.param(["-t"], id="-t alone"),
        pytest.param(["-d"], id="-d alone"),
        pytest.param(["-f", "a", "-d", "-t"], id="a daemon and a check"),
        pytest.param(["--listen", "b", "-d"], id="a daemon without a file"),
        pytest.param(["status"], id="status without a file"),
        pytest.param(["stop", "-f", "a", "--json"], id="a stop in JSON"),
        pytest.param(["reload", "stop", "-f", "a"], id="two commands"),
        pytest.param(["stop", "-f", "a", "-d"], id="a stop as a daemon"),
        pytest.param(["-f", "a", "b"], id="a word too many"),
        pytest.param(["--listen"], id="--listen without a URL"),
        pytest.param(["-f", "a", "--listen", "b"], id="a file and a URL"),
        pytest.param(["--unknown"], id="an unknown option"),
        pytest.param(["-x"], id="an unknown letter"),
        pytest.param(["start"], id="an unknown command"),
        pytest.param(["passwd"], id="passwd without a file"),
        pytest.param(["passwd", "users"], id="passwd without a user"),
        pytest.param(["passwd", "users", "alice", "secret"], id="a password as an argument"),
        pytest.param(["--delete"], id="--delete alone"),
        pytest.param(["--version=1"], id="a value that --version has not"),
        pytest.param(["\udcff"], id="what is not UTF-8"),
        pytest.param(["a\nb"], id="a line's end"),
    ],
)
def test_a_command_line_that_is_wrong_has_one_line_and_status_2(
    shell: Shell, arguments: list[str]
) -> None:
    result = shell.run(*arguments)
    result.fails(2, "see geproxy --help")
    assert result.err.count("\n") == 1
    assert "secret" not in result.err


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_the_usage_text(shell: Shell, option: str) -> None:
    result = shell.run(option)
    assert cli.__doc__ is not None
    assert (result.status, result.out.strip(), result.err) == (0, cli.__doc__.strip(), "")


def test_the_version_is_that_of_the_package(shell: Shell) -> None:
    result = shell.run("--version")
    assert (result.status, result.out, result.err) == (0, f"geproxy {VERSION}\n", "")


# -- the configuration


def test_a_sound_configuration_has_one_line_on_standard_output(shell: Shell, here: Path) -> None:
    (here / "a.conf").write_text(SOUND)
    result = shell.run("-f", "a.conf", "-t")
    assert (result.status, result.err) == (0, "")
    assert result.out == "geproxy: a.conf: the configuration is sound\n"


def test_ten_faults_have_ten_lines_each_with_its_key(shell: Shell, here: Path) -> None:
    (here / "a.conf").write_text(TEN_FAULTS)
    result = shell.run("-f", "a.conf", "-t")
    result.fails(2)
    keys = [line.split(": ")[2] for line in result.err.splitlines()]
    assert sorted(keys) == sorted(
        ["server.workers", "server.drain_seconds", "server.heartbeat_seconds", "log.level"]
        + ["log.format", "limits.sessions", "limits.idle_seconds", "resolver.family"]
        + ["listen.a.url", "listen.a.colour"]
    )
    assert all(line.startswith("geproxy: a.conf: ") for line in result.err.splitlines())
    assert "geproxy: a.conf: listen.a.url: port 70000 is not in 0..65535\n" in result.err


def test_a_wrong_configuration_does_not_start_either(shell: Shell, here: Path) -> None:
    (here / "a.conf").write_text(TEN_FAULTS)
    assert shell.run("-f", "a.conf").err == shell.run("-f", "a.conf", "-t").err != ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, "No such file or directory", id="no file"),
        pytest.param(b"", "no listener", id="an empty file"),
        pytest.param(b"\0\1\2\xff\xfe" * 100, "line 1 is not UTF-8", id="a binary file"),
        pytest.param(b"\0\0\0", "is not TOML", id="NULs"),
        pytest.param(b"listen = [", "is not TOML", id="a broken table"),
        pytest.param(b"a = " + b"[" * 5000, "too deeply nested", id="a deep table"),
        pytest.param(b"x = 1\r\r", "is not TOML", id="a lone carriage return"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    shell: Shell, here: Path, content: bytes | None, text: str
) -> None:
    if content is not None:
        (here / "a.conf").write_bytes(content)
    for more in ([], ["-t"]):
        shell.run("-f", "a.conf", *more).fails(2, "geproxy: a.conf: ", text)


CONTROLS = ["reload", "stop", "quit", "reopen", "status"]


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        pytest.param(None, 2, "a.conf: cannot be read: No such file", id="no file"),
        pytest.param('pidfile = "pid"\nlisten = [', 1, "not running", id="a broken file"),
        pytest.param('[server]\npidfile = "\\u0000"', 2, "server.pidfile: ", id="a NUL in it"),
        pytest.param('[server]\npidfile = "pid"\n', 1, "a.conf: not running", id="no daemon"),
        pytest.param('[server]\npidfile = "."\n', 1, "a.conf: not running", id="a directory"),
        pytest.param('[server]\npidfile = "link"\n', 1, "link: Too many levels", id="a link"),
        pytest.param('[server]\npidfile = "a.conf/x"\n', 1, "Not a directory", id="no directory"),
    ],
)
def test_a_daemon_that_is_not_there_is_told_in_one_line(
    shell: Shell, here: Path, name: str, content: str | None, status: int, text: str
) -> None:
    if content is not None:
        (here / "a.conf").write_text(content)
    (here / "link").symlink_to("a.conf")
    if name == "status" and "not running" in text:
        status = 3
    result = shell.run(name, "-f", "a.conf")
    result.fails(status, text)
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("letters", [["-d", "-f", "a.conf"], ["-f", "a.conf", "-d"]])
def test_a_daemon_with_a_wrong_configuration_does_not_start(
    shell: Shell, here: Path, letters: list[str]
) -> None:
    (here / "a.conf").write_text(TEN_FAULTS)
    assert shell.run(*letters).err == shell.run("-f", "a.conf", "-t").err != ""


def test_a_directory_is_no_configuration(shell: Shell) -> None:
    shell.run("-f", ".", "-t").fails(2, "geproxy: .: cannot be read: Is a directory")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="an empty name"),
        pytest.param("a\0b", id="a NUL"),
        pytest.param("x" * 300, id="a name too long"),
        pytest.param("a\nb", id="a line's end"),
        pytest.param("a\x1b[2Jb", id="an escape sequence"),
        pytest.param("\udcff", id="not UTF-8"),
        pytest.param("/dev/null/x", id="below what is no directory"),
    ],
)
def test_a_strange_file_name_has_one_line(shell: Shell, name: str) -> None:
    result = shell.run("-f", name, "-t")
    assert result.status == 2
    assert result.err.count("\n") == 1
    result.fails(2)


@pytest.mark.slow
def test_a_file_that_this_user_cannot_read_is_named_with_the_reason(here: Path) -> None:
    (here / "a.conf").write_text(SOUND)
    (here / "a.conf").chmod(0)
    code = (
        "import os, sys\nfrom geproxy.cli import main\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "sys.exit(main(['-f', 'a.conf', '-t']))"
    )
    here.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=WAIT_SECONDS, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    Result(done.returncode, done.stdout, done.stderr).fails(2, "a.conf: cannot be read: ")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        pytest.param("socks5://0.0.0.0:1080", "open = true", id="an open proxy"),
        pytest.param("http://a:hunter2@127.0.0.1:1", "not in this version", id="not built yet"),
        pytest.param("socks5://alice:hunter2/@127.0.0.1:1", "%2F", id="a slash in a password"),
        pytest.param("hunter2", "is no URL", id="no URL"),
        pytest.param("socks5://127.0.0.1:\udcff", "listen1.url", id="not UTF-8"),
    ],
)
def test_a_url_that_is_wrong_is_told_without_its_secret(shell: Shell, url: str, text: str) -> None:
    result = shell.run("--listen", url)
    result.fails(2, "geproxy: command line: listen.listen1.url: ", text)
    assert "hunter2" not in result.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        pytest.param(["--version"], 0, id="done"),
        pytest.param(["-f", "none.conf"], 2, id="a wrong configuration"),
        pytest.param(["nonsense"], 2, id="a wrong command line"),
        pytest.param(["passwd", "--delete", "/nowhere/users", "alice"], 1, id="could not run"),
    ],
)
def test_the_launcher_hands_the_status_on(here: Path, arguments: list[str], status: int) -> None:
    result = command(*arguments)
    assert result.status == status
    assert LINES.fullmatch(result.err)


# -- standard streams that are not there


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirect",
    [
        pytest.param("<&-", id="no standard input"),
        pytest.param(">&-", id="no standard output"),
        pytest.param("2>&-", id="no standard error"),
        pytest.param("<&- >&- 2>&-", id="none at all"),
        pytest.param(">/dev/full", id="a full disk"),
        pytest.param("2>/dev/full", id="a full disk for errors"),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--help"], id="--help"),
        pytest.param(["-f", "a.conf", "-t"], id="a sound configuration"),
        pytest.param(["-f", "none.conf", "-t"], id="no configuration"),
        pytest.param(["passwd", "users", "alice"], id="passwd"),
    ],
)
def test_streams_that_are_closed_or_full_bring_no_traceback(
    here: Path, arguments: list[str], redirect: str
) -> None:
    (here / "a.conf").write_text(SOUND)
    result = command(*arguments, redirect=redirect, stdin=b"correct horse\n")
    assert result.status in (0, 1, 2)
    for text in (result.out, result.err):
        assert "Traceback" not in text
        assert "Exception" not in text
    assert LINES.fullmatch(result.err)


@pytest.mark.slow
def test_a_reader_that_has_left_brings_no_traceback(here: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = subprocess.run(
            [LAUNCHER, "--help"], stdout=nobody, stderr=subprocess.PIPE, timeout=WAIT_SECONDS
        )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.slow
def test_a_file_name_that_is_not_utf_8_can_be_sound(here: Path) -> None:
    with open(b"\xff.conf", "w") as file:
        file.write(SOUND)
    # strict, as in every locale but C and POSIX
    result = command("-f", b"\xff.conf", "-t", PYTHONIOENCODING="utf-8:strict")
    assert (result.status, result.err) == (0, "")
    assert result.out.endswith(": the configuration is sound\n")


# -- passwd


def test_a_password_is_stored_as_a_hash_for_the_owner_alone(shell: Shell, here: Path) -> None:
    result = shell.run("passwd", "users", "alice", stdin=b"correct horse\n")
    assert (result.status, result.out, result.err) == (0, "", "")
    path = here / "users"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("alice:$scrypt$ln=14,r=8,p=1$")
    assert users_in(path)["alice"].verify(b"correct horse")


@pytest.mark.parametrize(
    ("stdin", "password"),
    [
        pytest.param(b"correct horse", b"correct horse", id="no line's end"),
        pytest.param(b"correct horse\r\n", b"correct horse", id="a line's end of DOS"),
        pytest.param(b"correct horse\ncorrect horse\n", b"correct horse", id="twice the same"),
        pytest.param(b" correct horse \n", b" correct horse ", id="spaces around it"),
        pytest.param(b"\xff\xfe\x00 horses\n", b"\xff\xfe\x00 horses", id="any bytes"),
        pytest.param(b"x!" * 127 + b"y\n", b"x!" * 127 + b"y", id="255 bytes"),
    ],
)
def test_the_first_line_of_standard_input_is_the_password(
    shell: Shell, here: Path, stdin: bytes, password: bytes
) -> None:
    assert shell.run("passwd", "users", "alice", stdin=stdin).status == 0
    assert users_in(here / "users")["alice"].verify(password)


@pytest.mark.parametrize(
    ("stdin", "text"),
    [
        pytest.param(b"", "the password is empty", id="nothing"),
        pytest.param(b"\n", "the password is empty", id="an empty line"),
        pytest.param(b"\ncorrect horse\n", "the password is empty", id="an empty first line"),
        pytest.param(b"correct horse\ncorrect house\n", "differ", id="two that differ"),
        pytest.param(b"x" * 256 + b"\n", "at most 255 bytes", id="256 bytes"),
    ],
)
def test_a_password_that_is_wrong_changes_nothing(
    shell: Shell, here: Path, stdin: bytes, text: str
) -> None:
    result = shell.run("passwd", "users", "alice", stdin=stdin)
    result.fails(2, text)
    assert "horse" not in result.err
    assert os.listdir(here) == []


@pytest.mark.parametrize(
    ("user", "password"),
    [
        pytest.param("alice", b"tiny", id="short"),
        pytest.param("alicealice", b"AliceAlice", id="the user's name"),
        pytest.param("alice", b"1234567890", id="digits"),
        pytest.param("alice", b"abababababab", id="repetitions"),
    ],
)
def test_a_weak_password_is_stored_with_a_warning(
    shell: Shell, here: Path, user: str, password: bytes
) -> None:
    result = shell.run("passwd", "users", user, stdin=password)
    assert (result.status, result.out) == (0, "")
    assert re.fullmatch(r"geproxy: warning: the password [^\n]+\n", result.err)
    assert password.decode() not in result.err
    assert users_in(here / "users")[user].verify(password)


@pytest.mark.parametrize("delete", [[], ["--delete"]], ids=["store", "delete"])
@pytest.mark.parametrize(
    "user",
    [
        pytest.param("", id="empty"),
        pytest.param("al:ice", id="a colon"),
        pytest.param("al\nice", id="a line's end"),
        pytest.param("al\x7fice", id="a control character"),
        pytest.param("al\0ice", id="a NUL"),
        pytest.param("#alice", id="a comment"),
        pytest.param("a" * 256, id="too long"),
        pytest.param("al\udcffice", id="not UTF-8"),
    ],
)
def test_a_user_that_no_file_can_hold_is_refused(
    shell: Shell, here: Path, user: str, delete: list[str]
) -> None:
    result = shell.run("passwd", *delete, "users", user, stdin=b"correct horse\n")
    result.fails(2, "user")
    assert os.listdir(here) == []


@pytest.mark.slow
def test_a_password_is_changed_in_its_place_and_the_mode_kept(shell: Shell, here: Path) -> None:
    path = here / "users"
    for user in ("alice", "bob"):
        shell.run("passwd", "users", user, stdin=b"correct horse\n")
    path.write_text("# ours\n" + path.read_text())
    path.chmod(0o640)
    before = path.read_text().splitlines()
    assert shell.run("passwd", "users", "alice", stdin=b"battery staple\n").status == 0
    after = path.read_text().splitlines()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert (after[0], after[2]) == (before[0], before[2])
    assert users_in(path)["alice"].verify(b"battery staple")
    assert users_in(path)["bob"].verify(b"correct horse")
    assert os.listdir(here) == ["users"]


def test_a_user_is_deleted_and_the_mode_kept(shell: Shell, here: Path) -> None:
    path = here / "users"
    for user in ("alice", "bob"):
        shell.run("passwd", "users", user, stdin=b"correct horse\n")
    path.chmod(0o640)
    result = shell.run("passwd", "--delete", "users", "alice")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert list(users_in(path)) == ["bob"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    shell.run("passwd", "--delete", "users", "alice").fails(1, "users: no such user")


@pytest.mark.parametrize("delete", [[], ["--delete"]], ids=["store", "delete"])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        pytest.param("folder", "directory", id="a directory"),
        pytest.param("none/users", "No such file or directory", id="a missing directory"),
        pytest.param("/dev/null", "not a regular file", id="a device"),
        pytest.param("fifo", "not a regular file", id="a FIFO"),
        pytest.param("loop", "Too many levels of symbolic links", id="a link to itself"),
        pytest.param("x" * 300, "File name too long", id="a name too long"),
        pytest.param("no\nne/users", "No such file or directory", id="a line's end"),
    ],
)
def test_a_users_file_that_cannot_be_used_is_named_with_the_reason(
    shell: Shell, here: Path, file: str, text: str, delete: list[str]
) -> None:
    (here / "folder").mkdir()
    os.mkfifo(here / "fifo")
    (here / "loop").symlink_to("loop")
    result = shell.run("passwd", *delete, file, "alice", stdin=b"correct horse\n")
    result.fails(1, text)
    assert result.err.count("\n") == 1


def test_deleting_from_a_file_that_is_not_there_creates_none(shell: Shell, here: Path) -> None:
    shell.run("passwd", "--delete", "users", "alice").fails(1, "No such file or directory")
    assert os.listdir(here) == []


def test_a_line_that_is_no_users_is_left_alone(shell: Shell, here: Path) -> None:
    (here / "users").write_bytes(b"\x00binary\xff\nno colon")
    assert shell.run("passwd", "users", "alice", stdin=b"correct horse\n").status == 0
    lines = (here / "users").read_bytes().split(b"\n")
    assert lines[:2] == [b"\x00binary\xff", b"no colon"]
    assert lines[2].startswith(b"alice:$scrypt$")


class Terminal:
    """`passwd users alice` on a terminal of its own."""

    def __init__(self) -> None:
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.execv(LAUNCHER, ["geproxy", "passwd", "users", "alice"])
        self.output = b""

    def asks(self, question: bytes) -> bool:
        """Wait for *question*; returns False where the command ends without it."""
        deadline = time.monotonic() + WAIT_SECONDS
        while question not in self.output:
            left = deadline - time.monotonic()
            assert select.select([self._fd], [], [], max(left, 0))[0], self.output
            try:
                self.output += os.read(self._fd, 4096)
            except OSError:  # EIO: the terminal's last user has closed it
                return False
        return True

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def end(self) -> int:
        """Wait for the command's end; returns its exit status."""
        while select.select([self._fd], [], [], WAIT_SECONDS)[0]:
            try:
                self.output += os.read(self._fd, 4096)
            except OSError:
                break
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.slow
def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(here: Path) -> None:
    terminal = Terminal()
    assert terminal.asks(b"Password: ")
    terminal.type(b"correct horse\n")
    assert terminal.asks(b"Again: ")
    terminal.type(b"correct horse\n")
    assert terminal.end() == 0, terminal.output
    assert b"horse" not in terminal.output
    assert users_in(here / "users")["alice"].verify(b"correct horse")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        pytest.param(b"correct horse\n", b"correct house\n", 2, id="two that differ"),
        pytest.param(b"correct horse\n", b"\n", 2, id="nothing the second time"),
        pytest.param(b"\n", b"\n", 2, id="nothing at all"),
        pytest.param(b"\x04", None, 2, id="the end of input at once"),
        pytest.param(b"correct horse\n", b"\x04", 2, id="the end of input at the second"),
        pytest.param(b"\x03", None, 1, id="Ctrl-C"),
    ],
)
def test_on_a_terminal_nothing_that_is_typed_shows_a_traceback(
    here: Path, first: bytes, second: bytes | None, status: int
) -> None:
    terminal = Terminal()
    assert terminal.asks(b"Password: ")
    terminal.type(first)
    if second is not None:
        assert terminal.asks(b"Again: ")
        terminal.type(second)
    assert terminal.end() == status, terminal.output
    assert b"Traceback" not in terminal.output
    assert (here / "users").exists() == (status == 0)


@pytest.mark.slow
def test_on_a_terminal_a_password_that_is_not_utf_8_shows_no_traceback(here: Path) -> None:
    terminal = Terminal()
    assert terminal.asks(b"Password: ")
    terminal.type(b"horses \xff\xfe\n")
    if terminal.asks(b"Again: "):  # it depends on the locale
        terminal.type(b"horses \xff\xfe\n")
    assert terminal.end() in (0, 2), terminal.output
    assert b"Traceback" not in terminal.output


# -- anything

WORDS = st.sampled_from(
    ["-f", "-t", "-ft", "--listen", "passwd", "--delete", "-h", "--help", "--version", "--", "-"]
    + ["a.conf", "binary", "folder", "none", "users", "alice", "socks5://", "socks5://:x@:0"]
    + ["--listen=", "--listen=http://127.0.0.1:0", "-fa.conf", "--del", "--l", "=", ""]
)
# Without slashes all that is named stays in the test's directory.
TEXTS = st.text(st.characters(blacklist_characters="/", blacklist_categories=()), max_size=10)


@pytest.mark.slow
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(arguments=st.lists(WORDS | TEXTS, max_size=6))
def test_no_arguments_whatever_bring_a_traceback(
    shell: Shell, here: Path, arguments: Sequence[str]
) -> None:
    (here / "a.conf").write_text("[server]\nworkers = 0\n")  # sound ones would be served
    (here / "binary").write_bytes(bytes(range(256)))
    (here / "folder").mkdir(exist_ok=True)
    result = shell.run(*arguments)
    assert result.status in (0, 1, 2)
    assert LINES.fullmatch(result.err), result
