"""A network of our own: loopback alone, in a namespace that ends with us.

Thousands of connections a second leave their ports in TIME_WAIT for a minute. On the host's own
loopback one contender would soon find the ports used up that others have left; and a firewall's
connection tracking would be measured with all of them. And where the host's congestion control is
BBR, most of what is measured would be the timers by which it paces what has no need of it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

# Fixed by Linux
CLONE_NEWNET = 0x40000000  # linux/sched.h
SIOCSIFFLAGS = 0x8914  # linux/sockios.h
IFF_UP = 1  # linux/if.h

# Chosen here
CONGESTION_CONTROL = "tcp_congestion_control"
SETTINGS = {
    "ip_local_port_range": "2048 65535",
    "tcp_max_tw_buckets": "4096",  # no more in TIME_WAIT than leave most of the ports free
}
UNPACED = "reno"  # in every kernel, for all contenders alike; it does not pace
OF_HOST = "host"


def isolate(control: str = UNPACED) -> str:
    """Move this process, and what it will start, into such a network; needs root.

    *control* is its congestion control, OF_HOST the one that the host has. Returns which network
    the figures come from; one without it is not an error.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        return f"the host's ({os.strerror(ctypes.get_errno())})"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    settings = dict(SETTINGS)
    if control != OF_HOST:
        settings[CONGESTION_CONTROL] = control
    for name, value in settings.items():
        Path("/proc/sys/net/ipv4", name).write_text(value)
    return "a namespace of its own"


def congestion_control() -> str:
    """What TCP connections have here that ask for nothing else."""
    return Path("/proc/sys/net/ipv4", CONGESTION_CONTROL).read_text().strip()
