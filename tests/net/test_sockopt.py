"""Which congestion control a connection has; the other options are seen at work elsewhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from geproxy.net import sockopt
from geproxy.net.sockopt import BBR, RENO, TCP_CA_NAME_MAX, unpace_loopback


def control_of(sock: socket.socket) -> bytes:
    """The congestion control of a connection."""
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, TCP_CA_NAME_MAX)
    return name.rstrip(b"\0")


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """A socket that has the system's choice still."""
    with socket.socket() as made:
        yield made


@pytest.fixture
def _pacing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that paces; whether the one that runs us does is its administrator's choice."""
    monkeypatch.setattr(sockopt, "_system_paces", lambda: True)


@pytest.mark.usefixtures("_pacing")
@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"])
def test_what_stays_on_this_machine_is_not_paced(sock: socket.socket, host: str) -> None:
    unpace_loopback(sock, host)
    assert control_of(sock) == RENO


@pytest.mark.usefixtures("_pacing")
@pytest.mark.parametrize("host", ["192.0.2.1", "10.127.0.1", "::", "2001:db8::1", "::ffff:1.2.7.1"])
def test_what_leaves_this_machine_has_the_systems_choice(sock: socket.socket, host: str) -> None:
    chosen = control_of(sock)
    unpace_loopback(sock, host)
    assert control_of(sock) == chosen


def test_where_the_system_does_not_pace_its_choice_stays(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = control_of(sock)
    monkeypatch.setattr(sockopt, "_system_paces", lambda: False)
    unpace_loopback(sock, "127.0.0.1")
    assert control_of(sock) == chosen


def test_the_system_paces_where_its_choice_is_bbr(sock: socket.socket) -> None:
    sockopt._system_paces.cache_clear()
    assert sockopt._system_paces() == control_of(sock).startswith(BBR)


@pytest.mark.usefixtures("_pacing")
def test_a_kernel_that_refuses_costs_nothing_but_speed(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = control_of(sock)
    monkeypatch.setattr(sockopt, "RENO", b"nobody has it")
    unpace_loopback(sock, "127.0.0.1")
    assert control_of(sock) == chosen
