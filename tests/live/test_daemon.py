"""geproxy -d: what it returns, what stays behind, and how it lives without its master."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import (
    NOBODY,
    Daemon,
    as_user,
    cpu_seconds,
    daemon_configuration,
    daemon_folder,
    daemon_running,
    descriptors,
    public_folder,
    status_rows,
)
from tests.support.peers import find, missing
from tests.support.proxy import PROGRAM, ROOT, running, wait_until
from tests.support.socks import RefusedError, Tunnel, connect, reply_to
from tests.support.targets import Target, echo, pattern, pattern_digest, refused_port, target

pytestmark = pytest.mark.slow

for_root = pytest.mark.skipif(os.geteuid() != 0, reason="for root")

LONELY = 61234  # runs nothing else, so that its processes can be counted
LAUNCH = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r}); import geproxy.cli as c; sys.exit(c.main())"
)
CORE_ROW = "Max core file size"
LOOP = "socks5://127.0.0.1"


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


WHO = [
    pytest.param([], id="as whoever runs the tests"),
    pytest.param(as_user(), id="as an ordinary user", marks=for_root),
]


def check_talks(tunnel: Tunnel) -> None:
    tunnel.send(b"x")
    assert tunnel.receive(1) == b"x"


def is_refused(address: tuple[str, int]) -> bool:
    try:
        Tunnel.dial(address).close()
    except ConnectionError:
        return True
    return False


# -- birth


@pytest.mark.parametrize("prefix", WHO)
def test_it_returns_once_every_worker_serves(folder: Path, prefix: list[str]) -> None:
    with daemon_folder(folder, prefix=prefix) as daemon, target(echo) as there:
        daemon.start()
        assert daemon.lines("ready"), "before it returned"
        assert len(daemon.workers()) == 2
        with connect(daemon.address(), there.host, there.port) as tunnel:
            check_talks(tunnel)
        assert daemon.pidfile.stat().st_mode & 0o7777 == 0o644
        assert (folder / "log").stat().st_mode & 0o7777 == 0o640
        uid = NOBODY if prefix else os.geteuid()
        assert {status_rows(pid)["Uid"] for pid in daemon.left()} == {" ".join([str(uid)] * 4)}


def test_nothing_of_the_starter_is_left_in_it(folder: Path) -> None:
    with (
        daemon_folder(folder) as daemon,
        (folder / "foreign").open("w") as foreign,
    ):
        high = fcntl.fcntl(foreign, fcntl.F_DUPFD, 200)
        prefix = [find("prlimit"), "--nofile=100:"]  # the descriptor is above the limit by then
        try:
            # Nothing is asked about NAT64 then: a look-up opens files of the system's.
            quiet = {"family": "ipv4"}
            config = daemon_configuration(limits={"sessions": 10}, resolver=quiet)
            daemon.config.write_text(config)
            done = daemon.run("-d", prefix=prefix, pass_fds=[foreign.fileno(), high])
        finally:
            os.close(high)
        assert (done.returncode, done.stderr) == (0, "")
        master = daemon.pid
        for pid in (master, *daemon.workers()):
            held = descriptors(pid)
            assert [held.pop(stream) for stream in (0, 1, 2)] == ["/dev/null"] * 3
            known = ("socket:", "pipe:", "anon_inode:", "/memfd:geproxy-")
            others = {name for name in held.values() if not name.startswith(known)}
            assert others == ({str(daemon.pidfile)} if pid == master else set())
            assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
            assert status_rows(pid)["Umask"] == "0027"
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            session, terminal = int(fields[3]), int(fields[4])
            assert session not in (os.getsid(0), pid), "no leader: it could be given a terminal"
            assert terminal == 0
            (core,) = (
                line[len(CORE_ROW) :].split()
                for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
                if line.startswith(CORE_ROW)
            )
            assert core[:2] == ["0", "0"]


def test_a_worker_holds_nothing_that_passes_for_the_masters_word(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        assert [name for name in descriptors(daemon.pid).values() if "geproxy-about" in name]
        for pid in daemon.workers():
            maps = Path(f"/proc/{pid}/maps").read_text()
            assert "geproxy-about" not in maps + " ".join(descriptors(pid).values())


def check_does_not_start(daemon: Daemon, said: str, prefix: list[str] | None = None) -> None:
    before = set(os.listdir(daemon.folder)) | {"log"}
    done = daemon.run("-d", prefix=prefix)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"geproxy: {daemon.config}: {said}\n"
    wait_until(lambda: not daemon.left())
    assert set(os.listdir(daemon.folder)) <= before, "no pidfile"


@pytest.mark.parametrize("prefix", WHO)
def test_a_taken_port_is_its_reason_and_status_1(folder: Path, prefix: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        config = daemon_configuration({"socks": {"url": f"socks5://{where}"}})
        with daemon_folder(folder, config, prefix=prefix) as daemon:
            said = f"listen.socks.url: cannot listen on {where}: Address already in use"
            check_does_not_start(daemon, said)
            (line,) = daemon.lines("start.fail")
            assert line.fields["reason"] == said


@pytest.mark.parametrize("prefix", WHO)
def test_a_log_that_cannot_be_opened_is_its_reason_and_status_1(
    folder: Path, prefix: list[str]
) -> None:
    config = daemon_configuration(log={"target": "none/log"})
    with daemon_folder(folder, config, prefix=prefix) as daemon:
        path = folder / "none" / "log"
        check_does_not_start(daemon, f"log.target: cannot open {path}: No such file or directory")


@for_root
@pytest.mark.parametrize(
    ("processes", "workers", "said"),
    [
        pytest.param(8, 16, "cannot start a worker: ", id="no room for all of them"),
        pytest.param(1, 1, "", id="no room for a daemon"),
    ],
)
def test_too_few_processes_are_the_reason_and_status_1(
    folder: Path, processes: int, workers: int, said: str
) -> None:
    os.chown(folder, LONELY, LONELY)
    config = daemon_configuration(workers=workers)
    with daemon_folder(folder, config) as daemon:
        few = [find("prlimit"), f"--nproc={processes}:{processes}", *as_user(LONELY)]
        # Without the launcher, whose shell forks as well.
        program = [*few, sys.executable, "-c", LAUNCH]
        done = daemon.run("-d", prefix=(), program=program)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(f"geproxy: {daemon.config}: .*{said}.*\n", done.stderr), done.stderr
        wait_until(lambda: not daemon.left())
        assert os.listdir(folder) in (
            ["geproxy.conf"],
            ["geproxy.conf", "log"],
            ["log", "geproxy.conf"],
        )


@for_root
@pytest.mark.parametrize(
    ("log", "who"),
    [
        pytest.param({}, "the log's writer cannot start", id="the writer of the log"),
        pytest.param({"target": "syslog"}, "could not start", id="a worker"),
    ],
)
def test_whoever_cannot_drop_its_privileges_is_status_1(
    folder: Path, log: dict[str, str], who: str
) -> None:
    config = daemon_configuration(server={"user": "nobody"}, log=log)
    with daemon_folder(folder, config) as daemon:
        bound = [find("setpriv"), "--bounding-set=-setuid", "--inh-caps=-setuid"]
        said = f"{who}: PermissionError: [Errno 1] Operation not permitted"
        done = daemon.run("-d", prefix=bound)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr, done.stderr
        wait_until(lambda: not daemon.left())
        assert not daemon.pidfile.exists()


def test_a_second_start_names_the_first_and_leaves_it_alone(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        family = sorted(daemon.left())
        for arguments in (["-d"], []):
            done = daemon.run(*arguments)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.count("\n") == 1
            running = f"server.pidfile: {daemon.pidfile}: running already, as pid {daemon.pid}\n"
            assert done.stderr.endswith(running)
        assert sorted(daemon.left()) == family
        assert reply_to(daemon.address(), there.host, there.port) == 0


def test_it_starts_from_a_removed_directory_without_standard_streams(folder: Path) -> None:
    (folder / "gone").mkdir()
    with daemon_folder(folder) as daemon, target(echo) as there:
        starts = "rmdir . ; exec $0 -d -f $1 <&- >&- 2>&-".replace(
            "rmdir .", f"rmdir {folder}/gone"
        )
        done = subprocess.run(
            ["sh", "-c", starts, str(PROGRAM), str(daemon.config)], cwd=folder / "gone", timeout=30
        )
        assert done.returncode == 0
        assert reply_to(daemon.address(), there.host, there.port) == 0
        for pid in (daemon.pid, *daemon.workers()):
            held = descriptors(pid)
            assert [held[stream] for stream in (0, 1, 2)] == ["/dev/null"] * 3
        # The file is found again, though it was named from a place that is gone.
        assert daemon.run("reload").returncode == 0


def test_in_the_foreground_closed_streams_become_no_file_of_ours(folder: Path) -> None:
    with daemon_folder(folder) as daemon:
        process = subprocess.Popen(
            ["sh", "-c", "exec $0 -f $1 <&- >&- 2>&-", str(PROGRAM), str(daemon.config)]
        )
        daemon.wait_for("ready")
        for pid in (process.pid, *daemon.workers()):
            held = descriptors(pid)
            assert [held[stream] for stream in (0, 1, 2)] == ["/dev/null"] * 3
        process.terminate()
        assert process.wait(20) == 0


PRIVATE_DEV = """
mkdir "$0/dev" && mount --rbind /dev "$0/dev" && mount -t tmpfs none /dev || exit 77
for device in null zero random urandom; do
    touch /dev/$device && mount --bind "$0/dev/$device" /dev/$device || exit 77
done
ln -s "$0/syslog" /dev/log
exec "$@"
"""
PRIVATE_RUN = """
mount -t tmpfs none /run || exit 77
program=$1 config=$2
"$program" -f "$config" -d && cat /run/geproxy.pid
"$program" status -f "$config" && "$program" stop -f "$config"
echo $? $(ls /run)
"""


def in_private_mounts(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script whose mounts nobody else sees; skip where that is not allowed."""
    command = [find("unshare"), "--mount", "sh", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        missing("this machine lets nobody mount")
    return done


@for_root
def test_what_would_go_to_standard_error_goes_to_syslog(folder: Path) -> None:
    config = daemon_configuration(log={"target": "stderr"})
    with (
        daemon_folder(folder, config) as daemon,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog,
    ):
        syslog.bind(str(folder / "syslog"))
        syslog.settimeout(20)
        arguments = [str(folder), str(PROGRAM), "-f", str(daemon.config), "-d"]
        assert in_private_mounts(PRIVATE_DEV, *arguments).returncode == 0
        said = b""
        while b" ready " not in said:
            said = syslog.recv(4096)
            assert said.startswith(b"<"), "priority"
            assert b"geproxy" in said
        assert daemon.run("stop").returncode == 0


@for_root
def test_without_a_configured_pidfile_it_is_one_in_run(folder: Path) -> None:
    with daemon_folder(folder, daemon_configuration(server={"pidfile": ""})) as daemon:
        done = in_private_mounts(PRIVATE_RUN, "sh", str(PROGRAM), str(daemon.config))
        pid, *_, last = done.stdout.splitlines()
        assert pid.isdigit()
        assert f"pid {pid}," in done.stdout
        assert last.strip() == "0", "stopped, and no pidfile is left"


@for_root
def test_an_ordinary_user_without_a_pidfile_is_told_why_not(folder: Path) -> None:
    config = daemon_configuration(server={"pidfile": ""})
    with daemon_folder(folder, config, prefix=as_user()) as daemon:
        said = "server.pidfile: cannot use /run/geproxy.pid: Permission denied"
        check_does_not_start(daemon, said)


# -- systemd


def received(sock: socket.socket) -> dict[str, str]:
    rows = sock.recv(4096).decode().splitlines()
    return dict(row.split("=", 1) for row in rows)


def test_the_service_manager_is_told_of_start_reload_and_stop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        with running(folder) as proxy:
            up = {"READY": "1", "MAINPID": str(proxy.pid)}
            assert received(manager) == up
            earlier = time.monotonic_ns() // 1000
            assert proxy.reload().event == "reload.done"
            reloading = received(manager)
            assert reloading["RELOADING"] == "1"
            assert earlier <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert received(manager) == up
            assert proxy.reload("no TOML").event == "reload.fail"
            assert received(manager)["RELOADING"] == "1"
            assert received(manager) == up
            proxy.signal(signal.SIGTERM)
            assert received(manager) == {"STOPPING": "1"}
            assert proxy.wait_for_exit() == 0


def test_a_service_manager_that_is_gone_hinders_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "nobody"))
    with running(folder) as proxy:
        proxy.signal(signal.SIGQUIT)
        assert proxy.wait_for_exit() == 0


# -- death of the master


@pytest.mark.parametrize("prefix", WHO)
def test_after_the_masters_death_workers_finish_and_a_new_master_starts_at_once(
    folder: Path, prefix: list[str]
) -> None:
    config = daemon_configuration({"socks": {"url": f"{LOOP}:{refused_port()}"}})
    with daemon_folder(folder, config, prefix=prefix) as daemon, target(echo) as there:
        daemon.start()
        address, master, workers = daemon.address(), daemon.pid, set(daemon.workers())
        with connect(address, there.host, there.port) as living:
            check_talks(living)
            os.kill(master, signal.SIGKILL)
            wait_until(lambda: is_refused(address))
            assert daemon.pidfile.read_text() == f"{master}\n", "left behind"
            assert daemon.run("status").returncode == 3
            daemon.start()
            assert daemon.pid != master
            assert reply_to(address, there.host, there.port) == 0
            check_talks(living)
            alive = workers & set(daemon.left())
            assert len(alive) == 1, "the one whose session goes on"
        wait_until(lambda: not workers & set(daemon.left()))
        assert daemon.run("stop").returncode == 0
        assert not daemon.pidfile.exists()
        daemon.wait_for_end()


def test_a_paused_master_holds_up_nobody(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        os.kill(daemon.pid, signal.SIGSTOP)
        for _ in range(20):
            assert reply_to(daemon.address(), there.host, there.port) == 0
        os.kill(daemon.pid, signal.SIGCONT)


# -- under load

RELOADS = 20
STREAMS = 40
STREAM_BYTES = 4 << 20
CONNECTIONS_PER_SECOND = 200
CALLERS = 8


class Callers:
    """Threads that connect, talk and leave at a steady pace, and count."""

    def __init__(self, address: tuple[str, int], host: object, port: int) -> None:
        self._arguments = (address, host, port)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(CALLERS)]
        self.served = [0] * CALLERS
        self.failed: list[Exception] = []

    def _call(self) -> None:
        mine = self._threads.index(threading.current_thread())
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                with connect(*self._arguments) as tunnel:  # type: ignore[arg-type]
                    check_talks(tunnel)
                self.served[mine] += 1
            except (OSError, EOFError, RefusedError, AssertionError) as error:
                self.failed.append(error)
            due += CALLERS / CONNECTIONS_PER_SECOND
            self._stop.wait(due - time.monotonic())

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def test_twenty_reloads_under_load_lose_nobody(folder: Path) -> None:
    digests: list[str] = []
    go_on = threading.Event()

    def half_then_half(sock: socket.socket) -> None:
        sent = 0
        for block in pattern(STREAM_BYTES):
            if sent == STREAM_BYTES // 2:
                go_on.wait(50)
            sock.sendall(block)
            sent += len(block)

    def read(tunnel: Tunnel) -> None:
        digests.append(tunnel.digest_all().sha256)

    with (
        daemon_running(folder) as daemon,
        target(half_then_half) as big,
        target(echo) as there,
    ):
        address = daemon.address()
        tunnels = [connect(address, big.host, big.port) for _ in range(STREAMS)]
        readers = [threading.Thread(target=read, args=(one,), daemon=True) for one in tunnels]
        for reader in readers:
            reader.start()
        with Callers(address, there.host, there.port) as callers:
            for _ in range(RELOADS):
                before = sum(callers.served)
                done = daemon.run("reload")
                assert (done.returncode, done.stderr) == (0, "")
                wait_until(lambda before=before: sum(callers.served) >= before + 20)
        assert callers.failed == []
        assert sum(callers.served) >= RELOADS * 20
        go_on.set()
        for reader in readers:
            reader.join(50)
        assert digests == [pattern_digest(STREAM_BYTES)] * STREAMS
        for tunnel in tunnels:
            tunnel.close()
        assert len(daemon.lines("reload.done")) == RELOADS
        wait_until(lambda: len(daemon.workers()) == 2)
        assert not daemon.lines("worker.lost")
        assert not daemon.lines("reload.fail")


def test_a_burst_of_reloads_ends_with_as_many_workers_as_before(folder: Path) -> None:
    with daemon_running(folder) as daemon, target(echo) as there:
        for _ in range(100):
            os.kill(daemon.pid, signal.SIGHUP)
            time.sleep(0.01)  # the pace of the storm
        assert daemon.run("reload").returncode == 0
        wait_until(lambda: len(daemon.workers()) == 2)
        assert len(daemon.lines("reload.done")) < 50, "they collapse"
        assert reply_to(daemon.address(), there.host, there.port) == 0


def test_a_reload_closes_opens_and_keeps_listeners_as_the_file_says(folder: Path) -> None:
    kept, changed, removed, added, other = (refused_port() for _ in range(5))

    def listeners(**ports: int) -> dict[str, dict[str, object]]:
        return {name: {"url": f"{LOOP}:{port}"} for name, port in ports.items()}

    first = daemon_configuration(listeners(kept=kept, moved=changed, old=removed))
    with daemon_running(folder, first) as daemon, target(echo) as there:
        through = [
            connect(("127.0.0.1", port), there.host, there.port)
            for port in (kept, changed, removed)
        ]
        second = listeners(kept=kept, moved=other, new=added)
        daemon.config.write_text(daemon_configuration(second))
        done = daemon.run("reload")
        assert (done.returncode, done.stderr) == (0, "")
        for port in (kept, other, added):
            assert reply_to(("127.0.0.1", port), there.host, there.port) == 0
        for port in (changed, removed):
            wait_until(lambda port=port: is_refused(("127.0.0.1", port)))
        for tunnel in through:
            check_talks(tunnel)
            tunnel.close()
        told = {name: [f"127.0.0.1:{port}"] for name, port in
                (("kept", kept), ("moved", other), ("new", added))}  # fmt: skip
        assert daemon.status()["listeners"] == told
        gone = sorted(line.fields["address"] for line in daemon.lines("listen.stop"))
        assert gone == sorted(f"127.0.0.1:{port}" for port in (changed, removed))
        starts = [line.fields["listen"] for line in daemon.lines("listen.start")]
        assert starts == ["kept", "moved", "old", "moved", "new"], "kept is untouched"


def test_a_reload_names_what_needs_a_restart(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        text = daemon.config.read_text().replace("geproxy.pid", "other.pid")
        daemon.config.write_text(text)
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("reload.done")
        (line,) = daemon.lines("config.warning")[-1:]
        assert line.fields["key"] == "server.pidfile"
        assert "restart" in line.fields["reason"]
        assert daemon.pidfile.exists()
        assert not (folder / "other.pid").exists()


# -- too few descriptors

CLIENTS = 400
WATCHED_SECONDS = 3


def dialed(daemon: Daemon) -> Tunnel | None:
    """Connect; None where the source has its share of the places, and is reset at once."""
    try:
        return Tunnel.dial(daemon.address())
    except ConnectionResetError:
        return None


def is_served(daemon: Daemon, there: Target) -> bool:
    try:
        return reply_to(daemon.address(), there.host, there.port) == 0
    except OSError:
        return False


def test_more_clients_than_descriptors_cost_no_time_and_no_session(folder: Path) -> None:
    few = [find("prlimit"), "--nofile=128:128", *as_user()]
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    with daemon_folder(folder) as daemon, target(echo) as there:
        daemon.prefix = few
        daemon.start()
        workers = daemon.workers()
        living = [connect(daemon.address(), there.host, there.port) for _ in range(10)]
        flood = [one for one in (dialed(daemon) for _ in range(CLIENTS)) if one is not None]
        lines = len(daemon.lines())
        before, began = [cpu_seconds(pid) for pid in workers], time.monotonic()
        while (seconds := time.monotonic() - began) < WATCHED_SECONDS:
            for tunnel in living:
                check_talks(tunnel)
            time.sleep(0.1)  # the pace of the sessions that live
        for pid, spent in zip(workers, before, strict=True):
            assert cpu_seconds(pid) - spent < seconds / 4
        assert len(daemon.lines()) - lines <= len(workers) * (seconds + 1)
        for tunnel in flood:
            tunnel.close()
        wait_until(lambda: is_served(daemon, there))  # once the flood's places are free
        for tunnel in living:
            check_talks(tunnel)
            tunnel.close()
        assert sorted(daemon.workers()) == sorted(workers)


@pytest.mark.skipif(shutil.which("script") is None, reason="script is missing")
def test_the_end_of_the_terminal_is_not_its_end(folder: Path) -> None:
    with daemon_folder(folder) as daemon, target(echo) as there:
        # A session of its own with a terminal, which hangs up as soon as the command is over.
        line = f"{PROGRAM} -f {daemon.config} -d"
        done = subprocess.run(
            ["script", "-q", "-e", "-c", line, "/dev/null"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0
        assert reply_to(daemon.address(), there.host, there.port) == 0
        assert len(daemon.workers()) == 2
