"""Files that hold secrets: read whole, and nobody else may have been able to."""

from __future__ import annotations

import errno
import os
import stat

from geproxy.errors import Problem

# Chosen here
FORBIDDEN_MODE = 0o027  # for a file with secrets: others nothing, the group no writing


def check_secret_mode(mode: int) -> None:
    """Return if a file of this *mode* may hold secrets. Raises ValueError."""
    if mode & FORBIDDEN_MODE:
        raise ValueError(
            f"the file holds secrets and its mode is {stat.S_IMODE(mode):04o}; "
            "it may be 0640 at most"
        )


def read(path: str, key: str, problems: list[Problem]) -> bytes | None:
    """Read the file at *path*; what is wrong with it is added to *problems* under *key*.

    None where it cannot be read.
    """
    try:
        data, status = read_regular(path)
    except OSError as error:
        problems.append(Problem(key, f"the file cannot be read: {error.strerror}"))
        return None
    try:
        check_secret_mode(status.st_mode)
    except ValueError as error:
        problems.append(Problem(key, str(error)))
    return data


def read_regular(path: str, most_bytes: int = -1) -> tuple[bytes, os.stat_result]:
    """Read a file, and its status at that moment. Raises OSError if it is not regular.

    No more is read than *most_bytes*; -1: the whole file.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file.read(most_bytes), status


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO would otherwise wait for its writer
