"""TERM, INT and QUIT: who may finish, who is cut off, and that nothing stays."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGTERM

import pytest

from tests.support.proxy import Proxy, configuration, running, started, wait_until
from tests.support.socks import Tunnel, connect
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow


def refused(proxy: Proxy) -> bool:
    try:
        Tunnel.dial(proxy.address).close()
    except ConnectionError:
        return True
    return False


def check_cut_off(tunnel: Tunnel) -> None:
    """A session that is ended early must not look like one that is complete."""
    with pytest.raises(ConnectionResetError):
        tunnel.receive(1)


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGQUIT])
def test_without_a_session_it_ends_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path) as proxy:
        proxy.signal(number)
        assert proxy.wait_for_exit() == 0
        assert proxy.left() == []
        assert proxy.lines[-1].event == "end"


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_running_session_may_finish(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        tunnel = connect(proxy.address, there.host, there.port)
        proxy.signal(number)
        wait_until(lambda: refused(proxy))
        tunnel.send(b"still here")
        assert tunnel.receive(10) == b"still here"
        assert proxy.process.poll() is None
        tunnel.finish()
        assert tunnel.receive_all() == b""
        assert proxy.wait_for_exit() == 0
        assert proxy.left() == []
        proxy.wait_for("session.end", code="ok")


def test_a_session_that_outlasts_the_drain_time_is_cut_off(tmp_path: Path) -> None:
    config = configuration(server={"drain_seconds": 1})
    with running(tmp_path, config) as proxy, target(echo) as there:
        with connect(proxy.address, there.host, there.port) as tunnel:
            proxy.signal(SIGTERM)
            check_cut_off(tunnel)
        assert proxy.wait_for_exit() == 0
        proxy.wait_for("session.end", code="shutdown")
        assert len(proxy.events("worker.end")) == 2


def test_no_drain_time_at_all_ends_at_once(tmp_path: Path) -> None:
    config = configuration(server={"drain_seconds": 0})
    with running(tmp_path, config) as proxy, target(echo) as there:
        with connect(proxy.address, there.host, there.port) as tunnel:
            proxy.signal(SIGTERM)
            check_cut_off(tunnel)
        assert proxy.wait_for_exit() == 0
        proxy.wait_for("session.end", code="shutdown")


@pytest.mark.parametrize(
    ("first", "second"), [(SIGTERM, SIGTERM), (SIGINT, SIGINT), (SIGTERM, SIGINT)]
)
def test_asked_twice_it_ends_at_once(
    tmp_path: Path, first: signal.Signals, second: signal.Signals
) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        with connect(proxy.address, there.host, there.port) as tunnel:
            proxy.signal(first)
            proxy.wait_for("stop")
            tunnel.send(b"x")
            assert tunnel.receive(1) == b"x"
            proxy.signal(second)
            check_cut_off(tunnel)
        assert proxy.wait_for_exit() == 0
        assert proxy.left() == []
        proxy.wait_for("session.end", code="shutdown")


@pytest.mark.parametrize("after", [None, SIGTERM], ids=["alone", "after TERM"])
def test_quit_cuts_every_session_off_and_says_so(
    tmp_path: Path, after: signal.Signals | None
) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        tunnels = [connect(proxy.address, there.host, there.port) for _ in range(20)]
        with Tunnel.dial(proxy.address) as undecided:
            undecided.log_in()
            if after is not None:
                proxy.signal(after)
                proxy.wait_for("stop")
            proxy.signal(SIGQUIT)
            for tunnel in tunnels:
                check_cut_off(tunnel)
                tunnel.close()
        assert proxy.wait_for_exit() == 0
        assert proxy.left() == []
        wait_until(lambda: len(proxy.events("session.end")) == 21)
        assert {line.fields["code"] for line in proxy.events("session.end")} == {"shutdown"}


def test_a_reload_under_way_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    with running(tmp_path) as proxy:
        proxy.signal(signal.SIGHUP)
        proxy.signal(SIGTERM)
        assert proxy.wait_for_exit() == 0
        assert proxy.left() == []


@pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGQUIT])
def test_a_signal_at_any_moment_of_the_start_leaves_nothing_and_no_traceback(
    tmp_path: Path, number: signal.Signals
) -> None:
    for milliseconds in range(0, 200, 20):
        arguments = ["--listen", "socks5://127.0.0.1:0"]
        with started(tmp_path, arguments, wait=False) as proxy:
            time.sleep(milliseconds / 1000)  # each moment of the start in turn
            # Early on the signal does what it does to any program, or nothing; later what we say.
            while proxy.process.poll() is None:
                proxy.signal(number)
                time.sleep(0.05)  # the pace of an impatient operator
            assert proxy.wait_for_exit() in (0, -number)
            wait_until(lambda proxy=proxy: not proxy.left())
