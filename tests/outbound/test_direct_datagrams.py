"""Datagrams straight out: one port for every target, and who may answer there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.errors import DeniedError, DropError, GeproxyError, ResolveError
from geproxy.net.deadline import Deadline
from geproxy.net.dialer import Dialer
from geproxy.outbound import direct, reached
from geproxy.outbound.direct import DirectDatagrams, DirectOutbound
from geproxy.seams import Permit
from geproxy.terms import Address, Endpoint, Filtering
from geproxy.wire.address import encode_address
from tests.support.conformance import HARD_SECONDS, beside, noise, settle
from tests.support.datagrams import MAX_PAYLOAD_BYTES, SIZES, Peer, closed_udp_port, udp_peer
from tests.support.names import knowing

CLIENT = IPv4Address("192.0.2.1")
HEAD = b"the way does not read it"
EVERY_FILTERING = pytest.mark.parametrize(
    "filtering", Filtering, ids=[one.value for one in Filtering]
)


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


def names(name: str) -> tuple[Address, ...]:
    known = {"target.example": ("127.0.0.2", "127.0.0.1"), "six.example": ("::1", "127.0.0.1")}
    return tuple(map(ip_address, known.get(name, ())))


def outbound() -> DirectOutbound:
    return DirectOutbound(Dialer(knowing(names), HARD_SECONDS))


def anything(endpoint: Endpoint) -> None:
    """A permit for all."""


@contextmanager
def way_out(filtering: Filtering = Filtering.NONE) -> Iterator[DirectDatagrams]:
    way = outbound().associate(CLIENT, filtering)
    try:
        yield way
    finally:
        way.close()


def send(way: DirectDatagrams, data: bytes, to: Endpoint, permit: Permit = anything) -> None:
    way.send(HEAD, data, way.find(to, permit, CLIENT))


def ours(way: DirectDatagrams, peer: Peer) -> Endpoint:
    """Our own address, as *peer* sees it."""
    send(way, b"hello", peer.endpoint)
    data, source = peer.receive()
    assert data == b"hello"
    return source


def taken(way: DirectDatagrams) -> list[tuple[bytes, bytes] | str]:
    """All that is there: source and data, and for each that was dropped its code."""
    found: list[tuple[bytes, bytes] | str] = []
    while True:
        try:
            received = way.receive()
        except GeproxyError as error:
            found.append(error.code)
            continue
        if received is None:
            return found
        found.append(received)


def from_(peer: Peer, data: bytes) -> tuple[bytes, bytes]:
    """What is received of *data* from *peer*."""
    return encode_address(peer.endpoint), data


# -- the mapping ---------------------------------------------------------------------------------


@EVERY_FILTERING
def test_every_target_of_either_family_sees_the_same_port(filtering: Filtering) -> None:
    with (
        way_out(filtering) as way,
        udp_peer() as one,
        udp_peer() as two,
        udp_peer("127.0.0.2") as three,
        udp_peer("::1") as four,
    ):
        sources = [ours(way, peer) for peer in (one, two, three, four)]
        assert len({source.port for source in sources}) == 1
        assert ours(way, one) == sources[0], "and goes on seeing it"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_every_size_passes_whole_in_both_directions(host: str, size_bytes: int) -> None:
    data = noise(size_bytes)
    with way_out() as way, udp_peer(host) as peer:
        send(way, data, peer.endpoint)
        found, source = peer.receive()
        assert found == data
        peer.send(data, source)
        assert taken(way) == [from_(peer, data)]


def test_a_source_is_an_ipv4_address_where_it_is_one() -> None:
    with way_out() as way, udp_peer() as peer:
        peer.send(b"x", ours(way, peer))
        ((head, _),) = taken(way)
        port = peer.endpoint.port.to_bytes(2, "big")
        assert head == b"\x01\x7f\x00\x00\x01" + port


def test_what_is_too_large_is_dropped_for_its_size() -> None:
    with way_out() as way, udp_peer() as peer:
        with pytest.raises(DropError) as caught:
            send(way, bytes(MAX_PAYLOAD_BYTES + 1), peer.endpoint)
        assert caught.value.code == "size"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_target_that_is_closed_costs_the_others_nothing(host: str) -> None:
    with way_out() as way, udp_peer(host) as peer, closed_udp_port(host) as nobody:
        for _ in range(5):
            send(way, b"lost", nobody)
            peer.send(b"answer", ours(way, peer))
            assert taken(way) == [from_(peer, b"answer")]


@EVERY_FILTERING
def test_what_the_system_did_not_take_is_told_with_its_size(filtering: Filtering) -> None:
    with way_out(filtering) as way, udp_peer() as peer:
        lost: list[tuple[str, int]] = []
        way.on_loss(lambda code, size: lost.append((code, size)))
        broadcast = Endpoint(IPv4Address("255.255.255.255"), 9)
        for data in (b"1", b"22", b"22"):
            send(way, data, broadcast)
        send(way, b"taken", peer.endpoint)
        assert (peer.receive()[0], lost) == (
            b"taken",
            [("unreachable", 1), ("unreachable", 2), ("unreachable", 2)],
        )


@EVERY_FILTERING
def test_a_burst_of_answers_is_taken_one_by_one(filtering: Filtering) -> None:
    with way_out(filtering) as way, udp_peer() as peer:
        peer.send_burst(b"aabbc", 2, ours(way, peer))
        for data in (b"aa", b"bb", b"c"):
            assert way.receive() == from_(peer, data)
            assert way.in_burst == (data != b"c")
        assert taken(way) == []


def test_every_datagram_of_a_strangers_burst_is_dropped() -> None:
    with way_out(Filtering.PORT) as way, udp_peer() as peer, udp_peer() as stranger:
        source = ours(way, peer)
        stranger.send_burst(b"aabbc", 2, source)
        peer.send(b"answer", source)
        assert taken(way) == [*["filtered"] * 3, from_(peer, b"answer")]


def test_a_wait_ends_with_an_answer() -> None:
    with way_out() as way, udp_peer() as peer:
        source = ours(way, peer)
        with beside(way.wait_readable) as (waiting,):
            settle()
            assert not waiting.dead
            peer.send(b"x", source)
        assert taken(way) == [from_(peer, b"x")]


# -- filtering (RFC 4787 §5) ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filtering", "other_port", "other_host"),
    [
        pytest.param(Filtering.NONE, True, True, id="endpoint-independent"),
        pytest.param(Filtering.ADDRESS, True, False, id="address-dependent"),
        pytest.param(Filtering.PORT, False, False, id="address-and-port-dependent"),
    ],
)
def test_whose_answers_are_taken(filtering: Filtering, other_port: bool, other_host: bool) -> None:
    with (
        way_out(filtering) as way,
        udp_peer() as target,
        udp_peer() as neighbour,
        udp_peer("127.0.0.2") as stranger,
    ):
        where = ours(way, target)
        for peer, welcome in ((target, True), (neighbour, other_port), (stranger, other_host)):
            for data in (b"first", b"second"):
                peer.send(data, where)
                assert taken(way) == [from_(peer, data) if welcome else "filtered"]


@EVERY_FILTERING
def test_the_same_over_ipv6(filtering: Filtering) -> None:
    with way_out(filtering) as way, udp_peer("::1") as target, udp_peer("::1") as neighbour:
        where = ours(way, target)
        target.send(b"x", where)
        neighbour.send(b"y", where)
        welcome = filtering is not Filtering.PORT
        expected = from_(neighbour, b"y") if welcome else "filtered"
        assert taken(way) == [from_(target, b"x"), expected]


@pytest.mark.parametrize("filtering", [Filtering.ADDRESS, Filtering.PORT])
def test_who_is_sent_to_later_may_answer_from_then_on(filtering: Filtering) -> None:
    with way_out(filtering) as way, udp_peer() as target, udp_peer("127.0.0.2") as stranger:
        where = ours(way, target)
        stranger.send(b"early", where)
        assert taken(way) == ["filtered"]
        ours(way, stranger)
        stranger.send(b"late", where)
        assert taken(way) == [from_(stranger, b"late")]


@EVERY_FILTERING
def test_what_is_remembered_of_sources_is_bounded(
    monkeypatch: pytest.MonkeyPatch, filtering: Filtering
) -> None:
    monkeypatch.setattr(direct, "HEADS", 8)
    with way_out(filtering) as way, udp_peer() as target:
        where = ours(way, target)
        for _ in range(30):
            with udp_peer() as other:
                other.send(b"x", where)
                (found,) = taken(way)
                expected = "filtered" if filtering is Filtering.PORT else from_(other, b"x")
                assert found == expected
        assert len(way._heads) <= 8
        target.send(b"still known", where)
        assert taken(way) == [from_(target, b"still known")]


@pytest.mark.parametrize("filtering", [Filtering.ADDRESS, Filtering.PORT])
def test_of_too_many_targets_the_oldest_may_answer_no_more(
    monkeypatch: pytest.MonkeyPatch, filtering: Filtering
) -> None:
    monkeypatch.setattr(reached, "REMEMBERED", 8)
    with way_out(filtering) as way, udp_peer() as oldest:
        where = ours(way, oldest)
        oldest.send(b"x", where)
        assert taken(way) == [from_(oldest, b"x")]
        for number in range(2, 10):
            send(way, b"x", Endpoint(ip_address(f"127.0.0.{number}"), 9))
        oldest.send(b"x", where)
        assert taken(way) == ["filtered"]
        assert len(way.reached._keys) <= 8
        ours(way, oldest)
        oldest.send(b"x", where)
        assert taken(way) == [from_(oldest, b"x")]


# -- names, and who is judged --------------------------------------------------------------------


def test_a_name_is_resolved_here_and_its_first_address_taken() -> None:
    judged: list[Endpoint] = []
    with way_out() as way, udp_peer("127.0.0.2") as peer:
        send(way, b"x", Endpoint("target.example", peer.endpoint.port), judged.append)
        assert peer.waiting() == [b"x"]
        assert judged[0] == peer.endpoint


def test_an_address_that_is_denied_is_passed_over() -> None:
    def permit(endpoint: Endpoint) -> None:
        if endpoint.host == IPv4Address("127.0.0.2"):
            raise DeniedError("no")

    with way_out() as way, udp_peer() as peer:
        send(way, b"x", Endpoint("target.example", peer.endpoint.port), permit)
        assert peer.waiting() == [b"x"]


@pytest.mark.parametrize(
    "host", ["target.example", IPv4Address("127.0.0.1"), IPv6Address("::ffff:127.0.0.1")]
)
def test_where_all_is_denied_nothing_is_found(host: Address | str) -> None:
    def permit(endpoint: Endpoint) -> None:
        assert isinstance(endpoint.host, IPv4Address)
        raise DeniedError("no")

    with way_out() as way, pytest.raises(DeniedError):
        way.find(Endpoint(host, 53), permit, CLIENT)


def test_a_name_without_an_address_is_told() -> None:
    with way_out() as way, pytest.raises(ResolveError):
        way.find(Endpoint("nobody.example", 53), anything, CLIENT)


# -- another worker ------------------------------------------------------------------------------


@EVERY_FILTERING
def test_a_port_that_another_worker_gives_is_gone_on_with(filtering: Filtering) -> None:
    way = outbound().associate(CLIENT, filtering)
    with udp_peer() as target, udp_peer("127.0.0.2") as stranger:
        where = ours(way, target)
        descriptor, known = way.duplicate()
        way.close()
        heir = outbound().adopt(descriptor, known, filtering)
        target.send(b"x", where)
        stranger.send(b"y", where)
        welcome = filtering is Filtering.NONE
        expected = from_(stranger, b"y") if welcome else "filtered"
        assert taken(heir) == [from_(target, b"x"), expected]
        assert ours(heir, target) == where
        heir.close()
