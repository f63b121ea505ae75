"""Workers that have outlived their master, stopped, and hold a port that is wanted.

A worker whose master dies gives its listening sockets up at once. One that is stopped (SIGSTOP, a
debugger) does not hear of it, and the next start would find the port taken for ever.

What is killed must be such a worker beyond doubt. It holds the very socket, runs our program as one
of our users, and stands in the scoreboard that it has mapped, while nobody who has the same
scoreboard is its master: a scoreboard is an anonymous file, which nobody but a master and the
children of that master can have. A pidfd holds on to the process from before these questions.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NamedTuple, Self

from geproxy.config.account import Account
from geproxy.observe.log import Log
from geproxy.process import scoreboard

# Fixed by the system: proc(5)
TABLES = {
    (int(socket.AF_INET), int(socket.SOCK_STREAM)): "tcp",
    (int(socket.AF_INET6), int(socket.SOCK_STREAM)): "tcp6",
    (int(socket.AF_INET), int(socket.SOCK_DGRAM)): "udp",
    (int(socket.AF_INET6), int(socket.SOCK_DGRAM)): "udp6",
}
LOCAL, INODE = 1, 9  # columns
MEMFD = f"/memfd:{scoreboard.NAME} "


class Orphan(NamedTuple):
    """One such worker. *pidfd* is a handle on that very process: its pid may be reused."""

    pid: int
    pidfd: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose the workers of a master before us may be, and who hears what becomes of them."""

    uids: frozenset[int]
    log: Log

    @classmethod
    def of(cls, account: Account | None, log: Log) -> Self:
        """Workers run as *account*, or as the user that we are."""
        return cls(frozenset({os.geteuid(), *([account.uid] if account else [])}), log)


class Orphans:
    """The orphans that hold one socket, found once; none where anything is in doubt."""

    def __init__(self, sock: socket.socket, sockaddr: tuple[str, int], claim: Claim) -> None:
        """*sock* could not be bound to *sockaddr*."""
        self._log = claim.log
        self._found: list[Orphan] = []
        names = {f"socket:[{inode}]" for inode in _holders(sock, sockaddr)}
        if names:
            self._found.extend(_orphans(names, claim.uids))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for orphan in self._found:
            os.close(orphan.pidfd)

    def __len__(self) -> int:
        return len(self._found)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to each that lives. One that we may not signal keeps the port."""
        for orphan in self._found:
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(orphan.pidfd, number)
                self._log.warning("worker.orphan", pid=orphan.pid, signal=number.name)


def _holders(sock: socket.socket, sockaddr: tuple[str, int]) -> set[str]:
    """The inodes of sockets that are bound to exactly *sockaddr*."""
    name = TABLES[int(sock.family), int(sock.type)]
    wanted = f"{_hexadecimal(sockaddr[0])}:{sockaddr[1]:04X}"
    try:
        with open(f"/proc/net/{name}", encoding="ascii") as table:
            rows = [line.split() for line in table][1:]
    except OSError:
        return set()
    return {row[INODE] for row in rows if row[LOCAL] == wanted}


def _hexadecimal(host: str) -> str:
    """Write an address as the kernel does: words of four bytes, in the order of this machine."""
    packed = ip_address(host).packed
    words = memoryview(packed).cast("I")
    return "".join(f"{word:08X}" for word in words)


def _orphans(names: set[str], uids: Collection[int]) -> Iterator[Orphan]:
    boards: dict[int, set[int]] = {}  # who has each scoreboard, by its inode
    suspects: list[tuple[int, int, int, int]] = []
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
        with suppress(OSError):  # it has ended, or is none of ours to look into
            board = _scoreboard_of(pid)
            if board is None:
                continue
            number, inode = board
            boards.setdefault(inode, set()).add(pid)
            if _is_ours(pid, uids) and names & set(_files(pid).values()):
                suspects.append((pid, os.pidfd_open(pid), number, inode))
    for pid, pidfd, number, inode in suspects:
        if _is_orphan(pid, uids, number, inode, boards[inode]):
            yield Orphan(pid, pidfd)
        else:
            os.close(pidfd)


def _is_orphan(pid: int, uids: Collection[int], number: int, inode: int, having: set[int]) -> bool:
    """Ask again, now that there is a handle: the pid was not another's in between."""
    try:
        if _scoreboard_of(pid) != (number, inode) or not _is_ours(pid, uids):
            return False
        if _title(_parent_of(pid)).startswith(b"geproxy"):  # whatever its descriptors tell us
            return False
        with open(f"/proc/{pid}/fd/{number}", "rb") as file:
            workers = {reading.pid for reading in scoreboard.read(file.read())}
    except OSError:
        return False
    return pid in workers and having <= workers  # the master is in no slot, and would have it


def _is_ours(pid: int, uids: Collection[int]) -> bool:
    """True for our program, under a user of ours. Raises OSError."""
    same_program = os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat("/proc/self/exe"))
    worker = _title(pid).startswith(b"geproxy: worker ")
    return same_program and worker and os.stat(f"/proc/{pid}").st_uid in uids


def _parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])


def _title(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def _scoreboard_of(pid: int) -> tuple[int, int] | None:
    """Which descriptor of *pid* is a scoreboard, and its inode. Raises OSError."""
    for number, name in _files(pid).items():
        if name.startswith(MEMFD):
            return number, os.stat(f"/proc/{pid}/fd/{number}").st_ino
    return None


def _files(pid: int) -> dict[int, str]:
    """What the descriptors of *pid* are. Raises OSError."""
    folder, found = f"/proc/{pid}/fd", {}
    for entry in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            found[int(entry)] = os.readlink(f"{folder}/{entry}")
    return found
