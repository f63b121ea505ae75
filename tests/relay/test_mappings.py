"""The clients of a UDP listener: one mapping each, as many as there is room for."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from itertools import count
from typing import Any

import gevent
import pytest

from geproxy.errors import DeniedError, GeproxyError, LimitError, ProtocolError, ShutdownError
from geproxy.net.datagram import MAX_SEGMENTS
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import interrupt
from geproxy.net.udp import open_towards_clients
from geproxy.relay import mappings as module
from geproxy.relay.datagram import Association, Ended, Reply
from geproxy.relay.mappings import CHANCES, Mappings
from geproxy.seams import Route
from geproxy.terms import Endpoint, Filtering
from geproxy.wire.address import encode_address
from tests.support.associations import Around
from tests.support.conformance import HARD_SECONDS, settle, until
from tests.support.datagrams import Peer, send_nothing_more, udp_peer
from tests.support.floods import Flood, items_before_others

LOOPBACK = IPv4Address("127.0.0.1")


class Lines:
    """A codec: the data behind a `>`. Whatever else comes is wrong."""

    def __init__(self, target: Endpoint) -> None:
        self._head = encode_address(target)

    def read(self, datagram: bytes) -> tuple[bytes, bytes] | None:
        if datagram == b"...":
            return None
        if not datagram.startswith(b">"):
            raise ProtocolError("no line")
        return self._head, datagram[1:]

    def write(self, head: bytes, data: bytes) -> bytes:
        return b"<" + data


class Listener:
    """A UDP listener whose target is a peer, and the account that is kept of its clients."""

    def __init__(self, target: Peer) -> None:
        self.around = Around()
        self.target = target
        self.met: list[Endpoint] = []
        self.parted: list[tuple[Endpoint, Exception]] = []
        self.denied: set[int] = set()
        self.of: dict[Association, Endpoint] = {}
        socket = open_towards_clients(LOOPBACK, None)
        self.where = socket.bound
        self.mappings = Mappings(socket, Lines(target.endpoint), self)
        self.reading = gevent.spawn(self.mappings.run)

    # -- the keeper

    def meet(self, client: Endpoint, reply: Reply, ended: Ended) -> Association:
        self.met.append(client)
        if client.port in self.denied:
            raise DeniedError("no")
        made = Association(
            client.address, self._decide, reply, Filtering.NONE, ended, self.around.budget
        )
        self.of[made] = client
        return made

    def _decide(self, target: Endpoint) -> Route:
        return Route(self.around.direct, target, lambda endpoint: None)

    def part(self, association: Association, error: Exception) -> None:
        association.close()
        self.parted.append((self.of.pop(association), error))

    def give(self, association: Association) -> tuple[dict[str, Any], list[int]]:
        ways, descriptors = association.duplicate()
        association.close()
        self.of.pop(association)
        return {"ways": ways}, descriptors

    def take(self, association: Association, message: dict[str, Any], ports: list[int]) -> None:
        for (name, known), descriptor in zip(message["ways"], ports, strict=True):
            way = self.around.direct.adopt(descriptor, known, Filtering.NONE)
            association.take(name, way)

    # -- the test's side

    def meets(self, client: Peer, data: bytes = b"question") -> Endpoint:
        """Have *client* reach the target; returns the port of ours that the target saw."""
        client.send(b">" + data, self.where)
        found, source = self.target.receive()
        assert found == data
        return source

    def close(self) -> None:
        self.reading.kill()
        self.mappings.end_all(ShutdownError("over"))
        until(lambda: not self.of)
        self.mappings.close()


@pytest.fixture
def target() -> Iterator[Peer]:
    gevent.get_hub()
    before = len(os.listdir("/proc/self/fd"))
    with Deadline(HARD_SECONDS, "a test"), udp_peer() as peer:
        yield peer
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def listener(target: Peer) -> Iterator[Listener]:
    listener = Listener(target)
    yield listener
    listener.close()


def test_each_client_has_a_port_of_its_own_and_keeps_it(listener: Listener, target: Peer) -> None:
    with udp_peer() as one, udp_peer() as other:
        first, second = listener.meets(one), listener.meets(other)
        assert first.port != second.port
        assert (listener.meets(one), listener.meets(other)) == (first, second)
        assert listener.met == [one.endpoint, other.endpoint]
        target.send(b"for one", first)
        target.send(b"for the other", second)
        assert one.receive() == (b"<for one", listener.where)
        assert other.receive() == (b"<for the other", listener.where)
        assert len(listener.mappings) == 2


def test_what_is_no_datagram_of_a_client_makes_no_mapping(listener: Listener) -> None:
    with udp_peer() as stranger:
        for data in (b"", b"\0", b"garbage", b"x" * 60_000):
            stranger.send(data, listener.where)
        until(lambda: listener.mappings.dropped == {"protocol": 4})
        assert (len(listener.mappings), listener.met) == (0, [])
        assert stranger.waiting() == []
        assert listener.meets(stranger), "and it goes on"


def test_a_client_that_is_denied_is_counted_and_hears_nothing(listener: Listener) -> None:
    with udp_peer() as client:
        listener.denied.add(client.endpoint.port)
        for _ in range(3):
            client.send(b">x", listener.where)
        until(lambda: listener.mappings.dropped == {"denied": 3})
        assert len(listener.mappings) == 0
        assert client.waiting() == listener.target.waiting() == []


def test_a_datagram_that_is_not_complete_yet_goes_nowhere(listener: Listener) -> None:
    with udp_peer() as client:
        client.send(b"...", listener.where)
        assert listener.meets(client)
        assert listener.mappings.dropped == {}


def test_a_mapping_that_ends_gives_its_client_another_when_it_speaks_again(
    listener: Listener,
) -> None:
    with udp_peer() as client:
        listener.meets(client)
        (association,) = listener.of
        association.ended(LimitError("enough"))
        until(lambda: listener.parted)
        assert [(who, type(why)) for who, why in listener.parted] == [(client.endpoint, LimitError)]
        assert len(listener.mappings) == 0
        listener.meets(client)
        assert listener.met == [client.endpoint] * 2


def test_a_bug_in_one_mapping_ends_that_one_alone(listener: Listener) -> None:
    with udp_peer() as one, udp_peer() as other:
        listener.meets(one)
        port = listener.meets(other)
        broken = next(item for item, who in listener.of.items() if who == one.endpoint)

        def fail() -> None:
            raise KeyError("of ours")

        broken.crew.spawn(fail)
        until(lambda: listener.parted)
        assert [(who, type(why)) for who, why in listener.parted] == [(one.endpoint, KeyError)]
        assert listener.meets(other) == port


def test_where_there_is_no_room_the_quietest_of_the_oldest_goes(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAPPINGS", CHANCES + 4)
    with ExitStack() as held:
        # Each of a source of its own, so that no share binds.
        hosts = (f"127.0.0.{number}" for number in count(2))
        clients = [held.enter_context(udp_peer(next(hosts))) for _ in range(CHANCES + 4)]
        for client in clients:
            listener.meets(client)
        for number, association in enumerate(listener.of):
            association.quiet_since = 1000.0 - number
        newcomer = held.enter_context(udp_peer(next(hosts)))
        listener.meets(newcomer)
        until(lambda: listener.parted)
        # The last client has been quiet for longest, but is not among the oldest.
        ((who, why),) = listener.parted
        assert who == clients[CHANCES - 1].endpoint
        assert isinstance(why, LimitError)
        assert len(listener.mappings) == CHANCES + 4
        # The next look is at others first.
        listener.meets(held.enter_context(udp_peer(next(hosts))))
        until(lambda: len(listener.parted) == 2)
        assert listener.parted[1][0] == clients[-1].endpoint


def test_a_source_that_takes_more_than_its_share_loses_its_own_mappings(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = 16
    monkeypatch.setattr(module, "MAPPINGS", places)
    with ExitStack() as held:
        other = held.enter_context(udp_peer("127.0.0.2"))
        port = listener.meets(other)
        greedy = [held.enter_context(udp_peer()) for _ in range(places * 2)]
        for client in greedy:
            listener.meets(client)
        until(lambda: len(listener.mappings) <= places * 3 // 4)
        assert {who.host for who, _ in listener.parted} == {LOOPBACK}
        assert all(isinstance(why, LimitError) for _, why in listener.parted)
        assert listener.meets(other) == port


def test_all_can_be_ended_for_one_reason(listener: Listener) -> None:
    with udp_peer() as one, udp_peer() as other:
        listener.meets(one)
        listener.meets(other)
        why: GeproxyError = ShutdownError("the proxy stops")
        listener.mappings.end_all(why)
        assert len(listener.mappings) == 2, "until all of them is written down"
        until(lambda: len(listener.parted) == 2)
        assert len(listener.mappings) == 0
        assert dict(listener.parted) == {one.endpoint: why, other.endpoint: why}


def test_after_reading_has_ended_the_clients_there_are_may_still_be_answered(
    listener: Listener, target: Peer
) -> None:
    with udp_peer() as client:
        port = listener.meets(client)
        reading = gevent.spawn(listener.mappings.run)
        listener.reading.kill()
        settle()
        interrupt(reading, ShutdownError("no more clients"))
        with pytest.raises(ShutdownError):
            reading.get(timeout=HARD_SECONDS)
        target.send(b"late", port)
        assert client.receive()[0] == b"<late"


def test_another_worker_goes_on_with_every_client(target: Peer) -> None:
    here, there = Listener(target), Listener(target)
    with udp_peer() as one, udp_peer() as other:
        ports = [here.meets(one), here.meets(other)]
        for message, descriptors in here.mappings.bequeath():
            there.mappings.adopt(message, descriptors)
        assert (len(here.mappings), len(there.mappings)) == (0, 2)
        assert [there.meets(one), there.meets(other)] == ports
        target.send(b"answer", ports[0])
        assert one.receive() == (b"<answer", there.where)
    here.close()
    there.close()


def test_a_client_that_is_there_already_is_not_taken_twice(target: Peer) -> None:
    here, there = Listener(target), Listener(target)
    with udp_peer() as client:
        here.meets(client)
        port = there.meets(client)
        for message, descriptors in here.mappings.bequeath():
            there.mappings.adopt(message, descriptors)
        assert (len(there.mappings), there.meets(client)) == (1, port)
    here.close()
    there.close()


def test_a_client_that_the_other_worker_denies_stops_none_of_the_others(target: Peer) -> None:
    here, there = Listener(target), Listener(target)
    with udp_peer() as one, udp_peer() as denied, udp_peer() as other:
        ports = [here.meets(client) for client in (one, denied, other)]
        there.denied.add(denied.endpoint.port)
        for message, descriptors in here.mappings.bequeath():
            there.mappings.adopt(message, descriptors)
        assert len(there.mappings) == 2
        assert [there.meets(one), there.meets(other)] == [ports[0], ports[2]]
    here.close()
    there.close()


# -- what travels together, and what is lost -----------------------------------------------------


def test_bursts_of_several_clients_go_to_their_own_mappings(
    listener: Listener, target: Peer
) -> None:
    with udp_peer() as one, udp_peer() as other:
        ports = [listener.meets(one), listener.meets(other)]
        for first in range(10):
            one.send_burst(
                b"".join(b">1%03d" % (3 * first + n) for n in range(3)), 5, listener.where
            )
            other.send_burst(
                b"".join(b">2%03d" % (2 * first + n) for n in range(2)), 5, listener.where
            )
        found = [target.receive() for _ in range(50)]
        assert [data for data, port in found if port == ports[0]] == [
            b"1%03d" % n for n in range(30)
        ]
        assert [data for data, port in found if port == ports[1]] == [
            b"2%03d" % n for n in range(20)
        ]
        for number in range(30):
            target.send(b"%03d" % number, ports[number % 2])
        for who, client in enumerate((one, other)):
            expected = [b"<%03d" % number for number in range(who, 30, 2)]
            assert [client.receive() for _ in expected] == [
                (data, listener.where) for data in expected
            ]
        counts = {who: association.counts() for association, who in listener.of.items()}
        assert counts == {
            one.endpoint: (31, 8 + 120, 15, 45, {}),
            other.endpoint: (21, 8 + 80, 15, 45, {}),
        }


def test_an_answer_that_the_system_did_not_take_is_its_own_clients_loss(
    listener: Listener, target: Peer
) -> None:
    with udp_peer() as one, udp_peer() as other:
        first, second = listener.meets(one), listener.meets(other)
        target.send(b"taken", second)
        assert other.receive()[0] == b"<taken"
        send_nothing_more(listener.mappings._clients)
        target.send_burst(b"aaaabb", 4, first)
        target.send(b"ccc", second)
        of = {who: association for association, who in listener.of.items()}
        until(lambda: of[other.endpoint].dropped and of[one.endpoint].dropped["unreachable"] == 2)
        assert of[one.endpoint].counts() == (1, 8, 0, 0, {"unreachable": 2})
        assert of[other.endpoint].counts() == (1, 8, 1, 5, {"unreachable": 1})
        assert one.waiting() == other.waiting() == []


def test_the_loss_of_a_client_that_is_no_more_is_nobodys(listener: Listener) -> None:
    with udp_peer() as client:
        listener.meets(client)
        (association,) = listener.of
        send_nothing_more(listener.mappings._clients)
        place = client.endpoint.sockaddr
        listener.mappings._clients.send(b"<late", 4, place)
        association.ended(LimitError("enough"))
        until(lambda: listener.parted)
        assert association.counts() == (1, 8, 0, 0, {})
        listener.meets(client)


def test_a_burst_that_nobody_can_read_leaves_others_their_turn_and_is_carried_when_reading_ends(
    listener: Listener, target: Peer
) -> None:
    flood = Flood()

    class Slow(Lines):
        def read(self, datagram: bytes) -> tuple[bytes, bytes] | None:
            flood.item()
            return super().read(datagram)

    listener.mappings._codec = Slow(target.endpoint)
    with udp_peer() as client:
        client.send_burst(b">" * MAX_SEGMENTS, 1, listener.where)
        assert items_before_others(settle, flood) < MAX_SEGMENTS
        interrupt(listener.reading, ShutdownError("no more clients"))
        with pytest.raises(ShutdownError):
            listener.reading.get()
        assert flood.items == MAX_SEGMENTS, "a part of a burst is lost"
        (association,) = listener.of
        until(lambda: association.up_datagrams == MAX_SEGMENTS)
