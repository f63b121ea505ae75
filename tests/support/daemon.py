"""One geproxy -d: started with a pidfile and a log in a folder of its own, always ended."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.logs import writes_logs
from tests.support.peers import find
from tests.support.proxy import (
    PATIENCE_SECONDS,
    PROGRAM,
    Address,
    Line,
    Values,
    configuration,
    wait_until,
)

NOBODY = 65534
SOMEBODY = 65533  # a second user of the host, who needs no name

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

Done = subprocess.CompletedProcess[str]


@contextmanager
def public_folder() -> Iterator[Path]:
    """Make a folder that every user can reach: pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory(prefix="geproxy-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def as_user(uid: int = NOBODY) -> list[str]:
    """A command that runs another as *uid*; nothing where we are an ordinary user anyway.

    The interpreter of a checkout may lie where its owner alone can read: that is not what these
    tests are about, so reading is allowed. Writing, signals and other processes are not.
    """
    if os.geteuid() != 0:
        return []
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return [find("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *reading]


def daemon_configuration(
    listen: dict[str, Values] | None = None, workers: int = 2, **tables: Values
) -> str:
    """Write a configuration whose pidfile and log stand beside it."""
    tables["server"] = {"pidfile": "geproxy.pid", **tables.get("server", {})}
    tables["log"] = {"target": "log", **tables.get("log", {})}
    return configuration(listen, workers, **tables)


class Daemon:
    """A folder in which a daemon runs, or should."""

    def __init__(self, folder: Path, prefix: Sequence[str]) -> None:
        self.folder = folder
        self.prefix = list(prefix)
        self.config = folder / "geproxy.conf"
        self._before = {pid for pid, _ in _descendants()}

    # -- commands ------------------------------------------------------------------------------

    def run(
        self,
        *arguments: str,
        prefix: Sequence[str] | None = None,
        folder: Path | None = None,
        pass_fds: Sequence[int] = (),
        program: Sequence[str] = (str(PROGRAM),),
    ) -> Done:
        """Run one geproxy command on our configuration, to its end.

        That its output ends as well shows that nobody who stays holds it open.
        """
        done = subprocess.run(
            [*(self.prefix if prefix is None else prefix), *program]
            + [*arguments, "-f", str(self.config)],
            cwd=folder or self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS * 2,
            pass_fds=pass_fds,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def start(self) -> Done:
        """Start it, which must go well and be silent."""
        done = self.run("-d")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
        return done

    # -- what it shows -------------------------------------------------------------------------

    @property
    def pidfile(self) -> Path:
        """Where the master's pid stands."""
        return self.folder / "geproxy.pid"

    @property
    def pid(self) -> int:
        """The master's pid."""
        return int(self.pidfile.read_text())

    def workers(self) -> list[int]:
        """The pids of the master's living children that serve."""
        master = self.pid
        children = [pid for pid, parent in _processes() if parent == master]
        return [pid for pid in children if not writes_logs(pid)]

    def left(self) -> list[int]:
        """The pids of everything that was started here and lives."""
        return [pid for pid, _ in _descendants() if pid not in self._before]

    def lines(self, event: str = "", log: str = "log") -> list[Line]:
        """The lines of the log so far, all or those of one *event*."""
        path = self.folder / log
        if not path.exists():
            return []
        # Who has no right to write is here root, who may read.
        whole = path.read_text(errors="backslashreplace").splitlines()
        lines = [Line.parse(text) for text in whole]
        return [line for line in lines if event in ("", line.event)]

    def wait_for(self, event: str, count: int = 1, log: str = "log") -> Line:
        """Return the line of the *count*th *event*, once it is there."""
        wait_until(lambda: len(self.lines(event, log)) >= count)
        return self.lines(event, log)[count - 1]

    def address(self, listen: str = "socks") -> Address:
        """Where *listen* was announced last."""
        rows = [line for line in self.lines("listen.start") if line.fields["listen"] == listen]
        host, _, port = rows[-1].fields["address"].rpartition(":")
        return host.strip("[]"), int(port)

    def status(self) -> dict[str, object]:
        """What geproxy status --json says."""
        done = self.run("status", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        found: dict[str, object] = json.loads(done.stdout)
        return found

    # -- its end -------------------------------------------------------------------------------

    def wait_for_end(self) -> None:
        """Return once nothing of it lives."""
        wait_until(lambda: not self.left())

    def end(self) -> None:
        """End whatever is left of it, hard."""

        def gone() -> bool:
            left = self.left()
            for pid in left:
                with suppress(ProcessLookupError):  # the master has reaped it meanwhile
                    os.kill(pid, signal.SIGKILL)
            return not left

        wait_until(gone)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break


@contextmanager
def daemon_folder(
    folder: Path, config: str | None = None, *, prefix: Sequence[str] = ()
) -> Iterator[Daemon]:
    """Prepare a folder for a daemon that does not run yet."""
    if prefix and prefix[0].endswith("setpriv"):
        os.chown(folder, NOBODY, NOBODY)
    with _subreaper():
        daemon = Daemon(folder, prefix)
        daemon.config.write_text(daemon_configuration() if config is None else config)
        daemon.config.chmod(0o600)  # it may hold a secret
        try:
            yield daemon
        finally:
            daemon.end()


@contextmanager
def daemon_running(
    folder: Path, config: str | None = None, *, prefix: Sequence[str] = ()
) -> Iterator[Daemon]:
    """Run a daemon until it is done with."""
    with daemon_folder(folder, config, prefix=prefix) as daemon:
        daemon.start()
        yield daemon


def status_rows(pid: int, thread: int | None = None) -> dict[str, str]:
    """What /proc/PID/status says of a process, or of one *thread* of it."""
    where = f"/proc/{pid}/status" if thread is None else f"/proc/{pid}/task/{thread}/status"
    rows = (line.partition(":") for line in Path(where).read_text().splitlines())
    return {name: " ".join(value.split()) for name, _, value in rows}


def threads(pid: int) -> list[int]:
    """The threads of a process."""
    return [int(entry) for entry in os.listdir(f"/proc/{pid}/task")]


def descriptors(pid: int) -> dict[int, str]:
    """What each descriptor of a process is."""
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
        except FileNotFoundError:
            pass  # closed while we looked
    return found


def cpu_seconds(pid: int) -> float:
    """The time that a process has spent on a processor: utime and stime of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _subreaper() -> Iterator[None]:
    """Have processes that lost their parent become our children, so that none can hide."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _processes() -> list[tuple[int, int]]:
    """Pid and parent of every process that lives; a zombie does not."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            except OSError:
                continue  # it ended while we looked
            state, parent = text.rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found.append((int(entry), int(parent)))
    return found


def _descendants() -> list[tuple[int, int]]:
    """Our children, theirs, and so on."""
    processes, family = _processes(), {os.getpid()}
    while True:
        found = [(pid, parent) for pid, parent in processes if parent in family]
        if family == (grown := family | {pid for pid, _ in found}):
            return found
        family = grown
