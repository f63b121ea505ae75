"""Every wait has an end, and a shortage is survived."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.peers import find
from tests.support.proxy import Proxy, configuration, running, wait_until
from tests.support.socks import RefusedError, Tunnel, connect, greeting, reply_to
from tests.support.targets import black_hole, echo, silent, target

pytestmark = pytest.mark.slow

CAP_SYS_RESOURCE = 24  # linux/capability.h: may raise a hard limit


def ended(proxy: Proxy, tunnel: Tunnel) -> dict[str, str]:
    """The fields of the line that ends this client's session."""
    host, port = tunnel.address
    return dict(proxy.wait_for("session.end", client=f"{host}:{port}").fields)


def is_cut_off(tunnel: Tunnel) -> bool:
    """Read on until the proxy has ended the connection; True where that was a reset."""
    try:
        while tunnel.socket.recv(4096):
            pass
    except ConnectionResetError:
        return True
    return False


def test_the_handshake_has_one_time_in_all(tmp_path: Path) -> None:
    config = configuration(limits={"handshake_seconds": 1})
    with (
        running(tmp_path, config) as proxy,
        Tunnel.dial(proxy.address) as quiet,
        Tunnel.dial(proxy.address) as dribbler,
    ):
        for byte in greeting(*range(255)):
            try:
                dribbler.send(bytes((byte,)))
            except OSError:
                break  # it was sent away in the middle
            time.sleep(0.05)  # the pace of the bytes: the whole would take 13 seconds
        else:
            pytest.fail("it could go on as long as it liked")
        is_cut_off(quiet)
        for client in (quiet, dribbler):
            fields = ended(proxy, client)
            assert fields["code"] == "timeout"
            assert float(fields["seconds"]) >= 1


def test_a_handshake_that_stops_after_the_login_has_an_end_too(tmp_path: Path) -> None:
    config = configuration(limits={"handshake_seconds": 1})
    with running(tmp_path, config) as proxy, Tunnel.dial(proxy.address) as tunnel:
        tunnel.log_in()
        is_cut_off(tunnel)
        assert ended(proxy, tunnel)["code"] == "timeout"


def test_silence_ends_a_session_and_noise_keeps_it(tmp_path: Path) -> None:
    done = threading.Event()

    def silent_for_good(sock: socket.socket) -> None:
        silent(sock)
        done.wait(20)

    config = configuration(limits={"idle_seconds": 2, "half_close_seconds": 1})
    with (
        running(tmp_path, config) as proxy,
        target(echo) as there,
        target(silent_for_good) as deaf,
        connect(proxy.address, there.host, there.port) as quiet,
        connect(proxy.address, there.host, there.port) as busy,
        connect(proxy.address, deaf.host, deaf.port) as half_closed,
    ):
        half_closed.finish()
        for _ in range(15):
            busy.send(b"x")
            assert busy.receive(1) == b"x"
            time.sleep(0.2)  # the pace of a session that lives
        for tunnel in (quiet, half_closed):
            assert is_cut_off(tunnel)
            assert ended(proxy, tunnel)["code"] == "idle"
        assert float(ended(proxy, half_closed)["seconds"]) >= 1
        assert float(ended(proxy, quiet)["seconds"]) >= 2
        busy.finish()
        assert busy.receive_all() == b""
        assert ended(proxy, busy)["code"] == "ok"
        done.set()


def test_a_target_that_never_answers_is_rep_6(tmp_path: Path) -> None:
    config = configuration(limits={"connect_seconds": 1})
    with running(tmp_path, config) as proxy, black_hole() as (host, port):
        with Tunnel.dial(proxy.address) as tunnel:
            tunnel.log_in()
            with pytest.raises(RefusedError) as refused:
                tunnel.ask(host, port)
            assert refused.value.rep == 6
            fields = ended(proxy, tunnel)
        assert fields["code"] == "timeout"
        assert float(fields["seconds"]) >= 1


def test_a_client_that_leaves_while_its_target_is_dialed_is_no_fault(tmp_path: Path) -> None:
    config = configuration(limits={"connect_seconds": 1})
    with running(tmp_path, config) as proxy, black_hole() as (host, port):
        tunnel = Tunnel.dial(proxy.address)
        tunnel.log_in()
        since = proxy.mark()
        tunnel.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            tunnel.ask(host, port)
        tunnel.reset()
        proxy.wait_for("session.end", since=since)


def test_at_the_limit_of_sessions_the_next_client_waits_for_its_turn(tmp_path: Path) -> None:
    config = configuration(workers=1, limits={"sessions": 2})
    with running(tmp_path, config) as proxy, target(echo) as there:
        first = connect(proxy.address, there.host, there.port)
        second = connect(proxy.address, there.host, there.port)
        with first, second, Tunnel.dial(proxy.address) as third:
            third.send(greeting(0))
            third.socket.settimeout(0.5)
            with pytest.raises(TimeoutError):
                third.receive(2)
            first.finish()
            assert first.receive_all() == b""
            third.socket.settimeout(20)
            assert third.receive(2) == b"\x05\x00"


def without_the_right_to_raise_limits() -> list[str]:
    """A command that runs another without CAP_SYS_RESOURCE; nothing where we lack it anyway."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1:
            return [find("setpriv"), "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    return []


def test_too_few_descriptors_lower_the_sessions_with_a_warning(tmp_path: Path) -> None:
    prefix = [find("prlimit"), "--nofile=128:128", *without_the_right_to_raise_limits()]
    with running(tmp_path, prefix=prefix) as proxy, target(echo) as there:
        warning = proxy.wait_for("limits.lowered")
        assert warning.level == "warning"
        assert warning.fields["wanted"] == "10000"
        sessions = int(warning.fields["sessions"])
        assert 1 <= sessions <= 64  # two descriptors each
        idle = [Tunnel.dial(proxy.address) for _ in range(300)]
        for tunnel in idle:
            tunnel.close()
        with connect(proxy.address, there.host, there.port) as tunnel:
            tunnel.send(b"x")
            assert tunnel.receive(1) == b"x"


def test_a_lack_of_descriptors_ends_nobody_and_passes(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        living = [connect(proxy.address, there.host, there.port) for _ in range(8)]
        for pid in proxy.workers():
            soft = len(os.listdir(f"/proc/{pid}/fd")) + 20
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        flood = [Tunnel.dial(proxy.address) for _ in range(300)]
        began = proxy.wait_for("accept.pause").arrived
        while time.monotonic() < began + 3:
            for tunnel in living:
                tunnel.send(b"x")
                assert tunnel.receive(1) == b"x"
            time.sleep(0.1)  # the pace of the sessions that live
        seconds = time.monotonic() - began
        complaints = proxy.events("accept.pause")
        assert len(complaints) <= len(proxy.workers()) * (seconds + 1)
        assert complaints[0].fields["reason"] == os.strerror(24)  # EMFILE
        for tunnel in flood:
            tunnel.close()

        def served() -> bool:
            return reply_to(proxy.address, there.host, there.port) == 0

        wait_until(served)
        for tunnel in living:
            tunnel.send(b"y")
            assert tunnel.receive(1) == b"y"
            tunnel.close()
        assert not proxy.events("worker.lost")


def test_a_dial_without_a_descriptor_is_rep_1(tmp_path: Path) -> None:
    # Nothing is asked about NAT64 then: a look-up would give its descriptor back meanwhile.
    config = configuration(workers=1, resolver={"family": "ipv4"})
    with (
        running(tmp_path, config) as proxy,
        target(echo) as there,
        Tunnel.dial(proxy.address) as tunnel,
    ):
        tunnel.log_in()
        (pid,) = proxy.workers()
        used = {int(entry) for entry in os.listdir(f"/proc/{pid}/fd")}
        free = min(set(range(len(used) + 1)) - used)  # the number that the next one would get
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, hard))
        with pytest.raises(RefusedError) as refused:
            tunnel.ask(IPv4Address("127.0.0.1"), there.port)
        assert refused.value.rep == 1
        assert ended(proxy, tunnel)["code"] == "limit"
