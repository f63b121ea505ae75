"""Give up root for good: every id, every group, every capability, each checked afterwards."""

from __future__ import annotations

import ctypes
import os
import resource

from geproxy.config.account import Account
from geproxy.errors import StartError

# Fixed by the system: linux/prctl.h, linux/capability.h
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES_MAX = 64


def prepare(account: Account | None) -> None:
    """Give up what each thread would have to by itself, while there is one. Raises OSError.

    *account* is for a worker that was born as root; any other stays who it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if account is not None and os.geteuid() == 0:
        _empty_bounding_set(libc)
        _clear_inheritable(libc)
    harden(libc)


def settle(account: Account | None) -> None:
    """Be *account* from here on, after prepare(). Raises StartError and OSError."""
    if account is not None and os.geteuid() == 0:
        drop(account)


def drop(account: Account) -> None:
    """Become *account*, with no way back. Raises StartError when anything is left.

    The C library changes the ids in every thread, and with the uid the kernel takes each thread's
    capabilities.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    os.setgroups(account.groups)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    _clear_capabilities(libc)
    harden(libc)  # again: a change of ids may make memory readable
    _verify(account)


def harden(libc: ctypes.CDLL) -> None:
    """What a worker does under any account: no new privileges, and no memory for others to read."""
    _prctl(libc, PR_SET_NO_NEW_PRIVS, 1)
    _prctl(libc, PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _prctl(libc: ctypes.CDLL, option: int, argument: int, second: int = 0) -> int:
    words = (ctypes.c_ulong(argument), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0))
    result: int = libc.prctl(option, *words)
    _check(result, f"prctl {option}")
    return result


def _empty_bounding_set(libc: ctypes.CDLL) -> None:
    for capability in range(CAPABILITIES_MAX):
        try:
            held = _prctl(libc, PR_CAPBSET_READ, capability)
        except OSError:
            return  # this kernel knows no more of them
        if held:
            _prctl(libc, PR_CAPBSET_DROP, capability)


def _clear_inheritable(libc: ctypes.CDLL) -> None:
    header, data = _capability_words()
    _check(libc.capget(header, data), "capget")
    data[2] = data[5] = 0
    _check(libc.capset(header, data), "capset")


def _clear_capabilities(libc: ctypes.CDLL) -> None:
    """Empty all three sets of this thread, and the ambient one."""
    header, data = _capability_words()
    _check(libc.capset(header, data), "capset")
    _prctl(libc, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def _capability_words() -> tuple[ctypes.Array[ctypes.c_uint32], ctypes.Array[ctypes.c_uint32]]:
    """Header and data of capget(2): effective, permitted, inheritable; low words, then high."""
    return (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()


def _check(result: int, call: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


def _verify(account: Account) -> None:
    """Hold the kernel to what was asked: a half-dropped worker must not serve."""
    left = []
    if os.getresuid() != (account.uid,) * 3:
        left.append(f"uids {os.getresuid()}")
    if os.getresgid() != (account.gid,) * 3:
        left.append(f"gids {os.getresgid()}")
    if set(os.getgroups()) - set(account.groups):
        left.append(f"groups {os.getgroups()}")
    if account.uid != 0:
        left += _capabilities_left()
        try:
            os.setuid(0)
            left.append("the way back to root")
        except PermissionError:
            pass
    if left:
        raise StartError(f"privileges were not dropped: {', '.join(left)} left")


def _capabilities_left() -> list[str]:
    """What any thread holds still."""
    left = set()
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/status") as status:
            rows = [line.split() for line in status if line.startswith("Cap")]
        left |= {f"{name} {mask}" for name, mask in rows if int(mask, 16)}
    return sorted(left)
