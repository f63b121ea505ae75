"""User time is told from system time, of a tree that runs and of nobody else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import meter, reference
from benchmarks.load import LoadError
from benchmarks.meter import Meter
from tests.support.peers import missing

# A leader and its child, which uses so much user time, or system time, for each line it reads.
WORKER = """
import sys, time
zero = open("/dev/zero", "rb", buffering=0)
room = bytearray(1 << 20)
for line in sys.stdin:
    kind, seconds = line.split()
    end = time.process_time() + float(seconds)
    while time.process_time() < end:
        if kind == "system":
            zero.readinto(room)
        else:
            sum(range(20_000))
    print("done", flush=True)
"""
LEADER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKER!r}])"
CORE = max(os.sched_getaffinity(0))

Family = subprocess.Popen[str]


@contextmanager
def family() -> Iterator[Family]:
    with reference.on_core(CORE):
        leader = subprocess.Popen(
            [sys.executable, "-c", LEADER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    with leader:
        use(leader, "user", 0)  # both are there
        yield leader
        assert leader.stdin is not None
        leader.stdin.close()


def use(leader: Family, kind: str, seconds: float) -> None:
    assert leader.stdin is not None and leader.stdout is not None
    leader.stdin.write(f"{kind} {seconds}\n")
    leader.stdin.flush()
    assert leader.stdout.readline() == "done\n"


@pytest.mark.slow
def test_user_time_is_told_from_system_time() -> None:
    with family() as leader, family() as other, Meter([leader.pid], CORE) as found:
        if found.refusal:
            missing(found.refusal)
        before = found.read()
        use(leader, "user", 0.2)
        after_user = found.read()
        use(leader, "system", 0.2)
        use(other, "user", 0.2)
        after_system = found.read()
    user, system = (
        (later.user_seconds - sooner.user_seconds) / (later.cpu_seconds - sooner.cpu_seconds)
        for sooner, later in ((before, after_user), (after_user, after_system))
    )
    assert user > 0.8
    assert system < 0.4
    assert 0.2 < after_system.cpu_seconds - after_user.cpu_seconds < 0.4, "nobody else's"


@pytest.mark.slow
def test_where_sampling_is_refused_all_cpu_time_is_given_and_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meter, "CALL", -1)
    with family() as leader, Meter([leader.pid], CORE) as found:
        assert found.refusal == "perf_event_open: Function not implemented"
        before = found.read()
        use(leader, "system", 0.05)
        after = found.read()
    assert after.user_seconds - before.user_seconds >= 0.05
    assert after.user_seconds == after.cpu_seconds
    assert after.instructions is None


@pytest.mark.slow
def test_who_ends_while_measured_is_an_error() -> None:
    with family() as leader, Meter([leader.pid], CORE) as found:
        leader.communicate("")
        with pytest.raises(LoadError, match="has ended"):
            found.read()


@pytest.mark.slow
def test_a_meter_leaves_no_descriptor() -> None:
    with family() as leader:
        before = os.listdir("/proc/self/fd")
        with Meter([leader.pid], CORE):
            pass
        assert os.listdir("/proc/self/fd") == before
