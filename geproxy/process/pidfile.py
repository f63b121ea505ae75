"""The pidfile: who runs, told in a way that nobody else can make up.

The master holds a POSIX write lock on it for its whole life. The kernel drops the lock when the
master dies, whatever kills it, and names the holder to whoever asks: a number left behind by a
dead master, or written by somebody else, is never taken for a running one. Children do not
inherit the lock. Only who may write the file can take it. The file may be read by all, and who may
read it can take a read lock, which therefore never counts: here we ask for write locks alone, and
before ours is taken nobody else can open the file.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from geproxy.errors import StartError

# Chosen here
PIDFILE_MODE = 0o644
UNLOCKED_MODE = 0o600
TRIES = 10  # each after one that found a file which was removed meanwhile

# struct flock of Linux with 64-bit offsets: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("hhqqi4x")


class Pidfile:
    """A pidfile that is ours until release()."""

    def __init__(self, path: str) -> None:
        """Create or take over the file at *path* and lock it.

        Nothing is followed and nobody else's file is touched. Raises StartError.
        """
        self.path = path
        try:
            self._descriptor = _lock_own(path)
        except OSError as error:
            raise StartError(f"server.pidfile: cannot use {path}: {_reason(error)}") from error

    def write(self) -> None:
        """Write our pid."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Remove the file, if it is still the one that we locked, and let go of it."""
        try:
            if _is_at(self._descriptor, self.path):
                os.unlink(self.path)
            else:
                os.ftruncate(self._descriptor, 0)
        except OSError:
            pass  # the directory is gone, or no longer ours to write: the lock ends all the same
        os.close(self._descriptor)

    def forget(self) -> None:
        """Close a child's copy; the lock is the master's alone and stays."""
        os.close(self._descriptor)


def running_pid(path: str) -> int | None:
    """The pid of the master that holds the pidfile at *path*, or None. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def _lock_own(path: str) -> int:
    for _ in range(TRIES):
        descriptor = _open_own(path)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                os.fchmod(descriptor, PIDFILE_MODE)  # init scripts of others may read it
                return descriptor
        except (BlockingIOError, PermissionError) as error:  # lockf(3) allows either
            holder = _holder(descriptor)
            if holder is not None:
                os.close(descriptor)
                text = f"server.pidfile: {path}: running already, as pid {holder}"
                raise StartError(text) from error
            if _is_at(descriptor, path):  # left behind, and a reader keeps us from locking it
                os.unlink(path)
        os.close(descriptor)
    raise OSError(0, "it is removed again and again")


def _is_at(descriptor: int, path: str) -> bool:
    """True unless the file was removed, by the master before us, since it was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _open_own(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, UNLOCKED_MODE)
    status = os.fstat(descriptor)
    reason = None
    if not stat.S_ISREG(status.st_mode):
        reason = "it is not a regular file"
    elif status.st_nlink != 1:
        reason = "it has other names (hard links)"
    elif status.st_uid != os.geteuid():
        reason = f"it belongs to uid {status.st_uid}"
    if reason is not None:
        os.close(descriptor)
        raise OSError(0, reason)
    return descriptor


def _reason(error: OSError) -> str:
    return "it is a symbolic link" if error.errno == 40 else error.strerror or str(error)


def _holder(descriptor: int) -> int | None:
    """The pid that holds a write lock, None if nobody does."""
    # A read lock would be in the way of a write lock alone, so that readers do not count.
    question = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else pid
