"""What starts, what does not, and what others see of it."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.support.proxy import (
    Proxy,
    command,
    configuration,
    running,
    started,
    title,
    wait_until,
)
from tests.support.socks import LoginError, Tunnel, connect, reply_to
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

SECRET = "s3cret-that-nobody-sees"


def errors(proxy: Proxy) -> list[str]:
    """What it said that is not an event of the log."""
    return [line.text for line in proxy.lines if not line.event]


def check_does_not_start(proxy: Proxy, status: int, text: str) -> None:
    assert proxy.wait_for_exit() == status
    wait_until(lambda: errors(proxy))
    assert len(errors(proxy)) == 1
    assert re.search(text, errors(proxy)[0]), errors(proxy)
    assert errors(proxy)[0].startswith("geproxy: ")
    assert proxy.left() == []
    assert not proxy.events("ready")


def test_a_taken_port_is_one_line_and_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        config = configuration({"socks": {"url": f"socks5://{where}"}})
        with running(tmp_path, config, wait=False) as proxy:
            check_does_not_start(proxy, 1, f"listen.socks.url: .*{where}: Address already in use")


def test_an_address_of_somebody_else_is_one_line_and_status_1(tmp_path: Path) -> None:
    listen = {"socks": {"url": "socks5://192.0.2.77:0", "open": True}}
    with running(tmp_path, configuration(listen), wait=False) as proxy:
        check_does_not_start(proxy, 1, "listen.socks.url: cannot listen on 192.0.2.77:0: ")


def test_a_log_that_cannot_be_opened_is_one_line_and_status_1(tmp_path: Path) -> None:
    config = configuration(log={"target": "no/such/folder/log"})
    with running(tmp_path, config, wait=False) as proxy:
        check_does_not_start(proxy, 1, "log.target: cannot open .*: No such file or directory")


def test_a_listener_on_the_command_line_announces_its_port_and_serves(tmp_path: Path) -> None:
    arguments = ["--listen", "socks5://127.0.0.1:0", "--listen", "socks5://127.0.0.1:0"]
    with started(tmp_path, arguments) as proxy, target(echo) as there:
        (first,), (second,) = proxy.addresses("listen1"), proxy.addresses("listen2")
        assert first != second
        for address in (first, second):
            assert reply_to(address, there.host, there.port) == 0
        assert title(proxy.pid) == "geproxy: master (command line)"
        assert proxy.reload().event == "reload.done"
        assert reply_to(first, there.host, there.port) == 0


def test_a_secret_on_the_command_line_is_seen_by_nobody(tmp_path: Path) -> None:
    url = f"socks5://alice:{SECRET}@127.0.0.1:0"
    with started(tmp_path, ["--listen", url]) as proxy, target(echo) as there:
        with connect(proxy.address, there.host, there.port, "alice", SECRET) as tunnel:
            tunnel.send(b"x")
            assert tunnel.receive(1) == b"x"
        with pytest.raises(LoginError):
            connect(proxy.address, there.host, there.port, "alice", "wrong")
        workers = len(proxy.workers())
        assert proxy.reload().event == "reload.done"
        # The workers from before the reload are leaving; what is left then stays.
        for pid in [proxy.pid, *proxy.wait_for_workers(workers)]:
            for file in ("cmdline", "environ", "comm"):
                assert SECRET.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()
    assert SECRET not in proxy.log


def test_a_user_in_the_url_makes_an_open_address_safe(tmp_path: Path) -> None:
    url = f"socks5://alice:{SECRET}@0.0.0.0:0"
    with started(tmp_path, ["--listen", url]) as proxy:
        with Tunnel.dial(("127.0.0.1", proxy.address[1])) as tunnel:
            tunnel.log_in("alice", SECRET)
        with Tunnel.dial(("127.0.0.1", proxy.address[1])) as tunnel, pytest.raises(LoginError):
            tunnel.log_in()


def ended_client(proxy: Proxy, tunnel: Tunnel) -> str:
    """Who the client of the only session was, by the log."""
    tunnel.finish()
    tunnel.receive_all()
    tunnel.close()
    return proxy.wait_for("session.end", code="ok").fields["client"]


def test_an_ipv6_listener_serves(tmp_path: Path) -> None:
    config = configuration({"six": {"url": "socks5://[::1]:0"}})
    with running(tmp_path, config) as proxy, target(echo) as there:
        assert proxy.address[0] == "::1"
        tunnel = connect(proxy.address, there.host, there.port)
        port = tunnel.address[1]
        assert ended_client(proxy, tunnel) == f"[::1]:{port}"


def test_a_dual_stack_listener_shows_ipv4_clients_as_ipv4(tmp_path: Path) -> None:
    config = configuration({"both": {"url": "socks5://[::]:0", "users": "users"}})
    assert command("passwd", "users", "alice", folder=tmp_path, given=SECRET).returncode == 0
    with running(tmp_path, config) as proxy:
        (address,) = proxy.addresses("both")
        assert address[0] == "::"
        for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
            with Tunnel.dial((host, address[1])) as tunnel:
                port = tunnel.address[1]
                with pytest.raises(LoginError):
                    tunnel.log_in("alice", "wrong")
            proxy.wait_for("auth.fail", client=f"{shown}:{port}")


def test_an_empty_host_is_two_sockets_on_one_port(tmp_path: Path) -> None:
    config = configuration({"all": {"url": "socks5://:0", "open": True}})
    with running(tmp_path, config) as proxy:
        hosts = {host for host, _ in proxy.addresses("all")}
        ports = {port for _, port in proxy.addresses("all")}
        assert hosts == {"0.0.0.0", "::"}
        assert len(ports) == 1
        for host in ("127.0.0.1", "::1"):
            with Tunnel.dial((host, *ports)) as tunnel:
                tunnel.log_in()
