"""The init script as init, an administrator and a script of theirs call it: LSB exit statuses."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import peers, socks, targets
from tests.support.proxy import PROGRAM, ROOT, configuration, title, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="a service is started by root"),
]

# LSB 5.0, Init Script Actions
OK, FAILED, USAGE, NOT_PERMITTED, NOT_INSTALLED, NOT_CONFIGURED, NOT_RUNNING = 0, 1, 2, 4, 5, 6, 7
STATUS_STOPPED, STATUS_UNKNOWN = 3, 4

ACTION_SECONDS = 60.0  # hard; what goes well takes about one
CYCLES = 20


@dataclass(frozen=True)
class Service:
    """An installed init script with a configuration and a pidfile of its own."""

    root: Path

    @property
    def script(self) -> Path:
        return self.root / "etc" / "init.d" / "geproxy"

    @property
    def config(self) -> Path:
        return self.root / "etc" / "geproxy" / "geproxy.conf"

    @property
    def defaults(self) -> Path:
        return self.root / "etc" / "default" / "geproxy"

    @property
    def pidfile(self) -> Path:
        return self.root / "run" / "geproxy" / "geproxy.pid"

    def configure(self, **server: object) -> None:
        tables = {"drain_seconds": 5, "user": "nobody", "pidfile": str(self.pidfile), **server}
        log = {"target": str(self.root / "log")}
        self.config.write_text(configuration(server=tables, log=log), encoding="utf-8")

    def call(self, *actions: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Call the script as init does: no terminal, and next to no environment."""
        # Files, for a daemon that held a pipe open would have us wait for its end.
        with (self.root / "said").open("w+", encoding="utf-8") as said:
            status = subprocess.run(
                [*prefix, self.script, *actions],
                cwd="/",
                env={"PATH": "/sbin:/bin:/usr/sbin:/usr/bin"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                timeout=ACTION_SECONDS,
            ).returncode
            said.seek(0)
            text = said.read()
        assert "Traceback" not in text, text
        return subprocess.CompletedProcess(actions, status, text, "")

    def status_of(self, *actions: str, prefix: tuple[str, ...] = ()) -> int:
        return self.call(*actions, prefix=prefix).returncode

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    @property
    def address(self) -> tuple[str, int]:
        told = re.search(r"listen socks: (\S+):(\d+)", self.call("status").stdout)
        assert told is not None
        return told[1], int(told[2])

    def workers(self) -> int:
        return len(re.findall("^worker ", self.call("status").stdout, flags=re.M))

    def processes(self) -> list[int]:
        """Every process of this service: the title of a master names its configuration."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                if title(int(entry)) == f"geproxy: master ({self.config})":
                    found.append(int(entry))
            except OSError:
                pass  # it ended while we looked
        return found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """The script as `make install` lays it out below a folder, for the program of this checkout."""
    subprocess.run(
        [
            "make",
            "--silent",
            "install-files",
            f"prefix={tmp_path}/usr",
            f"sysconfdir={tmp_path}/etc",
        ]
        + [f"localstatedir={tmp_path}/var", f"runstatedir={tmp_path}/run"],
        cwd=ROOT,
        check=True,
        timeout=ACTION_SECONDS,
    )
    (tmp_path / "run").mkdir()
    found = Service(tmp_path)
    found.configure()
    found.defaults.write_text(f"DAEMON={PROGRAM}\n", encoding="utf-8")
    try:
        yield found
    finally:
        found.configure()
        found.defaults.write_text(f"DAEMON={PROGRAM}\n", encoding="utf-8")
        found.call("stop")
        wait_until(lambda: not found.processes())


def test_a_service_is_started_asked_and_stopped(service):
    assert service.status_of("status") == STATUS_STOPPED
    assert service.status_of("start") == OK
    assert service.status_of("status") == OK
    assert service.processes() == [service.pid]
    with (
        targets.target(targets.echo) as target,
        socks.connect(service.address, "127.0.0.1", target.port) as tunnel,
    ):
        tunnel.send(b"through the service")
        assert tunnel.receive(19) == b"through the service"
    assert service.status_of("stop") == OK
    assert service.status_of("status") == STATUS_STOPPED
    assert service.processes() == []
    assert not service.pidfile.exists()


def test_starting_twice_is_fine_and_starts_no_second_copy(service):
    assert service.status_of("start") == OK
    first = service.pid
    assert service.status_of("start") == OK
    assert service.processes() == [first] == [service.pid]


def test_stopping_twice_is_fine(service):
    assert service.status_of("start") == OK
    assert [service.status_of("stop"), service.status_of("stop")] == [OK, OK]


@pytest.mark.parametrize(
    ("action", "expected", "runs"),
    [
        pytest.param("stop", OK, False, id="stop"),
        pytest.param("restart", OK, True, id="restart"),
        pytest.param("try-restart", OK, False, id="try-restart"),
        pytest.param("reload", NOT_RUNNING, False, id="reload"),
        pytest.param("force-reload", NOT_RUNNING, False, id="force-reload"),
        pytest.param("status", STATUS_STOPPED, False, id="status"),
    ],
)
def test_what_an_action_does_to_a_service_that_does_not_run(service, action, expected, runs):
    assert service.status_of(action) == expected
    assert bool(service.processes()) is runs


@pytest.mark.parametrize(
    ("action", "same_master"),
    [
        pytest.param("restart", False, id="restart"),
        pytest.param("try-restart", False, id="try-restart"),
        pytest.param("reload", True, id="reload"),
        pytest.param("force-reload", True, id="force-reload"),
    ],
)
def test_what_an_action_does_to_a_service_that_runs(service, action, same_master):
    assert service.status_of("start") == OK
    before = service.pid
    service.configure(workers=1)
    assert service.status_of(action) == OK
    assert (service.pid == before) is same_master
    assert service.processes() == [service.pid]
    wait_until(lambda: service.workers() == 1)


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param([], id="none"),
        pytest.param(["dance"], id="unknown"),
        pytest.param(["start", "now"], id="too many"),
    ],
)
def test_a_wrong_call_shows_the_usage(service, actions):
    done = service.call(*actions)
    assert done.returncode == USAGE
    assert "start|stop|restart" in done.stdout
    assert service.processes() == []


ACTIONS = ("start", "stop", "restart", "reload", "force-reload")


@pytest.mark.parametrize("action", ACTIONS)
def test_without_the_program_it_is_not_installed(service, action):
    service.defaults.write_text("DAEMON=/nonexistent/geproxy\n", encoding="utf-8")
    assert service.status_of(action) == NOT_INSTALLED
    assert service.status_of("status") == STATUS_UNKNOWN


@pytest.mark.parametrize("action", ACTIONS)
def test_without_a_configuration_it_is_not_configured(service, action):
    service.config.unlink()
    assert service.status_of(action) == NOT_CONFIGURED
    assert service.status_of("status") == STATUS_UNKNOWN


@pytest.mark.parametrize("action", ACTIONS)
def test_who_is_not_root_may_not(service, action):
    ordinary = (peers.find("setpriv"), "--reuid", "65534", "--regid", "65534", "--clear-groups")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for root alone
        os.chmod(folder, 0o755)
        script = shutil.copy(service.script, folder)
        done = subprocess.run([*ordinary, script, action], cwd="/", timeout=ACTION_SECONDS)
    assert done.returncode == NOT_PERMITTED


@pytest.mark.parametrize("action", ["start", "restart"])
def test_a_wrong_configuration_is_told_and_starts_nothing(service, action):
    service.configure(no_such_setting=1)
    done = service.call(action)
    assert done.returncode == NOT_CONFIGURED
    assert "server.no_such_setting" in done.stdout
    assert service.processes() == []


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        pytest.param("restart", NOT_CONFIGURED, id="restart"),
        pytest.param("reload", FAILED, id="reload"),
        pytest.param("force-reload", FAILED, id="force-reload"),
    ],
)
def test_a_wrong_configuration_leaves_alone_what_runs(service, action, expected):
    assert service.status_of("start") == OK
    before = service.pid
    service.configure(no_such_setting=1)
    done = service.call(action)
    assert done.returncode == expected
    assert "server.no_such_setting" in done.stdout
    assert service.processes() == [before]
    assert service.status_of("status") == OK
    assert service.status_of("stop") == OK


def test_a_start_that_fails_says_why(service):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = service.config.read_text().replace("1:0", f"1:{taken.getsockname()[1]}")
        service.config.write_text(text)
        done = service.call("start")
    assert done.returncode == FAILED
    assert "cannot listen on" in done.stdout
    assert service.status_of("status") == STATUS_STOPPED


@pytest.mark.parametrize(
    "closed",
    [
        pytest.param("<&-", id="standard input"),
        pytest.param("<&- >&- 2>&-", id="all three"),
    ],
)
def test_it_starts_with_closed_streams(service, closed):
    line = f"exec {service.script} start {closed}"
    done = subprocess.run(["sh", "-c", line], cwd="/", timeout=ACTION_SECONDS)
    assert done.returncode == OK
    assert service.status_of("status") == OK
    assert service.processes() == [service.pid]


def test_it_starts_from_a_directory_that_is_gone(service):
    line = f"mkdir gone; cd gone; rmdir ../gone; exec {service.script} start"
    done = subprocess.run(["sh", "-c", line], cwd=service.root, timeout=ACTION_SECONDS)
    assert done.returncode == OK
    assert os.readlink(f"/proc/{service.pid}/cwd") == "/"


def test_the_daemon_keeps_nothing_of_its_starter(service):
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    try:
        subprocess.run(
            [service.script, "start"], pass_fds=[write_end], check=True, timeout=ACTION_SECONDS
        )
    finally:
        os.close(write_end)
    os.set_blocking(read_end, False)
    assert os.read(read_end, 1) == b"", "the daemon holds the other end"
    os.close(read_end)
    assert {os.readlink(f"/proc/{service.pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}


def test_a_pid_that_is_not_ours_is_never_signalled(service):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        service.pidfile.parent.mkdir()
        service.pidfile.write_text(f"{bystander.pid}\n")
        assert service.status_of("status") == STATUS_STOPPED
        assert service.status_of("stop") == OK
        assert service.status_of("reload") == NOT_RUNNING
        assert service.status_of("start") == OK
        assert service.pid != bystander.pid
        assert service.status_of("stop") == OK
        assert bystander.poll() is None
        bystander.communicate(b"\n", timeout=ACTION_SECONDS)


def test_after_a_master_was_killed_it_starts_again_at_once(service):
    assert service.status_of("start") == OK
    killed = service.pid
    os.kill(killed, 9)
    wait_until(lambda: killed not in service.processes())
    assert service.pidfile.exists()
    assert service.status_of("status") == STATUS_STOPPED
    assert service.status_of("start") == OK
    assert service.pid != killed


@pytest.mark.timeout(300)
def test_many_starts_and_stops_leave_nothing_behind(service):
    for _ in range(CYCLES):
        assert service.status_of("start") == OK
        assert service.processes() == [service.pid]
        assert service.status_of("stop") == OK
        assert service.processes() == []
    assert list(service.pidfile.parent.iterdir()) == []


def test_the_script_has_the_header_that_init_reads():
    text = (ROOT / "etc" / "init.d" / "geproxy").read_text(encoding="utf-8")
    header = text.partition("### BEGIN INIT INFO\n")[2].partition("### END INIT INFO")[0]
    keys = re.findall(r"^# ([A-Z][\w-]+):", header, flags=re.M)
    assert {"Provides", "Required-Start", "Required-Stop"} <= set(keys)
    assert {"Default-Start", "Default-Stop", "Short-Description"} <= set(keys)
