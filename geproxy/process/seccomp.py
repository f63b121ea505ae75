"""seccomp: which system calls a process may still make (seccomp(2)).

A list of what is refused, not of what is allowed: the C library, its name service modules, OpenSSL
and Python choose their calls by version, and an allow-list would break look-ups on some host years
later. What is refused gets an error, and never the death of the worker, for the same reason.

Nearly all is decided by a call's number alone. Linux 5.11 and later find that out once and then let
such calls pass without running the filter; older kernels run through a binary search.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
import termios
from collections.abc import Sequence

from geproxy.process import syscalls
from geproxy.process.syscalls import Numbers

# Fixed by the system: linux/seccomp.h, linux/filter.h, linux/audit.h, linux/sched.h
SET_MODE_FILTER = 1
TSYNC, SPEC_ALLOW = 1 << 0, 1 << 2
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
NUMBER_OFFSET, ARCH_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16  # struct seccomp_data
ARGUMENT_BYTES = 8  # little endian: the low half, which holds an int, comes first
LOAD, AND, RETURN = 0x20, 0x54, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_RET|K
JUMP, EQUAL, AT_LEAST, ANY_BIT = 0x05, 0x15, 0x35, 0x45  # BPF_JMP|BPF_K with JA, JEQ, JGE, JSET
INSTRUCTION = struct.Struct("=HBBI")
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000  # x86-64 numbers of the x32 ABI: the same calls by another name
CLONE_THREAD = 0x00010000
# NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
CLONE_NEW = 0x00000080 | 0x00020000 | 0x02000000 | 0x04000000 | 0x7C000000
SOCK_TYPE_MASK = 0xF
NETLINK_ROUTE, NETLINK_SOCK_DIAG = 0, 4
TIOCLINUX = 0x541C

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
Block = tuple[Instruction, ...]

ALLOW: Block = ((RETURN, 0, 0, RET_ALLOW),)
REFUSE: Block = ((RETURN, 0, 0, RET_ERRNO | errno.EPERM),)
MISS: Block = ((RETURN, 0, 0, RET_ERRNO | errno.ENOSYS),)


def confine() -> None:
    """Put the filter over every thread of this process.

    Raises OSError where the kernel has no seccomp, or the architecture no table here.
    """
    code = b"".join(INSTRUCTION.pack(*one) for one in program(platform.machine(), os.getpid()))
    memory = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the count of instructions, and where they are
    fprog = struct.pack("@HP", len(code) // INSTRUCTION.size, ctypes.addressof(memory))
    number = _number(syscalls.SECCOMP, platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    # Without SPEC_ALLOW, kernels before 5.16 slow all of the process down, against code that would
    # read its own process's memory: nobody's code but ours runs here. Before 4.17 none knows it.
    for flags in (TSYNC | SPEC_ALLOW, TSYNC):
        words = (ctypes.c_long(one) for one in (number, SET_MODE_FILTER, flags))
        result: int = libc.syscall(*words, fprog)
        if result == 0:
            return
        if result > 0:
            raise OSError(errno.EBUSY, f"thread {result} has a filter of its own")
        error = ctypes.get_errno()
        if error != errno.EINVAL:
            break
    raise OSError(error, os.strerror(error))


def program(machine: str, pid: int) -> list[Instruction]:
    """Write the filter for *machine* (x86_64 or aarch64) and the process *pid*. Raises OSError."""
    if machine not in ARCHITECTURES or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"no table of system calls for {machine}")
    blocks = {number: block for numbers, block in _decisions(pid)
              if (number := getattr(numbers, machine)) is not None}  # fmt: skip
    starts: list[tuple[int, Block]] = []
    for number in range(syscalls.NEWEST + 1):
        block = blocks.get(number, ALLOW)
        if not starts or starts[-1][1] is not block:  # neighbours share a block
            starts.append((number, block))
    starts += [(syscalls.NEWEST + 1, MISS), (X32_BIT, REFUSE)]
    return [
        (LOAD, 0, 0, ARCH_OFFSET),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        *REFUSE,  # 32-bit calls, whose numbers mean something else
        (LOAD, 0, 0, NUMBER_OFFSET),
        *_search(starts),
    ]


def _decisions(pid: int) -> list[tuple[Numbers, Block]]:
    """Every call that is not simply allowed, and what decides about it."""
    return [
        *((numbers, REFUSE) for numbers in syscalls.REFUSED.values()),
        *((numbers, MISS) for numbers in syscalls.MISSING.values()),
        *((numbers, _only_to(pid)) for numbers in syscalls.TO_A_PROCESS.values()),
        (syscalls.PRLIMIT, (_load(0), *_one_of([0, pid], ALLOW))),  # 0 is who asks
        (syscalls.SOCKET, _socket_block()),
        (syscalls.SOCKETPAIR, (_load(0), *_one_of([socket.AF_UNIX], ALLOW))),
        (syscalls.CLONE, _clone_block()),
        (syscalls.IOCTL, _ioctl_block()),
        (syscalls.OPEN, _open_block(1)),
        (syscalls.OPENAT, _open_block(2)),
    ]


def _search(starts: Sequence[tuple[int, Block]]) -> Block:
    """Find the block of the last start that is not above the number, by halves."""
    if len(starts) == 1:
        return starts[0][1]
    middle = len(starts) // 2
    low, high = _search(starts[:middle]), _search(starts[middle:])
    if len(low) <= 0xFF:  # a jump has one byte
        return ((AT_LEAST, len(low), 0, starts[middle][0]), *low, *high)
    return ((AT_LEAST, 0, 1, starts[middle][0]), (JUMP, 0, 0, len(low)), *low, *high)


def _load(argument: int) -> Instruction:
    return (LOAD, 0, 0, ARGUMENTS_OFFSET + ARGUMENT_BYTES * argument)


def _one_of(words: Sequence[int], yes: Block) -> Block:
    """Go on with *yes* where the loaded word is one of *words*; refuse all others."""
    last = len(words) - 1
    tests = ((EQUAL, last - place + 1, 0, word) for place, word in enumerate(words))
    return (*tests, *REFUSE, *yes)


def _unless_any(bits: int) -> Block:
    return ((ANY_BIT, 0, 1, bits), *REFUSE, *ALLOW)


def _only_to(pid: int) -> Block:
    """Signals go to ourselves alone: abort() and the threads of the C library need them."""
    return (_load(0), *_one_of([pid], ALLOW))


def _socket_block() -> Block:
    """UNIX sockets; TCP and UDP; of netlink what tells routes, addresses and owners of sockets.

    Everything else is raw, or a protocol of the kernel that nobody uses here.
    """
    netlink = (_load(2), *_one_of([NETLINK_ROUTE, NETLINK_SOCK_DIAG], ALLOW))
    protocols = _one_of([0, socket.IPPROTO_TCP, socket.IPPROTO_UDP], ALLOW)
    types = _one_of([socket.SOCK_STREAM, socket.SOCK_DGRAM], (_load(2), *protocols))
    internet = (_load(1), (AND, 0, 0, SOCK_TYPE_MASK), *types)
    return (
        _load(0),
        (EQUAL, 0, 1, socket.AF_UNIX), *ALLOW,
        (EQUAL, 0, len(netlink), socket.AF_NETLINK), *netlink,
        *_one_of([socket.AF_INET, socket.AF_INET6], internet),
    )  # fmt: skip


def _clone_block() -> Block:
    """Threads of this process; neither processes nor namespaces."""
    return (_load(0), (ANY_BIT, 1, 0, CLONE_THREAD), *REFUSE, *_unless_any(CLONE_NEW))


def _ioctl_block() -> Block:
    """All but those that type into the terminal from which we were started."""
    return (
        _load(1),
        (EQUAL, 1, 0, termios.TIOCSTI),
        (EQUAL, 0, 1, TIOCLINUX), *REFUSE,
        *ALLOW,
    )  # fmt: skip


def _open_block(flags_argument: int) -> Block:
    """Reading alone."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    return (_load(flags_argument), *_unless_any(writing))


def _number(numbers: Numbers, machine: str) -> int:
    number: int = getattr(numbers, machine)
    return number
