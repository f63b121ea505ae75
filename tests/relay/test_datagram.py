"""One client's datagrams: every target by its way, and nothing ends but what is meant to end."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import cast

import gevent
import pytest

from geproxy.errors import DropError, ShutdownError
from geproxy.net.datagram import MAX_SEGMENTS
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import interrupt
from geproxy.outbound.direct import DirectDatagrams
from geproxy.relay import datagram
from geproxy.relay.datagram import WAITING_NAMES
from geproxy.relay.queue import WAITING_BYTES, WAITING_DATAGRAMS
from geproxy.seams import Datagrams
from geproxy.terms import Endpoint, Filtering
from geproxy.wire.address import encode_address
from tests.support.associations import Around, association
from tests.support.conformance import HARD_SECONDS, settle, until
from tests.support.datagrams import MAX_PAYLOAD_BYTES, udp_peer
from tests.support.floods import FEW, Flood, items_before_others

LOOPBACK = IPv4Address("127.0.0.1")
WAITS = pytest.mark.parametrize("waits", [False, True], ids=["opened at once", "in its own time"])


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    gevent.get_hub()
    before = len(os.listdir("/proc/self/fd"))
    with Deadline(HARD_SECONDS, "a test"):
        yield
    assert len(os.listdir("/proc/self/fd")) <= before


# -- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_datagram_goes_to_its_target_and_the_answer_to_the_client(host: str) -> None:
    with association() as around, udp_peer(host) as target:
        for number in range(3):
            around.send(target.endpoint, b"question")
            data, source = target.receive()
            assert data == b"question"
            target.send(b"the answer", source)
            around.wait_for_replies(number + 1)
        assert around.replies == [(encode_address(target.endpoint), b"the answer")] * 3
        one = around.association
        assert (one.up_datagrams, one.up_bytes) == (3, 24)
        assert (one.down_datagrams, one.down_bytes) == (3, 30)
        assert (one.dropped, one.via) == ({}, "direct")


def test_every_target_sees_the_same_port_however_it_is_named() -> None:
    with association() as around, udp_peer() as one, udp_peer("::1") as two:
        for to in (
            one.endpoint,
            Endpoint("target.example", one.endpoint.port),
            Endpoint("127.1", one.endpoint.port),
        ):
            around.send(to)
        around.send(two.endpoint)
        seen = [one.receive()[1].port for _ in range(3)] + [two.receive()[1].port]
        assert len(set(seen)) == 1


def test_to_find_the_way_once_is_enough() -> None:
    with association() as around, udp_peer() as target:
        for to in (target.endpoint, Endpoint("target.example", target.endpoint.port)):
            around.decided.clear()
            around.send(to)
            target.receive()
            around.send(to)
            until(lambda: around.association.up_datagrams % 2 == 0)
            target.receive()
            seen = len(around.decided)
            for _ in range(20):
                around.send(to)
            assert len(target.waiting()) == 20
            assert len(around.decided) == seen
        assert around.asked == ["target.example"]


def test_where_nothing_has_to_be_waited_for_the_first_datagram_leaves_at_once() -> None:
    with association() as around, udp_peer() as target:
        around.send(target.endpoint)
        assert around.association.up_datagrams == 1
        assert len(around.association.crew) == 1, "what carries the answers, and no look-up"
        assert target.receive()[0] == b"x"


@WAITS
def test_what_is_sent_before_the_way_stands_leaves_in_order(waits: bool) -> None:
    with association() as around, udp_peer() as target:
        around.direct.waits = waits
        sent = [bytes((number,)) for number in range(20)]
        for data in sent:
            around.send(target.endpoint, data)
        assert target.waiting() == sent
        assert around.association.up_datagrams == 20


@WAITS
def test_many_targets_at_once_open_one_way(waits: bool) -> None:
    with association() as around, udp_peer() as target:
        around.direct.waits = waits
        before = len(os.listdir("/proc/self/fd"))
        for number in range(2, 60):
            around.send(Endpoint(ip_address(f"127.0.0.{number}"), target.endpoint.port))
        until(lambda: around.association.up_datagrams == 58)
        assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_policy_may_lead_each_target_by_its_own_way() -> None:
    with association() as around, udp_peer() as one, udp_peer("127.0.0.2") as two:
        around.by_other.add(two.endpoint.host)
        ports = []
        for target in (one, two):
            around.send(target.endpoint)
            _, source = target.receive()
            ports.append(source.port)
            target.send(b"x", source)
        around.wait_for_replies(2)
        assert ports[0] != ports[1]
        assert around.association.via == "direct,other"


def test_the_ways_filter_is_the_associations() -> None:
    with association(Filtering.PORT) as around, udp_peer() as target, udp_peer() as stranger:
        around.send(target.endpoint)
        _, source = target.receive()
        stranger.send(b"stranger", source)
        target.send(b"target", source)
        around.wait_for_replies(1)
        assert [data for _, data in around.replies] == [b"target"]
        assert around.association.dropped == {"filtered": 1}


# -- names that have to be waited for ------------------------------------------------------------


def test_what_waits_for_a_name_leaves_in_order_once_it_is_found() -> None:
    with association() as around, udp_peer() as target:
        slow = Endpoint("slow.example", target.endpoint.port)
        sent = [bytes((number,)) for number in range(WAITING_DATAGRAMS)]
        for data in [*sent, b"one too many", b"and another"]:
            around.send(slow, data)
        settle()
        assert target.waiting() == []
        assert around.association.dropped == {"limit": 2}
        around.go_on.set()
        until(lambda: around.association.up_datagrams == WAITING_DATAGRAMS)
        assert target.waiting() == sent
        around.send(slow, b"found now")
        assert target.waiting() == [b"found now"]


def test_what_waits_for_a_name_is_bounded_in_bytes_too() -> None:
    with association() as around, udp_peer() as target:
        slow = Endpoint("slow.example", target.endpoint.port)
        around.send(slow, bytes(MAX_PAYLOAD_BYTES))
        around.send(slow, bytes(MAX_PAYLOAD_BYTES))
        left = WAITING_BYTES - 2 * MAX_PAYLOAD_BYTES
        around.send(slow, bytes(left + 1))
        assert around.association.dropped == {"limit": 1}
        around.send(slow, bytes(left))
        around.send(slow, b"")
        around.send(slow, b"x")
        assert around.association.dropped == {"limit": 2}
        around.go_on.set()
        sizes = [len(target.receive()[0]) for _ in range(4)]
        assert sizes == [MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES, left, 0]


def test_each_name_has_a_queue_of_its_own() -> None:
    with association() as around, udp_peer() as target:
        for number in range(2):
            for _ in range(WAITING_DATAGRAMS):
                around.send(Endpoint(f"slow{number}.example", target.endpoint.port))
        assert around.association.dropped == {}


def test_a_name_that_hangs_delays_nobody_else() -> None:
    with association() as around, udp_peer() as target:
        port = target.endpoint.port
        around.send(Endpoint("slow.example", port), b"slow")
        around.send(Endpoint("target.example", port), b"quick")
        around.send(target.endpoint, b"at once")
        assert {target.receive()[0], target.receive()[0]} == {b"quick", b"at once"}
        around.send(target.endpoint, b"and again")
        assert target.receive()[0] == b"and again"
        around.go_on.set()
        assert target.receive()[0] == b"slow"


def test_so_many_names_and_no_more_wait_for_one_client() -> None:
    with association() as around, udp_peer() as target:
        port = target.endpoint.port
        around.send(target.endpoint, b"first")
        assert target.receive()[0] == b"first"
        for number in range(WAITING_NAMES + 3):
            around.send(Endpoint(f"slow{number}.example", port))
        assert around.association.dropped == {"limit": 3}
        around.send(Endpoint(ip_address("127.0.0.1"), port), b"an address needs no room")
        assert target.waiting() == [b"an address needs no room"]
        around.go_on.set()
        until(lambda: around.association.up_datagrams == WAITING_NAMES + 2)
        around.send(Endpoint("target.example", port), b"there is room again")
        until(lambda: b"there is room again" in target.waiting())


# -- what goes nowhere ---------------------------------------------------------------------------


def test_a_denied_address_costs_one_decision_until_all_is_found_anew() -> None:
    with association() as around, udp_peer() as target:
        around.denied.add(LOOPBACK)
        for _ in range(10):
            around.send(target.endpoint)
        assert target.waiting() == []
        assert len(around.decided) == 1
        assert around.association.dropped == {"denied": 10}
        around.association.forget()
        around.denied.clear()
        around.send(target.endpoint, b"allowed")
        assert target.receive()[0] == b"allowed"


def test_a_name_whose_addresses_are_denied_is_looked_up_once() -> None:
    with association() as around, udp_peer() as target:
        around.denied.add(LOOPBACK)
        name = Endpoint("target.example", target.endpoint.port)
        around.send(name)
        around.wait_for_drops(denied=1)
        for _ in range(10):
            around.send(name)
        assert around.association.dropped == {"denied": 11}
        assert around.asked == ["target.example"]
        assert target.waiting() == []


def test_every_drop_is_counted_by_its_reason_and_ends_nothing() -> None:
    with association() as around, udp_peer() as target:
        around.association.send(b"\x02\x00\x00\x35", b"another ATYP")
        around.association.send(b"\x03\x00\x00\x35", b"an empty name")
        around.association.send(b"\x03\x01\x00\x00\x35", b"a name with a NUL")
        around.send(Endpoint("nobody.example", 53))
        around.wait_for_drops(protocol=1, denied=2, resolve=1)
        around.send(target.endpoint, bytes(MAX_PAYLOAD_BYTES + 1))
        around.wait_for_drops(protocol=1, denied=2, resolve=1, size=1)
        around.send(target.endpoint, bytes(MAX_PAYLOAD_BYTES + 1))
        around.association.drop("replay")
        around.wait_for_drops(protocol=1, denied=2, resolve=1, size=2, replay=1)
        around.send(target.endpoint, b"and on it goes")
        _, source = target.receive()
        around.reply_fault = DropError("early")
        target.send(b"lost", source)
        around.wait_for_drops(protocol=1, denied=2, resolve=1, size=2, replay=1, early=1)
        around.reply_fault = None
        target.send(b"found", source)
        around.wait_for_replies(1)
        assert around.association.up_datagrams == around.association.down_datagrams == 1
        assert around.ended == []


def test_a_name_that_is_not_found_may_be_found_later() -> None:
    with association() as around, udp_peer() as target:
        name = Endpoint("new.example", target.endpoint.port)
        around.send(name)
        around.send(name)
        around.wait_for_drops(resolve=2)
        around.names["new.example"] = "127.0.0.1"
        around.send(name, b"found")
        assert target.receive()[0] == b"found"


def test_a_name_that_moves_is_followed_once_it_is_found_anew() -> None:
    with (
        association() as around,
        udp_peer() as old,
        udp_peer("127.0.0.2", old.endpoint.port) as new,
    ):
        name = Endpoint("target.example", old.endpoint.port)
        around.send(name)
        assert old.receive()[0] == b"x"
        around.names["target.example"] = "127.0.0.2"
        around.send(name)
        assert old.receive()[0] == b"x"
        around.association.forget()
        around.send(name)
        assert new.receive()[0] == b"x"
        assert old.waiting() == []


@pytest.mark.parametrize("denied", [False, True], ids=["allowed", "denied"])
def test_what_is_remembered_of_targets_is_bounded(
    monkeypatch: pytest.MonkeyPatch, denied: bool
) -> None:
    monkeypatch.setattr(datagram, "FOUND_LIMIT", 8)
    with association() as around, udp_peer() as target:
        around.send(target.endpoint)
        target.receive()
        for number in range(2, 40):
            host = ip_address(f"127.0.0.{number}")
            if denied:
                around.denied.add(host)
            around.send(Endpoint(host, target.endpoint.port))
            assert len(around.association._found) <= 8
        around.send(target.endpoint, b"still reached")
        assert target.waiting() == [b"still reached"]


# -- bugs ----------------------------------------------------------------------------------------


def test_a_bug_where_a_target_is_decided_on_ends_it() -> None:
    with association() as around:
        around.fault = KeyError("of ours")
        around.send(Endpoint("target.example", 53))
        until(lambda: around.ended)
        assert [type(error) for error in around.ended] == [KeyError]


def test_a_bug_on_the_way_to_the_client_ends_it() -> None:
    with association() as around, udp_peer() as target:
        around.send(target.endpoint)
        _, source = target.receive()
        around.reply_fault = KeyError("of ours")
        target.send(b"x", source)
        until(lambda: around.ended)
        assert [type(error) for error in around.ended] == [KeyError]


# -- its end -------------------------------------------------------------------------------------


def test_the_end_gives_every_port_back() -> None:
    around = Around()
    before = len(os.listdir("/proc/self/fd"))
    with udp_peer() as one, udp_peer("127.0.0.2") as two:
        around.by_other.add(two.endpoint.host)
        for target in (one, two):
            around.send(target.endpoint)
            target.receive()
        around.association.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert around.ended == []


def test_the_end_does_not_wait_for_a_name_that_hangs() -> None:
    with association() as around:
        around.send(Endpoint("slow.example", 53))
        until(lambda: around.asked)
        around.association.close()
        assert not around.go_on.is_set()


def test_it_can_end_before_the_way_to_its_first_target_is_looked_for() -> None:
    """A client that leaves right after its first datagram."""
    around = Around()
    around.direct.waits = True
    with udp_peer() as target:
        around.send(target.endpoint)
        around.association.close()
        assert len(around.association.crew) == 0


def test_an_interruption_of_the_end_leaves_nothing_open() -> None:
    around = Around()
    before = len(os.listdir("/proc/self/fd"))
    with udp_peer() as target:
        around.send(target.endpoint)
        target.receive()

        def end() -> None:
            with pytest.raises(ShutdownError):
                around.association.close()

        ending = gevent.spawn(end)
        interrupt(ending, ShutdownError("the proxy stops"))
        ending.get(timeout=HARD_SECONDS)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert len(around.association.crew) == 0


# -- what others ask of it -----------------------------------------------------------------------


def test_it_has_moved_when_a_datagram_has_passed_either_way() -> None:
    with association() as around, udp_peer() as target:
        one = around.association
        assert (one.moved(), one.moved()) == (True, False)
        around.send(target.endpoint)
        _, source = target.receive()
        assert (one.moved(), one.moved()) == (True, False)
        target.send(b"x", source)
        around.wait_for_replies(1)
        assert (one.moved(), one.moved()) == (True, False)


def test_a_datagram_that_was_dropped_is_no_movement() -> None:
    with association() as around:
        one = around.association
        one.moved()
        around.denied.add(LOOPBACK)
        around.send(Endpoint(LOOPBACK, 53))
        one.drop("stranger")
        assert not one.moved()


def test_another_worker_goes_on_with_its_ways_and_its_counts() -> None:
    with (
        association(Filtering.PORT) as here,
        association(Filtering.PORT) as there,
        udp_peer() as target,
    ):
        here.send(target.endpoint, b"question")
        _, source = target.receive()
        here.association.drop("size")
        ((name, known),), (descriptor,) = here.association.duplicate()
        counts = here.association.counts()
        here.association.close()
        there.association.restore(*counts)
        there.association.take(name, there.direct.adopt(descriptor, known, Filtering.PORT))
        target.send(b"answer", source)
        there.wait_for_replies(1)
        there.send(target.endpoint, b"again")
        assert target.receive() == (b"again", source)
        assert there.association.counts() == (2, 13, 1, 6, {"size": 1})


def test_a_way_that_another_look_up_opened_first_is_used() -> None:
    with association() as around, udp_peer() as target:
        around.direct.waits = True
        opened: list[DirectDatagrams] = []
        associate = around.direct.associate

        def slowly(client: object, filtering: Filtering) -> DirectDatagrams:
            settle()
            opened.append(associate(LOOPBACK, filtering))
            return opened[-1]

        around.direct.associate = slowly  # type: ignore[method-assign,assignment]
        before = len(os.listdir("/proc/self/fd"))
        for number in range(1, 4):
            around.send(Endpoint(ip_address(f"127.0.0.{number}"), target.endpoint.port))
        until(lambda: around.association.up_datagrams == 3)
        assert len(opened) == 3
        assert len(os.listdir("/proc/self/fd")) == before + 1


# -- what the system does not take ---------------------------------------------------------------

BROADCAST = Endpoint(IPv4Address("255.255.255.255"), 9)  # nobody has asked the system for it


def test_what_the_system_did_not_take_is_dropped_and_was_not_sent() -> None:
    with association() as around, udp_peer() as target:
        around.send(target.endpoint, b"taken")
        for data in (b"123", b"123", b"1234"):
            around.send(BROADCAST, data)
        around.send(target.endpoint, b"taken too")
        around.wait_for_drops(unreachable=3)
        assert target.waiting() == [b"taken", b"taken too"]
        assert around.association.counts() == (2, 14, 0, 0, {"unreachable": 3})
        around.send(BROADCAST, b"12345")
        assert around.association.counts() == (3, 19, 0, 0, {"unreachable": 3}), "not known yet"
        settle()
        assert around.association.counts() == (2, 14, 0, 0, {"unreachable": 4})
        assert around.ended == []


def test_what_the_system_did_not_take_is_no_movement() -> None:
    with association() as around:
        around.send(BROADCAST)
        around.wait_for_drops(unreachable=1)
        around.association.moved()
        around.send(BROADCAST)
        around.wait_for_drops(unreachable=2)
        assert not around.association.moved()


def test_what_is_lost_in_the_end_is_counted() -> None:
    """What waits is sent before the ports close."""
    around = Around()
    around.send(BROADCAST, b"123")
    around.wait_for_drops(unreachable=1)
    around.send(BROADCAST, b"123")
    around.association.close()
    assert around.association.counts() == (0, 0, 0, 0, {"unreachable": 2})


def test_what_waits_in_the_end_is_sent() -> None:
    around = Around()
    with udp_peer() as target:
        around.send(target.endpoint, b"first")
        assert target.receive()[0] == b"first"
        around.send(target.endpoint, b"last")
        around.association.close()
        assert target.waiting() == [b"last"]


def test_a_way_that_was_adopted_tells_its_losses_too() -> None:
    with association() as here, association() as there, udp_peer() as target:
        here.send(target.endpoint, b"question")
        target.receive()
        ((name, known),), (descriptor,) = here.association.duplicate()
        here.association.close()
        there.association.take(name, there.direct.adopt(descriptor, known, Filtering.NONE))
        there.send(BROADCAST, b"123")
        there.wait_for_drops(unreachable=1)
        assert there.association.counts() == (0, 0, 0, 0, {"unreachable": 1})


def test_a_loss_on_the_way_to_the_client_was_not_sent() -> None:
    with association() as around, udp_peer() as target:
        around.send(target.endpoint)
        target.send_burst(b"aaaabb", 4, target.receive()[1])
        around.wait_for_replies(2)
        around.association.lose_down("full", 4)
        assert around.association.counts() == (1, 1, 1, 2, {"full": 1})


def test_bursts_of_answers_reach_the_client_one_by_one() -> None:
    with association() as around, udp_peer() as target:
        around.send(target.endpoint)
        _, source = target.receive()
        target.send_burst(b"aabbc", 2, source)
        target.send(b"", source)
        target.send_burst(b"ddee", 2, source)
        around.wait_for_replies(6)
        head = encode_address(target.endpoint)
        expected = [b"aa", b"bb", b"c", b"", b"dd", b"ee"]
        assert around.replies == [(head, data) for data in expected]
        one = around.association
        assert (one.down_datagrams, one.down_bytes) == (6, 9)


# -- what is remembered ----------------------------------------------------------------------------


def test_names_that_hang_keep_no_more_waiting_than_there_is_memory_for() -> None:
    with association(memory_bytes=4000) as around:
        for number in range(WAITING_NAMES):
            around.send(Endpoint(f"slow{number}.example", 9), bytes(1000))
        assert around.association.dropped == {"limit": WAITING_NAMES - 3}
        around.go_on.set()
        until(lambda: around.association.up_datagrams == 3)


def test_targets_beyond_the_memory_are_found_anew_and_reached_all_the_same() -> None:
    with association(memory_bytes=2000) as around, ExitStack() as stack:
        targets = [stack.enter_context(udp_peer()) for _ in range(10)]
        for number in (0, 1):
            for target in targets:
                around.send(target.endpoint, b"question")
                assert target.receive()[0] == b"question"
            assert around.association.up_datagrams == 10 * (number + 1)
            assert around.budget._free_bytes >= 500
        around.association.close()
        assert around.budget._held_bytes == {}


def test_where_others_hold_all_memory_a_target_is_reached_all_the_same() -> None:
    with association(memory_bytes=0) as around, udp_peer() as target, udp_peer() as other:
        for there in (target, other, target):
            around.send(there.endpoint, b"question")
            _, source = there.receive()
            there.send(b"answer", source)
        around.wait_for_replies(3)


def test_a_target_that_floods_leaves_others_their_turn() -> None:
    class Way(Flood):
        """A way by which more comes back than anybody can read."""

        def receive(self) -> tuple[bytes, bytes]:
            self.item()
            return b"head", b"data"

        def on_loss(self, lost: object) -> None:
            pass

        def close(self) -> None:
            pass

    way = Way()
    with association() as around:
        take = partial(around.association.take, "way", cast(Datagrams, way))
        assert items_before_others(take, way) < FEW


def test_what_was_taken_of_a_burst_reaches_the_client_before_another_worker_goes_on() -> None:
    with association() as around, udp_peer() as target:
        around.send(target.endpoint)
        source = target.receive()[1]
        (way,) = around.association._ways.values()
        target.send_burst(bytes(MAX_SEGMENTS), 1, Endpoint(LOOPBACK, source.port))
        around.association.crew.end()  # nobody reads, as between two turns
        assert way.receive() is not None
        assert way.in_burst
        _, descriptors = around.association.duplicate()
        for descriptor in descriptors:
            os.close(descriptor)
        assert len(around.replies) == MAX_SEGMENTS - 1
