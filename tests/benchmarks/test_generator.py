"""The load generator: it compiles without a warning, and finds what is there, and what is not."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.load import FLAGS, SOURCES, Figures, Held, LoadError, run

HARD_SECONDS = 30

pytestmark = pytest.mark.slow


def test_it_compiles_without_a_warning(program: Path) -> None:
    sources = [str(path) for path in SOURCES.glob("*.c")]
    command = ["cc", *FLAGS, "-Werror", "-fsyntax-only", *sources]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("up", [0, 1], ids=["down", "up"])
@pytest.mark.parametrize("size", [1, 65_537, 20_000_001])
def test_every_byte_of_a_stream_is_compared(
    program: Path, targets: Figures, size: int, up: int
) -> None:
    target = targets["sink" if up else "source"]
    found = run(program, "bulk", target=target, up=up, compare=1, bytes=size, connections=3)
    assert (found["bytes"], found["compared"]) == (3 * size, True)


@pytest.fixture
def zeros() -> Iterator[int]:
    """A source whose bytes are all 0, and which closes after so many."""

    def serve() -> None:
        client, _ = server.accept()
        with client:
            client.recv(16)
            client.sendall(bytes(1000))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(HARD_SECONDS)


def test_a_wrong_byte_is_found(program: Path, zeros: int) -> None:
    with pytest.raises(LoadError, match="a wrong byte after 0"):
        run(program, "bulk", target=zeros, compare=1, bytes=1000)


def test_a_stream_that_ends_early_is_an_error(program: Path, zeros: int) -> None:
    with pytest.raises(LoadError, match="closed after 1000 of 2000 bytes"):
        run(program, "bulk", target=zeros, bytes=2000)


def test_short_connections_are_counted(program: Path, targets: Figures) -> None:
    found = run(program, "short", target=targets["echo"], connections=8, seconds=0.1)
    assert found["count"] >= 8
    assert found["failures"] == 0


@pytest.mark.parametrize("at_once", [1, 4, 50])
def test_so_many_short_connections_are_made_as_were_asked_for(
    program: Path, targets: Figures, at_once: int
) -> None:
    found = run(program, "short", target=targets["echo"], connections=at_once, count=40)
    assert (found["count"], found["failures"]) == (40, 0)


def test_datagrams_come_back(program: Path, targets: Figures) -> None:
    found = run(program, "udp", target=targets["datagrams"], flight=8, seconds=0.1)
    assert found["count"] >= 8


@pytest.mark.parametrize("flight", [1, 8, 100])
def test_so_many_datagrams_go_out_as_were_asked_for(
    program: Path, targets: Figures, flight: int
) -> None:
    found = run(program, "udp", target=targets["datagrams"], flight=flight, count=40)
    assert found["count"] + found["lost"] == 40


def test_idle_connections_are_open_until_they_are_left(program: Path, targets: Figures) -> None:
    with Held(program, "idle", target=targets["echo"], connections=100, payload=1) as idle:
        assert idle.figures == {"open": 100}


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that is taken, and at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


@pytest.mark.parametrize("role", ["short", "bulk", "ping", "udp"])
def test_a_proxy_that_is_none_is_an_error_with_its_reason(
    program: Path, nobody: int, role: str
) -> None:
    with pytest.raises(LoadError, match="connect: Connection refused"):
        run(program, role, target=1, dialect="socks5", proxy=nobody)


def test_idle_connections_that_cannot_be_had_are_an_error(program: Path, nobody: int) -> None:
    idle = Held(program, "idle", target=nobody, connections=1)
    with pytest.raises(LoadError, match="with 0 connections open"), idle:
        pass
