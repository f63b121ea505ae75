"""geproxy reload, stop, quit, reopen and status: act on the running daemon through its pidfile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from geproxy.commands.speech import COULD_NOT_RUN, DONE, STATUS_NOT_RUNNING, WRONG, fail, say
from geproxy.config import load
from geproxy.config.settings import Server
from geproxy.errors import ConfigError, StartError
from geproxy.process.remote import STOP_EXTRA_SECONDS, Daemon, NotRunningError, status_text
from geproxy.process.start import DAEMON_PIDFILE

CONTROLS = ("reload", "stop", "quit", "reopen")


def control(name: str, path: str) -> int:
    """Do *name*, one of CONTROLS, to the daemon of the configuration at *path*, and wait for it."""
    try:
        daemon = _find(path)
        _actions(path)[name](daemon)
    except ConfigError as error:
        return _explain(path, error)
    except StartError as error:
        for line in str(error).splitlines():
            say(f"{path}: {line}")
        return COULD_NOT_RUN
    return DONE


def status(path: str, *, as_json: bool) -> int:
    """Show what the daemon of the configuration at *path* is doing."""
    try:
        print(status_text(_find(path).status(), as_json=as_json))
    except ConfigError as error:
        return _explain(path, error)
    except NotRunningError as error:
        return fail(f"{path}: {error}", STATUS_NOT_RUNNING)
    except StartError as error:
        return fail(f"{path}: {error}", COULD_NOT_RUN)
    return DONE


def _find(path: str) -> Daemon:
    pidfile = load.pidfile_of(path)
    if pidfile:
        return Daemon.find(pidfile)
    daemon = Daemon.find(DAEMON_PIDFILE)
    # Every daemon without a pidfile of its own has this one: it may be another configuration's.
    if daemon.path != os.path.realpath(path):
        raise NotRunningError(f"not running; pid {daemon.pid} runs with {daemon.path}")
    return daemon


def _actions(path: str) -> dict[str, Callable[[Daemon], None]]:
    return {
        "reload": Daemon.reload,
        "reopen": Daemon.reopen,
        "stop": lambda daemon: daemon.stop(signal.SIGTERM, _stop_seconds(path)),
        "quit": lambda daemon: daemon.stop(signal.SIGQUIT, _stop_seconds(path)),
    }


def _stop_seconds(path: str) -> float:
    """How long a stop may take; a configuration that is broken by now is no reason not to."""
    try:
        drain_seconds = load.load(path).server.drain_seconds
    except ConfigError:
        drain_seconds = Server().drain_seconds
    return drain_seconds + STOP_EXTRA_SECONDS


def _explain(path: str, error: ConfigError) -> int:
    for problem in error.problems:
        say(f"{path}: {problem}")
    return WRONG
