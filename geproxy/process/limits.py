"""File descriptors: ask for what the sessions need, or lower the sessions to what there is."""

from __future__ import annotations

import dataclasses
import resource

from geproxy.config.settings import Settings
from geproxy.observe.log import Log

# Chosen here
DESCRIPTORS_PER_SESSION = 2  # the client's and the target's socket; an association takes one more
RESERVE = 64  # listening sockets, logs, the event loop, some look-ups, attempts side by side
# Wanted, but no reason to have fewer sessions: what takes them leaves some to others.
FOR_PIPES = 64
FOR_LOOK_UPS = 96  # a socket each (net/systemlookup.py); one without is not taken for an answer
PER_UDP_LISTENER = 4096  # its clients' ports


def fitted(settings: Settings, log: Log) -> Settings:
    """Make room for the descriptors that the sessions need, or lower the sessions, and say so."""
    wanted = settings.limits.sessions
    udp_listeners = sum("UDP" in one.url.transports(udp=one.udp) for one in settings.listen)
    extra = FOR_PIPES + FOR_LOOK_UPS + udp_listeners * PER_UDP_LISTENER
    sessions = fit_sessions(wanted, extra)
    if sessions == wanted:
        return settings
    log.warning("limits.lowered", sessions=sessions, wanted=wanted, reason="RLIMIT_NOFILE")
    limits = dataclasses.replace(settings.limits, sessions=sessions)
    return dataclasses.replace(settings, limits=limits)


def fit_sessions(sessions: int, extra: int = 0) -> int:
    """Raise RLIMIT_NOFILE to what *sessions* need, and *extra* where that can be had.

    Returns how many sessions fit in what could be had.

    The hard limit can be raised by root alone.
    """
    wanted = sessions * DESCRIPTORS_PER_SESSION + RESERVE + extra
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
