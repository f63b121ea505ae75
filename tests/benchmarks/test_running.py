"""Contenders: started on ports of their own, and ended with all that they started."""

import os
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.contenders import (
    PLAIN,
    SEALED,
    Command,
    Contender,
    with_listeners,
    with_users,
)
from benchmarks.load import Figures, LoadError, run
from benchmarks.running import TCP_LISTEN, Running, StartError
from tests.support.proxy import wait_until

pytestmark = pytest.mark.slow

CASES = [
    pytest.param(PLAIN[0], "", 4, id="plain: a master, two workers, and who writes the log"),
    pytest.param(SEALED[0], "aes-256-gcm", 8, id="sealed: twice as many"),
]


@pytest.mark.parametrize("contender, method, processes", CASES)
def test_geproxy_is_reached_through_socks5_and_leaves_nothing(
    program: Path, targets: Figures, contender: Contender, method: str, processes: int
) -> None:
    running = Running(contender, "socks5", workers=2, method=method)
    with running:
        options = running.load_options()
        found = run(program, "short", **options, target=targets["echo"], seconds=0.1)
        assert found["failures"] == 0
        leaders = running.leaders
        wait_until(lambda: len(measure.tree(leaders)) == processes)
        assert measure.cpu_seconds(leaders) > 0
    wait_until(lambda: measure.tree(leaders) == [])


def test_of_many_users_each_connection_logs_in(program: Path, targets: Figures) -> None:
    with Running(with_users(100), "socks5", workers=1) as running:
        options = running.load_options()
        load = {"target": targets["echo"], "connections": 4, "count": 40}
        assert run(program, "short", **options, **load)["failures"] == 0
        with pytest.raises(LoadError, match="the password was answered with STATUS 1"):
            run(program, "short", **{**options, "password": "another"}, **load)
        with pytest.raises(LoadError, match="METHOD 255 was chosen"):
            run(program, "short", dialect="socks5", proxy=options["proxy"], **load)


def test_of_many_listeners_the_first_is_reached(program: Path, targets: Figures) -> None:
    with Running(with_listeners(16), "socks5", workers=1) as running:
        assert run(program, "short", **running.load_options(), target=targets["echo"], count=4)
        assert len(listening(running.leaders[0])) == 16


def listening(pid: int) -> set[str]:
    """The inodes of the TCP sockets on which *pid* listens (proc_pid_net(5))."""
    files = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == TCP_LISTEN and f"socket:[{row[9]}]" in files}


def test_without_a_proxy_the_target_is_reached_itself(program: Path, targets: Figures) -> None:
    with Running(Contender("direct", "", "", None), "socks5", workers=2) as running:
        options = running.load_options()
        assert run(program, "ping", **options, target=targets["echo"], seconds=0.1)["count"] > 0


def test_who_does_not_start_says_why(tmp_path: Path) -> None:
    script = f"echo started >>{tmp_path}/tries; echo this cannot be >&2; exit 1"
    contender = Contender(
        "broken", "sh", "", lambda setting: [Command(["sh", "-c", script], setting.front_port)]
    )
    with pytest.raises(StartError, match="this cannot be"), Running(contender, "http", workers=1):
        pass
    assert (tmp_path / "tries").read_text().count("started") == 3  # a port may be taken: again


def test_who_is_not_installed_is_named_with_its_package() -> None:
    contender = Contender("nobody", "no-such-program", "no-such-package", lambda setting: [])
    assert (
        contender.missing() == "no-such-program is not installed (Debian package no-such-package)"
    )
