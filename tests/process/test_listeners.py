"""Listening sockets: opened once, lent, kept through a reload, and given back."""

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from geproxy.config.settings import Listen
from geproxy.config.url import parse_listen_url
from geproxy.errors import StartError
from geproxy.net.sockopt import KEEPALIVE_IDLE_SECONDS
from geproxy.process.listeners import ListeningSockets, address_of
from geproxy.terms import Endpoint


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the kernel has no IPv6")


@pytest.fixture
def sockets() -> Iterator[ListeningSockets]:
    sockets = ListeningSockets()
    yield sockets
    sockets.close_others(())


def listen(name: str, url: str) -> Listen:
    return Listen(name=name, url=parse_listen_url(url))


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def connect(endpoint: Endpoint) -> socket.socket:
    return socket.create_connection(endpoint.sockaddr, timeout=10)


def accept(listening: socket.socket) -> socket.socket:
    listening.settimeout(10)
    return listening.accept()[0]


def refuses(endpoint: Endpoint) -> bool:
    """Nobody listens there."""
    try:
        connect(endpoint).close()
    except ConnectionRefusedError:
        return True
    return False


def test_port_0_becomes_a_port_that_takes_clients(sockets: ListeningSockets) -> None:
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")])["a"]
    endpoint = address_of(sock)
    assert endpoint.port != 0
    with connect(endpoint), accept(sock):
        pass


@needs_ipv6
def test_an_empty_host_has_one_socket_per_family_on_the_same_port(
    sockets: ListeningSockets,
) -> None:
    for number in range(10):
        first, second = sockets.open([listen(f"a{number}", "socks5://:0")])[f"a{number}"]
        assert (first.family, second.family) == (socket.AF_INET, socket.AF_INET6)
        assert address_of(first).port == address_of(second).port != 0


@needs_ipv6
@pytest.mark.parametrize(
    ("url", "v6only"),
    [
        pytest.param("socks5://[::]:0", 0, id="[::] alone is dual stack"),
        pytest.param("socks5://[::1]:0", 1, id="another IPv6 address is IPv6 alone"),
        pytest.param("socks5://:0", 1, id="[::] beside 0.0.0.0 is IPv6 alone"),
    ],
)
def test_which_families_an_ipv6_socket_takes(
    sockets: ListeningSockets, url: str, v6only: int
) -> None:
    sock = sockets.open([listen("a", url)])["a"][-1]
    assert sock.family == socket.AF_INET6
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == v6only


@needs_ipv6
def test_a_dual_stack_socket_takes_clients_of_both_families(sockets: ListeningSockets) -> None:
    (sock,) = sockets.open([listen("a", "socks5://[::]:0")])["a"]
    port = address_of(sock).port
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port), timeout=10), accept(sock):
            pass


def test_what_is_open_is_lent_again_and_not_opened_twice(sockets: ListeningSockets) -> None:
    first = sockets.open([listen("a", "socks5://127.0.0.1:0")])["a"]
    before = open_descriptors()
    again = sockets.open([listen("a", "socks5://127.0.0.1:0")])["a"]
    assert [id(sock) for sock in again] == [id(sock) for sock in first]
    assert open_descriptors() == before


def test_a_listener_with_a_new_name_keeps_the_socket_of_its_address(
    sockets: ListeningSockets,
) -> None:
    (probe,) = sockets.open([listen("probe", "socks5://127.0.0.1:0")])["probe"]
    port = address_of(probe).port
    sockets.close_others(())
    (first,) = sockets.open([listen("a", f"socks5://127.0.0.1:{port}")])["a"]
    (again,) = sockets.open([listen("b", f"socks5://127.0.0.1:{port}")])["b"]
    assert again is first


def test_two_listeners_on_port_0_have_two_ports(sockets: ListeningSockets) -> None:
    lent = sockets.open([listen(name, "socks5://127.0.0.1:0") for name in ("a", "b")])
    assert address_of(lent["a"][0]).port != address_of(lent["b"][0]).port


def test_what_is_no_longer_named_is_closed_and_the_rest_untouched(
    sockets: ListeningSockets,
) -> None:
    kept, gone = (listen(name, "socks5://127.0.0.1:0") for name in ("kept", "gone"))
    lent = sockets.open([kept, gone])
    kept_at, gone_at = address_of(lent["kept"][0]), address_of(lent["gone"][0])
    assert sockets.close_others([kept]) == [gone_at]
    assert lent["gone"][0].fileno() == -1
    assert refuses(gone_at)
    with connect(kept_at), accept(lent["kept"][0]):
        pass
    assert sockets.close_others([kept]) == []
    assert sockets.close_others(()) == [kept_at]


def test_a_port_that_is_taken_fails_with_the_key_the_address_and_the_reason(
    sockets: ListeningSockets,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as caught:
            sockets.open([listen("a", f"socks5://127.0.0.1:{port}")])
    reason = os.strerror(errno.EADDRINUSE)
    assert str(caught.value) == f"listen.a.url: cannot listen on 127.0.0.1:{port}: {reason}"


@needs_ipv6
def test_the_address_that_is_taken_is_the_one_that_is_named(sockets: ListeningSockets) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = open_descriptors()
        with pytest.raises(StartError, match=rf"cannot listen on \[::\]:{port}: "):
            sockets.open([listen("a", f"socks5://:{port}")])
        assert open_descriptors() == before  # the IPv4 one, which could be had, is closed again


def test_an_address_that_is_not_ours_fails(sockets: ListeningSockets) -> None:
    if Path("/proc/sys/net/ipv4/ip_nonlocal_bind").read_text() != "0\n":
        pytest.skip("ip_nonlocal_bind is set")
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        sockets.open([listen("a", "socks5://192.0.2.1:0")])


def test_a_failure_changes_nothing(sockets: ListeningSockets) -> None:
    old = listen("old", "socks5://127.0.0.1:0")
    (sock,) = sockets.open([old])["old"]
    before = open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bad = listen("bad", f"socks5://127.0.0.1:{taken.getsockname()[1]}")
        new = listen("new", "socks5://127.0.0.1:0")
        with pytest.raises(StartError):
            sockets.open([new, old, bad])
    assert open_descriptors() == before
    with connect(address_of(sock)), accept(sock):
        pass
    assert sockets.open([old])["old"] == [sock]
    assert sockets.close_others([old]) == []


def test_a_failure_can_be_mended_and_tried_again(sockets: ListeningSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"socks5://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError):
            sockets.open([listen("a", url)])
    (sock,) = sockets.open([listen("a", url)])["a"]
    assert sock.fileno() >= 0


def test_a_port_can_be_had_again_while_old_connections_wind_up(
    sockets: ListeningSockets,
) -> None:
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")])["a"]
    endpoint = address_of(sock)
    client = connect(endpoint)
    accept(sock).close()  # our side ends first, so the port is left in FIN-WAIT or TIME-WAIT
    client.close()
    sockets.close_others(())
    (again,) = sockets.open([listen("a", f"socks5://{endpoint}")])["a"]
    assert address_of(again) == endpoint


def test_accepted_connections_inherit_what_every_connection_has(
    sockets: ListeningSockets,
) -> None:
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")])["a"]
    with connect(address_of(sock)), accept(sock) as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        assert idle == KEEPALIVE_IDLE_SECONDS


def test_a_listening_socket_never_blocks_and_stays_with_this_program(
    sockets: ListeningSockets,
) -> None:
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")])["a"]
    assert not sock.getblocking()
    assert not sock.get_inheritable()
    with pytest.raises(BlockingIOError):
        sock.accept()


def test_addresses_are_told_as_ipv4_where_they_are_mapped() -> None:
    if not has_ipv6():
        pytest.skip("the kernel has no IPv6")
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::ffff:127.0.0.1", 0))
        assert str(address_of(sock).host) == "127.0.0.1"
        assert not isinstance(address_of(sock).host, IPv6Address)
