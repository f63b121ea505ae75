"""Which daemon a command acts on, where the configuration names no pidfile of its own."""

import os
from pathlib import Path

import pytest

from geproxy.commands import control
from geproxy.commands.speech import COULD_NOT_RUN, DONE, STATUS_NOT_RUNNING
from geproxy.process.start import DAEMON_PIDFILE


class Found:
    """A daemon that runs with the configuration at *path*, and counts what is asked of it."""

    pid = 4711

    def __init__(self, path: Path) -> None:
        self.path = os.path.realpath(path)
        self.stops = 0

    def stop(self, number: int, seconds: float) -> None:
        self.stops += 1


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    daemon = Found(tmp_path / "ours.conf")

    def find(pidfile: str) -> Found:
        assert pidfile == DAEMON_PIDFILE
        return daemon

    monkeypatch.setattr(control.Daemon, "find", find)
    for name in ("ours.conf", "other.conf"):
        (tmp_path / name).write_text('[listen.a]\nurl = "socks5://127.0.0.1:0"\n')
    return daemon


def test_the_daemon_of_this_configuration_is_stopped(found: Found, tmp_path: Path) -> None:
    (tmp_path / "link.conf").symlink_to(tmp_path / "ours.conf")
    for name in ("ours.conf", "link.conf"):
        assert control.control("stop", str(tmp_path / name)) == DONE
    assert found.stops == 2


def test_the_daemon_of_another_configuration_is_left_alone(
    found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(tmp_path / "other.conf")
    assert control.control("stop", other) == COULD_NOT_RUN
    assert control.status(other, as_json=False) == STATUS_NOT_RUNNING
    assert found.stops == 0
    line = f"geproxy: {other}: not running; pid 4711 runs with {found.path}"
    assert capsys.readouterr().err.splitlines() == [line, line]
