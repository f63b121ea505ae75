"""From settings to a running master."""

from __future__ import annotations

import os
from collections.abc import Callable

from setproctitle import setproctitle

from geproxy.config.settings import Settings
from geproxy.errors import StartError
from geproxy.observe.log import Log, open_log
from geproxy.process.master import Master
from geproxy.process.succession import WorkerMain

UMASK = 0o027  # nothing that we make is for others


def hide_arguments() -> None:
    """Overwrite argv, where every user of the host can read it: a URL there may hold a secret."""
    setproctitle("geproxy")


def start(settings: Settings, read: Callable[[], Settings], worker_main: WorkerMain) -> int:
    """Serve with *settings* until a signal ends it; *read* reads them again for a reload.

    Returns the exit status. Raises StartError.
    """
    os.umask(UMASK)
    setproctitle(f"geproxy: master ({settings.file})")
    log = open_log_of(settings)
    try:
        return Master(read, open_log_of, worker_main).run(settings, log)
    except StartError as error:
        if settings.log.target != "stderr":  # where the caller will say it
            log.error("start.fail", reason=str(error))
        log.close()
        raise


def open_log_of(settings: Settings) -> Log:
    """Open what [log] names. Raises StartError."""
    log = settings.log
    return open_log(log.target, log.access, log.level, log.format)
