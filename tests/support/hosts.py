"""Hosts that are not this one: network namespaces, wired together, gone when the test is.

A process of this module stands in each and makes sockets there; they come here by SCM_RIGHTS and
belong to that host wherever they are used. The kernel takes a namespace back with its last process.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.support.peers import find, missing
from tests.support.socks import TIMEOUT_SECONDS, Address, Tunnel
from tests.support.udp_client import prepared

ROOT = Path(__file__).resolve().parents[2]
MAPPED = "--map-root-user"  # unshare(1): what only root may do, in a user namespace of its own

# The proxy's host, and one on the same wire with several addresses. RFC 1918 and RFC 4193
PROXY, PROXY_6 = "10.77.0.1", "fd77::1"
CLIENT, CLIENT_6 = "10.77.0.2", "fd77::2"
STRANGER, STRANGER_6 = "10.77.0.3", "fd77::3"
# Anycast addresses, public by IANA's registries (RFC 7723, RFC 8155): what clients may reach
PUBLIC, PUBLIC_6 = "192.0.0.9", "2001:1::1"
OTHER_PUBLIC = "192.0.0.10"

WIRE = f"""
link add wire type veth peer name wire netns %d
addr add {PROXY}/24 dev wire
addr add {PROXY_6}/64 dev wire nodad
link set wire up
route add {PUBLIC}/32 via {CLIENT}
route add {OTHER_PUBLIC}/32 via {CLIENT}
route add {PUBLIC_6}/128 via {CLIENT_6}
"""
FAR_WIRE = f"""
addr add {CLIENT}/24 dev wire
addr add {STRANGER}/24 dev wire
addr add {PUBLIC}/32 dev wire
addr add {OTHER_PUBLIC}/32 dev wire
addr add {CLIENT_6}/64 dev wire nodad
addr add {STRANGER_6}/64 dev wire nodad
addr add {PUBLIC_6}/128 dev wire nodad
link set wire up
"""


class HostError(Exception):
    """The kernel lets nobody make such a host."""


class OtherHost:
    """A network namespace, and the process in it that makes sockets."""

    def __init__(self, prefix: Sequence[str]) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(TIMEOUT_SECONDS)
        command = [*prefix, sys.executable, "-m", "tests.support.hosts", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=ROOT, stdin=subprocess.DEVNULL
            )
        self.pid = self._process.pid
        self._mapped = not {MAPPED, "--user"}.isdisjoint(prefix)

    @property
    def enter(self) -> list[str]:
        """A command that runs another on this host."""
        nsenter = [find("nsenter"), "--target", str(self.pid)]
        if self._mapped:
            nsenter += ["--user", "--preserve-credentials"]
        return [*nsenter, "--net"]

    def configure(self, text: str) -> None:
        """Give the lines of *text* to ip(8)."""
        done = subprocess.run(
            [*self.enter, find("ip"), "-batch", "-"],
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        assert done.returncode == 0, done.stderr

    def set(self, name: str, value: str) -> None:
        """Write *value* into a file below /proc/sys/net, which is this host's own."""
        command = [*self.enter, find("tee"), f"/proc/sys/net/{name}"]
        subprocess.run(command, input=value.encode(), stdout=subprocess.DEVNULL, check=True)

    def give_ports(self, first: int, last: int) -> None:
        """Set the ports that the kernel of this host chooses from, TCP and UDP, both families."""
        self.set("ipv4/ip_local_port_range", f"{first} {last}")

    def make_socket(self, family: int, kind: int) -> socket.socket:
        """A socket of this host."""
        self._orders.send(struct.pack("ii", family, kind))
        _, descriptors, _, _ = socket.recv_fds(self._orders, 1, 1)
        return socket.socket(fileno=descriptors[0])

    def udp(self, host: str, port: int = 0) -> socket.socket:
        """A bound UDP socket of this host."""
        return prepared(self.make_socket(_family(host), socket.SOCK_DGRAM), (host, port))

    def connect(self, source: str, address: Address) -> socket.socket:
        """A TCP connection from *source*, an address of this host."""
        sock = self.make_socket(_family(source), socket.SOCK_STREAM)
        try:
            sock.settimeout(TIMEOUT_SECONDS)
            sock.bind((source, 0))
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def dial(self, source: str, proxy: Address) -> Tunnel:
        """A connection to the proxy."""
        return Tunnel(self.connect(source, proxy))

    def end(self) -> None:
        """Let the process end, and with it the host."""
        self._orders.close()
        self._process.wait(TIMEOUT_SECONDS)


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@cache
def _unshare(*namespaces: str) -> tuple[str, ...]:
    """A command that runs another in new namespaces. Raises HostError."""
    for mapped in ((), (MAPPED,)):
        enter = (find("unshare"), *mapped, *namespaces)
        if not subprocess.run([*enter, "true"], capture_output=True).returncode:
            return enter
    raise HostError


@contextmanager
def other_host() -> Iterator[OtherHost]:
    """Make a host that has nothing but loopback; skip where the kernel forbids."""
    try:
        prefix = _unshare("--net")
    except HostError:
        missing("a network namespace cannot be made here: run as root, or allow user namespaces")
    host = OtherHost(prefix)
    try:
        host.make_socket(socket.AF_INET, socket.SOCK_DGRAM).close()  # by now it is there
        host.configure("link set lo up\n")
        yield host
    finally:
        host.end()


@contextmanager
def two_hosts() -> Iterator[tuple[OtherHost, OtherHost]]:
    """Make the proxy's host, and another that is everybody else: see the addresses above."""
    with other_host() as here:
        there = OtherHost([*here.enter, find("unshare"), "--net"])
        try:
            there.make_socket(socket.AF_INET, socket.SOCK_DGRAM).close()
            here.configure(WIRE % there.pid)
            there.configure("link set lo up\n" + FAR_WIRE)
            yield here, there
        finally:
            there.end()


def with_files(folder: Path, files: Mapping[str, str], prefix: Sequence[str] = ()) -> list[str]:
    """A command that runs another, behind *prefix*, which sees texts in the place of system files.

    Skips where nobody may mount.
    """
    try:
        unshare = [find("unshare"), "--mount"] if prefix else [*_unshare("--mount")]
    except HostError:
        missing("a mount namespace cannot be made here: run as root, or allow user namespaces")
    script = ""
    for number, (path, text) in enumerate(files.items()):
        there = folder / f"file-{number}"
        there.write_text(text)
        there.chmod(0o644)
        script += f'mount --bind "{there}" "{path}"\n'
    return [*prefix, *unshare, "sh", "-ec", script + 'exec "$@"', "sh"]


def main() -> None:
    """Make the sockets that are asked for, until nobody is there to ask."""
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        while order := orders.recv(64):
            with socket.socket(*struct.unpack("ii", order)) as made:
                socket.send_fds(orders, [b"s"], [made.fileno()])


if __name__ == "__main__":
    main()
