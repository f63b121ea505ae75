"""One direction: every byte once, one buffer at a time, and none while nothing moves."""

import random
from collections.abc import Iterator

import gevent
import pytest

from geproxy.errors import ResetError
from geproxy.net.deadline import Deadline
from geproxy.net.forward import BUFFER_BYTES, POOL_BUFFERS, BufferPool, Flow, forward
from tests.support.conformance import (
    HARD_SECONDS,
    MakePair,
    beside,
    noise,
    read_exactly,
    settle,
    tcp_pair,
    until,
)
from tests.support.memory import CAPACITY_BYTES, MemoryStream, memory_pair

MAKERS = [pytest.param(memory_pair, id="memory"), pytest.param(tcp_pair, id="TCP")]


class CountedPool(BufferPool):
    """A pool that knows how many of its buffers are out."""

    def __init__(self) -> None:
        super().__init__()
        self.out = self.most = self.taken = 0

    def take(self) -> memoryview:
        self.taken += 1
        self.out += 1
        self.most = max(self.most, self.out)
        return super().take()

    def give(self, buffer: memoryview) -> None:
        self.out -= 1
        super().give(buffer)


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
        left = memoryview(data)
        while left:
            size = dice.choice((1, 10, 1448, 16_384, 65_536, 100_000))
            line.writer.send_all(left[:size])
            left = left[size:]
            if dice.random() < 0.3:
                gevent.sleep(0)
        line.writer.close_write()

    received = bytearray()
    with beside(line.run, write):
        while piece := line.reader.recv(dice.choice((1, 1000, 65_536, 200_000))):
            received += piece
            if dice.random() < 0.1:
                gevent.sleep(0)
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
    turns = 0
    moved = 200 * 65_536

    class Endless(MemoryStream):
        """Has bytes whenever it is asked, up to *moved*, and takes all it is given."""

        left = moved

        def recv_into(self, buffer: memoryview) -> int | None:
            size = min(len(buffer), self.left)
            self.left -= size
            return size

        def send_all(self, data: bytes | memoryview) -> None:
            pass

    endless = Endless.__new__(Endless)
    one, other = memory_pair()
    endless.__dict__.update(one.__dict__)

    def live() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    with beside(live) as (living,):
        gevent.sleep(0)
        before, flow = turns, Flow()
        forward(endless, endless, flow, BufferPool())
        assert flow.bytes == moved
        assert turns - before >= 3, "nobody else had a turn"
        living.kill()
    other.close()


def test_a_pool_lends_what_it_got_back_and_keeps_only_so_much() -> None:
    pool = BufferPool()
    lent = [pool.take() for _ in range(POOL_BUFFERS + 10)]
    assert len({id(buffer.obj) for buffer in lent}) == len(lent)
    assert {len(buffer) for buffer in lent} == {BUFFER_BYTES}
    for buffer in lent:
        pool.give(buffer)
    again = [pool.take() for _ in range(POOL_BUFFERS + 10)]
    known = {id(buffer.obj) for buffer in lent}
    assert sum(id(buffer.obj) in known for buffer in again) == POOL_BUFFERS
