"""Leaving the terminal: what the parent hears, and what the daemon has left of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

HEAD = """
import os, sys, time
from geproxy.errors import StartError
from geproxy.process.daemon import daemonize

def outcome(run):
    try:
        print(daemonize(run))
    except StartError as error:
        print(error)
"""


def run(code: str, **options: object) -> str:
    """Run a program whose daemon is gone when its output has ended."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code],
        cwd=ROOT, capture_output=True, text=True, timeout=30, **options,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_the_parent_returns_when_the_daemon_says_so(tmp_path: Path) -> None:
    code = f"""
def daemon(birth):
    open({str(tmp_path / "before")!r}, "w").close()
    birth.ready()
    return 0

outcome(daemon)
assert os.path.exists({str(tmp_path / "before")!r})
"""
    assert run(code) == "0\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param('birth.failed("no luck today")', "no luck today", id="a reason"),
        pytest.param('birth.failed("Zürich \\udcff")', "Zürich ?", id="a reason beyond ASCII"),
        pytest.param('birth.failed("x" * 9999)', "x" * 4096, id="a long reason"),
        pytest.param("return 1", "the daemon died while it started", id="no word"),
        pytest.param("os.kill(os.getpid(), 9)", "the daemon died while it started", id="killed"),
        pytest.param("raise ValueError", "the daemon died while it started", id="a fault"),
    ],
)
def test_the_parent_says_why_not(body: str, said: str) -> None:
    code = f"def daemon(birth):\n    {body}\n    return 1\noutcome(daemon)\n"
    assert run(code, env={**os.environ, "PYTHONUTF8": "1"}) == f"{said}\n"


def test_the_streams_are_let_go_of_before_the_work_begins() -> None:
    code = """
def daemon(birth):
    names = [os.readlink(f"/proc/self/fd/{stream}") for stream in (0, 1, 2)]
    birth.failed(f"{names} {os.getcwd()} {os.getsid(0) == os.getpid()} {os.ttyname(0)}"
                 if os.isatty(0) else f"{names} {os.getcwd()} {os.getsid(0) == os.getpid()}")
    return 1

outcome(daemon)
"""
    assert run(code) == "['/dev/null', '/dev/null', '/dev/null'] / False\n"


def test_a_worker_that_was_born_meanwhile_holds_up_nobody() -> None:
    code = """
def daemon(birth):
    if os.fork() == 0:
        birth.forget()
        time.sleep(2)
        os._exit(0)
    birth.ready()
    return 0

outcome(daemon)
"""
    assert run(code) == "0\n"


def test_descriptors_above_the_limit_are_closed_too(tmp_path: Path) -> None:
    code = f"""
import fcntl, resource
file = open({str(tmp_path / "file")!r}, "w")
for number in (50, 900):
    fcntl.fcntl(file, fcntl.F_DUPFD, number)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

def daemon(birth):
    held = [os.readlink(f"/proc/self/fd/{{one}}") for one in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{{one}}")]
    birth.failed(str(sorted(set(one.partition(":")[0] for one in held))))
    return 1

outcome(daemon)
"""
    assert run(code) == "['/dev/null', 'pipe']\n"


@pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1, 2"])
def test_streams_that_were_closed_become_nobody_elses(closed: str) -> None:
    code = f"""
from geproxy.process.daemon import fill_standard_streams
told = os.dup(1)
for stream in ({closed},):
    os.close(stream)
fill_standard_streams()
before = len(os.listdir("/proc/self/fd"))
fill_standard_streams()
assert len(os.listdir("/proc/self/fd")) == before
names = [os.readlink(f"/proc/self/fd/{{stream}}") for stream in ({closed},)]
os.write(told, str(set(names)).encode())
os._exit(0)
"""
    assert run(code) == "{'/dev/null'}"
