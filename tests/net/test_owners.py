"""Whose a socket of this host is, as the kernel knows it."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Container, Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from geproxy.errors import DeniedError
from geproxy.net import owners
from geproxy.net.datagram import Sockaddr
from geproxy.net.owners import Identity, Owns, SocketOwners
from geproxy.net.route import OwnAddresses
from geproxy.terms import Address, Endpoint
from tests.support.accounts import AS_ROOT, NOBODY, account
from tests.support.peers import find

MAPPED = "::ffff:127.0.0.1"
HOSTS = ["127.0.0.1", "::1"]


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def asked() -> Iterator[SocketOwners]:
    own = OwnAddresses()
    made = SocketOwners(own)
    yield made
    made.close()
    own.close()


class Connection:
    """A client's TCP connection to us, over loopback."""

    def __init__(self, held: ExitStack, host: str, dialed: str = "", uid: int = -1) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = held.enter_context(
            socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
        )
        port = self.listening.getsockname()[1]
        with account(os.geteuid() if uid < 0 else uid):
            self.client = held.enter_context(socket.create_connection((dialed or host, port)))
        self.near = held.enter_context(self.listening.accept()[0])
        self.ends = (
            Endpoint.from_sockaddr(self.near.getpeername()),
            Endpoint.from_sockaddr(self.near.getsockname()),
        )


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def datagram_from(sock: socket.socket, to: socket.socket) -> Sockaddr:
    """Send one; return where it came from."""
    host, port = to.getsockname()[:2]
    mapped = sock.family == socket.AF_INET6 and ":" not in host
    sock.sendto(b"x", (f"::ffff:{host}" if mapped else host, port))
    source: Sockaddr = to.recvfrom(1)[1]
    return source


def identified(asked: SocketOwners, connection: Connection) -> Owns:
    owns = asked.identify(*connection.ends).owns
    assert owns is not None
    return owns


def udp(held: ExitStack, family: int, uid: int = -1) -> socket.socket:
    with account(os.geteuid() if uid < 0 else uid):
        sock = held.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock


V4, V6 = socket.AF_INET, socket.AF_INET6
# Of the client: the family of its socket, where that is bound, and where to it is connected
SENDERS = [
    pytest.param("127.0.0.1", V4, None, False, id="bound by its first datagram"),
    pytest.param("127.0.0.1", V4, "127.0.0.1", False, id="bound to its address"),
    pytest.param("127.0.0.1", V4, "0.0.0.0", False, id="bound to every address"),
    pytest.param("127.0.0.1", V4, None, True, id="connected"),
    pytest.param("127.0.0.1", V6, None, False, id="dual"),
    pytest.param("127.0.0.1", V6, "::", False, id="dual and bound"),
    pytest.param("127.0.0.1", V6, MAPPED, False, id="dual and bound to a mapped address"),
    pytest.param("127.0.0.1", V6, None, True, id="dual and connected"),
    pytest.param("::1", V6, None, False, id="IPv6"),
    pytest.param("::1", V6, "::1", False, id="IPv6, bound to its address"),
    pytest.param("::1", V6, None, True, id="IPv6, connected"),
]


@pytest.mark.parametrize("uid", [pytest.param(-1, id="ours"), pytest.param(NOBODY, marks=AS_ROOT)])
@pytest.mark.parametrize(("host", "family", "bound", "connected"), SENDERS)
def test_the_clients_own_socket_is_known_however_it_is_made(
    asked: SocketOwners,
    held: ExitStack,
    host: str,
    family: int,
    bound: str | None,
    connected: bool,
    uid: int,
) -> None:
    owns = identified(asked, Connection(held, host, uid=uid))
    port = udp(held, V6 if ":" in host else V4)
    port.bind((host, 0))
    sender = udp(held, family, uid)
    if bound is not None:
        sender.bind((bound, 0))
    if connected:
        mapped = family == V6 and ":" not in host
        sender.connect((f"::ffff:{host}" if mapped else host, port.getsockname()[1]))
    source = datagram_from(sender, port)
    assert owns(source, Endpoint.from_sockaddr(port.getsockname()))


@AS_ROOT
@pytest.mark.parametrize(
    ("listen", "dialed", "host"),
    [
        pytest.param("127.0.0.1", "127.0.0.1", "127.0.0.1", id="IPv4"),
        pytest.param("::1", "::1", "::1", id="IPv6"),
        pytest.param("::", "127.0.0.1", "127.0.0.1", id="IPv4 at a dual listener"),
        pytest.param("127.0.0.1", MAPPED, "127.0.0.1", id="a dual client at IPv4"),
    ],
)
def test_another_accounts_socket_is_not_the_clients(
    asked: SocketOwners, held: ExitStack, listen: str, dialed: str, host: str
) -> None:
    owns = identified(asked, Connection(held, listen, dialed, uid=NOBODY))
    port = udp(held, V6 if ":" in host else V4)
    port.bind((host, 0))
    where = Endpoint.from_sockaddr(port.getsockname())
    assert not owns(datagram_from(udp(held, port.family), port), where)
    assert owns(datagram_from(udp(held, port.family, NOBODY), port), where)


def test_a_socket_that_is_gone_is_nobodys(asked: SocketOwners, held: ExitStack) -> None:
    owns = identified(asked, Connection(held, "127.0.0.1"))
    port = udp(held, V4)
    port.bind(("127.0.0.1", 0))
    with ExitStack() as short:
        source = datagram_from(udp(short, V4), port)
    assert not owns(source, Endpoint.from_sockaddr(port.getsockname()))


def test_a_client_of_another_host_is_known_by_its_address() -> None:
    class NoAddress(Container[Address]):
        def __contains__(self, address: object) -> bool:
            return False

    made = SocketOwners(NoAddress())
    client = Endpoint(ip_address("192.0.2.1"), 9)
    reached = Endpoint(ip_address("192.0.2.2"), 1080)
    assert made.identify(client, reached) == Identity(client.address, share=client.address)
    assert made.share_of(client, reached) == client.address
    other = Endpoint(ip_address("2001:db8::1"), 9)
    assert made.share_of(other, reached) == made.share_of(
        Endpoint(ip_address("2001:db8::ffff"), 7), reached
    )
    made.close()


def test_a_client_that_has_ended_its_direction_is_known_still(
    asked: SocketOwners, held: ExitStack
) -> None:
    connection = Connection(held, "127.0.0.1")
    connection.client.shutdown(socket.SHUT_WR)
    assert connection.near.recv(1) == b""
    assert asked.identify(*connection.ends).owns is not None


@pytest.mark.parametrize("host", HOSTS)
def test_a_connection_that_its_client_has_closed_is_not_roots(
    asked: SocketOwners, held: ExitStack, host: str
) -> None:
    """The kernel reports uid 0 for it."""
    connection = Connection(held, host)
    connection.client.close()
    assert connection.near.recv(1) == b""
    with pytest.raises(DeniedError, match="no account"):
        asked.identify(*connection.ends)


def test_a_listener_in_the_place_of_the_client_is_not_the_client(
    asked: SocketOwners, held: ExitStack
) -> None:
    """The kernel falls back to it where there is no connection."""
    listening = held.enter_context(socket.create_server(("127.0.0.1", 0)))
    place = Endpoint.from_sockaddr(listening.getsockname())
    with pytest.raises(DeniedError, match="no account"):
        asked.identify(place, Endpoint(place.host, 9))


def test_a_kernel_that_has_no_sock_diag_is_told_of_and_lets_nobody_in(
    held: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection(held, "127.0.0.1")
    monkeypatch.setattr(owners, "NETLINK_SOCK_DIAG", 31)  # a protocol that no kernel has
    with ExitStack() as own:
        addresses = OwnAddresses()
        own.callback(addresses.close)
        made = SocketOwners(addresses)
        own.callback(made.close)
        assert made.fault == f"sock_diag: {os.strerror(errno.EPROTONOSUPPORT)}"
        with pytest.raises(DeniedError, match="sock_diag"):
            made.identify(*connection.ends)


def test_a_kernel_that_has_no_udp_diag_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as for a socket that is not there."""
    own = OwnAddresses()
    monkeypatch.setattr(owners.socket, "IPPROTO_UDP", 250)
    made = SocketOwners(own)
    assert made.fault == "this kernel has no udp_diag"
    made.close()
    own.close()


def test_every_question_gets_its_own_answer(asked: SocketOwners, held: ExitStack) -> None:
    connection = Connection(held, "127.0.0.1")
    nowhere = Endpoint(ip_address("127.0.0.1"), 9)
    for _ in range(50):
        assert asked.identify(*connection.ends).owns is not None
        with pytest.raises(DeniedError):
            asked.identify(nowhere, nowhere)


FOREIGN = """
import os, socket, sys
from geproxy.errors import DeniedError
from geproxy.net.owners import SocketOwners
from geproxy.net.route import OwnAddresses
from geproxy.terms import Endpoint

sock = socket.socket(fileno=int(sys.argv[1]))
ends = Endpoint.from_sockaddr(sock.getpeername()), Endpoint.from_sockaddr(sock.getsockname())
try:
    SocketOwners(OwnAddresses()).identify(*ends)
except DeniedError as error:
    print("denied")
else:
    print("known")
"""


@AS_ROOT
@pytest.mark.slow
@pytest.mark.parametrize(("uid", "said"), [(0, "known"), (4711, "denied"), (NOBODY, "denied")])
def test_accounts_that_a_user_namespace_does_not_know_are_not_one_account(
    held: ExitStack, uid: int, said: str
) -> None:
    """There the kernel reports one uid for all of them."""
    connection = Connection(held, "127.0.0.1", uid=uid)
    near = connection.near.fileno()
    done = subprocess.run(
        [find("unshare"), "--user", "--map-root-user", sys.executable, "-c", FOREIGN, str(near)],
        pass_fds=[near],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.stdout, done.stderr) == (f"{said}\n", "")


def test_the_socket_is_given_back() -> None:
    own = OwnAddresses()
    before = len(os.listdir("/proc/self/fd"))
    made = SocketOwners(own)
    assert made.fault is None
    made.close()
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before
    own.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_that_is_connected_elsewhere_in_its_own_opinion_was_brought_by_nat(
    asked: SocketOwners, held: ExitStack, host: str
) -> None:
    connection, other = (Connection(held, host) for _ in range(2))
    client, reached = connection.ends
    assert not asked.brought_by_nat(client, reached)
    assert asked.brought_by_nat(client, other.ends[1])
    elsewhere = Endpoint.from_sockaddr(("198.51.100.7", client.port))
    assert not asked.brought_by_nat(elsewhere, other.ends[1])
