"""Datagrams through a Shadowsocks peer, which here is the twin: one port, sealed both ways."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.crypto.aead import TAG_BYTES
from geproxy.crypto.methods import METHODS, Method
from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import (
    AuthenticationError,
    CommandError,
    DeniedError,
    DropError,
    GeproxyError,
    ProtocolError,
    ReplayError,
    ResolveError,
)
from geproxy.inbound import shadowsocks as inbound
from geproxy.net.buffers import BufferPool
from geproxy.net.deadline import Deadline
from geproxy.net.dialer import Dialer
from geproxy.outbound.shadowsocks import ROLE, SealedDatagrams, ShadowsocksOutbound
from geproxy.state.memory import ProcessMemory
from geproxy.terms import AS_WE_ARE, Address, Command, Endpoint, Filtering
from tests.support.conformance import HARD_SECONDS, beside, settle
from tests.support.datagrams import MAX_PAYLOAD_BYTES, Peer, send_nothing_more, udp_peer
from tests.support.memory import memory_pair
from tests.support.names import knowing
from tests.support.shadowsocks_twin import Key, address, opened_datagram, sealed_datagram

EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
CLIENT = IPv4Address("192.0.2.1")
TARGET = Endpoint("target.example", 53)
HEAD = address("target.example", 53)
SOURCE = address("198.51.100.7", 53)


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


def nobody_is_judged(endpoint: Endpoint) -> None:
    raise AssertionError(f"{endpoint} was judged")


NAMES: dict[str, list[str]] = {}


@pytest.fixture(autouse=True)
def known_names() -> None:
    NAMES.clear()
    NAMES["relay.example"] = ["127.0.0.1"]


def names(name: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, NAMES.get(name, ())))


class Way:
    """A way through *peer*, the twin, and what the twin does."""

    def __init__(
        self,
        peer: Peer,
        method: Method,
        host: Address | str | None = None,
        cache_seconds: float = 60.0,
    ) -> None:
        self.peer = peer
        self.secret = Secret(method, b"k" * method.key_bytes)
        self.key = Key(method.name, self.secret.key)
        self.memory = ProcessMemory(10_000)
        there = Endpoint(host or peer.endpoint.host, peer.endpoint.port)
        dialer = Dialer(knowing(names, cache_seconds), HARD_SECONDS)
        self.outbound = ShadowsocksOutbound(
            "relay", there, self.secret, dialer, BufferPool(), self.memory
        )
        self.datagrams = self.open()

    def open(self) -> SealedDatagrams:
        return self.outbound.associate(CLIENT, Filtering.NONE)

    def send(self, data: bytes) -> bytes:
        """Send to the target; returns what the peer received, sealed."""
        self.datagrams.send(HEAD, data, None)
        return self.peer.receive()[0]

    def ours(self) -> Endpoint:
        """Our own address, as the peer sees it."""
        self.datagrams.send(HEAD, b"hello", None)
        return self.peer.receive()[1]

    def answer(self, sealed: bytes) -> None:
        self.peer.send(sealed, self.ours())

    def receive(self) -> tuple[bytes, bytes]:
        while (found := self.datagrams.receive()) is None:
            self.datagrams.wait_readable()
        return found

    def check_dropped(self, sealed: bytes, kind: type[GeproxyError]) -> None:
        self.answer(sealed)
        with pytest.raises(GeproxyError) as caught:
            self.receive()
        assert type(caught.value) is kind


@contextmanager
def way_through(
    method: Method = METHODS["aes-128-gcm"],
    host: str = "127.0.0.1",
    name: str | None = None,
    cache_seconds: float = 60.0,
) -> Iterator[Way]:
    with udp_peer(host) as peer:
        way = Way(peer, method, name, cache_seconds)
        try:
            yield way
        finally:
            way.datagrams.close()


# -- up ------------------------------------------------------------------------------------------


@EVERY_METHOD
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size_bytes", [0, 1, 512, 1200, 8191, 8192, 8193, 16384])
def test_the_peer_opens_head_and_data(method: Method, host: str, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    with way_through(method, host) as way:
        sealed = way.send(data)
        assert opened_datagram(way.key, sealed) == HEAD + data
        assert len(sealed) == method.salt_bytes + len(HEAD + data) + TAG_BYTES


@EVERY_METHOD
def test_the_largest_that_fits_passes_and_one_byte_more_is_dropped(method: Method) -> None:
    most = MAX_PAYLOAD_BYTES - method.salt_bytes - TAG_BYTES - len(HEAD)
    with way_through(method) as way:
        assert len(way.send(bytes(most))) == MAX_PAYLOAD_BYTES
        with pytest.raises(DropError) as caught:
            way.datagrams.send(HEAD, bytes(most + 1), None)
        assert caught.value.code == "size"
        assert opened_datagram(way.key, way.send(b"next")) == HEAD + b"next"


def test_no_two_datagrams_have_one_salt_and_all_come_from_one_port() -> None:
    with way_through() as way:
        salts, ports = set(), set()
        for _ in range(300):
            way.datagrams.send(HEAD, b"the same", None)
            sealed, source = way.peer.receive()
            salts.add(sealed[:16])
            ports.add(source.port)
        assert (len(salts), len(ports)) == (300, 1)


# -- down ----------------------------------------------------------------------------------------


@EVERY_METHOD
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("data", [b"", b"x", b"d" * 60_000], ids=["nothing", "a byte", "much"])
def test_what_the_peer_seals_is_source_and_data(method: Method, host: str, data: bytes) -> None:
    with way_through(method, host) as way:
        way.answer(sealed_datagram(way.key, SOURCE + data))
        assert way.receive() == (SOURCE, data)


def test_nothing_there_is_none_and_a_wait_ends_with_a_datagram() -> None:
    with way_through() as way:
        assert way.datagrams.receive() is None
        ours = way.ours()
        with beside(way.receive) as (receiving,):
            settle()
            assert not receiving.dead
            way.peer.send(sealed_datagram(way.key, SOURCE + b"x"), ours)
        assert receiving.value == (SOURCE, b"x")


@EVERY_METHOD
def test_a_burst_of_the_peers_is_opened_one_by_one(method: Method) -> None:
    with way_through(method) as way:
        sealed = [sealed_datagram(way.key, SOURCE + data) for data in (b"one", b"two", b"3")]
        way.peer.send_burst(b"".join(sealed), len(sealed[0]), way.ours())
        for data in (b"one", b"two", b"3"):
            assert way.datagrams.receive() == (SOURCE, data)
            assert way.datagrams.in_burst == (data != b"3")
        assert way.datagrams.receive() is None


@EVERY_METHOD
def test_what_is_sent_in_a_row_can_be_opened_one_by_one(method: Method) -> None:
    with way_through(method) as way:
        for number in range(100):
            way.datagrams.send(HEAD, b"%03d" % number, None)
        opened = [opened_datagram(way.key, sealed) for sealed in way.peer.waiting()]
        assert opened == [HEAD + b"%03d" % number for number in range(100)]


def test_what_the_system_did_not_take_is_told_with_the_size_of_its_data() -> None:
    with way_through() as way:
        lost: list[tuple[str, int]] = []
        way.datagrams.on_loss(lambda code, size: lost.append((code, size)))
        assert way.send(b"taken")
        send_nothing_more(way.datagrams._socket)
        for data in (b"", b"1", b"22", b"22"):
            way.datagrams.send(HEAD, data, None)
        assert way.peer.waiting() == []
        assert lost == [("unreachable", size) for size in (0, 1, 2, 2)]


def test_nobody_but_the_peer_is_heard() -> None:
    with way_through() as way, udp_peer() as stranger:
        ours = way.ours()
        stranger.send(sealed_datagram(way.key, SOURCE + b"stranger"), ours)
        settle()
        assert way.datagrams.receive() is None


@EVERY_METHOD
def test_what_comes_again_is_a_replay(method: Method) -> None:
    with way_through(method) as way:
        sealed = sealed_datagram(way.key, SOURCE + b"x")
        way.answer(sealed)
        assert way.receive() == (SOURCE, b"x")
        way.check_dropped(sealed, ReplayError)


def test_a_replay_into_another_association_is_one_too() -> None:
    with way_through() as way:
        sealed = sealed_datagram(way.key, SOURCE + b"x")
        way.answer(sealed)
        way.receive()
        way.datagrams.close()
        way.datagrams = way.open()
        way.check_dropped(sealed, ReplayError)


@EVERY_METHOD
def test_our_own_datagram_that_comes_back_is_a_replay(method: Method) -> None:
    with way_through(method) as way:
        sealed = way.send(b"to the target")
        way.check_dropped(sealed, ReplayError)
        assert way.memory.remember_once(sealed[: method.salt_bytes]), "it costs no memory"


@EVERY_METHOD
def test_a_geproxy_at_the_other_end_is_no_reflection_of_ours(method: Method) -> None:
    with way_through(method) as way:
        theirs = SaltMaker(way.secret, inbound.ROLE).make()
        way.answer(sealed_datagram(way.key, SOURCE + b"x", theirs))
        assert way.receive() == (SOURCE, b"x")
        ours = SaltMaker(way.secret, ROLE).make()
        way.check_dropped(sealed_datagram(way.key, SOURCE + b"x", ours), ReplayError)


@EVERY_METHOD
def test_every_truncation_is_dropped_and_the_whole_is_then_taken(method: Method) -> None:
    with way_through(method) as way:
        sealed = sealed_datagram(way.key, SOURCE + b"data")
        for cut in range(len(sealed)):
            kind = ProtocolError if cut < method.salt_bytes + TAG_BYTES else AuthenticationError
            way.check_dropped(sealed[:cut], kind)
        way.answer(sealed)
        assert way.receive() == (SOURCE, b"data")


@EVERY_METHOD
def test_with_any_bit_changed_it_is_dropped(method: Method) -> None:
    with way_through(method) as way:
        sealed = bytearray(sealed_datagram(way.key, SOURCE + b"data"))
        for bit in range(8 * len(sealed)):
            sealed[bit // 8] ^= 1 << bit % 8
            way.check_dropped(bytes(sealed), AuthenticationError)
            sealed[bit // 8] ^= 1 << bit % 8
        way.answer(bytes(sealed))
        assert way.receive() == (SOURCE, b"data")


def test_a_peer_with_another_key_is_not_believed() -> None:
    with way_through() as way:
        way.check_dropped(
            sealed_datagram(Key("aes-128-gcm", bytes(16)), SOURCE + b"x"), AuthenticationError
        )


@pytest.mark.parametrize("plain", [b"", b"\x05" + bytes(9), SOURCE[:-1]])
def test_what_is_authentic_and_no_message_is_a_protocol_error(plain: bytes) -> None:
    with way_through() as way:
        way.check_dropped(sealed_datagram(way.key, plain), ProtocolError)


# -- targets and peers ---------------------------------------------------------------------------


def test_everything_goes_to_the_peer_and_names_are_its_business() -> None:
    with way_through() as way:
        assert way.datagrams.find(TARGET, nobody_is_judged, CLIENT) is None


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(IPv4Address("127.0.0.1"), id="an IPv4 address"),
        pytest.param(IPv6Address("::1"), id="an IPv6 address"),
    ],
)
def test_an_address_is_judged_here_too(host: Address) -> None:
    asked = []

    def deny(endpoint: Endpoint) -> None:
        asked.append(endpoint)
        raise DeniedError("no")

    with way_through() as way, pytest.raises(DeniedError):
        way.datagrams.find(Endpoint(host, 53), deny, CLIENT)
    assert asked == [Endpoint(host, 53)]


def test_a_peer_may_have_a_name_which_is_looked_up_here() -> None:
    with way_through(name="relay.example") as way:
        assert opened_datagram(way.key, way.send(b"x")) == HEAD + b"x"


def test_a_peer_without_an_address_is_told() -> None:
    with udp_peer() as peer, pytest.raises(ResolveError):
        Way(peer, METHODS["aes-128-gcm"], "nobody.example")


def test_a_port_that_another_worker_gives_is_gone_on_with() -> None:
    with way_through() as way:
        ours = way.ours()
        descriptor, known = way.datagrams.duplicate()
        heir = way.outbound.adopt(descriptor, known, Filtering.NONE)
        way.datagrams.close()
        way.datagrams = heir
        assert way.ours() == ours
        way.answer(sealed_datagram(way.key, SOURCE + b"x"))
        assert way.receive() == (SOURCE, b"x")


class Binding:
    """A request for BIND."""

    command = Command.BIND
    target = TARGET
    user = claimed = None

    def __init__(self) -> None:
        self.stream, _ = memory_pair()


def test_there_is_no_bind_through_a_peer() -> None:
    with way_through() as way, pytest.raises(CommandError):
        way.outbound.bind(Binding(), nobody_is_judged, AS_WE_ARE)  # type: ignore[arg-type]


# -- a world that changes --------------------------------------------------------------------------


def test_a_way_is_silent_where_something_was_sent_and_nothing_came_back() -> None:
    with way_through() as way:
        assert not way.datagrams.take_silence(), "nothing was sent"
        ours = way.ours()
        assert way.datagrams.take_silence()
        assert not way.datagrams.take_silence(), "nothing was sent since"
        way.send(b"asked")
        way.peer.send(sealed_datagram(way.key, SOURCE + b"answered"), ours)
        assert way.receive() == (SOURCE, b"answered")
        assert not way.datagrams.take_silence()
        way.send(b"asked")
        way.peer.send(b"a stranger's, or noise" * 10, ours)
        with pytest.raises(AuthenticationError):
            way.receive()
        assert way.datagrams.take_silence()


@pytest.mark.parametrize("waiting", [True, False], ids=["awaited", "not awaited"])
def test_a_peer_whose_name_has_moved_is_followed(waiting: bool) -> None:
    with (
        way_through(name="relay.example", cache_seconds=0.0) as way,
        udp_peer("127.0.0.2", way.peer.endpoint.port) as moved,
        beside(*[way.receive] * waiting) as receiving,
    ):
        settle()
        before = way.ours()
        NAMES["relay.example"] = ["127.0.0.2"]
        way.datagrams.renew(CLIENT)
        way.datagrams.send(HEAD, b"hello", None)
        sealed, after = moved.receive()
        assert opened_datagram(way.key, sealed) == HEAD + b"hello"
        assert after != before
        moved.send(sealed_datagram(way.key, SOURCE + b"answer"), after)
        if waiting:
            receiving[0].join()
            assert receiving[0].value == (SOURCE, b"answer")
        else:
            assert way.receive() == (SOURCE, b"answer")


@pytest.mark.parametrize("name", [None, "relay.example"])
def test_what_leads_where_it_should_keeps_its_port(name: str | None) -> None:
    with way_through(name=name, cache_seconds=0.0) as way:
        before = way.ours()
        NAMES["relay.example"] = ["127.0.0.9", "127.0.0.1"]
        way.datagrams.renew(CLIENT)
        assert way.ours() == before


def test_a_name_that_is_no_more_keeps_the_port_and_says_why() -> None:
    with way_through(name="relay.example", cache_seconds=0.0) as way:
        before = way.ours()
        NAMES.clear()
        with pytest.raises(ResolveError):
            way.datagrams.renew(CLIENT)
        assert way.ours() == before


def test_where_one_address_of_the_peer_refuses_the_next_is_tried() -> None:
    NAMES["relay.example"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    with way_through(name="relay.example") as way:
        way.peer.close()
        with udp_peer("127.0.0.3", way.peer.endpoint.port) as third:
            for _ in range(2):
                way.datagrams.send(HEAD, b"x", None)
                way.datagrams._socket.flush()
                assert way.datagrams.receive() is None  # but for what ICMP says
                assert third.waiting() == []
                way.datagrams.renew(CLIENT)
            way.datagrams.send(HEAD, b"x", None)
            assert opened_datagram(way.key, third.receive()[0]) == HEAD + b"x"


def test_what_the_system_does_not_take_is_told_after_a_renewal_too() -> None:
    with (
        way_through(name="relay.example", cache_seconds=0.0) as way,
        udp_peer("127.0.0.2", way.peer.endpoint.port),
    ):
        lost: list[tuple[str, int]] = []
        way.datagrams.on_loss(lambda code, size: lost.append((code, size)))
        NAMES["relay.example"] = ["127.0.0.2"]
        way.datagrams.renew(CLIENT)
        send_nothing_more(way.datagrams._socket)
        way.datagrams.send(HEAD, b"four", None)
        way.datagrams._socket.flush()
        assert lost == [("unreachable", 4)]


def test_who_ends_while_its_peers_name_is_looked_up_gets_no_new_port() -> None:
    with way_through(name="relay.example", cache_seconds=0.0) as way:
        NAMES["relay.example"] = ["127.0.0.2"]
        with beside(lambda: way.datagrams.renew(CLIENT)) as (renewing,):
            way.datagrams.close()
            renewing.join()
        assert renewing.successful()
