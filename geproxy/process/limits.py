"""File descriptors: ask for what the sessions need, or lower the sessions to what there is."""

from __future__ import annotations

import dataclasses
import resource

from geproxy.config.settings import Settings
from geproxy.observe.log import Log

# Chosen here
DESCRIPTORS_PER_SESSION = 2  # the client's and the target's socket
RESERVE = 64  # listening sockets, logs, the event loop, look-ups, attempts side by side


def fitted(settings: Settings, log: Log) -> Settings:
    """Make room for the descriptors that the sessions need, or lower the sessions, and say so."""
    wanted = settings.limits.sessions
    sessions = fit_sessions(wanted)
    if sessions == wanted:
        return settings
    log.warning("limits.lowered", sessions=sessions, wanted=wanted, reason="RLIMIT_NOFILE")
    limits = dataclasses.replace(settings.limits, sessions=sessions)
    return dataclasses.replace(settings, limits=limits)


def fit_sessions(sessions: int) -> int:
    """Raise RLIMIT_NOFILE to what *sessions* need; return how many fit in what could be had.

    The hard limit can be raised by root alone.
    """
    wanted = sessions * DESCRIPTORS_PER_SESSION + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return sessions
        except (OSError, ValueError):  # not root, or beyond fs.nr_open
            wanted = hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        granted = soft
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        granted = wanted
    if granted == resource.RLIM_INFINITY:
        return sessions
    return min(sessions, max((granted - RESERVE) // DESCRIPTORS_PER_SESSION, 1))
