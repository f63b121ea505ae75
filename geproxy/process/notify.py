"""Tell systemd how the service does: one datagram each (sd_notify(3)), and none without it."""

from __future__ import annotations

import os
import socket
import time


def notify(*lines: str) -> None:
    """Send *lines*, such as READY=1, to the service manager, if one asked for them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), address)
    except OSError:
        pass  # a manager that does not listen is no reason to stop serving


def notify_ready() -> None:
    """Up, or up again after a reload."""
    notify("READY=1", f"MAINPID={os.getpid()}")


def notify_reloading() -> None:
    """A reload has begun; READY=1 ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def notify_stopping() -> None:
    """Draining."""
    notify("STOPPING=1")
