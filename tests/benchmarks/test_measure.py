"""What a tree of processes has used: all of it is counted, nobody else's is."""

import os
import subprocess
import sys

import pytest

from benchmarks import measure
from benchmarks.load import NOT_HERE, LoadError
from tests.support.proxy import wait_until

NOBODY = 65534

# A leader whose child lives on after it has burned time, in a process that has ended meanwhile.
FAMILY = """
import subprocess, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
burn(0.05)
subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
child.communicate()
"""


def test_a_tree_is_its_leader_and_all_below_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        assert measure.tree([leader.pid]) == sorted([leader.pid, child])
        assert os.getpid() not in measure.tree([leader.pid])
        # 50 ms of its own, and those of a child that has ended
        wait_until(lambda: measure.cpu_seconds([leader.pid]) > 0.05)
        assert measure.pss_kib([leader.pid]) > measure.pss_kib([child]) > 0
        leader.communicate("\n")
    assert measure.tree([leader.pid]) == []
    assert measure.cpu_seconds([leader.pid]) == 0


def test_memory_that_is_not_ours_to_read_is_not_counted_as_none() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(NOBODY)
            measure.pss_kib([os.getppid()])
        except LoadError as error:
            status = 0 if str(error).startswith(NOT_HERE) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nobody_has_used_nothing() -> None:
    assert measure.charged([], lambda: "done") == ("done", measure.Cost(0, 0))
    assert measure.pss_kib([]) == 0
