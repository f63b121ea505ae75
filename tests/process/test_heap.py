"""What a worker keeps of the memory that the check of a password takes, and what it shares."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from geproxy.crypto.password import dummy_hash
from geproxy.process.heap import return_large_blocks, share_with_children

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


class Knot:
    """Garbage, once nobody else refers to it, that the collector alone finds."""

    def __init__(self, ended: list[bool]) -> None:
        self.itself = self
        self.ended = ended

    def __del__(self) -> None:
        self.ended.append(True)


def test_what_is_shared_is_looked_at_no_more_and_is_no_garbage(without_collector: None) -> None:
    ended: list[bool] = []
    Knot(ended)
    kept: list[object] = []
    frozen = gc.get_freeze_count()
    share_with_children()
    assert ended == [True]
    assert gc.get_freeze_count() > frozen
    assert not any(one is kept for one in gc.get_objects())
