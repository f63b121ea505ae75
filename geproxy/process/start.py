"""From settings to a running master."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from setproctitle import setproctitle

from geproxy.config.settings import Settings
from geproxy.errors import StartError
from geproxy.observe.log import Log, open_log
from geproxy.process.limits import fit_sessions
from geproxy.process.master import Master, WorkerMain

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
        return Master(read, open_log_of, worker_main).run(fitted(settings, log), log)
    except StartError as error:
        log.error("start.fail", reason=str(error))
        raise
    finally:
        log.close()


def open_log_of(settings: Settings) -> Log:
    """Open what [log] names. Raises StartError."""
    log = settings.log
    return open_log(log.target, log.access, log.level, log.format)


def fitted(settings: Settings, log: Log) -> Settings:
    """Make room for the descriptors that the sessions need, or lower the sessions, and say so."""
    wanted = settings.limits.sessions
    sessions = fit_sessions(wanted)
    if sessions == wanted:
        return settings
    log.warning("limits.lowered", sessions=sessions, wanted=wanted, reason="RLIMIT_NOFILE")
    limits = dataclasses.replace(settings.limits, sessions=sessions)
    return dataclasses.replace(settings, limits=limits)
