"""The filter of system calls, run here instruction by instruction, for each architecture."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import termios
from pathlib import Path

import pytest

from geproxy.process import syscalls
from geproxy.process.seccomp import ARCHITECTURES, RET_ALLOW, RET_ERRNO, program
from geproxy.process.syscalls import Numbers

PID = 4321
EPERM, ENOSYS = RET_ERRNO | errno.EPERM, RET_ERRNO | errno.ENOSYS
X86_64_HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
# unistd.h: read, epoll_pwait, accept4, sendmsg, splice, futex, mmap, getrandom, socket options
HOT = {
    "x86_64": (0, 1, 9, 45, 46, 47, 54, 55, 202, 232, 233, 275, 276, 281, 288, 318),
    "aarch64": (22, 62, 63, 64, 71, 76, 77 + 1, 98, 206, 207, 208, 209, 211, 212, 222, 242, 278),
}
machines = pytest.mark.parametrize("machine", list(ARCHITECTURES))


def judge(machine: str, number: int, *arguments: int, arch: int | None = None) -> tuple[int, int]:
    """What the filter returns, and how many instructions that took."""
    arch = ARCHITECTURES[machine] if arch is None else arch
    words = [value & (2**64 - 1) for value in (*arguments, *(0,) * 6)[:6]]
    data = struct.pack("<IIQ6Q", number, arch, 0, *words)
    code, place, held, steps = program(machine, PID), 0, 0, 0
    while True:
        operation, if_true, if_false, constant = code[place]
        place += 1
        steps += 1
        if operation == 0x06:
            return constant, steps
        if operation == 0x20:
            held = struct.unpack_from("<I", data, constant)[0]
        elif operation == 0x54:
            held &= constant
        elif operation == 0x05:
            place += constant
        else:
            test = {0x15: held == constant, 0x35: held >= constant, 0x45: held & constant}
            place += if_true if test[operation] else if_false


def decide(machine: str, numbers: Numbers, *arguments: int) -> int:
    number = getattr(numbers, machine)
    assert number is not None
    return judge(machine, number, *arguments)[0]


@machines
def test_each_call_of_the_table_is_refused_or_missing(machine: str) -> None:
    for table, answer in ((syscalls.REFUSED, EPERM), (syscalls.MISSING, ENOSYS)):
        for name, numbers in table.items():
            number = getattr(numbers, machine)
            assert number is None or judge(machine, number)[0] == answer, name


@machines
def test_what_a_busy_worker_calls_is_decided_by_its_number_in_a_few_steps(machine: str) -> None:
    for number in HOT[machine]:
        answer, steps = judge(machine, number)
        assert answer == RET_ALLOW, number
        assert steps <= 14, number


@machines
def test_every_other_number_up_to_the_newest_is_allowed(machine: str) -> None:
    groups = (syscalls.REFUSED, syscalls.MISSING, syscalls.TO_A_PROCESS)
    named = {getattr(one, machine) for group in groups for one in group.values()}
    judged = ("SOCKET", "SOCKETPAIR", "CLONE", "IOCTL", "OPEN", "OPENAT", "PRLIMIT")
    named |= {getattr(getattr(syscalls, name), machine) for name in judged}
    for number in set(range(syscalls.NEWEST + 1)) - named:
        assert judge(machine, number)[0] == RET_ALLOW, number


@machines
def test_calls_newer_than_the_table_are_missing_as_on_an_older_kernel(machine: str) -> None:
    assert judge(machine, syscalls.NEWEST + 1)[0] == ENOSYS
    assert judge(machine, 0x3FFFFFFF)[0] == ENOSYS


@machines
def test_other_abis_of_the_same_machine_are_refused(machine: str) -> None:
    for number in (0x40000000, 0x40000001, 0x40000000 + 520, 0xFFFFFFFF):
        assert judge(machine, number)[0] == EPERM
    for arch in (0x40000003, 0x40000028):  # i386, arm
        assert judge(machine, 3, arch=arch)[0] == EPERM


@machines
@pytest.mark.parametrize(
    ("family", "kind", "protocol", "allowed"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 0, True),
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, True),
        (socket.AF_INET, socket.SOCK_DGRAM, 0, True),
        (socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, socket.IPPROTO_UDP, True),
        (socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, True),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, True),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0, True),
        (socket.AF_NETLINK, socket.SOCK_DGRAM, 4, True),
        (socket.AF_NETLINK, socket.SOCK_RAW, 16, False),
        (socket.AF_NETLINK, socket.SOCK_RAW, 12, False),
        (socket.AF_INET, socket.SOCK_RAW, 1, False),
        (socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 58, False),
        (socket.AF_INET, socket.SOCK_DGRAM, 1, False),
        (socket.AF_INET, socket.SOCK_STREAM, 132, False),
        (socket.AF_INET, socket.SOCK_STREAM, 262, False),
        (socket.AF_PACKET, socket.SOCK_DGRAM, 0, False),
        (38, socket.SOCK_SEQPACKET, 0, False),
        (40, socket.SOCK_STREAM, 0, False),
    ],
)
def test_sockets_are_those_of_a_proxy(
    machine: str, family: int, kind: int, protocol: int, allowed: bool
) -> None:
    answer = decide(machine, syscalls.SOCKET, family, kind, protocol)
    assert answer == (RET_ALLOW if allowed else EPERM)


@machines
def test_a_thread_is_allowed_and_neither_a_process_nor_a_namespace(machine: str) -> None:
    thread = 0x3D0F00  # what glibc asks for
    assert decide(machine, syscalls.CLONE, thread) == RET_ALLOW
    assert decide(machine, syscalls.CLONE, 17) == EPERM
    for namespace in (0x80, *(1 << bit for bit in (17, 25, 26, 27, 28, 29, 30))):
        assert decide(machine, syscalls.CLONE, thread | namespace) == EPERM, hex(namespace)


@machines
def test_signals_and_limits_are_for_this_process_alone(machine: str) -> None:
    for name, numbers in syscalls.TO_A_PROCESS.items():
        assert decide(machine, numbers, PID) == RET_ALLOW, name
        for other in (1, PID + 1, 0, -1, -PID):
            assert decide(machine, numbers, other) == EPERM, (name, other)
    for pid, answer in ((0, RET_ALLOW), (PID, RET_ALLOW), (1, EPERM)):
        assert decide(machine, syscalls.PRLIMIT, pid) == answer


@machines
def test_files_are_opened_to_read_alone(machine: str) -> None:
    where = {"OPEN": (0,), "OPENAT": (-100, 0)}
    for name, before in where.items():
        numbers = getattr(syscalls, name)
        if getattr(numbers, machine) is None:
            continue
        for flags in (os.O_RDONLY, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, os.O_PATH):
            assert decide(machine, numbers, *before, flags) == RET_ALLOW
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_RDWR | os.O_TMPFILE):
            assert decide(machine, numbers, *before, flags) == EPERM


@machines
def test_nobody_types_into_the_terminal(machine: str) -> None:
    assert decide(machine, syscalls.IOCTL, 3, termios.FIONREAD) == RET_ALLOW
    for request in (termios.TIOCSTI, 0x541C):
        assert decide(machine, syscalls.IOCTL, 3, request) == EPERM


def test_a_machine_without_a_table_is_told_so() -> None:
    with pytest.raises(OSError, match="no table of system calls for riscv64"):
        program("riscv64", PID)


@pytest.mark.skipif(not X86_64_HEADER.exists(), reason="needs the kernel's headers")
def test_the_numbers_of_x86_64_are_those_of_the_kernels_header() -> None:
    rows = re.findall(r"#define __NR_(\w+)\s+(\d+)", X86_64_HEADER.read_text())
    header = {name: int(number) for name, number in rows}
    groups = (syscalls.REFUSED, syscalls.MISSING, syscalls.TO_A_PROCESS)
    for group in groups:
        for name, numbers in group.items():
            assert header.get(name, numbers.x86_64) == numbers.x86_64, name
