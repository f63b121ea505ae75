"""Clients of several protocols at one port: each finds its own, and no byte is lost on the way."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest

from geproxy.errors import (
    AuthenticationError,
    DeadlineError,
    GeproxyError,
    ProtocolError,
    ResetError,
)
from geproxy.inbound.mixed import MixedInbound
from geproxy.inbound.socks4 import Socks4Inbound
from geproxy.inbound.socks5 import Socks5Inbound
from geproxy.net.deadline import Deadline
from geproxy.seams import Request
from geproxy.streams import Stream
from geproxy.terms import Endpoint
from tests.support.conformance import HARD_SECONDS, read_exactly, tcp_pair
from tests.support.memory import MemoryStream, memory_pair

DATA = b"the first bytes of what is relayed"
BOUND = Endpoint(IPv4Address("192.0.2.9"), 40_000)

SOCKS4 = b"\x04\x01\x01\xbb\0\0\0\x01alice\0example.net\0"
SOCKS5 = b"\x05\x01\x00" + b"\x05\x01\x00\x03\x0bexample.net\x01\xbb"
SELECTED = b"\x05\x00"
TARGET = Endpoint("example.net", 443)

PROTOCOLS = [
    pytest.param(SOCKS4, "alice", b"", b"\x00\x5a\x9c\x40\xc0\x00\x02\x09", id="SOCKS4"),
    pytest.param(SOCKS5, None, SELECTED, b"\x05\0\0\x01\xc0\x00\x02\x09\x9c\x40", id="SOCKS5"),
]


@pytest.fixture(autouse=True)
def every_wait_ends() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


def mixed(*, users_wanted: bool = False) -> MixedInbound:
    return MixedInbound({4: Socks4Inbound(users_wanted=users_wanted), 5: Socks5Inbound(None)})


def stream_of(*pieces: bytes) -> tuple[MemoryStream, MemoryStream]:
    """A connection on which a client has sent *pieces*: its end and ours."""
    client, stream = memory_pair()
    for piece in pieces:
        client.send_all(piece)
    return client, stream


def fail(stream: Stream, kind: type[GeproxyError]) -> GeproxyError:
    """Negotiate; demand just this error."""
    with pytest.raises(GeproxyError) as caught:
        mixed().negotiate(stream)
    assert type(caught.value) is kind
    return caught.value


def check_served(
    pair: tuple[Stream, Stream], claimed: str | None, selected: bytes, granted: bytes
) -> None:
    client, stream = pair
    request = mixed().negotiate(stream)
    assert (request.target, request.user, request.claimed) == (TARGET, None, claimed)
    request.grant(BOUND)
    assert read_exactly(client, len(selected + granted)) == selected + granted
    assert read_exactly(request.stream, len(DATA)) == DATA


# -- what is looked at is not lost ---------------------------------------------------------------


@pytest.mark.parametrize(("wire", "claimed", "selected", "granted"), PROTOCOLS)
def test_any_two_pieces_are_as_good_as_one(
    wire: bytes, claimed: str | None, selected: bytes, granted: bytes
) -> None:
    wire += DATA
    check_served(stream_of(wire), claimed, selected, granted)
    for cut in range(1, len(wire)):
        check_served(stream_of(wire[:cut], wire[cut:]), claimed, selected, granted)


@pytest.mark.parametrize(("wire", "claimed", "selected", "granted"), PROTOCOLS)
def test_one_byte_at_a_time_is_as_good(
    wire: bytes, claimed: str | None, selected: bytes, granted: bytes
) -> None:
    pair = stream_of(*(bytes((number,)) for number in wire + DATA))
    check_served(pair, claimed, selected, granted)


@pytest.mark.parametrize(("wire", "claimed", "selected", "granted"), PROTOCOLS)
def test_over_tcp_it_is_the_same(
    wire: bytes, claimed: str | None, selected: bytes, granted: bytes
) -> None:
    client, stream = tcp_pair()
    try:
        client.send_all(wire + DATA)
        check_served((client, stream), claimed, selected, granted)
    finally:
        client.close()
        stream.close()


class Reader:
    """An inbound that does nothing but read, in one of the ways that there are."""

    def __init__(self, read: Callable[[Stream], bytes]) -> None:
        self.read = read
        self.found = b""

    def negotiate(self, stream: Stream) -> Request:
        self.found = self.read(stream)
        raise ProtocolError("it has read")


def read_into(stream: Stream) -> bytes:
    buffer = bytearray(100)
    stream.wait_readable()
    count = stream.recv_into(memoryview(buffer))
    assert count is not None
    return bytes(buffer[:count])


@pytest.mark.parametrize(
    "read", [lambda stream: stream.recv(100), read_into], ids=["recv", "recv_into"]
)
@pytest.mark.parametrize("make_pair", [memory_pair, tcp_pair], ids=["in memory", "TCP"])
def test_the_inbound_reads_from_the_first_byte_on(
    make_pair: Callable[[], tuple[Stream, Stream]], read: Callable[[Stream], bytes]
) -> None:
    client, stream = make_pair()
    reader = Reader(read)
    try:
        client.send_all(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ProtocolError, match="it has read"):
            MixedInbound({ord("G"): reader}).negotiate(stream)
        assert reader.found == b"GET / HTTP/1.1\r\n"
    finally:
        client.close()
        stream.close()


# -- whoever gets no further ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [number for number in range(256) if number not in (4, 5)])
def test_any_other_first_byte_is_named_and_hears_nothing(number: int) -> None:
    client, stream = stream_of(bytes((number,)))
    assert f"{number:#04x}" in str(fail(stream, ProtocolError))
    assert client.unread_bytes == 0


def test_what_the_inbound_raises_is_passed_on_after_its_answer() -> None:
    client, stream = stream_of(SOCKS4)
    with pytest.raises(AuthenticationError) as caught:
        mixed(users_wanted=True).negotiate(stream)
    assert caught.value.user == "alice"
    assert read_exactly(client, 2) == b"\x00\x5b"


def test_an_end_before_the_first_byte_is_a_protocol_error() -> None:
    client, stream = stream_of()
    client.close_write()
    fail(stream, ProtocolError)
    assert client.unread_bytes == 0


def test_a_reset_before_the_first_byte_is_a_reset() -> None:
    client, stream = stream_of()
    client.abort()
    fail(stream, ResetError)


@pytest.mark.parametrize("sent", [b"", b"\x04", b"\x05"], ids=["nothing", "SOCKS4", "SOCKS5"])
def test_a_client_that_says_no_more_meets_the_deadline(sent: bytes) -> None:
    _, stream = stream_of(*([sent] if sent else []))
    with pytest.raises(DeadlineError), Deadline(0.01, "the handshake"):
        mixed().negotiate(stream)
