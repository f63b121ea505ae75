"""Sealed streams: a stream like any other inside, and salts, heads and ends as SIP004 has them."""

import os
import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.crypto.aead import TAG_BYTES
from geproxy.crypto.methods import AES_128_GCM, METHODS, Method
from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import (
    AuthenticationError,
    DeadlineError,
    GeproxyError,
    ProtocolError,
    ReplayError,
    ResetError,
)
from geproxy.net.buffers import (
    BUFFER_BYTES,
    LARGE_BUFFER_BYTES,
    LARGE_READ_BYTES,
    READ_BYTES,
    BufferPool,
)
from geproxy.net.deadline import Deadline
from geproxy.net.forward import HEAD_SECONDS, Flow, forward
from geproxy.net.sealed import SealedStream
from geproxy.state.memory import ProcessMemory
from geproxy.streams import Stream
from geproxy.terms import Endpoint
from geproxy.wire.shadowsocks import (
    CHUNK_BYTES,
    MAX_CHUNK_BYTES,
    MAX_TARGET_BYTES,
    ChunkOpener,
    ChunkSealer,
    Target,
    sealed_size,
)
from tests.support.conformance import (
    CHECKS,
    HARD_SECONDS,
    SHORT_SECONDS,
    TOO_MUCH_BYTES,
    Check,
    MakePair,
    a_deadline_ends_a_waiting_send,
    beside,
    check_stream,
    noise,
    read_exactly,
    read_to_end,
    read_to_end_into,
    settle,
    tcp_pair,
    until,
)
from tests.support.memory import MemoryStream, memory_pair
from tests.support.pools import CountedPool

SECRET = Secret(AES_128_GCM, bytes(range(16)))
CLIENT, LISTENER = SaltMaker(SECRET, b"client"), SaltMaker(SECRET, b"listener")
TARGET = Target(Endpoint("target.example", 443))
HEAD = TARGET.encode()
LONGEST_HEAD = b"h" * MAX_TARGET_BYTES
SALT_BYTES = 16
PIECE_BYTES = 1 << 20


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


@pytest.fixture
def pool() -> Iterator[CountedPool]:
    """A pool that has all its buffers back in the end."""
    counted = CountedPool()
    yield counted
    assert counted.out == 0


# -- what tests of sealed streams share ----------------------------------------------------------


def salt_of(number: int) -> bytes:
    return number.to_bytes(SALT_BYTES, "big")


def sealed_by_hand(*pieces: bytes, salt: bytes = salt_of(1), secret: Secret = SECRET) -> bytes:
    """A stream as the document has it: the salt, then chunks, one call of the sealer each."""
    sealer = ChunkSealer(secret.subkey(salt))
    sealed = bytearray(salt)
    for piece in pieces:
        buffer = bytearray(sealed_size(len(piece)))
        sealer.seal_into(piece, memoryview(buffer))
        sealed += buffer
    return bytes(sealed)


def sealed_in_chunks(data: bytes, chunk_bytes: int = MAX_CHUNK_BYTES) -> bytes:
    """The same in chunks of a size that another program may choose."""
    salt = salt_of(1)
    aead, sealed, count = SECRET.subkey(salt)(), salt, 0
    for start in range(0, len(data), chunk_bytes):
        piece = data[start : start + chunk_bytes]
        for plain in (len(piece).to_bytes(2, "big"), piece):
            sealed += aead.encrypt(count.to_bytes(12, "little"), plain, None)
            count += 1
    return sealed


def opened_by_hand(sealed: bytes, secret: Secret = SECRET) -> bytes:
    """What is in a stream that ends where a chunk does."""
    size = secret.method.salt_bytes
    plain = memoryview(bytearray(len(sealed)))
    opener = ChunkOpener(secret.subkey(sealed[:size]))
    used, written = opener.open_into(memoryview(sealed)[size:], plain)
    assert used == len(sealed) - size
    return bytes(plain[:written])


def listener(pool: BufferPool, *sealed: bytes, salts: ProcessMemory | None = None) -> SealedStream:
    """The listening side of a connection on which *sealed* has come, and then the end."""
    raw, inner = memory_pair(PIECE_BYTES)
    for piece in sealed:
        raw.send_all(piece)
    raw.close_write()
    return SealedStream(inner, LISTENER, pool, salts=salts if salts is not None else memory())


def memory() -> ProcessMemory:
    return ProcessMemory(1000)


def reading(stream: Stream) -> tuple[bytes, GeproxyError | None]:
    """All that comes out of *stream*, and what ended it if it was no end."""
    plain = bytearray()
    try:
        while piece := stream.recv(PIECE_BYTES):
            plain += piece
    except GeproxyError as error:
        return bytes(plain), error
    return bytes(plain), None


# -- the promises of every stream ----------------------------------------------------------------


def pair_of(make_inner: MakePair, method: Method, *, listening_first: bool = False) -> MakePair:
    """Make a client's and a listener's stream over what *make_inner* makes."""

    def make() -> tuple[SealedStream, SealedStream]:
        secret, pool = Secret(method, b"k" * method.key_bytes), BufferPool()
        near, far = make_inner()
        client = SealedStream(near, SaltMaker(secret, b"client"), pool)
        listening = SealedStream(far, SaltMaker(secret, b"listener"), pool, salts=memory())
        return (listening, client) if listening_first else (client, listening)

    return make


def with_its_target_read() -> tuple[SealedStream, SealedStream]:
    """The listener's and the client's stream once the target has been told."""
    pool = BufferPool()
    near, far = memory_pair()
    client = SealedStream(near, CLIENT, pool, head=HEAD)
    listening = SealedStream(far, LISTENER, pool, salts=memory())
    client.send_all(b"")
    assert listening.read_message(Target, MAX_TARGET_BYTES) == TARGET
    return listening, client


AES_128, AES_256, CHACHA20 = METHODS.values()
MAKERS = [
    pytest.param(pair_of(memory_pair, AES_128), id="in memory"),
    pytest.param(pair_of(lambda: memory_pair(1000), AES_256), id="in memory, little of it"),
    pytest.param(pair_of(tcp_pair, CHACHA20), id="over TCP"),
    pytest.param(pair_of(tcp_pair, AES_128, listening_first=True), id="over TCP, listener first"),
    pytest.param(with_its_target_read, id="after the target"),
]


# What was cut is no end, so a sealed stream has a test of its own for this one.
HOSTED = [check for check in CHECKS if check is not a_deadline_ends_a_waiting_send]


@pytest.mark.parametrize("check", HOSTED, ids=[check.__name__ for check in HOSTED])
@pytest.mark.parametrize("make_pair", MAKERS)
def test_a_sealed_stream_keeps_the_promises_of_every_stream(
    make_pair: MakePair, check: Check
) -> None:
    check_stream(make_pair, check)


@pytest.mark.parametrize("make_pair", MAKERS)
def test_a_deadline_ends_a_waiting_send_and_the_reader_knows(make_pair: MakePair) -> None:
    here, there = make_pair()
    data = noise(TOO_MUCH_BYTES)
    with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a send"):
        here.send_all(data)
    here.close()
    plain, error = reading(there)
    assert type(error) is ResetError
    assert data.startswith(plain)
    assert len(plain) < len(data)
    there.close()


# -- what leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_salt_head_and_first_bytes_leave_as_one(method: Method, pool: CountedPool) -> None:
    secret = Secret(method, b"k" * method.key_bytes)
    inner, raw = memory_pair(PIECE_BYTES)
    stream = SealedStream(inner, SaltMaker(secret, b"client"), pool, head=HEAD)
    assert stream.holds_head
    stream.send_all(b"hello")
    assert not stream.holds_head
    first = raw.recv(PIECE_BYTES)
    assert raw.unread_bytes == 0
    assert len(first) == method.salt_bytes + sealed_size(len(HEAD) + 5)
    assert opened_by_hand(first, secret) == HEAD + b"hello"


@pytest.mark.parametrize(
    "size_bytes",
    [
        pytest.param(1, id="one byte"),
        pytest.param(CHUNK_BYTES - len(HEAD), id="as much as fits beside the head"),
        pytest.param(CHUNK_BYTES - len(HEAD) + 1, id="one byte more"),
        pytest.param(CHUNK_BYTES, id="a whole chunk of its own"),
        pytest.param(READ_BYTES, id="as much as is read at once"),
        pytest.param(300_000, id="much"),
    ],
)
def test_the_first_send_holds_as_much_as_one_read_does(size_bytes: int, pool: CountedPool) -> None:
    inner, raw = memory_pair(PIECE_BYTES)
    data = noise(size_bytes)
    stream = SealedStream(inner, CLIENT, pool, head=HEAD)
    stream.send_all(data)
    stream.close_write()
    first = raw.recv(PIECE_BYTES)
    assert opened_by_hand(first) == HEAD + data[:READ_BYTES]
    assert opened_by_hand(first + read_to_end(raw)) == HEAD + data


def test_a_listeners_answer_has_no_head(pool: CountedPool) -> None:
    inner, raw = memory_pair()
    stream = SealedStream(inner, LISTENER, pool, salts=memory())
    assert not stream.holds_head
    stream.send_all(b"hello")
    assert opened_by_hand(raw.recv(PIECE_BYTES)) == b"hello"


def test_whole_chunks_leave_as_many_at_a_time_as_a_buffer_holds(pool: CountedPool) -> None:
    inner, raw = memory_pair(PIECE_BYTES)
    stream = SealedStream(inner, CLIENT, pool)
    stream.send_all(b"x")
    raw.recv(PIECE_BYTES)
    stream.send_all(noise(READ_BYTES + 1))
    assert len(raw.recv(PIECE_BYTES)) == sealed_size(READ_BYTES) <= BUFFER_BYTES
    assert len(raw.recv(PIECE_BYTES)) == sealed_size(1)


def test_a_large_buffer_leaves_as_one_piece_and_is_opened_as_one(pool: CountedPool) -> None:
    raw, inner = memory_pair(PIECE_BYTES)
    sender, receiver = SealedStream(raw, CLIENT, pool), SealedStream(inner, LISTENER, pool)
    buffer = pool.take(LARGE_BUFFER_BYTES)
    buffer[:LARGE_READ_BYTES] = data = noise(LARGE_READ_BYTES)
    sender.send_lent(buffer, LARGE_READ_BYTES, pool)
    room = memoryview(bytearray(LARGE_BUFFER_BYTES))
    assert receiver.recv_into(room) == LARGE_READ_BYTES
    assert room[:LARGE_READ_BYTES] == data


def test_the_head_leaves_alone_when_it_is_told_to(pool: CountedPool) -> None:
    inner, raw = memory_pair()
    stream = SealedStream(inner, CLIENT, pool, head=HEAD)
    stream.send_all(b"")
    assert not stream.holds_head
    sent = raw.recv(PIECE_BYTES)
    assert opened_by_hand(sent) == HEAD
    stream.send_all(b"hello")
    assert opened_by_hand(sent + raw.recv(PIECE_BYTES)) == HEAD + b"hello"


def test_the_end_takes_a_waiting_head_along(pool: CountedPool) -> None:
    inner, raw = memory_pair()
    SealedStream(inner, CLIENT, pool, head=HEAD).close_write()
    assert opened_by_hand(read_to_end(raw)) == HEAD


def test_an_end_with_nothing_in_front_of_it_needs_no_salt(pool: CountedPool) -> None:
    inner, raw = memory_pair()
    stream = SealedStream(inner, CLIENT, pool)
    stream.close_write()
    assert read_to_end(raw) == b""
    near, far = memory_pair()
    near.close_write()
    assert SealedStream(far, CLIENT, pool).recv(10) == b""


def test_every_stream_begins_with_a_salt_of_its_own(pool: CountedPool) -> None:
    salts = set()
    for _ in range(1000):
        inner, raw = memory_pair()
        SealedStream(inner, CLIENT, pool, head=HEAD).send_all(b"")
        salts.add(raw.recv(SALT_BYTES))
    assert len(salts) == 1000


class Sink(MemoryStream):
    """Takes what it is given and keeps its beginning."""

    def __init__(self) -> None:
        self.salt = b""

    def send_all(self, data: bytes | memoryview) -> None:
        self.salt = bytes(data[:SALT_BYTES])


def test_no_two_processes_that_were_forked_choose_the_same_salt() -> None:
    pool, children, each = BufferPool(), 4, 500
    pipes = []
    for _ in range(children):
        reading_end, writing_end = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                sink = Sink()
                for _ in range(each):
                    SealedStream(sink, CLIENT, pool).send_all(b"x")
                    os.write(writing_end, sink.salt)
            finally:
                os._exit(0)
        os.close(writing_end)
        pipes.append((pid, reading_end))
    salts = b""
    for pid, reading_end in pipes:
        with open(reading_end, "rb") as pipe:
            salts += pipe.read()
        os.waitpid(pid, 0)
    found = {salts[place : place + SALT_BYTES] for place in range(0, len(salts), SALT_BYTES)}
    assert len(found) == children * each


# -- the head's company --------------------------------------------------------------------------


class Line:
    """writer -> source, forward, a sealed sink -> raw."""

    def __init__(self, pool: BufferPool) -> None:
        self.pool = pool
        self.writer, self.source = memory_pair()
        inner, self.raw = memory_pair(PIECE_BYTES)
        self.sink = SealedStream(inner, CLIENT, pool, head=HEAD)
        self.flow = Flow()

    def run(self) -> None:
        forward(self.source, self.sink, self.flow, self.pool)


@pytest.fixture
def line(pool: CountedPool) -> Line:
    return Line(pool)


def test_bytes_that_are_there_already_travel_with_the_head(line: Line) -> None:
    line.writer.send_all(b"GET / HTTP/1.1")
    line.writer.close_write()
    line.run()
    assert opened_by_hand(line.raw.recv(PIECE_BYTES)) == HEAD + b"GET / HTTP/1.1"
    assert line.raw.recv(10) == b""
    assert (line.flow.bytes, line.flow.ended) == (14, True)


def test_bytes_that_come_in_a_moment_travel_with_the_head(line: Line) -> None:
    with beside(line.run):
        gevent.sleep(0)
        assert line.raw.unread_bytes == 0
        line.writer.send_all(b"hello")
        assert opened_by_hand(line.raw.recv(PIECE_BYTES)) == HEAD + b"hello"
        line.writer.close_write()


def test_the_head_of_a_silent_client_leaves_alone(line: Line, pool: CountedPool) -> None:
    with beside(line.run):
        gevent.sleep(0)
        assert pool.out == 0, "a buffer is held while the head waits"
        first = line.raw.recv(PIECE_BYTES)
        assert opened_by_hand(first) == HEAD
        settle()
        assert line.flow.bytes == pool.out == 0
        line.writer.send_all(b"hello")
        assert opened_by_hand(first + line.raw.recv(PIECE_BYTES)) == HEAD + b"hello"
        line.writer.close_write()
    assert line.flow.bytes == 5


def test_a_client_that_ends_in_silence_sends_the_head_and_the_end(line: Line) -> None:
    line.writer.close_write()
    line.run()
    assert opened_by_hand(read_to_end(line.raw)) == HEAD
    assert (line.flow.bytes, line.flow.ended) == (0, True)


def test_a_client_that_breaks_off_is_a_reset_and_no_head(line: Line) -> None:
    line.writer.abort()
    with pytest.raises(ResetError):
        line.run()
    assert line.raw.unread_bytes == 0


def test_another_deadline_is_not_taken_for_the_heads(line: Line) -> None:
    with pytest.raises(DeadlineError, match="all of it"), Deadline(HEAD_SECONDS / 5, "all of it"):
        line.run()
    assert line.raw.unread_bytes == 0


# -- a send that is interrupted ------------------------------------------------------------------


@pytest.fixture(params=["the first", "a later"])
def interrupted(
    request: pytest.FixtureRequest, pool: CountedPool
) -> tuple[SealedStream, MemoryStream]:
    """A stream one of whose sends was interrupted, and the other end, which has read it all."""
    inner, raw = memory_pair(1000)
    stream = SealedStream(inner, CLIENT, pool, head=HEAD)
    if request.param == "a later":
        stream.send_all(b"hello")
        raw.recv(PIECE_BYTES)
    with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a send"):
        stream.send_all(noise(5000))
    read_exactly(raw, raw.unread_bytes)
    return stream, raw


def test_after_an_interrupted_send_no_other_is_begun(
    interrupted: tuple[SealedStream, MemoryStream],
) -> None:
    stream, raw = interrupted
    for data in (b"x", b"", b"x" * 100):
        with pytest.raises(ResetError):
            stream.send_all(data)
    settle()
    assert raw.unread_bytes == 0


def test_an_interrupted_send_is_not_passed_off_as_an_end(
    interrupted: tuple[SealedStream, MemoryStream],
) -> None:
    stream, raw = interrupted
    with pytest.raises(ResetError):
        stream.close_write()
    stream.abort()
    with pytest.raises(ResetError):
        raw.recv(10)


def test_what_comes_is_still_read_after_an_interrupted_send(
    interrupted: tuple[SealedStream, MemoryStream],
) -> None:
    stream, raw = interrupted
    raw.send_all(sealed_by_hand(b"hello"))
    assert stream.recv(10) == b"hello"


def test_a_send_that_met_a_reset_is_the_last(pool: CountedPool) -> None:
    inner, raw = memory_pair()
    stream = SealedStream(inner, CLIENT, pool, head=HEAD)
    raw.abort()
    for _ in range(2):
        with pytest.raises(ResetError):
            stream.send_all(b"x")
    with pytest.raises(ResetError):
        stream.close_write()


def test_a_killed_sender_leaves_a_stream_that_sends_no_more(pool: CountedPool) -> None:
    inner, raw = memory_pair(1000)
    stream = SealedStream(inner, CLIENT, pool)
    sender = gevent.spawn(stream.send_all, noise(5000))
    until(lambda: raw.unread_bytes == 1000)
    sender.kill()
    with pytest.raises(ResetError):
        stream.send_all(b"x")
    assert raw.unread_bytes == 1000


# -- what comes, in any pieces -------------------------------------------------------------------

words = st.lists(st.binary(max_size=50), max_size=5)
places = st.lists(st.integers(0, 450), max_size=10)


def parts(data: bytes, cuts: list[int]) -> list[bytes]:
    """*data* cut at each of *cuts*, as far as they lie inside."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@settings(max_examples=100, deadline=None)
@given(words, places, st.sampled_from([read_to_end, read_to_end_into]))
def test_any_split_gives_the_same_plaintext(
    pieces: list[bytes], cuts: list[int], read: Callable[[Stream], bytes]
) -> None:
    stream = listener(BufferPool(), *parts(sealed_by_hand(*pieces), cuts))
    if not any(pieces):  # a salt alone, which anybody can send
        with pytest.raises(AuthenticationError):
            read(stream)
        return
    assert read(stream) == b"".join(pieces)


def test_a_first_flight_is_read_byte_by_byte(pool: CountedPool) -> None:
    sealed = sealed_by_hand(HEAD + b"hello")
    stream = listener(pool, *(sealed[place : place + 1] for place in range(len(sealed))))
    assert stream.read_message(Target, MAX_TARGET_BYTES) == TARGET
    assert read_to_end(stream) == b"hello"


def test_a_target_may_be_spread_over_chunks_some_of_them_empty(pool: CountedPool) -> None:
    chunks = [HEAD[place : place + 1] for place in range(len(HEAD))]
    stream = listener(pool, sealed_by_hand(*chunks, b"hello"))
    assert stream.read_message(Target, MAX_TARGET_BYTES) == TARGET
    assert read_to_end(stream) == b"hello"


def empty_chunk(number: int, salt: bytes = salt_of(1)) -> bytes:
    """A chunk of nothing, as the *number*th of its stream; the sealer makes none."""
    cipher, sealed = SECRET.subkey_aead(salt), memoryview(bytearray(34))
    cipher.encrypt_into((2 * number).to_bytes(12, "little"), b"\0\0", None, sealed[:18])
    cipher.encrypt_into((2 * number + 1).to_bytes(12, "little"), b"", None, sealed[18:])
    return bytes(sealed)


@pytest.mark.parametrize("read", [read_to_end, read_to_end_into])
def test_an_empty_chunk_is_no_end(read: Callable[[Stream], bytes], pool: CountedPool) -> None:
    whole = sealed_by_hand(b"one", b"", b"two")
    spare = sealed_by_hand(b"one", b"ignored", b"two")
    first, second = len(sealed_by_hand(b"one")), len(sealed_by_hand(b"one", b"ignored"))
    assert whole != spare
    stream = listener(pool, spare[:first], empty_chunk(1), spare[second:])
    assert read(stream) == b"onetwo"


@pytest.mark.parametrize(
    "room_bytes",
    [
        *(1000, MAX_CHUNK_BYTES, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1),
        *(200_000, LARGE_BUFFER_BYTES - 1, LARGE_BUFFER_BYTES),
    ],
)
def test_a_reader_with_little_room_need_not_wait_for_what_has_come(
    room_bytes: int, pool: CountedPool
) -> None:
    raw, inner = memory_pair(PIECE_BYTES)
    stream = SealedStream(inner, LISTENER, pool, salts=memory())
    data = noise(900_000)
    raw.send_all(sealed_in_chunks(data))
    room = memoryview(bytearray(room_bytes))
    received = b""
    while len(received) < len(data):
        stream.wait_readable()
        count = stream.recv_into(room)
        assert count, f"nothing more after {len(received)} bytes"
        received += bytes(room[:count])
    assert received == data
    assert stream.recv_into(room) is None


@pytest.mark.parametrize(
    "chunk_bytes", [100, 16_255, 16_256, 16_257, 16_302, 16_303, MAX_CHUNK_BYTES]
)
@pytest.mark.parametrize(
    "head", [HEAD, LONGEST_HEAD, b""], ids=["with a head", "with the longest", "without"]
)
def test_what_another_program_sealed_in_chunks_of_its_own_is_sealed_again_whole(
    head: bytes, chunk_bytes: int, pool: CountedPool
) -> None:
    raw, inner = memory_pair(1_000_000)
    outer, far = memory_pair(1_000_000)
    data = noise(500_000)
    raw.send_all(sealed_in_chunks(data, chunk_bytes))
    raw.close_write()
    sink = SealedStream(outer, CLIENT, pool, head=head)
    forward(SealedStream(inner, LISTENER, pool, salts=memory()), sink, Flow(), pool)
    assert opened_by_hand(read_to_end(far)) == head + data


def test_a_message_takes_nothing_of_what_follows_it_in_its_chunk(pool: CountedPool) -> None:
    """A first flight may hold much more than a message is read by."""
    for size_bytes in (4095, 4096, 4097, MAX_CHUNK_BYTES - len(HEAD), 60_000):
        data = noise(size_bytes)
        for read in (read_to_end, read_to_end_into):
            stream = listener(pool, sealed_by_hand(HEAD + data))
            assert stream.read_message(Target, MAX_TARGET_BYTES) == TARGET
            assert read(stream) == data


@pytest.mark.parametrize("longest", [False, True], ids=["of any length", "the longest"])
def test_whatever_chunks_are_left_of_one_read_fit_the_next(
    longest: bool, pool: CountedPool
) -> None:
    dice = random.Random(5)
    data = noise(1_500_000)
    raw, inner = memory_pair(200_000)
    stream = SealedStream(inner, LISTENER, pool, salts=memory())
    pieces, left = [], data
    while left:
        size = dice.choice((1, 50, 1000, MAX_CHUNK_BYTES - 1, MAX_CHUNK_BYTES))
        pieces.append(left[:size])
        left = left[size:]
    sealed = sealed_in_chunks(data) if longest else sealed_by_hand(*pieces)

    def send() -> None:
        for piece in parts(sealed, [dice.randrange(1_600_000) for _ in range(60)]):
            raw.send_all(piece)
        raw.close_write()

    window = memoryview(bytearray(BUFFER_BYTES))
    received = bytearray()
    with beside(send):
        while True:
            while (count := stream.recv_into(window)) is None:
                assert pool.out == 0, "a buffer is held while nothing comes"
                stream.wait_readable()
            if not count:
                break
            received += window[:count]
    assert received == data


# -- flips and cuts ------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), places, st.data())
def test_any_flipped_byte_is_found_out_and_what_came_before_is_true(
    pieces: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    sealed = bytearray(sealed_by_hand(*pieces))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    plain, error = reading(listener(BufferPool(), *parts(bytes(sealed), cuts)))
    assert type(error) is AuthenticationError
    assert b"".join(pieces).startswith(plain)
    assert plain != b"".join(pieces)


def test_a_cut_is_an_end_where_a_chunk_ends_and_an_error_elsewhere(pool: CountedPool) -> None:
    pieces = [b"one", b"three", b"x" * 40]
    sealed = sealed_by_hand(*pieces)
    edges = {0} | {len(sealed_by_hand(*pieces[:count])) for count in range(4)}
    for cut in range(len(sealed) + 1):
        for cuts in ([], [SALT_BYTES, cut - 1]):
            plain, error = reading(listener(pool, *parts(sealed[:cut], cuts)))
            assert b"".join(pieces).startswith(plain)
            # Who ends before a whole chunk has proven nothing: that is no mistake, but a stranger.
            early = 0 < cut < len(sealed_by_hand(b"one"))
            wanted = AuthenticationError if early else ProtocolError
            assert error is None if cut in edges and not early else type(error) is wanted


def test_a_reset_is_neither_an_end_nor_a_cut(pool: CountedPool) -> None:
    sealed = sealed_by_hand(b"hello")
    for cut in (0, 5, SALT_BYTES, 30, len(sealed)):
        raw, inner = memory_pair()
        raw.send_all(sealed[:cut])
        raw.abort()
        _, error = reading(SealedStream(inner, LISTENER, pool, salts=memory()))
        assert type(error) is ResetError


@pytest.mark.parametrize("length", [0x4000, 0x8000, 0xFFFF])
def test_a_length_with_a_top_bit_set_is_a_protocol_error(length: int, pool: CountedPool) -> None:
    sealed = memoryview(bytearray(18))
    salt = salt_of(1)
    SECRET.subkey_aead(salt).encrypt_into(bytes(12), length.to_bytes(2, "big"), None, sealed)
    _, error = reading(listener(pool, salt + bytes(sealed) + bytes(100)))
    assert type(error) is ProtocolError


def test_another_key_is_found_out(pool: CountedPool) -> None:
    other = Secret(AES_128_GCM, b"another key here")
    _, error = reading(listener(pool, sealed_by_hand(b"hello", secret=other)))
    assert type(error) is AuthenticationError


# -- salts ---------------------------------------------------------------------------------------

FLIGHT = sealed_by_hand(HEAD + b"hello", b"world")
FIRST_CHUNK_BYTES = SALT_BYTES + sealed_size(len(HEAD) + 5)


def test_a_stream_that_was_sent_before_is_refused(pool: CountedPool) -> None:
    salts = memory()
    assert reading(listener(pool, FLIGHT, salts=salts)) == (HEAD + b"helloworld", None)
    for _ in range(3):
        plain, error = reading(listener(pool, FLIGHT, salts=salts))
        assert (plain, type(error)) == (b"", ReplayError)


def test_a_replay_is_told_only_once_its_first_chunk_is_whole(pool: CountedPool) -> None:
    salts = memory()
    reading(listener(pool, FLIGHT, salts=salts))
    raw, inner = memory_pair()
    stream = SealedStream(inner, LISTENER, pool, salts=salts)
    room = memoryview(bytearray(BUFFER_BYTES))
    for place in range(FIRST_CHUNK_BYTES - 1):
        raw.send_all(FLIGHT[place : place + 1])
        assert stream.recv_into(room) is None
    raw.send_all(FLIGHT[FIRST_CHUNK_BYTES - 1 : FIRST_CHUNK_BYTES])
    with pytest.raises(ReplayError):
        stream.recv_into(room)


def test_a_replay_stays_refused_whatever_follows(pool: CountedPool) -> None:
    salts = memory()
    reading(listener(pool, FLIGHT, salts=salts))
    stream = listener(pool, *parts(FLIGHT, [FIRST_CHUNK_BYTES]), salts=salts)
    for _ in range(2):
        with pytest.raises(ReplayError):
            stream.recv(100)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(FLIGHT[:SALT_BYTES] + bytes(49), id="49 bytes of nothing"),
        pytest.param(
            FLIGHT[: SALT_BYTES + 18] + bytes(200), id="a true length and a false payload"
        ),
        pytest.param(FLIGHT[: FIRST_CHUNK_BYTES - 1], id="all but the last byte"),
        pytest.param(FLIGHT[:FIRST_CHUNK_BYTES] + bytes(18), id="one true chunk and a false one"),
    ],
)
def test_a_salt_sent_with_garbage_is_not_spent(garbage: bytes, pool: CountedPool) -> None:
    salts = memory()
    for _ in range(3):
        plain, error = reading(listener(pool, garbage, salts=salts))
        assert plain == b""
        assert isinstance(error, AuthenticationError | ProtocolError)
        assert not isinstance(error, ReplayError)
    assert reading(listener(pool, FLIGHT, salts=salts)) == (HEAD + b"helloworld", None)


def test_of_many_at_once_one_is_served(pool: CountedPool) -> None:
    salts = memory()
    found: list[GeproxyError | None] = []

    def serve() -> None:
        raw, inner = memory_pair()
        stream = SealedStream(inner, LISTENER, pool, salts=salts)
        for piece in parts(FLIGHT, list(range(0, len(FLIGHT), 7))):
            raw.send_all(piece)
            gevent.sleep(0)
        raw.close_write()
        found.append(reading(stream)[1])

    with beside(*[serve] * 8):
        pass
    assert [type(error) for error in found].count(ReplayError) == 7
    assert found.count(None) == 1


def answer_of(maker: SaltMaker, pool: BufferPool) -> tuple[SealedStream, bytes]:
    """A stream that has sent something which comes back to it, and what."""
    inner, raw = memory_pair()
    stream = SealedStream(inner, maker, pool)
    stream.send_all(HEAD + b"hello")
    sent = raw.recv(PIECE_BYTES)
    raw.send_all(sent)
    raw.close_write()
    return stream, sent


@pytest.mark.parametrize("role", [b"client", b"listener"])
def test_what_was_sent_in_a_role_is_refused_in_that_role(role: bytes, pool: CountedPool) -> None:
    """Without a memory: so it is after a restart, too."""
    stream, sent = answer_of(SaltMaker(SECRET, role), pool)
    raw, inner = memory_pair()
    raw.send_all(sent)
    for one in (stream, SealedStream(inner, SaltMaker(SECRET, role), pool)):
        plain, error = reading(one)
        assert (plain, type(error)) == (b"", ReplayError)
    assert reading(listener(pool, answer_of(CLIENT, pool)[1])) == (HEAD + b"hello", None)


def test_a_client_takes_the_same_salt_from_two_peers(pool: CountedPool) -> None:
    """What was answered once may come again: only a listener has to remember."""
    for _ in range(2):
        raw, inner = memory_pair()
        raw.send_all(FLIGHT)
        raw.close_write()
        stream = SealedStream(inner, CLIENT, pool, head=HEAD)
        stream.send_all(b"")
        assert reading(stream) == (HEAD + b"helloworld", None)


def test_empty_chunks_without_end_do_not_keep_the_loop_to_themselves() -> None:
    """Each of them is authentic, so whoever has the key could stop a worker with them."""
    inner, far = memory_pair()
    reader = SealedStream(inner, CLIENT, BufferPool())
    salt = bytes(SECRET.method.salt_bytes)
    aead = SECRET.subkey_aead(salt)
    empty = bytearray()
    for count in range(0, 400, 2):
        for nonce, plain in ((count, b"\0\0"), (count + 1, b"")):
            sealed = bytearray(len(plain) + TAG_BYTES)
            aead.encrypt_into(nonce.to_bytes(12, "little"), plain, None, memoryview(sealed))
            empty += sealed
    far.send_all(salt)
    for start in range(0, len(empty), 34):
        far.send_all(bytes(empty[start : start + 34]))
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for _ in range(3):
        assert reader.recv_into(buffer) is None
    assert inner.recv_into(buffer) == 34, "there is more, and it waits for another turn"
    reader.close()
    far.close()
