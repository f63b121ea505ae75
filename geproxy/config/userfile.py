"""Users files: one ``user:$scrypt$…`` a line, blank lines and # comments between them."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from geproxy.config import secretfile
from geproxy.crypto.password import PasswordHash
from geproxy.errors import Problem

# Fixed by the specification
USER_MAX_BYTES = 255  # RFC 1929 §2: ULEN is one octet

# Chosen here
NEW_MODE = 0o600


def check_user_name(user: str) -> None:
    """Return if *user* can stand in a users file. Raises ValueError, which does not repeat it."""
    if not user:
        raise ValueError("the user is empty")
    if not user.isprintable():  # control characters, and what argv holds that is not UTF-8
        raise ValueError("a user holds no control character")
    if len(user.encode()) > USER_MAX_BYTES:
        raise ValueError(f"a user has at most {USER_MAX_BYTES} bytes of UTF-8")
    if ":" in user:
        raise ValueError("a user holds no colon: it ends the user in the file, and in HTTP Basic")
    if user.startswith("#"):
        raise ValueError("a user does not begin with #, as comments do")


def read(path: str, key: str, problems: list[Problem]) -> dict[str, PasswordHash]:
    """Read the users file at *path*; what is wrong with it is added to *problems* under *key*."""
    data = secretfile.read(path, key, problems)
    return {} if data is None else parse(data, key, problems)


def parse(data: bytes, key: str, problems: list[Problem]) -> dict[str, PasswordHash]:
    """Read the lines of a users file; every bad one is added to *problems* under *key*."""
    users: dict[str, PasswordHash] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip() or line.startswith(b"#"):
            continue
        try:
            user, password_hash = _parse_line(line)
            if user in users:
                raise ValueError(f"the user of line {lines[user]} again; one of the two must go")
        except ValueError as error:
            problems.append(Problem(key, f"line {number}: {error}"))
        else:
            users[user] = password_hash
            lines[user] = number
    return users


def _parse_line(line: bytes) -> tuple[str, PasswordHash]:
    try:
        user, colon, text = line.decode().partition(":")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    if not colon:  # perhaps a password in the clear: not a letter of the line is repeated
        raise ValueError("user:$scrypt$… is wanted; geproxy passwd writes such lines")
    check_user_name(user)
    return user, PasswordHash.parse(text.rstrip())


def store(path: str, user: str, password_hash: PasswordHash) -> None:
    """Give *user* this hash in the file at *path*, which is made, 0600, where there is none.

    The other lines stay as they are. Raises ValueError for the user's name, and OSError.
    """
    check_user_name(user)
    new = f"{user}:{password_hash}\n".encode()

    def with_user(lines: list[bytes]) -> list[bytes]:
        prefix = f"{user}:".encode()
        place = next((i for i, line in enumerate(lines) if line.startswith(prefix)), len(lines))
        kept = [line for line in lines[place:] if not line.startswith(prefix)]
        return lines[:place] + [new] + kept

    _edit(path, with_user, create=True)


def delete(path: str, user: str) -> bool:
    """Take *user* out of the file at *path*. Returns False where it was not in. Raises OSError."""
    check_user_name(user)
    prefix = f"{user}:".encode()
    return _edit(
        path,
        lambda lines: [line for line in lines if not line.startswith(prefix)],
        create=False,
    )


def _edit(path: str, change: Callable[[list[bytes]], list[bytes]], *, create: bool) -> bool:
    """Put changed lines in the place of the file's, all at once. Returns whether any differed."""
    real = os.path.realpath(path)  # a rename would replace the link, not what it points to
    with _locked(os.path.dirname(real)) as folder_fd:
        try:
            data, status = secretfile.read_regular(real)
        except FileNotFoundError:
            if not create:
                raise
            data, status = b"", None
        if data and not data.endswith(b"\n"):
            data += b"\n"
        lines = io.BytesIO(data).readlines()  # at \n only; bytes.splitlines also cuts at \r
        changed = change(lines)
        if changed == lines:
            return False
        _replace(real, b"".join(changed), status, folder_fd)
        return True


@contextmanager
def _locked(folder: str) -> Iterator[int]:
    """Keep other runs out of *folder*: of two that read, then wrote, the first would be lost.

    It is the directory that is locked, because the file is another one after each change.
    """
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder_fd, fcntl.LOCK_EX)
        yield folder_fd
    finally:
        os.close(folder_fd)


def _replace(path: str, data: bytes, old: os.stat_result | None, folder_fd: int) -> None:
    """Write *data* beside *path* and rename it there, with the owner and mode of the *old* file."""
    temporary = f"{path}.{secrets.token_hex(8)}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, NEW_MODE)
    try:
        with open(fd, "wb") as file:
            _set_owner_and_mode(fd, old)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    os.fsync(folder_fd)  # the rename itself survives a power cut only then


def _set_owner_and_mode(fd: int, old: os.stat_result | None) -> None:
    if old is None:
        os.fchmod(fd, NEW_MODE)  # a umask may have taken the owner's own bits
        return
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode))  # last: a change of owner clears bits
