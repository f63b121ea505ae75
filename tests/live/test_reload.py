"""HUP: a new configuration takes over, a bad one changes nothing, nobody is cut off."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.support.proxy import Address, Proxy, command, configuration, running, wait_until
from tests.support.socks import LoginError, Tunnel, connect, reply_to
from tests.support.targets import echo, pattern, pattern_digest, target

pytestmark = pytest.mark.slow

BIG_BYTES = 64 << 20
PASSWORD = "correct horse battery"
FREE = {"url": "socks5://127.0.0.1:0"}
MEMBERS = {"url": "socks5://127.0.0.1:0", "users": "users"}


def passwd(folder: Path, user: str, *, delete: bool = False) -> None:
    arguments = ["--delete", "users", user] if delete else ["users", user]
    assert command("passwd", *arguments, folder=folder, given=PASSWORD).returncode == 0


def can_log_in(address: Address, user: str) -> bool:
    with Tunnel.dial(address) as tunnel:
        try:
            tunnel.log_in(user, PASSWORD)
        except LoginError:
            return False
        return True


def refused(address: Address) -> bool:
    try:
        Tunnel.dial(address).close()
    except ConnectionError:
        return True
    return False


def check_talks(tunnel: Tunnel) -> None:
    tunnel.send(b"x")
    assert tunnel.receive(1) == b"x"


def reload_wholly(proxy: Proxy, config: str | None = None) -> None:
    """Reload, and wait until those that served before take nobody new."""
    before = set(proxy.workers())
    line = proxy.reload(config)
    assert line.event == "reload.done", line.text
    wait_until(lambda: not before & proxy.accepting())


def test_a_reload_during_a_transfer_changes_the_users_and_nothing_else(tmp_path: Path) -> None:
    go_on = threading.Event()

    def source_in_two_halves(sock: socket.socket) -> None:
        sent = 0
        for block in pattern(BIG_BYTES):
            if sent == BIG_BYTES // 2:
                go_on.wait(30)
            sock.sendall(block)
            sent += len(block)

    passwd(tmp_path, "alice")
    passwd(tmp_path, "bob")
    with (
        running(tmp_path, configuration({"members": MEMBERS})) as proxy,
        target(source_in_two_halves) as there,
        connect(proxy.address, there.host, there.port, "bob", PASSWORD) as transfer,
    ):
        address, before = proxy.address, set(proxy.workers())
        first = transfer.receive(1 << 20)
        assert not can_log_in(address, "carol")
        passwd(tmp_path, "carol")
        passwd(tmp_path, "bob", delete=True)
        reload_wholly(proxy)
        assert can_log_in(address, "carol")
        assert can_log_in(address, "alice")
        assert not can_log_in(address, "bob")
        go_on.set()
        digest = hashlib.sha256(first)
        while part := transfer.socket.recv(1 << 16):
            digest.update(part)
        assert digest.hexdigest() == pattern_digest(BIG_BYTES)
        transfer.close()
        workers = set(proxy.wait_for_workers(2))
        assert not before & workers
        assert proxy.accepting() == workers
        assert not proxy.events("worker.lost")
        assert len(proxy.events("listen.start")) == 1, "the socket is the old one"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        pytest.param(
            "[listen.socks]\nurl = 'socks5://127.0.0.1:70000'", "listen.socks.url", id="port"
        ),
        pytest.param(
            "[server]\nworkers = 0\n[listen.a]\nurl = 'x'", "server.workers", id="workers"
        ),
        pytest.param(
            "[listen.socks]\nurl = 'socks5://127.0.0.1:0'\nusers = 'none'",
            "listen.socks.users",
            id="users",
        ),
        pytest.param("this is no TOML", None, id="no TOML"),
    ],
)
def test_a_reload_with_a_broken_file_changes_nothing_and_names_the_key(
    tmp_path: Path, config: str, key: str | None
) -> None:
    with (
        running(tmp_path) as proxy,
        target(echo) as there,
        connect(proxy.address, there.host, there.port) as tunnel,
    ):
        workers = proxy.workers()
        line = proxy.reload(config)
        assert (line.event, line.level) == ("reload.fail", "error")
        assert line.fields["key"] == (key or "-")
        assert line.fields["reason"] != "-"
        check_talks(tunnel)
        assert reply_to(proxy.address, there.host, there.port) == 0
        assert proxy.workers() == workers
        assert not proxy.events("worker.lost")


def test_a_reload_without_a_file_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        (tmp_path / "geproxy.conf").unlink()
        assert proxy.reload().event == "reload.fail"
        assert reply_to(proxy.address, there.host, there.port) == 0


def test_a_reload_onto_a_taken_port_changes_nothing(tmp_path: Path) -> None:
    with (
        running(tmp_path) as proxy,
        target(echo) as there,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        port = taken.getsockname()[1]
        more = {"socks": FREE, "more": {"url": f"socks5://127.0.0.1:{port}"}}
        workers = proxy.workers()
        line = proxy.reload(configuration(more))
        assert line.event == "reload.fail"
        assert f"127.0.0.1:{port}" in line.fields["reason"]
        assert reply_to(proxy.address, there.host, there.port) == 0
        assert proxy.workers() == workers


def test_a_good_reload_follows_a_bad_one(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        assert proxy.reload("nonsense").event == "reload.fail"
        reload_wholly(proxy, configuration())
        assert reply_to(proxy.address, there.host, there.port) == 0
        assert len(proxy.wait_for_workers(2)) == 2


def test_many_reloads_at_once_collapse(tmp_path: Path) -> None:
    with (
        running(tmp_path) as proxy,
        target(echo) as there,
        connect(proxy.address, there.host, there.port) as tunnel,
    ):
        for _ in range(20):
            proxy.signal(signal.SIGHUP)
        # The last of them is done when nobody but two new workers is left, and one old session's.
        wait_until(lambda: proxy.events("reload.done"))
        check_talks(tunnel)
        owner = proxy.owner(tunnel.socket)
        wait_until(lambda: settled(proxy, {owner}))
        assert len(proxy.events("reload.done")) < 20
        assert not proxy.events("reload.fail")
        assert not proxy.events("worker.lost")
        assert reply_to(proxy.address, there.host, there.port) == 0
        check_talks(tunnel)
        tunnel.close()
        assert set(proxy.wait_for_workers(2)) == proxy.accepting()


def settled(proxy: Proxy, others: set[int]) -> bool:
    accepting = proxy.accepting()
    started, done = len(proxy.events("reload.start")), len(proxy.events("reload.done"))
    return started == done and len(accepting) == 2 and set(proxy.workers()) == accepting | others


def test_listeners_come_and_go_and_the_others_notice_nothing(tmp_path: Path) -> None:
    with running(tmp_path, configuration({"kept": FREE, "gone": FREE})) as proxy:
        kept, gone = proxy.addresses("kept")[0], proxy.addresses("gone")[0]
        with (
            target(echo) as there,
            connect(kept, there.host, there.port) as through_kept,
            connect(gone, there.host, there.port) as through_gone,
        ):
            reload_wholly(proxy, configuration({"kept": FREE, "new": FREE}))
            assert proxy.events("listen.stop")[0].fields["address"] == f"{gone[0]}:{gone[1]}"
            (new,) = proxy.addresses("new")
            assert proxy.addresses("kept") == [kept]
            assert reply_to(new, there.host, there.port) == 0
            assert reply_to(kept, there.host, there.port) == 0
            wait_until(lambda: refused(gone))
            check_talks(through_kept)
            check_talks(through_gone)
            # The new one is a port of ours like any other, the old one no longer.
            assert reply_to(kept, there.host, new[1]) == 2
            assert reply_to(kept, there.host, gone[1]) == 5
        assert len(proxy.wait_for_workers(2)) == 2


def test_a_listener_may_gain_users_without_losing_its_port(tmp_path: Path) -> None:
    passwd(tmp_path, "alice")
    with running(tmp_path) as proxy, target(echo) as there:
        address = proxy.address
        assert reply_to(address, there.host, there.port) == 0
        reload_wholly(proxy, configuration({"socks": MEMBERS}))
        with pytest.raises(LoginError):
            connect(address, there.host, there.port)
        assert can_log_in(address, "alice")


def test_a_reload_may_change_the_number_of_workers(tmp_path: Path) -> None:
    with running(tmp_path) as proxy, target(echo) as there:
        reload_wholly(proxy, configuration(workers=3))
        assert len(proxy.wait_for_workers(3)) == 3
        reload_wholly(proxy, configuration(workers=1))
        assert len(proxy.wait_for_workers(1)) == 1
        assert reply_to(proxy.address, there.host, there.port) == 0


def test_a_session_from_before_a_reload_has_the_time_that_is_set(tmp_path: Path) -> None:
    config = configuration(server={"reload_drain_seconds": 1})
    with (
        running(tmp_path, config) as proxy,
        target(echo) as there,
        connect(proxy.address, there.host, there.port) as tunnel,
    ):
        reload_wholly(proxy)
        check_talks(tunnel)
        with pytest.raises(ConnectionResetError):
            tunnel.receive(1)
        proxy.wait_for("session.end", code="shutdown")
        assert len(proxy.wait_for_workers(2)) == 2


def test_no_new_client_is_refused_while_reloads_go_on(tmp_path: Path) -> None:
    over = threading.Event()
    failures: list[str] = []

    def call(address: Address, port: int) -> None:
        while not over.is_set():
            try:
                with connect(address, "127.0.0.1", port) as tunnel:
                    check_talks(tunnel)
            except Exception as error:
                failures.append(repr(error))

    with running(tmp_path) as proxy, target(echo) as there:
        arguments = (proxy.address, there.port)
        callers = [threading.Thread(target=call, args=arguments, daemon=True) for _ in range(4)]
        for caller in callers:
            caller.start()
        for _ in range(5):
            reload_wholly(proxy)
        over.set()
        for caller in callers:
            caller.join(20)
        assert failures == []
        assert not proxy.events("worker.lost")
