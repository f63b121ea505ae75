"""The kernel chooses our port: not the peer's own, and where none is left, that is a limit."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

import pytest

from geproxy.errors import DialError
from geproxy.net.datagram import DatagramSocket
from geproxy.net.deadline import Deadline
from geproxy.net.dial import dial, meets_itself
from geproxy.net.dialer import Dialer
from geproxy.net.peerport import PeerPort, address_towards
from geproxy.net.stream import SocketStream
from geproxy.net.udp import open_outwards, open_towards, open_towards_clients
from geproxy.outbound.direct import DirectOutbound
from geproxy.terms import Endpoint, Filtering, Outcome
from tests.support.conformance import HARD_SECONDS, settle
from tests.support.hosts import CLIENT, CLIENT_6, OtherHost, other_host, two_hosts
from tests.support.names import knowing

pytestmark = pytest.mark.slow

PORT = 40_000  # the first that the kernel gives
OTHER_PORT = 5000  # one that it never gives
SELF, SELF_6 = "192.0.2.7", "2001:db8::7"  # RFC 5737, RFC 3849
OWN = ["127.0.0.1", SELF, "0.0.0.0", "::1", SELF_6, "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"]
LOOPBACK = ["127.0.0.1", "::1"]
LIMIT = ("limit", Outcome.FAILED)
ANYBODY = ip_address("192.0.2.1")
DIALER = Dialer(knowing(lambda name: ()), 1.0)
NO_NETWORK = ("unreachable", Outcome.NETWORK_UNREACHABLE)


@contextmanager
def living_on(host: OtherHost) -> Iterator[None]:
    """Have every socket that is made meanwhile belong to *host*, whoever makes it."""

    class Made(socket.socket):
        def __init__(
            self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
        ) -> None:
            if fileno is None:
                fileno = host.make_socket(family, type).detach()
            super().__init__(family, type, proto, fileno)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.socket", Made)
        patch.setattr("geproxy.net.dial.SocketType", Made)
        yield


@pytest.fixture(scope="module")
def module_host() -> Iterator[OtherHost]:
    with other_host() as made:
        made.configure(f"addr add {SELF}/32 dev lo\naddr add {SELF_6}/128 dev lo nodad\n")
        yield made


@pytest.fixture
def host(module_host: OtherHost) -> Iterator[OtherHost]:
    """A host of its own, on which this test's sockets are, with one port to give."""
    module_host.give_ports(PORT, PORT)
    settle()  # the loop's own descriptors are there
    before = len(os.listdir("/proc/self/fd"))
    with living_on(module_host), Deadline(HARD_SECONDS, "a test"):
        yield module_host
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def at(host: str, port: int = PORT) -> Endpoint:
    return Endpoint(ip_address(host), port)


def listening(held: ExitStack, host: str, port: int = OTHER_PORT) -> Endpoint:
    """A target that accepts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    sock.bind((host, port))
    sock.listen()
    return at(host, port)


def dialed(held: ExitStack, *endpoints: Endpoint) -> SocketStream:
    stream = dial(endpoints, endpoints[0], HARD_SECONDS)
    held.callback(stream.abort)  # no TIME-WAIT, which would keep the port
    return stream


def opened(held: ExitStack, peer: Endpoint) -> DatagramSocket:
    sock = open_towards(peer)
    held.callback(sock.close)
    return sock


def failure(held: ExitStack, *endpoints: Endpoint) -> DialError:
    with pytest.raises(DialError) as caught:
        dialed(held, *endpoints)
    return caught.value


def what(error: DialError) -> tuple[str, Outcome]:
    return error.code, error.outcome


# -- a connection that would meet itself --------------------------------------------------------


@pytest.mark.parametrize("own", OWN)
def test_a_dial_that_would_meet_itself_is_refused(
    host: OtherHost, held: ExitStack, own: str
) -> None:
    error = failure(held, at(own))
    assert what(error) == ("refused", Outcome.REFUSED)
    assert str(error) == f"{at(own)}: Connection refused"


@pytest.mark.parametrize("own", OWN)
def test_what_met_itself_does_not_keep_the_port(host: OtherHost, held: ExitStack, own: str) -> None:
    failure(held, at(own))
    listening(held, own, PORT)


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("before", [0, 1], ids=["first", "second"])
def test_behind_one_that_met_itself_the_other_addresses_are_dialed(
    host: OtherHost, held: ExitStack, own: str, before: int
) -> None:
    good = listening(held, "127.0.0.2")
    dead = [at("127.0.0.1", OTHER_PORT)] * before
    assert dialed(held, *dead, at(own), good).peer == good


@pytest.mark.parametrize("far", [CLIENT, CLIENT_6])
def test_a_target_elsewhere_may_have_the_number_of_our_port(held: ExitStack, far: str) -> None:
    with two_hosts() as (here, there):
        with living_on(there):
            target = listening(held, far, PORT)
        here.give_ports(PORT, PORT)
        with living_on(here):
            stream = dialed(held, target)
        assert (stream.peer, stream.bound.port) == (target, PORT)


@pytest.mark.parametrize(
    ("bound", "target", "itself"),
    [
        pytest.param(at(SELF), at(SELF), True, id="the same"),
        pytest.param(at(SELF), at(SELF, OTHER_PORT), False, id="another port"),
        pytest.param(at("127.0.0.1"), at("127.0.0.2"), False, id="another address"),
        pytest.param(at("127.0.0.1"), at("0.0.0.0"), True, id="this host"),
        pytest.param(at("127.0.0.1"), at("0.0.0.0", OTHER_PORT), False, id="this host elsewhere"),
        pytest.param(at("::1"), at("::"), True, id="this host by IPv6"),
        pytest.param(at(SELF), at(f"::ffff:{SELF}"), True, id="an IPv4 address inside IPv6"),
    ],
)
def test_who_is_its_own_peer(bound: Endpoint, target: Endpoint, itself: bool) -> None:
    assert meets_itself(bound, target) is itself


@pytest.mark.parametrize("own", OWN)
def test_a_udp_port_towards_a_dead_peer_is_another_than_the_peers(
    host: OtherHost, held: ExitStack, own: str
) -> None:
    host.give_ports(PORT, PORT + 1)
    for _ in range(16):  # of two ports the kernel takes either
        with ExitStack() as here:
            sock = opened(here, at(own))
            assert sock.bound.port == PORT + 1
            sock.send(b"for the peer", 12)
            sock.flush()
            assert sock.receive() is None


@pytest.mark.parametrize("own", OWN)
def test_where_the_peers_udp_port_is_the_only_one_left_that_is_a_limit(
    host: OtherHost, own: str
) -> None:
    with pytest.raises(DialError) as caught:
        open_towards(at(own))
    assert what(caught.value) == LIMIT


def test_a_udp_peer_elsewhere_may_have_the_number_of_our_port(held: ExitStack) -> None:
    with two_hosts() as (here, _):
        here.give_ports(PORT, PORT)
        with living_on(here):
            assert opened(held, at(CLIENT)).bound.port == PORT


# -- no port is left ----------------------------------------------------------------------------


@pytest.mark.parametrize("own", [*LOOPBACK, SELF, SELF_6])
def test_where_every_local_port_is_taken_that_is_a_limit(
    host: OtherHost, held: ExitStack, own: str
) -> None:
    target = listening(held, own)
    with ExitStack() as other:
        dialed(other, target)
        error = failure(held, target)
        assert what(error) == LIMIT
        assert str(error) == f"{target}: every local port is taken"
    dialed(held, target)


@pytest.mark.parametrize("own", LOOPBACK)
def test_so_it_is_where_udp_has_none_either(host: OtherHost, held: ExitStack, own: str) -> None:
    target = listening(held, own)
    dialed(held, target)
    opened(held, at("127.0.0.1", OTHER_PORT))
    assert what(failure(held, target)) == LIMIT


@pytest.mark.parametrize("own", LOOPBACK)
def test_where_every_udp_port_is_taken_that_is_a_limit(
    host: OtherHost, held: ExitStack, own: str
) -> None:
    peer = at(own, OTHER_PORT)
    opened(held, peer)
    for attempt in (
        lambda: open_towards(peer),
        lambda: open_towards_clients(peer.address, None),
        lambda: address_towards(peer.address),
    ):
        with pytest.raises(DialError) as caught:
            attempt()
        assert what(caught.value) == LIMIT


@pytest.mark.parametrize("own", LOOPBACK)
def test_where_every_port_to_listen_on_is_taken_that_is_a_limit(
    host: OtherHost, held: ExitStack, own: str
) -> None:
    held.callback(PeerPort(ip_address(own), None, None).close)
    with pytest.raises(DialError) as caught:
        PeerPort(ip_address(own), None, None)
    assert what(caught.value) == LIMIT


# -- no address is there ------------------------------------------------------------------------


@pytest.fixture
def without_ipv6() -> Iterator[None]:
    with other_host() as made:
        made.set("ipv6/conf/all/disable_ipv6", "1")
        with living_on(made):
            yield


GONE = [at("::1"), at(SELF_6)]


@pytest.mark.parametrize("target", GONE, ids=str)
def test_a_host_without_ipv6_cannot_reach_its_targets(
    without_ipv6: None, held: ExitStack, target: Endpoint
) -> None:
    assert what(failure(held, target)) == NO_NETWORK
    for attempt in (lambda: open_towards(target), lambda: address_towards(target.address)):
        with pytest.raises(DialError) as caught:
            attempt()
        assert what(caught.value) == NO_NETWORK


@pytest.mark.parametrize("gone", [SELF, SELF_6])
def test_to_listen_at_an_address_that_has_left_is_no_limit(gone: str) -> None:
    with other_host() as made, living_on(made):
        for attempt in (
            lambda: PeerPort(ip_address(gone), None, None),
            lambda: PeerPort(ip_address(gone), range(PORT, PORT + 2), None),
            lambda: open_towards_clients(ip_address(gone), None),
        ):
            with pytest.raises(DialError) as caught:
                attempt()
            assert what(caught.value) == NO_NETWORK


@pytest.mark.parametrize("own", OWN)
def test_an_association_does_not_hear_itself(host: OtherHost, own: str) -> None:
    """Its port may be the one of a target on this host that does not run."""
    with living_on(host):
        way = DirectOutbound(DIALER).associate(ANYBODY, Filtering.NONE)
        try:
            with pytest.raises(DialError) as caught:
                way.find(Endpoint(ip_address(own), PORT), lambda endpoint: None, ANYBODY)
            assert caught.value.code == "unreachable"
            other = Endpoint(ip_address(own), OTHER_PORT)
            assert way.find(other, lambda endpoint: None, ANYBODY)
        finally:
            way.close()


def test_a_port_of_another_host_with_the_same_number_is_another(host: OtherHost) -> None:
    with living_on(host):
        way = DirectOutbound(DIALER).associate(ANYBODY, Filtering.NONE)
        try:
            far = Endpoint(ip_address("203.0.113.1"), PORT)
            assert way.find(far, lambda endpoint: None, ANYBODY)
        finally:
            way.close()


def test_no_port_for_an_association_is_a_limit(host: OtherHost) -> None:
    with living_on(host):
        first = open_outwards()
        try:
            with pytest.raises(DialError) as caught:
                open_outwards()
            assert (caught.value.code, caught.value.outcome) == LIMIT
        finally:
            first.close()
