"""A log whose files a writer of their own writes, and whose close() waits for the last line."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from geproxy.config.account import Account
from geproxy.observe.line import Clock
from geproxy.observe.log import Log
from geproxy.observe.log import open_log as open_with
from geproxy.observe.sink import SYSLOG_PATH
from geproxy.process.logfiles import LogFiles

PATIENCE_SECONDS = 10.0
WRITER = b"geproxy: log writer"


class WaitingFiles(LogFiles):
    """Closed only when every line is in its file, and its writers have ended and are buried."""

    def __init__(self, paths: Sequence[str], format: str, account: Account | None) -> None:
        self._pids: set[int] = set()
        super().__init__(paths, format, account)
        self._note()

    def _note(self) -> None:
        for writer in (self._next, self._writer, self._parting):
            if writer is not None:
                self._pids.add(writer.pid)

    def reopen(self) -> None:
        super().reopen()
        self._note()

    def close(self, wait_seconds: float = PATIENCE_SECONDS) -> None:
        super().close(PATIENCE_SECONDS)
        while self._pids:
            os.waitpid(self._pids.pop(), 0)


def open_log(
    target: str,
    access: str,
    level: str,
    format: str,
    *,
    clock: Clock = time.time,
    syslog_path: str = SYSLOG_PATH,
) -> Log:
    """Open a log as the program does."""
    files = partial(WaitingFiles, format=format, account=None)
    log = open_with(
        target, access, level, format, open_files=files, clock=clock, syslog_path=syslog_path
    )
    try:
        log.wait_open()
    except BaseException:
        log.close()
        raise
    return log


def open_again(log: Log) -> None:
    """Open the files again, and wait for that. Raises StartError."""
    log.reopen()
    log.wait_open()


def writes_logs(pid: int) -> bool:
    """True for a process that writes log files."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(WRITER)
    except OSError:
        return False  # it has ended
