"""Descriptors: what is asked for, what is had, and how many sessions fit."""

import json
import os
import resource
from pathlib import Path

import pytest

from geproxy.process.limits import DESCRIPTORS_PER_SESSION, RESERVE, fit_sessions

NOBODY = 65534

CAP_SYS_RESOURCE = 24  # linux/capability.h


def may_raise_hard_limits() -> bool:
    """True for root, except in a container that took the capability away."""
    rows = Path("/proc/self/status").read_text().splitlines()
    (effective,) = (row.split()[1] for row in rows if row.startswith("CapEff:"))
    return bool(int(effective, 16) >> CAP_SYS_RESOURCE & 1)


def fit(
    sessions: int, soft: int, hard: int, *, extra: int = 0, keep_root: bool = False
) -> tuple[int, int, int]:
    """Run fit_sessions in a process with these limits; returns its answer and both limits then."""
    answer, answer_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if os.geteuid() == 0 and not keep_root:
                os.setuid(NOBODY)
            fitting = fit_sessions(sessions, extra)
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            os.write(answer_end, json.dumps([fitting, *limits]).encode())
        except BaseException as error:
            os.write(answer_end, json.dumps(repr(error)).encode())
        finally:
            os._exit(0)
    os.close(answer_end)
    with open(answer) as file:
        found = json.load(file)
    os.waitpid(pid, 0)
    assert isinstance(found, list), found
    fitting, soft_now, hard_now = found
    return fitting, soft_now, hard_now


def need(sessions: int) -> int:
    return sessions * DESCRIPTORS_PER_SESSION + RESERVE


@pytest.mark.parametrize(
    ("sessions", "soft", "hard", "expected"),
    [
        pytest.param(100, 400, 400, (100, 400, 400), id="enough already: nothing changes"),
        pytest.param(100, need(100), 400, (100, need(100), 400), id="just enough already"),
        pytest.param(
            100, 64, 400, (100, need(100), 400), id="the soft limit rises to what is needed"
        ),
        pytest.param(
            100, 64, need(100), (100, need(100), need(100)), id="the hard limit is just enough"
        ),
        pytest.param(
            100, 64, need(100) - 1, (99, need(100) - 1, need(100) - 1), id="one descriptor short"
        ),
        pytest.param(10_000, 256, 1024, (480, 1024, 1024), id="sessions shrink to the hard limit"),
        pytest.param(10_000, 1024, 1024, (480, 1024, 1024), id="nothing can be raised"),
        pytest.param(100, RESERVE, RESERVE, (1, RESERVE, RESERVE), id="never fewer than one"),
        pytest.param(1, 20, 20, (1, 20, 20), id="less than the reserve"),
    ],
)
def test_sessions_fit_the_descriptors_that_an_ordinary_user_can_have(
    sessions: int, soft: int, hard: int, expected: tuple[int, int, int]
) -> None:
    assert fit(sessions, soft, hard) == expected


@pytest.mark.parametrize(
    ("hard", "raised"),
    [
        pytest.param(1024, 1024, id="as far as it goes"),
        pytest.param(4096, need(100) + 500, id="all"),
    ],
)
def test_what_udp_wants_is_had_where_it_can_be_and_costs_no_session(hard: int, raised: int) -> None:
    assert fit(100, 256, hard, extra=500) == (100, min(raised, need(100) + 500), hard)


@pytest.mark.skipif(not may_raise_hard_limits(), reason="CAP_SYS_RESOURCE is missing")
def test_root_raises_the_hard_limit_to_what_is_needed() -> None:
    assert fit(600, 256, 1024, keep_root=True) == (600, need(600), need(600))


@pytest.mark.skipif(os.geteuid() != 0, reason="for root")
def test_what_the_kernel_refuses_even_root_lowers_the_sessions() -> None:
    nr_open = int(Path("/proc/sys/fs/nr_open").read_text())
    assert fit(nr_open, 256, 1024, keep_root=True) == (480, 1024, 1024)
