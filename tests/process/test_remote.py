"""Acting on a master from outside, with masters that do not do as they should."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from geproxy.errors import StartError
from geproxy.process.remote import Daemon, NotRunningError, status_text

ROOT = Path(__file__).parents[2]

MASTER = """
import json, os, signal, sys, time
from geproxy.process.about import About
from geproxy.process.pidfile import Pidfile

pidfile, about = Pidfile(sys.argv[1]), About()
pidfile.write()
about.tell(reloads_begun=0, reloads_ended=0, reopens=0, problems=[])

def reload(number, frame):
    about.count("reloads_begun")
    about.tell(problems=json.loads(sys.argv[2]))
    about.count("reloads_ended")

signal.signal(signal.SIGHUP, reload)
signal.signal(signal.SIGUSR1, lambda number, frame: os._exit(0))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    time.sleep(60)
"""

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "pid")


@pytest.fixture
def start(path: str) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def begin(problems: str = "[]") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", MASTER, path, problems],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate(timeout=20)


def test_nobody_there_is_not_running(path: str, tmp_path: Path) -> None:
    for text in (None, "", "1\n", f"{os.getpid()}\n", "nonsense"):
        if text is not None:
            Path(path).write_text(text)
        with pytest.raises(NotRunningError, match=r"^not running$"):
            Daemon.find(path)
    with pytest.raises(StartError, match="Not a directory"):
        Daemon.find(f"{path}/x")


@pytest.mark.slow
def test_a_master_that_goes_on_is_told_of(path: str, start: Start) -> None:
    process = start("[]")
    daemon = Daemon.find(path)
    assert daemon.pid == process.pid
    with pytest.raises(StartError, match=f"^pid {daemon.pid} is running still after 0.2 seconds$"):
        daemon.stop(signal.SIGTERM, 0.2)
    daemon.stop(signal.SIGKILL, 20)
    with pytest.raises(NotRunningError):
        Daemon.find(path)


@pytest.mark.slow
def test_a_handle_is_not_taken_for_a_later_process(path: str, start: Start) -> None:
    process = start("[]")
    daemon = Daemon.find(path)
    process.kill()
    process.wait(20)  # its pid is free for others
    for act in (daemon.reload, daemon.reopen, lambda: daemon.stop(signal.SIGTERM, 1)):
        with pytest.raises(StartError):
            act()


@pytest.mark.slow
def test_a_reload_ends_with_its_problems(path: str, start: Start) -> None:
    start('["a: wrong", "b: wrong too"]')
    with pytest.raises(StartError, match=r"^a: wrong\nb: wrong too$"):
        Daemon.find(path).reload()


@pytest.mark.slow
def test_a_master_that_dies_meanwhile_is_not_running(path: str, start: Start) -> None:
    start("[]")
    daemon = Daemon.find(path)
    daemon.reload()
    with pytest.raises(NotRunningError):
        daemon.reopen()


def test_a_status_is_shown_line_by_line() -> None:
    worker = {"worker": 1, "pid": 8, "sessions": 2, "served": 3, "up_bytes": 4, "down_bytes": 5}
    found: dict[str, object] = {
        "pid": 7, "version": "1.2", "config": "a.conf", "uptime_seconds": 9.5,
        "listeners": {"a": ["127.0.0.1:1", "[::1]:1"]}, "workers": [worker],
    }  # fmt: skip
    assert status_text(found, as_json=False).splitlines() == [
        "geproxy 1.2 is running: pid 7, a.conf, up 9.5 s",
        "listen a: 127.0.0.1:1, [::1]:1",
        "worker 1 pid 8 sessions 2 served 3 up_bytes 4 down_bytes 5",
    ]
    assert status_text(found, as_json=True).startswith('{"pid": 7, ')
