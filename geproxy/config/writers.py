"""Who else could write a file that decides, where root is to obey it.

As sshd(8) does with StrictModes: whoever may write a file, or a folder above it, is as good as root
once root has read it. A foreign owner alone is told, not refused: a checkout of an administrator's
belongs to the administrator.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from shlex import quote

# Fixed by the specification
ROOT = 0  # credentials(7): the user, and the group

CONTAINER = 1  # pid_namespaces(7): the first process has the system to itself

MAX_LINKS = 40  # path_resolution(7): more end in ELOOP


def writers_of(path: str) -> tuple[list[str], list[str]]:
    """Say how others may write the file at *path*, an absolute one, or a folder above it.

    Returns what is wrong, each with its mend, and what is merely odd; both are empty where this
    process is not root, or is a container's first. What cannot be looked at is left to whoever
    opens the file.
    """
    wrong: list[str] = []
    odd: list[str] = []
    if os.geteuid() != ROOT or os.getpid() == CONTAINER:
        return wrong, odd
    for place in dict.fromkeys(_places(path)):
        try:
            status = os.lstat(place)
        except OSError:
            continue
        if stat.S_ISLNK(status.st_mode):  # its mode says nothing; the folder's does
            continue
        bits = _foreign_bits(status)
        if bits and os.statvfs(place).f_flag & os.ST_RDONLY:
            continue  # whatever the mode says, nobody may: how orchestrators mount configurations
        if bits:
            mend = f"chmod {bits} {quote(place) if place.isprintable() else repr(place)}"
            wrong.append(f"others may write {place!r}, and root obeys it: {mend}")
        elif status.st_uid != ROOT:
            odd.append(f"{place!r} belongs to uid {status.st_uid}, whom root obeys by it")
    return wrong, odd


def _foreign_bits(status: os.stat_result) -> str:
    """Give what chmod has to take away, "" where nobody but root and the owner may write."""
    sticky_folder = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if sticky_folder and status.st_uid == ROOT:  # like /tmp: nobody replaces another's files
        return ""
    group = status.st_mode & stat.S_IWGRP and status.st_gid != ROOT
    others = status.st_mode & stat.S_IWOTH
    bits = ("g" if group else "") + ("o" if others else "")
    return f"{bits}-w" if bits else ""


def _places(path: str) -> Iterator[str]:
    """Yield each folder and link that leads to the file at *path*, and the file itself.

    Both the path as written and the one that its links give.
    """
    left = [part for part in reversed(os.path.abspath(path).split("/")) if part]
    links = 0
    place = "/"
    yield place
    while left:
        part = left.pop()
        if part == "..":
            place = os.path.dirname(place)
            continue
        place = os.path.join(place, part)
        yield place
        try:
            target = os.readlink(place)
        except OSError:  # no link
            continue
        links += 1
        if links > MAX_LINKS:
            return
        place = "/" if target.startswith("/") else os.path.dirname(place)
        left += [part for part in reversed(target.split("/")) if part not in ("", ".")]
