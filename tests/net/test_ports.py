"""Ports out of a range: any that is free, none that is not, and no worker's first choice alike."""

import errno
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from geproxy.net.ports import bind_in

HOST = "127.0.0.1"


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def make(held: ExitStack, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
    return held.enter_context(socket.socket(socket.AF_INET, kind))


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> range:
    """A range of ports that are all free, below those that the kernel gives to connections."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        below = int(file.read().split()[0])
    for _ in range(100):
        first = 1024 + secrets.randbelow(below - 1024 - count)
        ports = range(first, first + count)
        with ExitStack() as probing:
            try:
                for port in ports:
                    make(probing, kind).bind((HOST, port))
            except OSError:
                continue
            return ports
    raise AssertionError("no free ports in a row")


def test_without_a_range_the_kernel_chooses(held: ExitStack) -> None:
    sock = make(held)
    bind_in(sock, HOST, None)
    assert port_of(sock) != 0


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["UDP", "TCP"])
def test_every_port_of_a_range_is_found_once_and_then_there_is_none(
    held: ExitStack, kind: socket.SocketKind
) -> None:
    ports = free_ports(20, kind)
    found = []
    for _ in ports:
        sock = make(held, kind)
        bind_in(sock, HOST, ports)
        found.append(port_of(sock))
    assert sorted(found) == list(ports)
    with pytest.raises(OSError) as caught:
        bind_in(make(held, kind), HOST, ports)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("free", range(5))
def test_the_one_port_that_is_free_is_found_wherever_it_is(held: ExitStack, free: int) -> None:
    ports = free_ports(5)
    for number, port in enumerate(ports):
        if number != free:
            make(held).bind((HOST, port))
    sock = make(held)
    bind_in(sock, HOST, ports)
    assert port_of(sock) == ports[free]


def test_a_range_may_be_one_port(held: ExitStack) -> None:
    ports = free_ports(1)
    sock = make(held)
    bind_in(sock, HOST, ports)
    assert port_of(sock) == ports[0]


def test_a_port_that_is_given_back_is_found_again(held: ExitStack) -> None:
    ports = free_ports(3)
    socks = [make(held) for _ in ports]
    for sock in socks:
        bind_in(sock, HOST, ports)
    port = port_of(socks[1])
    socks[1].close()
    again = make(held)
    bind_in(again, HOST, ports)
    assert port_of(again) == port


def test_the_search_does_not_always_begin_at_the_same_port() -> None:
    ports = free_ports(16)
    found = set()
    for _ in range(64):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            bind_in(sock, HOST, ports)
            found.add(port_of(sock))
    assert len(found) > 1  # 64 times the same of 16 by chance: once in 10^75


def test_what_is_wrong_with_the_address_is_told_at_once(held: ExitStack) -> None:
    with pytest.raises(OSError) as caught:
        bind_in(make(held), "192.0.2.1", range(40_000, 50_000))
    assert caught.value.errno == errno.EADDRNOTAVAIL
