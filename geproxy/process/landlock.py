"""Landlock: which files a process may still open (landlock(7), linux/landlock.h).

A rule belongs to the file that stands at a path now, and a folder's rule holds for whatever comes
to stand below it. What is replaced by a rename therefore needs the rule of its folder.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

# Fixed by the system. The numbers of these calls are the same on every architecture of ours.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
RULESET = struct.Struct("=QQQ")  # file rights, TCP rights, scopes
PATH_BENEATH = struct.Struct("=Qi")  # rights, descriptor of the path
READ_FILE, READ_DIR = 1 << 2, 1 << 3
RIGHTS_OF_FIRST_ABI = (1 << 13) - 1  # execute, write, read, remove and make each kind of file
LATER_RIGHTS = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # refer, truncate, ioctl on devices
SCOPES_ABI = 6
SCOPES = 0b11  # abstract sockets, and signals, of processes outside

NOT_FOLLOWED = os.O_PATH | os.O_CLOEXEC  # opens nothing: whatever the path is, it has no say


def confine(readable: Iterable[str]) -> int:
    """Refuse this thread, and those that it starts, every file but those below *readable*.

    Those may be read alone; what is open stays open. Signals and abstract sockets of other
    processes are out of reach where the kernel can do that. A path that cannot be reached is passed
    over. The kernel wants PR_SET_NO_NEW_PRIVS first. Returns the version of the kernel's Landlock;
    raises OSError where it has none.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    abi = _call(libc, CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)
    rights = RIGHTS_OF_FIRST_ABI | sum(bit for since, bit in LATER_RIGHTS.items() if since <= abi)
    # TCP ports are not restricted: a proxy connects to any.
    attributes = RULESET.pack(rights, 0, SCOPES if abi >= SCOPES_ABI else 0)
    ruleset = _call(libc, CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for path in readable:
            _let_read(libc, ruleset, path)
        _call(libc, RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _let_read(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        descriptor = os.open(path, NOT_FOLLOWED)
    except OSError:
        return
    try:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rights = READ_FILE | READ_DIR if folder else READ_FILE
        rule = PATH_BENEATH.pack(rights, descriptor)
        _call(libc, ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)


def _call(libc: ctypes.CDLL, number: int, *arguments: int | bytes | None) -> int:
    """Call the kernel. Raises OSError."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
