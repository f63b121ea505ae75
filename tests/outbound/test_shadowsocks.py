"""The way through a peer: literals are judged here, names leave unresolved, failures are told."""

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.crypto.methods import AES_128_GCM, METHODS, Method
from geproxy.crypto.secret import Secret
from geproxy.errors import DeadlineError, DeniedError, DialError
from geproxy.inbound.shadowsocks import ShadowsocksInbound
from geproxy.net.buffers import BufferPool
from geproxy.net.deadline import Deadline
from geproxy.net.dialer import Dialer
from geproxy.net.stream import SocketStream
from geproxy.outbound.shadowsocks import ShadowsocksOutbound
from geproxy.state.memory import ProcessMemory
from geproxy.terms import Address, Endpoint, Outcome
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, read_exactly
from tests.support.names import knowing
from tests.support.nobody import black_hole

CLIENT = IPv4Address("192.0.2.1")
TARGET = Endpoint("target.example", 443)
SECRET = Secret(AES_128_GCM, bytes(range(16)))


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


class Names:
    """A look-up that knows nobody but the peer, and notes who was asked for."""

    def __init__(self, **known: str) -> None:
        self._known = {name.replace("_", "."): ip_address(host) for name, host in known.items()}
        self.asked: list[str] = []

    def __call__(self, name: str) -> tuple[Address, ...]:
        self.asked.append(name)
        return (self._known[name],) if name in self._known else ()


def outbound(
    peer: Endpoint,
    names: Names | None = None,
    *,
    secret: Secret = SECRET,
    connect_seconds: float = HARD_SECONDS,
) -> ShadowsocksOutbound:
    resolver = knowing(names if names is not None else Names())
    dialer = Dialer(resolver, connect_seconds)
    return ShadowsocksOutbound("relay", peer, secret, dialer, BufferPool(), ProcessMemory(1000))


def nobody_is_judged(endpoint: Endpoint) -> None:
    raise AssertionError(f"{endpoint} was judged")


class Peer:
    """A real listener that takes what an outbound sends."""

    def __init__(self, sock: socket.socket, secret: Secret) -> None:
        sock.setblocking(False)
        self._listening = sock
        self._inbound = ShadowsocksInbound(secret, ProcessMemory(1000), BufferPool())
        self.endpoint = Endpoint.from_sockaddr(sock.getsockname())

    def was_dialed(self) -> bool:
        return bool(select.select([self._listening], [], [], 0)[0])

    def accept(self) -> SocketStream:
        assert select.select([self._listening], [], [], HARD_SECONDS)[0]
        sock, sockaddr = self._listening.accept()
        sock.setblocking(False)
        return SocketStream(sock, Endpoint.from_sockaddr(sockaddr))

    def check_hears(self, target: Endpoint, data: bytes) -> None:
        """Accept one connection; it must ask for *target* and then say *data*."""
        stream = self.accept()
        try:
            request = self._inbound.negotiate(stream)
            assert request.target == target
            assert read_exactly(request.stream, len(data)) == data
        finally:
            stream.close()


@contextmanager
def peering(secret: Secret = SECRET, host: str = "127.0.0.1") -> Iterator[Peer]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock:
        yield Peer(sock, secret)


# -- what leaves ---------------------------------------------------------------------------------


def test_it_is_called_what_the_configuration_calls_it() -> None:
    assert outbound(TARGET).name == "relay"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(
    "target",
    [
        pytest.param(TARGET, id="a name"),
        pytest.param(Endpoint(IPv4Address("192.0.2.7"), 80), id="an IPv4 address"),
        pytest.param(Endpoint(IPv6Address("2001:db8::7"), 80), id="an IPv6 address"),
        pytest.param(Endpoint("n" * 255, 65535), id="the longest name"),
    ],
)
def test_the_target_travels_in_front_of_the_first_bytes(target: Endpoint, method: Method) -> None:
    secret = Secret(method, b"k" * method.key_bytes)
    with peering(secret) as peer:
        way = outbound(peer.endpoint, secret=secret)
        stream = way.connect(target, lambda endpoint: None, CLIENT)
        assert stream.holds_head
        stream.send_all(b"hello")
        peer.check_hears(target, b"hello")
        stream.close()


def test_nothing_leaves_before_the_first_bytes_or_word_to_go() -> None:
    with peering() as peer:
        stream = outbound(peer.endpoint).connect(TARGET, nobody_is_judged, CLIENT)
        far = peer.accept()
        assert far.recv_into(memoryview(bytearray(1000))) is None
        stream.close()
        assert far.recv(1000) == b""
        far.close()


def test_it_looks_like_the_connection_to_the_peer() -> None:
    with peering() as peer:
        stream = outbound(peer.endpoint).connect(TARGET, nobody_is_judged, CLIENT)
        far = peer.accept()
        assert (stream.peer, stream.bound) == (peer.endpoint, far.peer)
        stream.close()
        far.close()


# -- who is judged, and who is looked up ---------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("target.example", id="a name"),
        pytest.param("localhost", id="localhost, which is the far end's own"),
        pytest.param("cafe.de", id="a name of hexadecimal letters"),
        pytest.param("xn--bcher-kva.example", id="a name beyond ASCII"),
    ],
)
def test_a_name_is_neither_judged_nor_looked_up_here(host: str) -> None:
    names = Names()
    with peering() as peer:
        stream = outbound(peer.endpoint, names).connect(
            Endpoint(host, 443), nobody_is_judged, CLIENT
        )
        stream.send_all(b"x")
        peer.check_hears(Endpoint(host, 443), b"x")
        stream.close()
    assert names.asked == []


ADDRESSES = [
    pytest.param(IPv4Address("127.0.0.1"), id="an IPv4 address"),
    pytest.param(IPv6Address("::1"), id="an IPv6 address"),
]


@pytest.mark.parametrize("host", ADDRESSES)
def test_an_address_is_judged_before_the_peer_is_dialed(host: Address) -> None:
    asked = []

    def deny(endpoint: Endpoint) -> None:
        asked.append(endpoint)
        raise DeniedError("no")

    names = Names()
    with peering() as peer:
        with pytest.raises(DeniedError):
            outbound(peer.endpoint, names).connect(Endpoint(host, 443), deny, CLIENT)
        assert not peer.was_dialed()
    assert asked == [Endpoint(host, 443)]
    assert names.asked == []


@pytest.mark.parametrize("host", ADDRESSES)
def test_an_address_that_is_allowed_leaves_as_it_came(host: Address) -> None:
    asked: list[Endpoint] = []
    with peering() as peer:
        stream = outbound(peer.endpoint).connect(Endpoint(host, 443), asked.append, CLIENT)
        stream.send_all(b"x")
        peer.check_hears(Endpoint(host, 443), b"x")
        stream.close()
    assert asked == [Endpoint(host, 443)], "the peer's own address is trusted"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_peer_may_have_a_name_which_is_looked_up_and_not_judged(host: str) -> None:
    names = Names(relay_example=host)
    with peering(host=host) as peer:
        way = outbound(Endpoint("relay.example", peer.endpoint.port), names)
        stream = way.connect(TARGET, nobody_is_judged, CLIENT)
        assert stream.peer == peer.endpoint
        stream.send_all(b"x")
        peer.check_hears(TARGET, b"x")
        stream.close()
    assert names.asked == ["relay.example"]


# -- peers that cannot be reached ----------------------------------------------------------------


def failure(peer: Endpoint, connect_seconds: float = HARD_SECONDS) -> tuple[str, Outcome]:
    """How a connection through *peer* fails."""
    way = outbound(peer, connect_seconds=connect_seconds)
    with pytest.raises(DialError) as caught:
        way.connect(TARGET, nobody_is_judged, CLIENT)
    assert "target.example" not in str(caught.value), "it is the peer that failed"
    return caught.value.code, caught.value.outcome


def test_a_peer_that_refuses_is_a_refusal() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        peer = Endpoint.from_sockaddr(sock.getsockname())
        assert failure(peer) == ("refused", Outcome.REFUSED)


def test_a_peer_that_is_silent_is_a_timeout() -> None:
    with black_hole() as peer:
        assert failure(peer, SHORT_SECONDS) == ("timeout", Outcome.TIMED_OUT)


def test_a_peer_that_has_no_address_is_an_unreachable_host() -> None:
    assert failure(Endpoint("relay.example", 8388)) == ("resolve", Outcome.HOST_UNREACHABLE)


def test_a_peer_that_no_route_leads_to_is_an_unreachable_network() -> None:
    peer = Endpoint(IPv4Address("224.0.0.1"), 8388)  # connect(2) answers at once for multicast
    assert failure(peer) == ("unreachable", Outcome.NETWORK_UNREACHABLE)


def test_a_deadline_around_it_stays_a_deadline() -> None:
    with black_hole() as peer, pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "all"):
        outbound(peer).connect(TARGET, nobody_is_judged, CLIENT)
