"""A flood of strangers, or one greedy client, leaves the others their service."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from geproxy.crypto.password import hash_password
from tests.support.accounts import AS_ROOT, NOBODY, account
from tests.support.proxy import SEALED_PASSWORD, configuration, running, ss_url
from tests.support.shadowsocks_twin import METHODS, Key, Sealed
from tests.support.socks import RefusedError, Tunnel, connect
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

SESSIONS = 80
STRANGERS = 3 * SESSIONS
KEY = Key.from_password(METHODS[0], SEALED_PASSWORD)


def test_strangers_who_end_after_one_byte_take_no_place_from_those_with_the_key(
    tmp_path: Path,
) -> None:
    listen = {"sealed": {"url": ss_url(METHODS[0], ("127.0.0.1", 0))}}
    limits = {"sessions": SESSIONS, "handshake_seconds": 600}
    config = configuration(listen, workers=1, limits=limits)
    with running(tmp_path, config) as proxy, target(echo) as there, ExitStack() as flood:
        address = proxy.addresses("sealed")[0]
        for number in range(STRANGERS):
            stranger = flood.enter_context(socket.create_connection(address, 20))
            stranger.sendall(b"x")
            stranger.shutdown(socket.SHUT_WR)
            if number % 20 == 0:
                with Sealed.dial(address, KEY, there.host, there.port) as client:
                    client.send(b"words")
                    assert client.receive(5) == b"words"
        proxy.wait_for("auth.fail", listen="sealed")
        proxy.wait_for("client.drop", reason="unproven", code="limit")
    assert len(proxy.events("client.drop")) < STRANGERS // 4


def test_who_has_logged_in_is_no_stranger_before_its_request(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.touch(0o600)
    users.write_text(f"alice:{hash_password(b'secret')}\n")
    listen = {"socks": {"url": "socks5://127.0.0.1:0", "users": str(users)}}
    config = configuration(listen, workers=1, limits={"sessions": SESSIONS})
    with running(tmp_path, config) as proxy, target(echo) as there, ExitStack() as flood:
        slow = flood.enter_context(Tunnel.dial(proxy.address))
        slow.log_in("alice", "secret")
        for _ in range(STRANGERS):
            flood.enter_context(socket.create_connection(proxy.address, 20))
        proxy.wait_for("client.drop", reason="unproven")
        slow.ask(there.host, there.port)
        slow.send(b"words")
        assert slow.receive(5) == b"words"


@AS_ROOT
def test_one_account_that_takes_all_it_can_leaves_room_for_another(tmp_path: Path) -> None:
    config = configuration(workers=1, limits={"sessions": SESSIONS})
    with running(tmp_path, config) as proxy, target(echo) as there, ExitStack() as greedy:
        kept = 0
        for _ in range(SESSIONS + 20):
            try:
                tunnel = connect(proxy.address, there.host, there.port)
            except OSError:
                continue  # reset at once
            greedy.enter_context(tunnel)
            kept += 1
        assert SESSIONS // 2 < kept <= SESSIONS * 4 // 5 + 1
        proxy.wait_for("client.drop", reason="share", code="limit")
        with account(NOBODY), connect(proxy.address, there.host, there.port) as other:
            other.send(b"words")
            assert other.receive(5) == b"words"


@AS_ROOT
def test_accounts_that_fill_all_places_together_leave_room_for_another(tmp_path: Path) -> None:
    config = configuration(workers=1, limits={"sessions": SESSIONS})
    with running(tmp_path, config) as proxy, target(echo) as there, ExitStack() as held:
        for number in range(SESSIONS + 10):
            with account(NOBODY - 1 - number % 20):
                try:
                    held.enter_context(connect(proxy.address, there.host, there.port))
                except OSError:
                    pass  # reset at once: the account has its share
        for number in range(5):
            with account(NOBODY - 100 - number):
                other = held.enter_context(connect(proxy.address, there.host, there.port))
                other.send(b"words")
                assert other.receive(5) == b"words"
        proxy.wait_for("client.drop", reason="evicted", code="limit")
        ended = proxy.wait_for("session.end", code="limit")
    assert "had most places" in ended.fields["reason"]


def test_associations_of_one_account_have_a_limit(tmp_path: Path) -> None:
    config = configuration(workers=1, limits={"associations_per_client": 2})
    with running(tmp_path, config) as proxy, ExitStack() as held:
        for _ in range(2):
            tunnel = held.enter_context(Tunnel.dial(proxy.address))
            tunnel.log_in()
            tunnel.ask("0.0.0.0", 0, 3)
        with Tunnel.dial(proxy.address) as third:
            third.log_in()
            with pytest.raises(RefusedError) as refused:
                third.ask("0.0.0.0", 0, 3)
        assert refused.value.rep == 1
        proxy.wait_for("session.end", command="udp", code="limit")
