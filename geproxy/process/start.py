"""From settings to a running master, in the foreground or as a daemon."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from setproctitle import setproctitle

from geproxy.config.settings import Settings
from geproxy.errors import StartError
from geproxy.observe.log import Log, open_log
from geproxy.process.assignment import WorkerMain
from geproxy.process.daemon import Birth, daemonize, fill_standard_streams
from geproxy.process.logfiles import LogFiles
from geproxy.process.master import Master
from geproxy.process.pidfile import Pidfile

UMASK = 0o027  # nothing that we make is for others
DAEMON_PIDFILE = "/run/geproxy.pid"


def hide_arguments() -> None:
    """Overwrite argv, where every user of the host can read it: a URL there may hold a secret."""
    setproctitle("geproxy")


@dataclass(frozen=True, slots=True)
class Start:
    """What is to be started: *read* reads the settings again for a reload."""

    settings: Settings
    read: Callable[[], Settings]
    worker_main: WorkerMain

    def in_foreground(self) -> int:
        """Serve until a signal ends it. Returns the exit status. Raises StartError."""
        fill_standard_streams()
        return self._run(self.settings.server.pidfile, _same)

    def as_daemon(self) -> int:
        """Return 0 once a daemon serves. Raises StartError with the reason when it does not."""
        try:
            return daemonize(self._be_daemon)
        except OSError as error:
            raise StartError(f"cannot become a daemon: {error.strerror}") from error

    def _be_daemon(self, birth: Birth) -> int:
        try:
            pidfile = self.settings.server.pidfile or DAEMON_PIDFILE
            return self._run(pidfile, _without_stderr, birth)
        except StartError as error:
            birth.failed(str(error))
            return 1

    def _run(
        self,
        pidfile_path: str,
        adapt: Callable[[Settings], Settings],
        birth: Birth | None = None,
    ) -> int:
        os.umask(UMASK)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core holds keys and passwords
        settings = adapt(self.settings)
        setproctitle(f"geproxy: master ({settings.file})")
        pidfile = Pidfile(pidfile_path) if pidfile_path else None
        log: Log | None = None
        try:
            log = open_log_of(settings)
            log.wait_open()
            if pidfile is not None:
                pidfile.write()
            master = Master(lambda: adapt(self.read()), open_log_of, self.worker_main)
            if birth is not None:
                master.on_ready = birth.ready
            master.forgets += [one.forget for one in (pidfile, birth) if one is not None]
            return master.run(settings, log)
        except StartError as error:
            if log is not None:
                if settings.log.target != "stderr":  # where the caller will say it
                    log.error("start.fail", reason=str(error))
                log.close()
            raise
        finally:
            if pidfile is not None:
                pidfile.release()


def open_log_of(settings: Settings) -> Log:
    """Begin to open what [log] names. Raises StartError."""
    log = settings.log
    open_files = partial(LogFiles, format=log.format, account=settings.account)
    return open_log(log.target, log.access, log.level, log.format, open_files=open_files)


def _same(settings: Settings) -> Settings:
    return settings


def _without_stderr(settings: Settings) -> Settings:
    """A daemon has no standard error: what would go there goes to syslog."""
    if settings.log.target != "stderr":
        return settings
    return dataclasses.replace(settings, log=dataclasses.replace(settings.log, target="syslog"))
