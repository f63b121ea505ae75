"""Two hosts on one wire: the proxy's, which is ours, and that of all clients and targets.

Loopback and the host's own addresses are all one client to a proxy that counts by user, so sources
have to come from another host. It answers for all of 10.77.0.0/16, without an address for each.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import network
from benchmarks.attack_client import GATEWAY, PROXY, TARGET
from benchmarks.load import LoadError

START_SECONDS = 10.0
POLL_SECONDS = 0.01
ALL_PORTS = (2048, 65535)

NEAR = f"""
link add wire type veth peer name wire netns %d
addr add {PROXY}/24 dev wire
link set wire up
route add 10.77.0.0/16 via {GATEWAY}
route add {TARGET}/32 via {GATEWAY}
"""
FAR = f"""
link set lo up
addr add {GATEWAY}/24 dev wire
addr add {TARGET}/32 dev wire
link set wire up
route add local 10.77.0.0/16 dev lo
"""


def _ip(text: str, enter: list[str]) -> None:
    done = subprocess.run(
        [*enter, "ip", "-batch", "-"], input=text, capture_output=True, text=True, timeout=20
    )
    if done.returncode:
        raise LoadError(f"ip: {done.stderr.strip()}")


def give_udp_ports(count: int) -> None:
    """Let the kernel of the proxy's host choose from so many ports; 0: all."""
    first, last = ALL_PORTS
    last = first + count - 1 if count else last
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{first} {last}")


@contextmanager
def clients() -> Iterator[list[str]]:
    """Move this process to the proxy's host; a command that runs another on the clients' host."""
    own = os.readlink("/proc/self/ns/net")
    said = network.isolate()
    if os.readlink("/proc/self/ns/net") == own:
        raise LoadError(f"an attack needs a network of its own, as root; this is {said}")
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + START_SECONDS
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            if time.monotonic() > deadline or holder.poll() is not None:
                raise LoadError("unshare(1) makes no network")
            time.sleep(POLL_SECONDS)
        enter = ["nsenter", "--target", str(holder.pid), "--net"]
        _ip(NEAR % holder.pid, [])
        _ip(FAR, enter)
        yield enter
    finally:
        holder.kill()
        holder.wait()
