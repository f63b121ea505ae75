"""One running bin/geproxy: started in a folder of its own, watched by its log, always ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

from tests.support.logs import writes_logs

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "bin" / "geproxy"

# Generous: a loaded machine is no failure, and nothing that goes well ever waits this long.
PATIENCE_SECONDS = 20.0

WORKERS = 2

Address = tuple[str, int]
Values = Mapping[str, object]

_FIELD = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S*)')
_EVENT = re.compile(r"(\S+Z) (debug|info|warning|error) ([a-z.]+)(?: (.*))?")


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as *condition* holds. Raises AssertionError after *seconds*."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"{condition} did not hold within {seconds:g} s"
        time.sleep(0.01)


def configuration(
    listen: Mapping[str, Values] | None = None, workers: int = WORKERS, **tables: Values
) -> str:
    """Write a configuration; without *listen*, one listener "socks" on a port of loopback."""
    listen = listen if listen is not None else {"socks": {"url": "socks5://127.0.0.1:0"}}
    whole: dict[str, Values] = {
        **tables,
        "server": {"workers": workers, **tables.get("server", {})},
    }
    whole |= {f"listen.{name}": values for name, values in listen.items()}
    lines = []
    for name, values in whole.items():
        lines.append(f"[{name}]")
        # A text, a number and a truth look the same in JSON and in TOML.
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Line:
    """One line of the log; *event* is "" where it is none of ours."""

    text: str
    arrived: float  # monotonic
    level: str
    event: str
    fields: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take one line apart, text or JSON."""
        if text.startswith("{"):
            values = {key: str(value) for key, value in json.loads(text).items()}
            return cls(text, time.monotonic(), values["level"], values["event"], values)
        parts = _EVENT.fullmatch(text)
        if parts is None:
            return cls(text, time.monotonic(), "", "", {})
        pairs = {key: value.strip('"') for key, value in _FIELD.findall(parts[4] or "")}
        return cls(text, time.monotonic(), parts[2], parts[3], pairs)

    @property
    def said(self) -> float:
        """The time that stands in the line, in seconds since the epoch."""
        when = self.fields.get("time") or self.text.partition(" ")[0]
        return datetime.fromisoformat(when).timestamp()


class Proxy:
    """A running master, as its operator sees it."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.pid = process.pid
        self._lines: list[Line] = []
        self._news = threading.Condition()
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for text in stream:
            line = Line.parse(text.rstrip("\n"))
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    # -- the log -------------------------------------------------------------------------------

    @property
    def lines(self) -> list[Line]:
        """The log so far."""
        with self._news:
            return list(self._lines)

    @property
    def log(self) -> str:
        """The log so far, as text."""
        return "\n".join(line.text for line in self.lines)

    def mark(self) -> int:
        """Remember this moment of the log, for wait_for_line and events."""
        return len(self.lines)

    def wait_for_line(
        self,
        predicate: Callable[[Line], object],
        seconds: float = PATIENCE_SECONDS,
        since: int = 0,
    ) -> Line:
        """Return the first line after *since* that *predicate* likes. Raises AssertionError."""
        give_up = time.monotonic() + seconds
        seen = since
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if predicate(line):
                        return line
                seen = max(seen, len(self._lines))
                left = give_up - time.monotonic()
                ended = not self._reader.is_alive()
                if ended or left <= 0 or not self._news.wait(min(left, 0.2)):
                    if left > 0 and not ended:
                        continue
                    raise AssertionError(f"no such line within {seconds:g} s in\n" + self._text())

    def wait_for(
        self,
        event: str,
        *,
        since: int = 0,
        after: float = 0.0,
        seconds: float = PATIENCE_SECONDS,
        **fields: object,
    ) -> Line:
        """Return the first *event* with these *fields* after *since*, a mark, and *after*, a time.

        Raises AssertionError. A client's port is no name for good: where one proxy serves many
        tests, the kernel gives a port again that an earlier client of another listener had.
        """
        wanted = {key: str(value) for key, value in fields.items()}

        def fits(line: Line) -> bool:
            late = line.arrived >= after
            return late and line.event == event and wanted.items() <= line.fields.items()

        return self.wait_for_line(fits, seconds, since)

    def events(self, event: str, since: int = 0) -> list[Line]:
        """All lines of one *event* so far."""
        return [line for line in self.lines[since:] if line.event == event]

    def failures(self, since: int = 0) -> int:
        """How many failed authentications the lines stand for so far."""
        return sum(int(line.fields.get("repeated", 1)) for line in self.events("auth.fail", since))

    def _text(self) -> str:
        return "\n".join(line.text for line in self._lines)

    # -- addresses -----------------------------------------------------------------------------

    def wait_ready(self) -> Self:
        """Return when the proxy serves. Raises AssertionError when it does not come to that."""
        self.wait_for("ready")
        return self

    def addresses(self, listen: str) -> list[Address]:
        """Where *listen* was announced, every socket of it, in the order of the log."""
        lines = [line for line in self.events("listen.start") if line.fields["listen"] == listen]
        return [_address(line.fields["address"]) for line in lines]

    @property
    def address(self) -> Address:
        """The address that was announced first."""
        return _address(self.events("listen.start")[0].fields["address"])

    # -- processes -----------------------------------------------------------------------------

    def workers(self) -> list[int]:
        """The pids of the master's living children that serve."""
        children = [pid for pid, parent, _ in _processes() if parent == self.pid]
        return [pid for pid in children if not writes_logs(pid)]

    def wait_for_workers(self, count: int) -> list[int]:
        """Return the workers once there are *count* of them."""
        wait_until(lambda: len(self.workers()) == count)
        return self.workers()

    def accepting(self) -> set[int]:
        """The pids of the workers that can take new clients: they hold a listening socket."""
        listening = {f"socket:[{inode}]" for inode in _listening_inodes()}
        return {pid for pid in self.workers() if listening & _open_files(pid)}

    def owner(self, client: socket.socket) -> int:
        """Return the pid of the worker that holds the other end of *client*, an IPv4 socket."""
        found: set[int] = set()

        def look() -> bool:
            found.clear()
            found.update(self.owners([client]))
            return len(found) == 1

        wait_until(look)
        return found.pop()

    def owners(self, clients: Sequence[socket.socket]) -> set[int]:
        """The workers that hold the other end of any of *clients* by now."""
        names = {f"socket:[{inode}]" for inode in _other_ends(clients)}
        return {pid for pid in self.workers() if names & _open_files(pid)}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the master."""
        os.kill(self.pid, number)

    def rewrite(self, config: str) -> None:
        """Put another configuration in the place of the file."""
        (self.folder / "geproxy.conf").write_text(config)

    def reload(self, config: str | None = None) -> Line:
        """HUP, with *config* in the file; returns the line that says how it went."""
        if config is not None:
            self.rewrite(config)
        since = self.mark()
        self.signal(signal.SIGHUP)
        return self.wait_for_line(
            lambda line: line.event in ("reload.done", "reload.fail"), since=since
        )

    def wait_for_exit(self, seconds: float = PATIENCE_SECONDS) -> int:
        """Return the exit status once the master is gone."""
        return self.process.wait(seconds)

    def end(self) -> None:
        """End whatever is left of it, hard. Raises AssertionError for a fault in the log."""
        for pid in self.left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it went by itself a moment ago
        self.process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not self.left())
        self._reader.join(PATIENCE_SECONDS)
        assert not self._reader.is_alive(), "somebody still holds the log's pipe open"
        if self.process.stderr is not None:
            self.process.stderr.close()
        assert "Traceback" not in self.log, self.log
        assert not self.events("session.fault"), self.log

    def left(self) -> list[int]:
        """The pids of everything that was started here and lives."""
        return [pid for pid, _, session in _processes() if session == self.pid]


@contextmanager
def running(
    folder: Path, config: str | None = None, *, wait: bool = True, prefix: Sequence[str] = ()
) -> Iterator[Proxy]:
    """Run bin/geproxy -f with *config*, from the first session to the last process of it.

    *prefix* is a command to run it under, one that ends in the same process.
    """
    path = folder / "geproxy.conf"
    path.write_text(configuration() if config is None else config)
    path.chmod(0o600)  # it may hold secrets
    with started(folder, ["-f", str(path)], wait=wait, prefix=prefix) as proxy:
        yield proxy


@contextmanager
def started(
    folder: Path, arguments: Sequence[str], *, wait: bool = True, prefix: Sequence[str] = ()
) -> Iterator[Proxy]:
    """Run bin/geproxy with *arguments*; with *wait*, until it is ready first."""
    process = subprocess.Popen(
        [*prefix, str(PROGRAM), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        start_new_session=True,  # no signal of ours or of a terminal reaches it by accident
    )
    proxy = Proxy(process, folder)
    try:
        yield proxy.wait_ready() if wait else proxy
    finally:
        proxy.end()


SEALED_PASSWORD = "correct horse/battery:staple@40%"


def ss_url(method: str, address: Address, password: str = SEALED_PASSWORD) -> str:
    """Write the ss:// URL of a sealed listener or of a peer."""
    host, port = address
    return f"ss://{method}:{quote(password, safe='')}@{host}:{port}"


@contextmanager
def sealed_pair(folder: Path, method: str, **tables: Values) -> Iterator[tuple[Proxy, Proxy]]:
    """Run a local geproxy, whose SOCKS listener goes out by a remote one; gives both."""
    for name in ("local", "remote"):
        (folder / name).mkdir()
    sealed = {"sealed": {"url": ss_url(method, ("127.0.0.1", 0))}}
    with running(folder / "remote", configuration(sealed, WORKERS, **tables)) as remote:
        config = _through(ss_url(method, remote.address), {}, tables)
        with running(folder / "local", config) as local:
            yield local, remote


@contextmanager
def sealed_in_one(folder: Path, method: str, **tables: Values) -> Iterator[Proxy]:
    """Run one geproxy whose SOCKS listener goes out by its own sealed listener."""
    sealed = {"sealed": {"url": ss_url(method, ("127.0.0.1", 0))}}
    with running(folder, configuration(sealed, WORKERS, **tables)) as proxy:
        # Its port is known only now; the listener keeps it.
        peer = ss_url(method, proxy.addresses("sealed")[0])
        line = proxy.reload(_through(peer, sealed, tables))
        assert line.event == "reload.done", line.text
        yield proxy


def _through(peer: str, others: Mapping[str, Values], tables: Mapping[str, Values]) -> str:
    """Write the configuration of a SOCKS listener that goes out by *peer*, beside *others*."""
    socks = {"url": "socks5://127.0.0.1:0", "via": "remote"}
    tables = {**tables, "via.remote": {"url": peer}}
    return configuration({**others, "socks": socks}, WORKERS, **tables)


def command(
    *arguments: str, folder: Path | None = None, given: str | bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run one geproxy command to its end, with *given* as standard input."""
    data = given.encode() if isinstance(given, str) else given
    done = subprocess.run(
        [str(PROGRAM), *arguments],
        cwd=folder,
        input=data,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    output, errors = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in output + errors, output + errors
    return subprocess.CompletedProcess(done.args, done.returncode, output, errors)


def title(pid: int) -> str:
    """The command line of a process, as ps shows it."""
    data = Path(f"/proc/{pid}/cmdline").read_bytes()
    return data.replace(b"\0", b" ").decode(errors="backslashreplace").strip()


def resident_bytes(pid: int) -> int:
    """How much memory of a process is in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} is gone")


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _processes() -> list[tuple[int, int, int]]:
    """Pid, parent and session of every process that lives; a zombie does not."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text(errors="replace")
            except OSError:
                continue  # it ended while we looked
            state, parent, _, session = text.rpartition(")")[2].split()[:4]
            if state not in "ZX":
                found.append((int(entry), int(parent), int(session)))
    return found


def _other_ends(clients: Sequence[socket.socket]) -> list[str]:
    """The inodes of the sockets that *clients* are connected to; proc(5), /proc/net/tcp."""
    inodes = {(row[1], row[2]): row[9] for row in _tcp_table("tcp")}
    ends = [
        (_hexadecimal(client.getpeername()), _hexadecimal(client.getsockname()))
        for client in clients
    ]
    return [inodes[each] for each in ends if each in inodes]


def _hexadecimal(address: Address) -> str:
    host = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{host:08X}:{address[1]:04X}"


def _listening_inodes() -> list[str]:
    rows = _tcp_table("tcp") + _tcp_table("tcp6")
    return [row[9] for row in rows if row[3] == "0A"]  # TCP_LISTEN


def _tcp_table(name: str) -> list[list[str]]:
    try:
        lines = Path(f"/proc/net/{name}").read_text().splitlines()
    except FileNotFoundError:
        return []  # a kernel without IPv6
    return [line.split() for line in lines[1:]]


def _open_files(pid: int) -> set[str]:
    """What the descriptors of a process are."""
    folder, found = f"/proc/{pid}/fd", set()
    try:
        for entry in os.listdir(folder):
            try:
                found.add(os.readlink(f"{folder}/{entry}"))
            except FileNotFoundError:
                pass  # closed while we looked
    except FileNotFoundError:
        pass  # it ended
    return found
