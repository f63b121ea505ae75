"""What a client sends to the port of its association goes its way, and leaves others their turn."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address

import gevent
import pytest

from geproxy.errors import ProtocolError
from geproxy.inbound.socks5 import Socks5Datagrams
from geproxy.net.clientport import ClientPort
from geproxy.net.datagram import MAX_SEGMENTS
from geproxy.net.deadline import Deadline
from geproxy.net.owners import Identity
from geproxy.relay.upward import carry_up
from geproxy.seams import DatagramCodec
from geproxy.terms import Endpoint
from geproxy.wire.address import encode_address
from tests.support.associations import association
from tests.support.conformance import HARD_SECONDS, beside, settle
from tests.support.datagrams import udp_peer
from tests.support.floods import FEW, Flood, items_before_others

LOOPBACK = IPv4Address("127.0.0.1")


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    gevent.get_hub()
    before = len(os.listdir("/proc/self/fd"))
    with Deadline(HARD_SECONDS, "a test"):
        yield
    assert len(os.listdir("/proc/self/fd")) <= before


def port_of_a_client(codec: Callable[[], DatagramCodec]) -> ClientPort:
    return ClientPort(LOOPBACK, None, Identity(LOOPBACK), Endpoint(LOOPBACK, 0), codec)


def test_what_a_client_sends_to_its_port_goes_its_way() -> None:
    with association() as around, udp_peer() as client, udp_peer() as target:
        port = port_of_a_client(Socks5Datagrams)
        head = encode_address(target.endpoint)
        with beside(lambda: carry_up(port, around.association)) as (pump,):
            client.send(b"\0\0\0" + head + b"question", port.bound)
            assert target.receive()[0] == b"question"
            client.send(b"", port.bound)
            client.send(b"\0\0\0\x02", port.bound)
            client.send(b"\0\0\x01" + head + b"in two ", port.bound)
            client.send(b"\0\0\x82" + head + b"pieces", port.bound)
            assert target.receive()[0] == b"in two pieces"
            with udp_peer("127.0.0.2") as stranger:
                stranger.send(b"\0\0\0" + head + b"stranger", port.bound)
            client.send(b"\0\0\0" + head + b"last", port.bound)
            assert target.receive()[0] == b"last"
            assert around.association.dropped == {"protocol": 2}
            pump.kill()
        port.close()


class Slow(Flood):
    """A codec for which all of it is wrong, after a while."""

    def read(self, data: bytes) -> tuple[bytes, bytes]:
        self.item()
        raise ProtocolError("nothing")

    def write(self, head: bytes, data: bytes) -> bytes:
        raise ProtocolError("nothing")


def test_a_client_that_floods_leaves_others_their_turn() -> None:
    codec = Slow()

    class Port(Flood):
        """A port on which more comes than anybody can read."""

        def receive(self) -> bytes:
            return b""

    port = Port()
    port.codec = codec  # type: ignore[attr-defined]
    with association() as around:
        pump = partial(carry_up, port, around.association)  # type: ignore[arg-type]
        assert items_before_others(pump, codec) < FEW


def test_a_turn_may_end_within_a_burst_and_the_rest_of_it_is_carried_later() -> None:
    codec = Slow()
    port = port_of_a_client(lambda: codec)
    with association() as around, udp_peer() as client:
        client.send_burst(bytes(MAX_SEGMENTS), 1, port.bound)
        with beside(lambda: carry_up(port, around.association)) as (pump,):
            assert items_before_others(settle, codec) < MAX_SEGMENTS
            around.wait_for_drops(protocol=MAX_SEGMENTS)
            pump.kill()
    port.close()
