"""A flood of wrong passwords, with real hashes: newcomers get in, and no failure goes uncounted."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from geproxy.crypto.password import hash_password
from tests.support.proxy import configuration, running, wait_until
from tests.support.socks import Address, Tunnel, credentials, greeting
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery"
NEWCOMERS = 6
GUESSERS = 20  # addresses; each tries more than enough passwords to be told by them
ROUNDS = 60
ROUND_SECONDS = 0.05  # the pace of the flood: 400 a second, twenty times what a core can hash
PATIENCE_SECONDS = 30.0
LEAVERS = 120


def write_users(path: Path) -> None:
    """One account for each newcomer, all with one password: to hash is slow."""
    stored = hash_password(PASSWORD.encode())
    path.touch(0o600)
    path.write_text("".join(f"user{number}:{stored}\n" for number in range(NEWCOMERS)))


async def guess(address: Address, source: str, password: str) -> None:
    """Try one password of a user who may exist, and wait for the verdict."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        sock.bind((source, 0))
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, greeting(2) + credentials("user0", password))
        heard = b""
        while piece := await loop.sock_recv(sock, 100):
            heard += piece
        assert heard == b"\x05\x02\x01\x01"


async def guess_all(address: Address) -> None:
    """Guess at the pace of the flood; and once more, when everybody knows who guesses."""
    tasks: list[asyncio.Task[None]] = []

    def guess_a_round(turn: int) -> None:
        for number in range(GUESSERS):
            attempt = guess(address, f"127.1.0.{number + 1}", f"guess {turn} of {number}")
            tasks.append(asyncio.create_task(attempt))

    for turn in range(ROUNDS - 1):
        guess_a_round(turn)
        await asyncio.sleep(ROUND_SECONDS)
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_SECONDS)
    guess_a_round(ROUNDS)
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_SECONDS)


@contextmanager
def flood(address: Address) -> Iterator[None]:
    """Guess beside the body, which ends when all have their verdict."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(guess_all(address))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert failures == []


def log_in(proxy: Address, there: Address, number: int) -> bytes:
    """Come for the first time, with the right password; returns what *there* echoes."""
    source = (f"127.2.0.{number + 1}", 0)
    with Tunnel(socket.create_connection(proxy, PATIENCE_SECONDS, source)) as tunnel:
        tunnel.log_in(f"user{number}", PASSWORD)
        tunnel.ask(*there)
        tunnel.send(b"hello")
        return tunnel.receive(5)


def test_newcomers_get_in_beside_a_flood_and_every_wrong_password_is_counted(
    tmp_path: Path,
) -> None:
    write_users(tmp_path / "users")
    listen = {"members": {"url": "socks5://127.0.0.1:0", "users": "users"}}
    # One worker: each counts for itself, and the kernel chooses among them.
    config = configuration(listen, workers=1, limits={"handshake_seconds": 4})
    with running(tmp_path, config) as proxy, target(echo) as there:
        with flood(proxy.address):
            proxy.wait_for("session.end", code="limit")  # from now on there is no place
            with ThreadPoolExecutor(NEWCOMERS) as executor:
                enter = partial(log_in, proxy.address, (there.host, there.port))
                assert list(executor.map(enter, range(NEWCOMERS))) == [b"hello"] * NEWCOMERS
        proxy.signal(signal.SIGTERM)
        assert proxy.wait_for_exit() == 0
        proxy.wait_for("end")
        ends = proxy.events("session.end")
        unwelcome = [line for line in ends if line.fields["code"] in ("auth", "limit")]
        assert len(unwelcome) == GUESSERS * ROUNDS
        assert proxy.failures() == GUESSERS * ROUNDS
        lines = len(proxy.events("auth.fail"))
        assert lines < GUESSERS * ROUNDS / 2, "a flood does not fill the log"


def test_clients_that_have_left_cost_no_hash_and_keep_nobody_waiting(tmp_path: Path) -> None:
    write_users(tmp_path / "users")
    listen = {"members": {"url": "socks5://127.0.0.1:0", "users": "users"}}
    with running(tmp_path, configuration(listen)) as proxy, target(echo) as there:
        leavers = []
        for number in range(LEAVERS):
            tunnel = Tunnel.dial(proxy.address)
            tunnel.send(greeting(2) + credentials("user0", f"guess {number}"))
            leavers.append(tunnel)
        for tunnel in leavers:
            assert tunnel.receive(2) == b"\x05\x02"  # the rest has arrived with the greeting
            tunnel.reset()
        assert log_in(proxy.address, (there.host, there.port), 1) == b"hello"
        left = "the client has left before its password was checked"

        def all_ended() -> bool:
            return len(proxy.events("session.end")) == LEAVERS + 1

        wait_until(all_ended)
        reasons = [line.fields.get("reason") for line in proxy.events("session.end")]
        assert left in reasons
        # The others were refused: so many passwords of one address are guesses. A few were hashed
        # while they came.
        assert reasons.count("wrong password") < LEAVERS / 4
