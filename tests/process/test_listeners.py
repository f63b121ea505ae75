"""Listening sockets: opened once, lent, kept through a reload, and given back."""

import dataclasses
import errno
import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from geproxy.config.settings import Listen
from geproxy.config.url import parse_listen_url
from geproxy.errors import StartError
from geproxy.net.sockopt import KEEPALIVE_IDLE_SECONDS
from geproxy.process.listeners import ListeningSockets, Place, address_of
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
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")], 1).streams["a"]
    endpoint = address_of(sock)
    assert endpoint.port != 0
    with connect(endpoint), accept(sock):
        pass


@needs_ipv6
def test_an_empty_host_has_one_socket_per_family_on_the_same_port(
    sockets: ListeningSockets,
) -> None:
    for number in range(10):
        first, second = sockets.open([listen(f"a{number}", "socks5://:0")], 1).streams[f"a{number}"]
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
    sock = sockets.open([listen("a", url)], 1).streams["a"][-1]
    assert sock.family == socket.AF_INET6
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == v6only


@needs_ipv6
def test_a_dual_stack_socket_takes_clients_of_both_families(sockets: ListeningSockets) -> None:
    (sock,) = sockets.open([listen("a", "socks5://[::]:0")], 1).streams["a"]
    port = address_of(sock).port
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port), timeout=10), accept(sock):
            pass


def test_what_is_open_is_lent_again_and_not_opened_twice(sockets: ListeningSockets) -> None:
    first = sockets.open([listen("a", "socks5://127.0.0.1:0")], 1).streams["a"]
    before = open_descriptors()
    again = sockets.open([listen("a", "socks5://127.0.0.1:0")], 1).streams["a"]
    assert [id(sock) for sock in again] == [id(sock) for sock in first]
    assert open_descriptors() == before


def test_a_listener_with_a_new_name_keeps_the_socket_of_its_address(
    sockets: ListeningSockets,
) -> None:
    (probe,) = sockets.open([listen("probe", "socks5://127.0.0.1:0")], 1).streams["probe"]
    port = address_of(probe).port
    sockets.close_others(())
    (first,) = sockets.open([listen("a", f"socks5://127.0.0.1:{port}")], 1).streams["a"]
    (again,) = sockets.open([listen("b", f"socks5://127.0.0.1:{port}")], 1).streams["b"]
    assert again is first


def test_two_listeners_on_port_0_have_two_ports(sockets: ListeningSockets) -> None:
    lent = sockets.open([listen(name, "socks5://127.0.0.1:0") for name in ("a", "b")], 1).streams
    assert address_of(lent["a"][0]).port != address_of(lent["b"][0]).port


def test_what_is_no_longer_named_is_closed_and_the_rest_untouched(
    sockets: ListeningSockets,
) -> None:
    kept, gone = (listen(name, "socks5://127.0.0.1:0") for name in ("kept", "gone"))
    lent = sockets.open([kept, gone], 1).streams
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
            sockets.open([listen("a", f"socks5://127.0.0.1:{port}")], 1)
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
            sockets.open([listen("a", f"socks5://:{port}")], 1)
        assert open_descriptors() == before  # the IPv4 one, which could be had, is closed again


def test_an_address_that_is_not_ours_fails(sockets: ListeningSockets) -> None:
    if Path("/proc/sys/net/ipv4/ip_nonlocal_bind").read_text() != "0\n":
        pytest.skip("ip_nonlocal_bind is set")
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        sockets.open([listen("a", "socks5://192.0.2.1:0")], 1)


def test_a_failure_changes_nothing(sockets: ListeningSockets) -> None:
    old = listen("old", "socks5://127.0.0.1:0")
    (sock,) = sockets.open([old], 1).streams["old"]
    before = open_descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bad = listen("bad", f"socks5://127.0.0.1:{taken.getsockname()[1]}")
        new = listen("new", "socks5://127.0.0.1:0")
        with pytest.raises(StartError):
            sockets.open([new, old, bad], 1)
    assert open_descriptors() == before
    with connect(address_of(sock)), accept(sock):
        pass
    assert sockets.open([old], 1).streams["old"] == [sock]
    assert sockets.close_others([old]) == []


def test_a_failure_can_be_mended_and_tried_again(sockets: ListeningSockets) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"socks5://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError):
            sockets.open([listen("a", url)], 1)
    (sock,) = sockets.open([listen("a", url)], 1).streams["a"]
    assert sock.fileno() >= 0


def test_a_port_can_be_had_again_while_old_connections_wind_up(
    sockets: ListeningSockets,
) -> None:
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")], 1).streams["a"]
    endpoint = address_of(sock)
    client = connect(endpoint)
    accept(sock).close()  # our side ends first, so the port is left in FIN-WAIT or TIME-WAIT
    client.close()
    sockets.close_others(())
    (again,) = sockets.open([listen("a", f"socks5://{endpoint}")], 1).streams["a"]
    assert address_of(again) == endpoint


def test_accepted_connections_inherit_what_every_connection_has(
    sockets: ListeningSockets,
) -> None:
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")], 1).streams["a"]
    with connect(address_of(sock)), accept(sock) as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        assert idle == KEEPALIVE_IDLE_SECONDS


def test_a_listening_socket_never_blocks_and_stays_with_this_program(
    sockets: ListeningSockets,
) -> None:
    (sock,) = sockets.open([listen("a", "socks5://127.0.0.1:0")], 1).streams["a"]
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


# -- UDP -----------------------------------------------------------------------------------------

SEALED = "ss://aes-256-gcm:password@"


def test_a_sealed_listener_has_tcp_and_udp_on_one_port(sockets: ListeningSockets) -> None:
    lent = sockets.open([listen("a", f"{SEALED}127.0.0.1:0")], 3)
    (stream,) = lent.streams["a"]
    (slots,) = lent.datagrams["a"]
    assert {sock.type for sock in slots} == {socket.SOCK_DGRAM}
    assert len(slots) == lent.slots == 3
    assert {address_of(sock) for sock in (stream, *slots)} == {address_of(stream)}
    assert lent.addresses["a"] == [address_of(stream)], "an address is told once"
    with connect(address_of(stream)), accept(stream):
        pass


@needs_ipv6
def test_every_family_and_transport_has_the_same_port(sockets: ListeningSockets) -> None:
    for number in range(10):
        name = f"a{number}"
        lent = sockets.open([listen(name, f"{SEALED}:0")], 2)
        every = [*lent.streams[name], *(sock for slots in lent.datagrams[name] for sock in slots)]
        assert len(every) == 2 + 2 * 2
        assert len({address_of(sock).port for sock in every}) == 1
        assert [str(one.host) for one in lent.addresses[name]] == ["0.0.0.0", "::"]


def test_a_sealed_listener_without_udp_has_tcp_alone(sockets: ListeningSockets) -> None:
    plain = dataclasses.replace(listen("a", f"{SEALED}127.0.0.1:0"), udp=False)
    lent = sockets.open([plain], 2)
    assert (len(lent.streams["a"]), list(lent.datagrams["a"]), lent.slots) == (1, [], 0)


def test_a_udp_tunnel_has_no_tcp(sockets: ListeningSockets) -> None:
    lent = sockets.open([listen("a", "udp://127.0.0.1:0")], 2)
    assert list(lent.streams["a"]) == []
    ((first, second),) = lent.datagrams["a"]
    assert address_of(first) == address_of(second) == lent.addresses["a"][0]
    assert refuses(address_of(first))


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:0", "mixed://127.0.0.1:0"])
def test_the_associations_of_socks_need_no_socket_of_the_listener(
    sockets: ListeningSockets, url: str
) -> None:
    lent = sockets.open([listen("a", url)], 2)
    assert (list(lent.datagrams["a"]), lent.slots) == ([], 0)


def test_a_udp_socket_never_blocks_and_is_shared_by_one_user_alone(
    sockets: ListeningSockets,
) -> None:
    ((sock,),) = sockets.open([listen("a", "udp://127.0.0.1:0")], 1).datagrams["a"]
    assert not sock.getblocking()
    assert not sock.get_inheritable()
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
    # With it, another user could bind the port too, and receive what is sent to it.
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    with pytest.raises(BlockingIOError):
        sock.recv(1)


def test_each_client_keeps_its_slot(sockets: ListeningSockets) -> None:
    (slots,) = sockets.open([listen("a", "udp://127.0.0.1:0")], 4).datagrams["a"]
    where = address_of(slots[0]).sockaddr
    used = set()
    for number in range(40):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(3):
                client.sendto(bytes((number,)), where)
        found = []
        for index, sock in enumerate(slots):
            try:
                while True:
                    assert sock.recv(10) == bytes((number,))
                    found.append(index)
            except BlockingIOError:
                pass
        assert len(found) == 3
        assert len(set(found)) == 1
        used.add(found[0])
    assert len(used) > 1  # all 40 in one of 4 slots by chance: once in 10^23


def test_slots_stay_as_many_as_they_were_opened(sockets: ListeningSockets) -> None:
    """One more would move clients from one worker to another."""
    one = listen("a", "udp://127.0.0.1:0")
    first = sockets.open([one], 2)
    before = open_descriptors()
    again = sockets.open([one], 5)
    assert again.slots == 2
    assert [list(map(id, slots)) for slots in again.datagrams["a"]] == [
        list(map(id, slots)) for slots in first.datagrams["a"]
    ]
    assert open_descriptors() == before


def test_a_worker_keeps_its_share_and_closes_the_rest(sockets: ListeningSockets) -> None:
    listeners = [listen("a", f"{SEALED}127.0.0.1:0"), listen("b", "udp://127.0.0.1:0")]
    lent = sockets.open(listeners, 3)
    every = {
        Place(name, 0, slot): sock
        for name, (slots,) in lent.datagrams.items()
        for slot, sock in enumerate(slots)
    }
    kept = lent.keep({0, 2})
    assert set(kept) == {Place(name, 0, slot) for name in ("a", "b") for slot in (0, 2)}
    assert all(kept[place] is every[place] for place in kept)
    for place, sock in every.items():
        assert (sock.fileno() >= 0) == (place in kept)
    assert all(sock.fileno() >= 0 for streams in lent.streams.values() for sock in streams)


def test_a_worker_without_a_share_keeps_none() -> None:
    lent = ListeningSockets().open([listen("b", "udp://127.0.0.1:0")], 2)
    assert lent.keep(()) == {}
    assert all(sock.fileno() == -1 for (slots,) in lent.datagrams.values() for sock in slots)


def test_a_udp_port_that_is_taken_fails_and_gives_everything_back(
    sockets: ListeningSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geproxy.process.listeners.UDP_PATIENCE_SECONDS", 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        before = open_descriptors()
        with pytest.raises(StartError) as caught:
            sockets.open([listen("a", f"{SEALED}127.0.0.1:{port}")], 2)
        assert open_descriptors() == before
    reason = os.strerror(errno.EADDRINUSE)
    assert str(caught.value) == f"listen.a.url: cannot listen on 127.0.0.1:{port}: {reason}"


def test_a_second_master_does_not_share_a_udp_port(
    sockets: ListeningSockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geproxy.process.listeners.UDP_PATIENCE_SECONDS", 0.0)
    (address,) = sockets.open([listen("a", "udp://127.0.0.1:0")], 2).addresses["a"]
    second = ListeningSockets()
    with pytest.raises(StartError, match="Address already in use"):
        second.open([listen("b", f"udp://127.0.0.1:{address.port}")], 2)


def test_a_udp_port_that_workers_of_a_dead_master_give_up_in_time_is_had(
    sockets: ListeningSockets,
) -> None:
    (address,) = sockets.open([listen("a", "udp://127.0.0.1:0")], 2).addresses["a"]
    leaving = threading.Timer(0.3, sockets.close_others, [[]])
    leaving.start()
    second = ListeningSockets()
    try:
        lent = second.open([listen("b", f"udp://127.0.0.1:{address.port}")], 2)
        assert lent.addresses["b"] == [address]
    finally:
        leaving.join()
        second.close_others([])


def test_udp_that_is_no_longer_named_is_closed(sockets: ListeningSockets) -> None:
    kept, gone = listen("kept", "udp://127.0.0.1:0"), listen("gone", f"{SEALED}127.0.0.1:0")
    lent = sockets.open([kept, gone], 2)
    gone_at = lent.addresses["gone"][0]
    assert sockets.close_others([kept]) == [gone_at, gone_at], "its TCP and its UDP"
    assert all(sock.fileno() == -1 for sock in lent.datagrams["gone"][0])
    assert all(sock.fileno() >= 0 for sock in lent.datagrams["kept"][0])


def test_udp_that_a_reload_turns_off_is_closed_and_tcp_stays(sockets: ListeningSockets) -> None:
    both = listen("a", f"{SEALED}127.0.0.1:0")
    lent = sockets.open([both], 2)
    alone = dataclasses.replace(both, udp=False)
    assert list(sockets.open([alone], 2).datagrams["a"]) == []
    assert sockets.close_others([alone]) == [lent.addresses["a"][0]]
    assert lent.streams["a"][0].fileno() >= 0
    with connect(lent.addresses["a"][0]), accept(lent.streams["a"][0]):
        pass


def test_udp_that_a_reload_turns_on_is_at_the_port_that_tcp_has(
    sockets: ListeningSockets,
) -> None:
    both = listen("a", f"{SEALED}127.0.0.1:0")
    (stream,) = sockets.open([dataclasses.replace(both, udp=False)], 2).streams["a"]
    lent = sockets.open([both], 2)
    assert list(lent.streams["a"]) == [stream]
    assert {address_of(sock) for sock in lent.datagrams["a"][0]} == {address_of(stream)}
