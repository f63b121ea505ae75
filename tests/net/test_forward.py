"""One direction: every byte once, one buffer at a time, and none while nothing moves."""

import fcntl
import os
import random
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import pytest

from geproxy.crypto.methods import AES_128_GCM
from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import DeadlineError, ResetError
from geproxy.net.buffers import BUFFER_BYTES, BufferPool
from geproxy.net.deadline import Deadline
from geproxy.net.forward import BULK_BYTES, BULK_READS, Flow, forward, move
from geproxy.net.greenlets import interrupt
from geproxy.net.pipes import POOL_PIPES, Pipe, PipePool
from geproxy.net.sealed import SealedStream
from geproxy.net.stream import SocketStream
from geproxy.state.memory import ProcessMemory
from geproxy.streams import Stream
from tests.support.conformance import (
    HARD_SECONDS,
    MakePair,
    Pause,
    beside,
    noise,
    read_by_pieces,
    read_exactly,
    read_to_end,
    send_by_pieces,
    settle,
    tcp_pair,
    until,
)
from tests.support.daemon import descriptors
from tests.support.floods import FEW, Flood, items_before_others
from tests.support.memory import CAPACITY_BYTES, MemoryStream, memory_pair
from tests.support.pools import CountedPool

MAKERS = [pytest.param(memory_pair, id="memory"), pytest.param(tcp_pair, id="TCP")]


class Line:
    """writer -> source, forward, sink -> reader."""

    def __init__(self, make_pair: MakePair) -> None:
        self.writer, self.source = make_pair()
        self.sink, self.reader = make_pair()
        self.flow = Flow()
        self.pool = CountedPool()

    def run(self) -> None:
        forward(self.source, self.sink, self.flow, self.pool)

    def close(self) -> None:
        for stream in (self.writer, self.source, self.sink, self.reader):
            stream.close()


@pytest.fixture(params=MAKERS)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    made = Line(request.param)
    with Deadline(HARD_SECONDS, "a test"):
        yield made
    made.close()


@pytest.mark.parametrize("seed", range(3))
def test_bytes_of_any_size_at_any_pace_arrive_whole(line: Line, seed: int) -> None:
    dice = random.Random(seed)
    data = noise(800_000, seed)

    def write() -> None:
        sizes = (1, 10, 1448, 16_384, 65_536, 100_000)
        send_by_pieces(line.writer, data, dice, sizes, Pause(0.3))

    with beside(line.run, write):
        received = read_by_pieces(line.reader, dice, (1, 1000, 65_536, 200_000), Pause(0.1))
    assert received == data
    assert line.flow.bytes == len(data)
    assert line.flow.ended
    assert (line.pool.out, line.pool.most) == (0, 1)


def test_the_end_is_passed_on_and_the_way_back_lives(line: Line) -> None:
    with beside(line.run):
        line.writer.send_all(b"question")
        line.writer.close_write()
        assert read_exactly(line.reader, 8) == b"question"
        assert line.reader.recv(10) == b""
    assert line.flow.ended
    line.reader.send_all(b"answer")
    assert line.sink.recv(10) == b"answer"
    line.source.send_all(b"answer")
    assert line.writer.recv(10) == b"answer"


def test_an_end_without_bytes_is_passed_on(line: Line) -> None:
    line.writer.close_write()
    line.run()
    assert line.reader.recv(10) == b""
    assert (line.flow.bytes, line.flow.ended) == (0, True)


def test_no_buffer_is_held_while_nothing_comes(line: Line) -> None:
    with beside(line.run):
        for piece in (b"a", b"b" * 1000, b"c"):
            settle()
            assert line.pool.out == 0
            line.writer.send_all(piece)
            assert read_exactly(line.reader, len(piece)) == piece
        until(lambda: line.flow.bytes == 1002)
        settle()
        assert line.pool.out == 0
        assert not line.flow.ended
        line.writer.close_write()


def test_after_a_short_read_the_source_is_waited_for_before_it_is_asked_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To ask is a system call, and nearly always finds nothing."""
    asked = 0
    kind = type(line.source)
    recv_into = kind.recv_into

    def ask(stream: Any, buffer: memoryview) -> int | None:
        nonlocal asked
        asked += stream is line.source
        return recv_into(stream, buffer)

    monkeypatch.setattr(kind, "recv_into", ask)
    with beside(line.run):
        settle()
        for piece in (b"a", b"b" * 1000, b"c"):
            asked = 0
            line.writer.send_all(piece)
            assert line.reader.recv(BULK_BYTES) == piece
            settle()
            assert asked == 1
        line.writer.close_write()


def test_a_reader_that_stops_costs_one_buffer_and_no_more(line: Line) -> None:
    data = noise(4 * 1024 * 1024)

    def write() -> None:
        line.writer.send_all(data)
        line.writer.close_write()

    with beside(line.run, write) as (_, writer):
        until(lambda: line.pool.out == 1)
        settle()
        assert (line.pool.out, line.pool.most) == (1, 1)
        assert not writer.dead, "the writer was not held back"
        received = bytearray()
        while piece := line.reader.recv(50_000):
            received += piece
            assert line.pool.out <= 1
    assert received == data


def test_what_is_on_its_way_is_bounded_by_the_buffer() -> None:
    line = Line(memory_pair)
    with beside(line.run, lambda: line.writer.send_all(noise(1_000_000))) as (running, writing):
        settle()
        assert isinstance(line.reader, MemoryStream)
        assert line.reader.unread_bytes == CAPACITY_BYTES
        assert line.flow.bytes <= CAPACITY_BYTES
        assert isinstance(line.source, MemoryStream)
        assert line.source.unread_bytes == CAPACITY_BYTES
        assert line.pool.most == 1
        gevent.killall([running, writing])
    line.close()


def test_glued_bytes_left_over_in_the_source_are_moved_first(line: Line) -> None:
    class One:
        @staticmethod
        def decode(data: bytes, /) -> tuple[bytes, int] | None:
            return (data[:1], 1) if data else None

    line.writer.send_all(b"xrest")
    assert line.source.read_message(One, 10) == b"x"
    line.writer.close_write()
    line.run()
    assert read_exactly(line.reader, 4) == b"rest"
    assert line.flow.bytes == 4


def test_a_reset_of_the_source_is_raised_and_not_passed_off_as_an_end(line: Line) -> None:
    def run() -> None:
        with pytest.raises(ResetError):
            line.run()

    with beside(run):
        line.writer.send_all(b"x")
        assert line.reader.recv(10) == b"x"
        settle()
        line.writer.abort()
    assert not line.flow.ended
    assert line.pool.out == 0
    line.sink.abort()
    with pytest.raises(ResetError):
        line.reader.recv(10)


def test_a_reset_of_the_sink_is_raised(line: Line) -> None:
    def run() -> None:
        with pytest.raises(ResetError):
            line.run()

    def write() -> None:
        with pytest.raises(ResetError):
            line.writer.send_all(bytes(16_000_000))

    with beside(run, write) as (running, _):
        settle()
        line.reader.abort()
        running.join()
        line.source.abort()
    assert not line.flow.ended
    assert line.pool.out == 0


def test_whoever_never_has_to_wait_lets_the_others_have_their_turn() -> None:
    """A fast source and a fast sink must not hold up the loop: all deadlines are there."""

    class Endless(MemoryStream):
        """Has bytes whenever it is asked, and takes all it is given."""

        def recv_into(self, buffer: memoryview) -> int | None:
            flood.item()
            return len(buffer)

        def send_all(self, data: bytes | memoryview) -> None:
            pass

    flood = Flood()
    endless = Endless.__new__(Endless)
    one, other = memory_pair()
    endless.__dict__.update(one.__dict__)
    run = partial(forward, endless, endless, Flow(), BufferPool())
    assert items_before_others(run, flood) < FEW
    other.close()


# -- through a pipe ------------------------------------------------------------------------------

WIDE_BYTES = 200 * 1024  # what a socket may hold without a privilege (net.core.wmem_max)
STOPPED_BYTES = 128 * 1024  # this is the promise
SECRET = Secret(AES_128_GCM, bytes(16))
OURS, OTHERS = SaltMaker(SECRET, b"ours"), SaltMaker(SECRET, b"theirs")


class CountedPipes(PipePool):
    """A pool that knows how many of its pipes are out, and how they came back."""

    def __init__(self) -> None:
        super().__init__()
        self.out = self.most = self.taken = self.dirty = 0

    def take(self) -> Pipe | None:
        pipe = super().take()
        if pipe is not None:
            self.taken += 1
            self.out += 1
            self.most = max(self.most, self.out)
        return pipe

    def give(self, pipe: Pipe) -> None:
        self.out -= 1
        self.dirty += bool(pipe.held_bytes)
        super().give(pipe)

    def close(self) -> None:
        for pipe in self._free:
            pipe.close()


class BulkLine(Line):
    """A line over TCP whose pipes are counted, and whose source holds much at once."""

    writer: SocketStream
    source: SocketStream

    def __init__(self) -> None:
        super().__init__(tcp_pair)
        self.pipes = CountedPipes()
        self.pool.pipes = self.pipes
        for stream in (self.writer, self.source):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                stream._socket.setsockopt(socket.SOL_SOCKET, option, WIDE_BYTES)

    def step(self, data: bytes) -> None:
        """Have *data* moved, in as many reads as it takes."""
        self.writer.send_all(data)
        until(lambda: waiting_bytes(self.source) == len(data))
        move(self.source, self.sink, self.flow, self.pool)
        assert read_exactly(self.reader, len(data)) == data

    def enter(self) -> None:
        """Be so busy that what comes next goes through a pipe."""
        for seed in range(BULK_READS):
            self.step(noise(BULK_BYTES, seed))
        assert self.flow.bulk_reads == BULK_READS
        assert self.pipes.taken == 0
        self.flow.bytes = 0

    def wait_until_stopped(self) -> None:
        """Wait until a pipe is out whose bytes nobody takes."""
        until(lambda: self.pipes.out == 1)
        before = -1
        while before != self.flow.bytes:
            before = self.flow.bytes
            for _ in range(5):
                settle()

    def close(self) -> None:
        super().close()
        self.pipes.close()


def waiting_bytes(stream: SocketStream) -> int:
    """What has come to *stream* and was not read."""
    answer = fcntl.ioctl(stream._socket.fileno(), termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", answer)[0])


@pytest.fixture
def bulk() -> Iterator[BulkLine]:
    gevent.sleep(0)  # the loop's own descriptors are there
    before = descriptors(os.getpid()).keys()
    made = BulkLine()
    with Deadline(HARD_SECONDS, "a test"):
        yield made
    assert (made.pool.out, made.pipes.out) == (0, 0)
    made.close()
    assert not descriptors(os.getpid()).keys() - before, "a descriptor is left"


def test_a_pipe_is_taken_after_some_bulk_reads_and_left_after_a_small_one(bulk: BulkLine) -> None:
    bulk.enter()
    copied = bulk.pool.taken
    for count in range(1, 4):
        bulk.step(noise(BULK_BYTES * 2, count))
        assert (bulk.pipes.taken, bulk.pool.taken) == (count, copied)
    bulk.step(b"a small one")
    assert bulk.pipes.taken == 4
    assert bulk.flow.bulk_reads == 0
    bulk.step(noise(BULK_BYTES))
    assert bulk.pipes.taken == 4, "one bulk read is no bulk transfer"
    assert bulk.pool.taken > copied


def test_a_bulk_read_is_one_of_so_many_bytes_and_no_fewer(bulk: BulkLine) -> None:
    for _ in range(2 * BULK_READS):
        bulk.step(noise(BULK_BYTES - 1))
    for _ in range(BULK_READS - 1):
        bulk.step(noise(BULK_BYTES))
    bulk.step(b"x")
    for _ in range(BULK_READS):
        bulk.step(noise(BULK_BYTES))
    assert bulk.pipes.taken == 0
    bulk.step(noise(BULK_BYTES))
    assert bulk.pipes.taken == 1


@pytest.mark.parametrize("seed", range(3))
def test_every_byte_of_both_ways_survives_many_entries_and_leavings(
    bulk: BulkLine, seed: int
) -> None:
    """Bulk and talk by turns, at random sizes and pauses, both directions at once."""
    application, client, target, service = bulk.writer, bulk.source, bulk.sink, bulk.reader
    up, down = Flow(), Flow()

    def talk(sender: Stream, receiver: Stream, number: int) -> None:
        dice = random.Random(number)
        sent, received = bytearray(), bytearray()

        def receive() -> None:
            while piece := receiver.recv(dice.choice((1000, 65_536, 200_000))):
                received.extend(piece)
                if dice.random() < 0.1:
                    gevent.sleep(0.001)

        with beside(receive):
            for turn in range(12):
                sizes = (200_000, 500_000) if turn % 2 == 0 else (1, 100, 5000)
                data = noise(dice.choice(sizes) + turn, dice.randrange(1 << 30))
                sent.extend(data)
                sender.send_all(data)
                if dice.random() < 0.6:
                    until(lambda: len(received) == len(sent))
            sender.close_write()
        assert received == sent

    with beside(
        lambda: forward(client, target, up, bulk.pool),
        lambda: forward(target, client, down, bulk.pool),
        lambda: talk(application, service, seed),
        lambda: talk(service, application, seed + 100),
    ):
        pass
    assert up.ended
    assert down.ended
    assert bulk.pipes.taken > 5
    assert bulk.pipes.dirty == 0
    assert (bulk.pipes.most, bulk.pool.most) <= (2, 2)


@pytest.mark.parametrize("tail_bytes", [0, 1, BULK_BYTES - 1, BULK_BYTES, 1_000_000])
def test_an_end_in_the_middle_of_bulk_comes_after_the_last_byte(
    bulk: BulkLine, tail_bytes: int
) -> None:
    bulk.enter()
    data = noise(tail_bytes)

    def write() -> None:
        if data:
            bulk.writer.send_all(data)
        bulk.writer.close_write()

    with beside(write, bulk.run):
        assert read_to_end(bulk.reader) == data
    assert bulk.flow.ended
    assert bulk.flow.bytes == tail_bytes
    assert bulk.pipes.taken
    assert bulk.pipes.dirty == 0


@pytest.mark.parametrize("first", ["up", "down"])
def test_either_way_may_end_first_and_the_other_is_bulk_still(bulk: BulkLine, first: str) -> None:
    ways = [(bulk.writer, bulk.reader, Flow()), (bulk.reader, bulk.writer, Flow())]
    flows = ways[0][2], ways[1][2]

    with beside(
        lambda: forward(bulk.source, bulk.sink, flows[0], bulk.pool, flows[1]),
        lambda: forward(bulk.sink, bulk.source, flows[1], bulk.pool, flows[0]),
    ) as (upward, downward):
        for sender, receiver, flow in ways if first == "up" else ways[::-1]:
            flow.bulk_reads = BULK_READS  # the smaller buffers down give no such reads by chance
            taken, data = bulk.pipes.taken, noise(1_000_000)
            with beside(lambda to=sender, what=data: to.send_all(what)):
                assert read_exactly(receiver, len(data)) == data
            assert bulk.pipes.taken > taken
            sender.close_write()
            until(lambda one=flow: one.ended)
            if flow is flows[first == "down"]:  # the second end is left to the close
                assert receiver.recv(1) == b""
        gevent.joinall([upward, downward])
    assert [flow.bytes for flow in flows] == [1_000_000, 1_000_000]


def test_what_is_left_over_of_a_message_comes_before_what_a_pipe_brings(bulk: BulkLine) -> None:
    class One:
        @staticmethod
        def decode(data: bytes, /) -> tuple[bytes, int] | None:
            return (data[:1], 1) if data else None

    data = noise(WIDE_BYTES // 2)
    bulk.writer.send_all(b"x" + data)
    until(lambda: waiting_bytes(bulk.source) == 1 + len(data))
    assert bulk.source.read_message(One, 10) == b"x"
    more = noise(2_000_000, 2)

    def write() -> None:
        bulk.writer.send_all(more)
        bulk.writer.close_write()

    with beside(bulk.run, write):
        assert read_to_end(bulk.reader) == data + more
    assert bulk.flow.bytes == len(data) + len(more)
    assert bulk.pipes.taken


def test_where_all_pipes_are_out_bytes_are_copied_and_later_spliced_again(bulk: BulkLine) -> None:
    bulk.enter()
    lent = [bulk.pipes.take() for _ in range(POOL_PIPES)]
    copied = bulk.pool.taken
    bulk.step(noise(2 * BULK_BYTES))
    assert bulk.pipes.taken == POOL_PIPES
    assert bulk.pool.taken > copied
    for pipe in lent:
        assert pipe is not None
        bulk.pipes.give(pipe)
    bulk.step(noise(BULK_BYTES))
    assert bulk.pipes.taken == POOL_PIPES + 1


def test_a_reset_of_the_source_amid_bulk_leaves_a_true_beginning(bulk: BulkLine) -> None:
    bulk.enter()
    sent, received = bytearray(), bytearray()

    def write() -> None:
        while bulk.pipes.taken < 3 or bulk.flow.bytes < 1_000_000:
            piece = noise(70_000, len(sent))
            sent.extend(piece)
            bulk.writer.send_all(piece)
        bulk.writer.abort()

    def run() -> None:
        with pytest.raises(ResetError):
            bulk.run()
        bulk.sink.close()

    with beside(write, run):
        received += read_to_end(bulk.reader)
    assert sent.startswith(received)
    assert bulk.flow.bytes == len(received)
    assert not (bulk.flow.ended or bulk.flow.broken)


def test_a_reset_of_the_sink_amid_bulk_is_its_break_and_the_pipe_is_closed(bulk: BulkLine) -> None:
    bulk.enter()

    def write() -> None:
        with pytest.raises(ResetError):
            bulk.writer.send_all(bytes(16_000_000))

    def run() -> None:
        with pytest.raises(ResetError):
            bulk.run()

    with beside(run, write) as (running, _):
        bulk.wait_until_stopped()
        bulk.reader.abort()
        running.join()
        assert bulk.flow.broken
        assert not bulk.flow.ended
        assert (bulk.pipes.out, bulk.pipes.dirty) == (0, 1)
        bulk.source.abort()


def test_a_reader_that_stops_amid_bulk_costs_one_pipe_and_no_buffer(bulk: BulkLine) -> None:
    bulk.enter()
    data = noise(4 * 1024 * 1024)

    def write() -> None:
        bulk.writer.send_all(data)
        bulk.writer.close_write()

    with beside(bulk.run, write) as (_, writing):
        bulk.wait_until_stopped()
        assert (bulk.pipes.out, bulk.pool.out) == (1, 0)
        assert not writing.dead, "the writer was not held back"
        assert read_to_end(bulk.reader) == data
    assert bulk.pipes.most == 1
    assert bulk.pipes.dirty == 0
    assert bulk.flow.bytes == len(data)


def test_a_slow_reader_of_what_a_pipe_holds_is_seen_to_read(bulk: BulkLine) -> None:
    """A limit on silence must not hit a client that needs minutes for a full pipe."""
    bulk.enter()
    data = noise(1_000_000)
    with beside(lambda: bulk.writer.send_all(data), bulk.run) as (_, running):
        bulk.wait_until_stopped()
        before, taken = bulk.flow.bytes, bulk.pipes.taken
        received = bytearray()
        while bulk.flow.bytes == before:
            received += bulk.reader.recv(4096)
            gevent.sleep(0)
        assert bulk.pipes.taken == taken, "it was all read at once"
        received += read_exactly(bulk.reader, len(data) - len(received))
        until(lambda: bulk.flow.bytes == len(data))
        running.kill()
    assert received == data


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda one: one.kill(), id="killed"),
        pytest.param(lambda one: interrupt(one, DeadlineError("too long")), id="too late"),
    ],
)
def test_a_pipe_whose_bytes_found_no_reader_in_time_is_not_lent_again(
    bulk: BulkLine, end: Callable[[Any], object]
) -> None:
    bulk.enter()
    data = noise(1_000_000)
    running = gevent.spawn(bulk.run)
    writing = gevent.spawn(bulk.writer.send_all, data)
    bulk.wait_until_stopped()
    end(running)
    running.join()
    assert (bulk.pipes.out, bulk.pipes.dirty) == (0, 1)
    assert not (bulk.flow.broken or bulk.flow.ended)
    bulk.sink.close()
    received = read_to_end(bulk.reader)
    assert data.startswith(received)
    assert bulk.flow.bytes == len(received)
    writing.kill()


# -- what a reader that has stopped costs --------------------------------------------------------


def held_bytes(line: BulkLine, source: Stream) -> int:
    """What one direction holds in buffers, left over, and of a chunk whose rest has not come."""
    assert isinstance(source, SocketStream | SealedStream)
    begun = len(source._sealed) if isinstance(source, SealedStream) else 0
    return line.pool.out_bytes + len(source._leftover) + begun


@pytest.mark.parametrize("pipes", [True, False], ids=["with pipes", "without pipes"])
@pytest.mark.parametrize("to_sealed", [False, True], ids=["to plain", "to sealed"])
@pytest.mark.parametrize(
    ("from_sealed", "handshake_bytes"),
    [
        pytest.param(False, 0, id="from plain"),
        pytest.param(True, 0, id="from sealed"),
        pytest.param(True, 3, id="from sealed, in one flight with a handshake"),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1_000_000, 10_007])
def test_a_reader_that_has_stopped_costs_no_more_than_is_promised(
    bulk: BulkLine,
    piece_bytes: int,
    from_sealed: bool,
    handshake_bytes: int,
    to_sealed: bool,
    pipes: bool,
) -> None:
    writer: Stream = bulk.writer
    source: Stream = bulk.source
    sink: Stream = bulk.sink
    if from_sealed:
        writer = SealedStream(bulk.writer, OTHERS, BufferPool())
        source = SealedStream(bulk.source, OURS, bulk.pool, salts=ProcessMemory(10))
    if to_sealed:
        sink = SealedStream(bulk.sink, OURS, bulk.pool)
    if not pipes:
        bulk.pipes._left = 0
    most = 0
    data = noise(piece_bytes)

    def write() -> None:
        while True:
            writer.send_all(data)

    writing = gevent.spawn(write)
    if handshake_bytes:
        until(lambda: waiting_bytes(bulk.source) > BUFFER_BYTES // 2)
        source.recv(handshake_bytes)
        most = held_bytes(bulk, source)
        assert most > BUFFER_BYTES // 3, "little is left over"
    running = gevent.spawn(forward, source, sink, bulk.flow, bulk.pool)
    for _ in range(2):  # it stops at once, and once more after it has read for a while
        before = -1
        while before != bulk.flow.bytes or not bulk.flow.bytes:
            before = bulk.flow.bytes
            settle()
            most = max(most, held_bytes(bulk, source))
        assert not writing.dead
        read_exactly(bulk.reader, 500_000)
    assert most <= STOPPED_BYTES
    assert bulk.pool.most <= 2, "one to seal from, one to seal into"
    assert bulk.pipes.most <= 1
    gevent.killall([running, writing])
