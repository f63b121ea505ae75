"""sd_notify(3) without a library: one datagram each, to whom the environment names."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from geproxy.process.notify import notify_ready, notify_reloading, notify_stopping


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        yield sock


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_each_message_is_one_datagram(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"geproxy-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    manager.bind("\0" + name if abstract else name)
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else name)
    before = time.monotonic_ns() // 1000
    notify_ready()
    notify_reloading()
    notify_stopping()
    assert manager.recv(4096).decode() == f"READY=1\nMAINPID={os.getpid()}"
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    key, _, microseconds = second.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1000
    assert manager.recv(4096) == b"STOPPING=1"


@pytest.mark.parametrize(
    "name", [None, "", "notify", "/nowhere/notify", "@nobody-listens", "/" + "x" * 200, "/dev/null"]
)
def test_without_a_manager_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    if name is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    before = len(os.listdir("/proc/self/fd"))
    notify_ready()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_manager_that_does_not_read_is_not_waited_for(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    for _ in range(2000):
        notify_stopping()
    assert manager.recv(100) == b"STOPPING=1"
