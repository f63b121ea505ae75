"""A contender that runs: started on free ports of loopback, ended with all that it started."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import measure
from benchmarks.contenders import Command, Contender, Setting

START_SECONDS = 20.0
STOP_SECONDS = 5.0
START_TRIES = 3  # another program may take a port between our looking and the contender's bind
POLL_SECONDS = 0.002

# RFC 1928 §3
NO_AUTHENTICATION = 0
USERNAME_PASSWORD = 2
TCP_LISTEN = "0A"  # net/tcp_states.h


class StartError(Exception):
    """A contender did not come up; the text is the last that it said."""


def free_port() -> int:
    """A port of loopback that nobody has, neither TCP nor UDP; peers do not take port 0."""
    while True:
        with (
            socket.create_server(("127.0.0.1", 0)) as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        ):
            port = int(stream.getsockname()[1])
            try:
                datagrams.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Running:
    """The processes of one contender in a folder of their own, between enter and exit."""

    def __init__(
        self,
        contender: Contender,
        dialect: str,
        *,
        workers: int,
        method: str = "",
        environment: Mapping[str, str] | None = None,  # None: ours
    ) -> None:
        self.name = contender.name
        self.dialect = dialect
        self.port = 0
        self.start_seconds = 0.0  # from the first exec until the front answers
        self._password = secrets.token_hex(16)
        self._contender = contender
        self._workers = workers
        self._method = method
        self._environment = environment
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def leaders(self) -> list[int]:
        """The pids of the processes that we started ourselves."""
        return [process.pid for process in self._processes]

    def alive(self) -> bool:
        """Whether all of them still run."""
        return all(process.poll() is None for process in self._processes)

    def _ended(self) -> bool:
        return all(process.poll() is not None for process in self._processes)

    def load_options(self) -> dict[str, object]:
        """How the load generator finds it."""
        if self._contender.prepare is None:
            return {"dialect": "direct"}
        options: dict[str, object] = {"dialect": self.dialect, "proxy": self.port}
        if self._contender.user:
            options |= {"user": self._contender.user, "password": self._password}
        return options

    def __enter__(self) -> Self:
        for left in reversed(range(START_TRIES)):
            try:
                self._start()
                break
            except StartError:
                self._stop()
                if not left:
                    raise
            except BaseException:
                self._stop()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self) -> None:
        if self._contender.prepare is None:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="geproxy-bench-")
        folder = Path(self._folder.name)
        self.port = free_port()
        setting = Setting(
            self._contender.program,
            folder,
            self.port,
            free_port(),
            self._workers,
            self._method,
            self._password,
        )
        commands = self._contender.prepare(setting)
        began = time.monotonic()
        for command in commands:
            self._launch(command, folder)
        self.start_seconds = time.monotonic() - began

    def _launch(self, command: Command, folder: Path) -> None:
        log_path = folder / f"log-{len(self._processes)}"
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                command.arguments,
                cwd=folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers(command.port):
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log_path.read_text(errors="replace").strip().splitlines()
                said = lines[-1] if lines else f"{command.arguments[0]} did not start"
                raise StartError(said.replace(f"{folder}/", ""))
            time.sleep(POLL_SECONDS)

    def _answers(self, port: int) -> bool:
        if self.dialect != "socks5" or port != self.port:
            return _listens(port)
        return _greets(port, USERNAME_PASSWORD if self._contender.user else NO_AUTHENTICATION)

    def _stop(self) -> None:
        # Who leads ends its own; what is left after that belongs to its session still.
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and not self._ended():
            time.sleep(POLL_SECONDS)
        for pid in measure.tree(self.leaders):
            _kill(pid)
        for process in self._processes:
            process.wait()
        self._processes = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended already


def _greets(port: int, method: int) -> bool:
    """Whether a SOCKS5 server there answers a greeting, and takes *method*."""
    try:
        with socket.create_connection(("127.0.0.1", port), START_SECONDS) as client:
            client.sendall(bytes((5, 1, method)))
            return client.recv(2) == bytes((5, method))
    except OSError:
        return False


def _listens(port: int) -> bool:
    """Whether somebody listens there.

    It is read, not tried: a sealed listener takes who says nothing for a prober, and keeps him.
    """
    wanted = f"0100007F:{port:04X}"  # 127.0.0.1 as proc_pid_net(5) has it
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] == TCP_LISTEN for line in lines)
