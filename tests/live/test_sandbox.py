"""Workers of a running daemon in their sandbox, and out of it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.daemon import (
    Daemon,
    daemon_configuration,
    daemon_folder,
    daemon_running,
    status_rows,
    threads,
)
from tests.support.proxy import wait_until
from tests.support.socks import reply_to
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

# A kernel that has neither: the real calls, which a filter of our own answers with ENOSYS.
WITHOUT = """
import ctypes, os, struct, sys
CALLS = {"x86_64": (317, 444), "aarch64": (277, 444)}[os.uname().machine]
rows = [(0x20, 0, 0, 0), (0x15, 1, 0, CALLS[0]), (0x15, 0, 1, CALLS[1]), (0x06, 0, 0, 0x50026)]
code = ctypes.create_string_buffer(
    b"".join(struct.pack("=HBBI", *row) for row in [*rows, (0x06, 0, 0, 0x7FFF0000)]))
program = struct.pack("@HP", 5, ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def sandboxes(daemon: Daemon) -> set[str]:
    """What status tells of the workers."""
    workers = daemon.status()["workers"]
    assert isinstance(workers, list)
    return {worker["sandbox"] for worker in workers}


def seccomp_of(daemon: Daemon) -> set[str]:
    """What the kernel tells of every thread of every worker."""
    return {
        status_rows(pid, thread)["Seccomp"] for pid in daemon.workers() for thread in threads(pid)
    }


def check_serves(daemon: Daemon) -> None:
    with target(echo) as there:
        for _ in range(8):
            assert reply_to(daemon.address(), "localhost", there.port) == 0


def configured(sandbox: bool | None = None) -> str:
    server: dict[str, object] = {} if sandbox is None else {"sandbox": sandbox}
    return daemon_configuration(server=server, log={"level": "debug"})


def test_workers_are_in_it_by_default_and_the_master_is_not(tmp_path: Path) -> None:
    with daemon_running(tmp_path, configured()) as daemon:
        check_serves(daemon)
        if daemon.lines("sandbox.fail"):
            pytest.skip(f"this kernel lacks it: {daemon.lines('sandbox.fail')[0].text}")
        assert seccomp_of(daemon) == {"2"}
        assert {status_rows(pid)["NoNewPrivs"] for pid in daemon.workers()} == {"1"}
        assert status_rows(daemon.pid)["Seccomp"] == status_rows(os.getpid())["Seccomp"]
        (told,) = sandboxes(daemon)
        assert told.startswith("landlock ")
        assert told.endswith(", seccomp")
        assert daemon.lines("worker.start")[0].fields["sandbox"].strip('"') == told
        shown = daemon.run("status").stdout
        assert shown.count(f"sandbox {told}") == 2


def test_all_that_a_master_asks_of_workers_goes_on_in_it(tmp_path: Path) -> None:
    with daemon_running(tmp_path, configured()) as daemon:
        check_serves(daemon)
        os.kill(daemon.pid, signal.SIGTTIN)
        wait_until(lambda: len(daemon.workers()) == 3)
        daemon.wait_for("worker.ready")
        os.kill(daemon.pid, signal.SIGTTOU)
        wait_until(lambda: len(daemon.workers()) == 2)
        assert daemon.run("reopen").returncode == 0
        assert daemon.run("reload").returncode == 0
        check_serves(daemon)
        wait_until(lambda: len(daemon.workers()) == 2)
        os.kill(daemon.workers()[0], signal.SIGABRT)  # it says where it stands, and is replaced
        assert daemon.wait_for("worker.lost").fields["how"] == "status 134"
        wait_until(lambda: len(daemon.workers()) == 2)
        check_serves(daemon)
        assert not daemon.lines("session.fault")
        assert daemon.run("stop").returncode == 0


def test_false_leaves_it_out_and_a_reload_brings_it(tmp_path: Path) -> None:
    with daemon_running(tmp_path, configured(False)) as daemon:
        check_serves(daemon)
        before = status_rows(os.getpid())["Seccomp"]
        assert seccomp_of(daemon) == {before}
        assert sandboxes(daemon) == {"off"}
        assert daemon.lines("sandbox.fail") == []
        daemon.config.write_text(configured(True))
        assert daemon.run("reload").returncode == 0
        wait_until(lambda: len(daemon.workers()) == 2)
        assert "off" not in sandboxes(daemon)


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="needs its numbers")
def test_a_kernel_without_it_serves_and_tells_at_debug(tmp_path: Path) -> None:
    with daemon_folder(tmp_path, configured()) as daemon:
        daemon.prefix = [sys.executable, "-c", WITHOUT]
        daemon.start()
        check_serves(daemon)
        assert sandboxes(daemon) == {"off"}
        lines = daemon.lines("sandbox.fail")
        assert {line.level for line in lines} == {"debug"}
        told = {(line.fields["part"], line.fields["reason"].strip('"')) for line in lines}
        reason = "Function not implemented"
        assert told == {("landlock", reason), ("seccomp", reason)}
