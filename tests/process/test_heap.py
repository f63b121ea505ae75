"""What a worker keeps of the memory that the check of a password takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geproxy.crypto.password import dummy_hash
from geproxy.process.heap import return_large_blocks

CHECK_KIB = 16 * 1024  # scrypt with N = 2^14 and r = 8
SCATTER_KIB = 4 * 1024  # other things that a process takes the first time


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.slow
def test_the_memory_of_a_checked_password_goes_back() -> None:
    """In a child, since for the process that runs all tests there is no way back."""
    answer, answer_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            return_large_blocks()
            stored = dummy_hash()
            before = resident_kib()
            for _ in range(3):
                stored.verify(b"wrong")
            os.write(answer_end, str(resident_kib() - before).encode())
        finally:
            os._exit(0)
    os.close(answer_end)
    with open(answer) as file:
        grown_kib = int(file.read())
    os.waitpid(pid, 0)
    assert grown_kib < SCATTER_KIB < CHECK_KIB
