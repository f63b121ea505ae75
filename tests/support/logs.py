"""A log whose files a writer of their own writes, and whose close() waits for the last line."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from geproxy.observe.line import Clock
from geproxy.observe.log import Log
from geproxy.observe.log import open_log as open_with
from geproxy.observe.sink import SYSLOG_PATH
from geproxy.process.logfiles import LogFiles

PATIENCE_SECONDS = 10.0
WRITER = b"geproxy: log writer"


class WaitingFiles(LogFiles):
    """Closed only when every line is in its file."""

    def close(self, wait_seconds: float = PATIENCE_SECONDS) -> None:
        super().close(PATIENCE_SECONDS)


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
