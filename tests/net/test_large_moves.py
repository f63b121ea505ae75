"""Bulk moves in large pieces where its sink takes them at once, and nowhere else."""

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from geproxy.crypto.methods import AES_128_GCM
from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import DeadlineError
from geproxy.net import forward as forwarding
from geproxy.net import sockopt
from geproxy.net.buffers import (
    BUFFER_BYTES,
    LARGE_BUFFER_BYTES,
    LARGE_BUFFERS,
    LARGE_READ_BYTES,
    BufferPool,
)
from geproxy.net.deadline import Deadline
from geproxy.net.forward import BULK_BYTES, BULK_READS, ROUNDS, Flow, forward, move
from geproxy.net.greenlets import interrupt
from geproxy.net.sealed import SealedStream
from geproxy.net.sockopt import ROOMY_SEGMENT_BYTES
from geproxy.net.stream import SocketStream
from geproxy.state.memory import ProcessMemory
from geproxy.streams import Stream
from tests.support.conformance import (
    HARD_SECONDS,
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
from tests.support.memory import memory_pair
from tests.support.pools import CountedPool

SECRET = Secret(AES_128_GCM, bytes(16))
OURS, OTHERS = SaltMaker(SECRET, b"ours"), SaltMaker(SECRET, b"theirs")
STOPPED_BYTES = 128 * 1024  # this is the promise
SEALED = pytest.mark.parametrize("to_sealed", [False, True], ids=["to plain", "to sealed"])
OPENED = pytest.mark.parametrize("from_sealed", [False, True], ids=["from plain", "from sealed"])


class Line:
    """writer -> source, forward, sink -> reader; sockets hold what the kernel likes."""

    def __init__(self, *, from_sealed: bool, to_sealed: bool) -> None:
        self.pool = CountedPool()
        self.pool.pipes._left = 0  # all is copied
        self.flow = Flow()
        self.ends = *tcp_pair(buffer_bytes=0), *tcp_pair(buffer_bytes=0)
        self.writer: Stream = self.ends[0]
        self.source: Stream = self.ends[1]
        self.sink: Stream = self.ends[2]
        self.reader: Stream = self.ends[3]
        if from_sealed:
            self.writer = SealedStream(self.writer, OTHERS, BufferPool())
            self.source = SealedStream(self.source, OURS, self.pool, salts=ProcessMemory(10))
        if to_sealed:
            self.sink = SealedStream(self.sink, OURS, self.pool)
            self.reader = SealedStream(self.reader, OTHERS, BufferPool(), salts=ProcessMemory(10))

    def share(self, pool: CountedPool) -> None:
        """Lend from *pool*, as all connections of a worker do."""
        self.pool = pool
        for stream in (self.source, self.sink):
            if isinstance(stream, SealedStream):
                stream._pool = pool

    def run(self) -> None:
        forward(self.source, self.sink, self.flow, self.pool)

    @property
    def held_bytes(self) -> int:
        """What is in buffers, and of a chunk whose rest has not come."""
        begun = len(self.source._sealed) if isinstance(self.source, SealedStream) else 0
        return self.pool.out_bytes + begun

    def close(self) -> None:
        for end in self.ends:
            end.close()


@pytest.fixture
def line(from_sealed: bool, to_sealed: bool) -> Iterator[Line]:
    made = Line(from_sealed=from_sealed, to_sealed=to_sealed)
    with Deadline(HARD_SECONDS, "a test"):
        yield made
    assert made.pool.out == 0
    made.close()


@OPENED
@SEALED
@pytest.mark.parametrize("seed", range(2))
def test_every_byte_arrives_through_large_buffers_and_others_by_turns(
    line: Line, seed: int
) -> None:
    dice = random.Random(seed)
    data = noise(20_000_000, seed)

    def write() -> None:
        send_by_pieces(line.writer, data, dice, (1, 5000, 300_000, 3_000_000), Pause(0.1, 0.001))

    with beside(line.run, write):
        received = read_by_pieces(line.reader, dice, (1000, 65_536, 1_000_000), Pause(0.01, 0.001))
    assert received == data
    assert (line.flow.bytes, line.flow.ended) == (len(data), True)
    assert line.pool.taken_large > 4
    assert line.pool.taken > line.pool.taken_large


@OPENED
@SEALED
def test_a_reader_that_stops_in_bulk_costs_no_more_than_is_promised(line: Line) -> None:
    data = noise(1_000_000)
    most = 0

    def write() -> None:
        while True:
            line.writer.send_all(data)

    writing, running = gevent.spawn(write), gevent.spawn(line.run)
    for _ in range(4):
        before = -1
        while before != line.flow.bytes or not line.flow.bytes:
            before = line.flow.bytes
            for _ in range(5):
                settle()
                most = max(most, line.held_bytes)
        assert line.pool.out, "nothing waits"
        read_exactly(line.reader, 3_000_000)
    assert not writing.dead
    assert not running.dead
    assert line.pool.taken_large > 2
    assert most <= STOPPED_BYTES
    gevent.killall([running, writing])


@OPENED
@SEALED
@pytest.mark.parametrize("left", [0, 1, 2])
def test_where_large_ones_are_out_the_others_do(line: Line, left: int) -> None:
    """One is not enough: what is read into it may have to be sealed into another."""
    kept = [line.pool.take(LARGE_BUFFER_BYTES) for _ in range(LARGE_BUFFERS - left)]
    data = noise(6_000_000)

    def write() -> None:
        line.writer.send_all(data)
        line.writer.close_write()

    with beside(line.run, write):
        assert read_to_end(line.reader) == data
    assert (line.pool.taken_large > len(kept)) == (left >= 2)
    for buffer in kept:
        line.pool.give(buffer)


@OPENED
@SEALED
def test_a_kernel_that_takes_less_than_it_had_room_for_costs_two_large_buffers(
    from_sealed: bool, to_sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SocketStream, "room_bytes", 1 << 30)
    lines = [Line(from_sealed=from_sealed, to_sealed=to_sealed) for _ in range(LARGE_BUFFERS + 2)]
    pool, data = lines[0].pool, noise(12_000_000)
    for line in lines:
        line.share(pool)

    def write(line: Line) -> None:
        line.writer.send_all(data)
        line.writer.close_write()

    with Deadline(HARD_SECONDS, "a test"):
        running = [gevent.spawn(line.run) for line in lines]
        writing = [gevent.spawn(write, line) for line in lines]
        until(lambda: pool.out == len(lines))
        for _ in range(5):
            settle()
        large = (pool.out_bytes - len(lines) * BUFFER_BYTES) / (LARGE_BUFFER_BYTES - BUFFER_BYTES)
        assert large == 2
        for line in lines:
            assert read_to_end(line.reader) == data
        gevent.joinall([*running, *writing], raise_error=True)
    assert pool.out == 0
    for line in lines:
        line.close()


@pytest.mark.parametrize("from_sealed", [False])
@SEALED
def test_who_is_not_in_bulk_gets_no_large_one(line: Line) -> None:
    for seed in range(3 * BULK_READS):
        data = noise(BULK_BYTES, seed) + b"x" if seed % BULK_READS else b"a small one"
        line.writer.send_all(data)
        gevent.sleep(0.001)
        move(line.source, line.sink, line.flow, line.pool)
        assert read_exactly(line.reader, len(data)) == data
    assert line.pool.taken_large == 0


@OPENED
@SEALED
def test_a_turn_is_no_longer_with_large_buffers(
    line: Line, from_sealed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many bytes in a row as through others: nobody waits longer."""
    turns, reads = [], []
    copy, reached = forwarding._copy, Flow.reached

    def count_turn(source: Stream, sink: Stream, flow: Flow, pool: BufferPool) -> bool:
        before = flow.bytes
        waits = copy(source, sink, flow, pool)
        turns.append(flow.bytes - before)
        return waits

    def count_read(flow: Flow, count: int) -> None:
        reached(flow, count)
        reads.append(count)

    monkeypatch.setattr(forwarding, "_copy", count_turn)
    monkeypatch.setattr(Flow, "reached", count_read)
    dice = random.Random(1)
    data = noise(20_000_000)

    def write() -> None:
        send_by_pieces(line.writer, data, dice, (20_000, 300_000, 1_000_000))

    with beside(line.run, write):
        assert read_to_end(line.reader) == data
    assert BUFFER_BYTES < max(turns) <= ROUNDS * BUFFER_BYTES
    if not from_sealed:
        assert max(reads) <= LARGE_READ_BYTES, "more than fits once it is sealed"


@OPENED
@SEALED
@pytest.mark.parametrize("end", ["kill", "deadline", "reset"])
def test_who_waits_with_a_large_buffer_all_the_same_gives_it_back(
    line: Line, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SocketStream, "room_bytes", 1 << 30)
    writing = gevent.spawn(line.writer.send_all, noise(12_000_000))
    running = gevent.spawn(line.run)
    until(lambda: line.pool.out_bytes >= LARGE_BUFFER_BYTES)
    for _ in range(5):
        settle()
    assert line.pool.out_bytes == LARGE_BUFFER_BYTES
    if end == "kill":
        running.kill()
    elif end == "deadline":
        interrupt(running, DeadlineError("too long"))
    else:
        line.reader.abort()
    running.join()
    assert line.pool.out == 0
    kept = [line.pool.take(LARGE_BUFFER_BYTES) for _ in range(LARGE_BUFFERS)]
    assert {len(buffer) for buffer in kept} == {LARGE_BUFFER_BYTES}
    for buffer in kept:
        line.pool.give(buffer)
    writing.kill()


# -- how much room there is --------------------------------------------------------------------


@pytest.mark.parametrize("buffer_bytes", [0, 2000, 32_768, 212_992])
@pytest.mark.parametrize("segment_bytes", [0, 1100, 1460])
def test_the_kernel_takes_what_it_has_room_for(buffer_bytes: int, segment_bytes: int) -> None:
    """Whatever it holds already, and whatever segments it will cut."""
    dice = random.Random(buffer_bytes + segment_bytes)
    near, far = tcp_pair(buffer_bytes=buffer_bytes, segment_bytes=segment_bytes)
    data = memoryview(noise(10_000_000))
    sock = near._socket
    if segment_bytes:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= segment_bytes
    tried = 0
    with Deadline(HARD_SECONDS, "a test"):
        for _ in range(200):
            room_bytes = near.room_bytes
            size = dice.choice((1, 100, 1447, 30_000, room_bytes))
            if 0 < size <= room_bytes:
                assert sock.send(data[:size], socket.MSG_DONTWAIT) == size
                tried += 1
            if dice.random() < 0.4 and far.recv_into(memoryview(bytearray(size))) is None:
                gevent.sleep(0)
    assert tried > 20
    near.close()
    far.close()


def test_where_segments_are_small_nobody_can_tell() -> None:
    """Where no device puts them together, the kernel's own part of them is larger than ours."""
    near, far = tcp_pair(buffer_bytes=0, segment_bytes=ROOMY_SEGMENT_BYTES - 1)
    assert near.room_bytes == 0
    near.close()
    far.close()


def test_a_sink_that_is_full_has_no_room() -> None:
    near, far = tcp_pair()
    sending = gevent.spawn(near.send_all, bytes(10_000_000))
    until(lambda: near.room_bytes < BULK_BYTES)
    settle()
    assert 0 <= near.room_bytes < BULK_BYTES
    sending.kill()
    near.abort()
    far.close()


def test_a_sealed_stream_has_the_room_of_the_one_that_it_seals_onto() -> None:
    near, far = tcp_pair(buffer_bytes=0)
    assert SealedStream(near, OURS, BufferPool()).room_bytes == near.room_bytes > 0
    inner, _ = memory_pair()
    assert SealedStream(inner, OURS, BufferPool()).room_bytes == 0
    near.close()
    far.close()


def test_a_closed_socket_has_no_room() -> None:
    near, far = tcp_pair()
    near.close()
    far.close()
    assert near.room_bytes == 0


@pytest.mark.parametrize(
    ("text", "has_room"), [("4294967295\n", True), ("131072\n", False), (None, True)]
)  # None: /proc is hidden
def test_where_the_system_limits_what_is_unsent_nobody_can_tell(
    text: str | None, has_room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tcp_notsent_lowat"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(sockopt, "NOTSENT_LOWAT", str(path))
    sockopt._limits_unsent.cache_clear()
    near, far = tcp_pair(buffer_bytes=0)
    try:
        assert bool(near.room_bytes) == has_room
    finally:
        sockopt._limits_unsent.cache_clear()
        near.close()
        far.close()


def test_what_could_not_be_read_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no descriptor was left for it."""
    path = tmp_path / "tcp_notsent_lowat"
    path.mkdir()
    monkeypatch.setattr(sockopt, "NOTSENT_LOWAT", str(path))
    sockopt._limits_unsent.cache_clear()
    near, far = tcp_pair(buffer_bytes=0)
    try:
        assert near.room_bytes == 0
        path.rmdir()
        path.write_text("4294967295\n")
        assert near.room_bytes > 0
    finally:
        sockopt._limits_unsent.cache_clear()
        near.close()
        far.close()
