"""An urgent byte (MSG_OOB) is one of the stream: it arrives in its place, and all behind it."""

import random
import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address

import gevent
import pytest

from geproxy.crypto.methods import AES_128_GCM
from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import ResetError
from geproxy.net.accept import Gate, accept_clients
from geproxy.net.buffers import (
    BUFFER_BYTES,
    LARGE_BUFFER_BYTES,
    LARGE_READ_BYTES,
    READ_BYTES,
    BufferPool,
)
from geproxy.net.deadline import Deadline, absorb
from geproxy.net.dial import dial
from geproxy.net.forward import BULK_BYTES, BULK_READS, ROUNDS, Flow, forward
from geproxy.net.messages import peek
from geproxy.net.peerport import PeerPort
from geproxy.net.sealed import SealedStream
from geproxy.net.sockopt import prepare_listening
from geproxy.net.stream import SocketStream
from geproxy.state.memory import ProcessMemory
from geproxy.streams import Stream
from geproxy.terms import Endpoint
from tests.support.conformance import (
    HARD_SECONDS,
    Parcel,
    Pause,
    beside,
    noise,
    read_exactly,
    read_to_end,
    read_to_end_into,
    settle,
    until,
)
from tests.support.memory import MemoryStream, memory_pair
from tests.support.pools import CountedPool
from tests.support.urgent import send_with_urgent

LOOPBACK = IPv4Address("127.0.0.1")
SECRET = Secret(AES_128_GCM, bytes(16))
OURS, OTHERS = SaltMaker(SECRET, b"ours"), SaltMaker(SECRET, b"theirs")
WARM_BYTES = 8 << 20  # after so many a socket takes a large piece at once


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


# -- each way in which a connection comes to us ----------------------------------------------------


Ends = tuple[socket.socket, SocketStream]


def accepted() -> Ends:
    """A client's connection."""
    streams: list[SocketStream] = []
    with socket.create_server(("127.0.0.1", 0)) as sock:
        prepare_listening(sock)
        sock.setblocking(False)
        far = socket.create_connection(sock.getsockname())
        accepting = gevent.spawn(accept_clients, sock, Gate(1), streams.append, _complain)
        until(lambda: streams)
        accepting.kill()
    return far, streams[0]


def _complain(error: OSError) -> None:
    raise error


def dialed() -> Ends:
    """A connection to a target, or to a peer."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        endpoint = Endpoint.from_sockaddr(sock.getsockname())
        stream = dial([endpoint], endpoint, HARD_SECONDS)
        far, _ = sock.accept()
    return far, stream


def awaited() -> Ends:
    """The connection of a peer that a BIND has waited for."""
    port = PeerPort(LOOPBACK, None, None)
    far = socket.create_connection(port.bound.sockaddr)
    stream = port.accept()
    port.close()
    return far, stream


Come = Callable[[], Ends]
WAYS: Sequence[Come] = (accepted, dialed, awaited)


@pytest.fixture(params=WAYS)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """The other side's socket, and our stream."""
    far, near = request.param()
    with far:
        far.settimeout(HARD_SECONDS)
        yield far, near
    near.close()


# -- reading ---------------------------------------------------------------------------------------

TEXT = b"what was said"
PLACES = [
    pytest.param([0], id="first"),
    pytest.param([6], id="within"),
    pytest.param([len(TEXT) - 1], id="last before the end"),
    pytest.param([4, 5], id="two in a row"),
    pytest.param([0, len(TEXT) - 1], id="first and last"),
    pytest.param(range(len(TEXT)), id="every byte"),
]
READERS = [
    pytest.param(read_to_end, id="recv"),
    pytest.param(read_to_end_into, id="recv_into"),
]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("places", PLACES)
def test_an_urgent_byte_is_read_in_its_place(
    ends: Ends, places: Sequence[int], read: Callable[[Stream], bytes]
) -> None:
    far, near = ends
    send_with_urgent(far, TEXT, places)
    far.shutdown(socket.SHUT_WR)
    assert read(near) == TEXT


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("places", PLACES)
def test_so_is_one_that_comes_after_the_bytes_before_it_were_read(
    ends: Ends, places: Sequence[int], read: Callable[[Stream], bytes]
) -> None:
    far, near = ends
    with beside(lambda: _say_slowly(far, places)):
        assert read(near) == TEXT


def _say_slowly(far: socket.socket, places: Sequence[int]) -> None:
    for at in range(len(TEXT)):
        send_with_urgent(far, TEXT[at : at + 1], [0] if at in places else [])
        settle()
    far.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("place", range(6))
def test_a_message_may_hold_an_urgent_byte(ends: Ends, place: int) -> None:
    far, near = ends
    parcel = Parcel(b"hello")
    send_with_urgent(far, parcel.encode(), [place])
    assert near.read_message(Parcel, Parcel.LIMIT_BYTES) == parcel


def test_the_first_byte_may_be_urgent_and_is_peeked_at(ends: Ends) -> None:
    far, near = ends
    send_with_urgent(far, b"\x05rest", [0])
    assert peek(near) == 5
    assert read_exactly(near, 5) == b"\x05rest"


def test_who_reads_to_the_end_for_a_last_reply_reads_past_urgent_bytes(ends: Ends) -> None:
    far, near = ends
    near.send_all(b"no")

    def part() -> None:
        send_with_urgent(far, noise(100_000), [0, 50_000, 99_999])
        far.shutdown(socket.SHUT_WR)

    with beside(part):
        near.linger(HARD_SECONDS)
    assert far.recv(10) == b"no"
    assert near._socket.recv(1) == b"", "all of it was read"


def test_who_reads_and_answers_nothing_reads_past_urgent_bytes(ends: Ends) -> None:
    far, near = ends
    send_with_urgent(far, noise(100_000), [0, 50_000, 99_999])

    def watch() -> None:
        with Deadline(HARD_SECONDS, "a probe"):
            absorb(near)

    with beside(watch) as (watching,):
        until(lambda: _unread(near) == 0)
        watching.kill()


def _unread(stream: SocketStream) -> int:
    try:
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        return len(stream._socket.recv(1 << 20, flags))
    except BlockingIOError:
        return 0


# -- moving ----------------------------------------------------------------------------------------


class Line:
    """far -> source, forward, sink -> reader, by one of the ways in which bytes are moved."""

    def __init__(self, come: Come, mode: str) -> None:
        self.far, self.inner = come()
        self.far.settimeout(HARD_SECONDS)
        self.reader_socket, self.sink_inner = dialed()
        self.reader = SocketStream(self.reader_socket, self.sink_inner.bound)
        self.pool = CountedPool()
        self.flow = Flow()
        self.source: Stream = self.inner
        self.sink: Stream = self.sink_inner
        self.plain: Stream = self.reader
        if mode != "spliced":
            self.pool.pipes._left = 0
        if mode in ("spliced", "copied in large pieces"):
            self.flow.bulk_reads = BULK_READS
        if mode == "copied in small pieces":
            self.pool._large_left = 0
        if mode == "copied in large pieces":
            self._warm()
        if mode == "sealed":
            self.sink = SealedStream(self.sink_inner, OURS, self.pool)
            self.plain = SealedStream(self.reader, OTHERS, BufferPool(), salts=ProcessMemory(10))
        if mode == "opened":
            self.source = SealedStream(self.inner, OURS, self.pool, salts=ProcessMemory(10))
        self.wire = _sealed if mode == "opened" else bytes

    def _warm(self) -> None:
        with beside(lambda: self.sink_inner.send_all(bytes(WARM_BYTES))):
            read_exactly(self.reader, WARM_BYTES)
        until(lambda: self.sink_inner.room_bytes >= LARGE_BUFFER_BYTES)

    def run(self) -> None:
        forward(self.source, self.sink, self.flow, self.pool)

    def close(self) -> None:
        for each in (self.far, self.inner, self.sink_inner, self.reader):
            each.close()


def _sealed(data: bytes) -> bytes:
    """What a peer puts on the wire for *data*."""
    near, far = memory_pair()
    assert isinstance(far, MemoryStream)
    with beside(lambda: _seal_onto(near, data)):
        return read_to_end(far)


def _seal_onto(stream: Stream, data: bytes) -> None:
    peer = SealedStream(stream, OTHERS, BufferPool())
    peer.send_all(data)
    peer.close_write()


MODES = ["copied in small pieces", "copied in large pieces", "spliced", "sealed", "opened"]


@pytest.fixture(params=MODES)
def line(request: pytest.FixtureRequest, come: Come) -> Iterator[Line]:
    made = Line(come, request.param)
    yield made
    assert made.pool.out == 0
    if request.param == "copied in large pieces":
        assert made.pool.taken_large
    made.close()


BULK = 250_000
BULK_PLACES = [
    pytest.param([0], id="first"),
    pytest.param([BULK // 2], id="within"),
    pytest.param([BULK - 1], id="last before the end"),
    pytest.param([BULK // 2, BULK // 2 + 1], id="two in a row"),
    pytest.param([BULK_BYTES - 1], id="after nearly what is bulk"),
    pytest.param([BULK_BYTES], id="after just what is bulk"),
    pytest.param([READ_BYTES - 1], id="last of a buffer"),
    pytest.param([READ_BYTES], id="first behind a buffer"),
    pytest.param([BUFFER_BYTES - 1, BUFFER_BYTES], id="both, of a sealed buffer"),
    pytest.param(range(0, BULK, 40_000), id="again and again"),
]
COMES = pytest.mark.parametrize("come", WAYS)


@COMES
@pytest.mark.parametrize("places", BULK_PLACES)
@pytest.mark.parametrize("ended", [True, False], ids=["FIN is there", "FIN comes later"])
def test_all_bytes_are_moved_where_all_have_come_before(
    line: Line, places: Sequence[int], ended: bool
) -> None:
    data = noise(BULK)
    wire = line.wire(data)
    send_with_urgent(line.far, wire, places)
    if ended:
        line.far.shutdown(socket.SHUT_WR)
    with beside(line.run):
        assert read_exactly(line.plain, BULK) == data
        if not ended:
            until(lambda: line.flow.bytes == BULK)
            line.far.shutdown(socket.SHUT_WR)
        assert line.plain.recv(1) == b""
    assert (line.flow.bytes, line.flow.ended) == (BULK, True)


@pytest.mark.slow
@COMES
@pytest.mark.parametrize("seed", range(3))
def test_all_bytes_are_moved_however_they_come(line: Line, seed: int) -> None:
    dice = random.Random(seed)
    data = noise(6_000_000, seed)
    wire = line.wire(data)

    def write() -> None:
        left, pause = memoryview(wire), Pause(0.2, 0.001)
        while left:
            size = min(len(left), dice.choice((1, 100, 20_000, 150_000, LARGE_READ_BYTES)))
            places = [dice.randrange(size) for _ in range(dice.randrange(3))]
            line.far.setblocking(False)
            send_with_urgent(line.far, left[:size], sorted({*places}), wait=lambda: gevent.sleep(0))
            left = left[size:]
            pause.perhaps(dice)
        line.far.shutdown(socket.SHUT_WR)

    with beside(line.run, write):
        assert read_to_end(line.plain) == data
    assert (line.flow.bytes, line.flow.ended) == (len(data), True)


@COMES
def test_splicing_goes_on_behind_an_urgent_byte(come: Come) -> None:
    line = Line(come, "spliced")
    data = noise(BULK)
    send_with_urgent(line.far, data, [BULK // 2])
    taken = line.pool.taken
    with beside(line.run):
        assert read_exactly(line.plain, BULK) == data
        until(lambda: line.flow.bytes == BULK)
        copied = line.pool.taken - taken
        assert copied >= 1
        for number in range(4):
            more = noise(2 * BULK_BYTES, number)
            line.far.sendall(more)
            assert read_exactly(line.plain, len(more)) == more
        assert line.pool.taken - taken == copied, "it is copied still"
        line.far.shutdown(socket.SHUT_WR)
    line.close()


@COMES
def test_where_no_byte_is_urgent_what_is_spliced_is_confirmed_at_its_end_alone(
    come: Come, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To confirm is a system call, and the many who never send such a byte do not pay for it."""
    line = Line(come, "spliced")
    asked: list[int | None] = []
    recv_into = SocketStream.recv_into

    def ask(stream: SocketStream, buffer: memoryview) -> int | None:
        count = recv_into(stream, buffer)
        if stream is line.inner:
            asked.append(count)
        return count

    monkeypatch.setattr(SocketStream, "recv_into", ask)
    data = noise(BULK)
    line.far.sendall(data)
    with beside(line.run):
        for number in range(5):
            assert read_exactly(line.plain, len(data)) == data
            settle()
            data = noise((number + 2) * BULK_BYTES, number)
            line.far.sendall(data)
        assert read_exactly(line.plain, len(data)) == data
        settle()
        assert asked == []
        line.far.shutdown(socket.SHUT_WR)
    assert asked == [0]
    line.close()


@COMES
def test_nobody_spins_in_front_of_an_urgent_byte(
    come: Come, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is the last of all for a while: there is no byte behind it to go on with."""
    line = Line(come, "spliced")
    looks = 0
    fill = SocketStream.fill

    def look(stream: SocketStream, pipe: object) -> int | None:
        nonlocal looks
        looks += 1
        return fill(stream, pipe)  # type: ignore[arg-type]

    monkeypatch.setattr(SocketStream, "fill", look)
    data = noise(BULK)
    send_with_urgent(line.far, data, [BULK - 1])
    with beside(line.run):
        assert read_exactly(line.plain, BULK) == data
        settle()
        before = looks
        for _ in range(10):
            settle()
        assert looks == before
        line.far.shutdown(socket.SHUT_WR)
    line.close()


@COMES
def test_who_sends_nothing_but_urgent_bytes_lets_the_others_have_their_turn(come: Come) -> None:
    """Each byte ends a read: there may be as many reads as bytes, and not all of them in a row."""
    line = Line(come, "spliced")
    count = 2000
    turns = 0

    def live() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    def write() -> None:
        line.far.setblocking(False)
        for _ in range(count):
            send_with_urgent(line.far, b"!", [0], wait=lambda: gevent.sleep(0))
            gevent.sleep(0)
        line.far.shutdown(socket.SHUT_WR)

    with beside(line.run, write, live) as (_, _, living):
        assert read_to_end(line.plain) == b"!" * count
        living.kill()
    assert turns >= count // (2 * ROUNDS)
    line.close()


def test_a_reset_behind_an_urgent_byte_is_no_end() -> None:
    """What splice() takes for the end must not hide how the connection ended."""
    line = Line(accepted, "spliced")
    send_with_urgent(line.far, noise(BULK), [BULK // 2])
    line.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    line.far.close()

    def run() -> None:
        with pytest.raises(ResetError):
            line.run()

    with beside(run):
        pass
    assert not line.flow.ended
    line.close()
