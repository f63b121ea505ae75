"""What streams.Stream promises, as checks that every kind of stream passes; and its real maker.

A check gets the two ends of one connection. check_stream() gives it fresh ones, under a hard
deadline, and closes them.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import gevent

from geproxy.errors import DeadlineError, ProtocolError, ResetError
from geproxy.net.deadline import Deadline
from geproxy.net.stream import SocketStream
from geproxy.streams import Stream
from geproxy.terms import Endpoint

MakePair = Callable[[], tuple[Stream, Stream]]
Check = Callable[[Stream, Stream], None]

# Chosen here
HARD_SECONDS = 20.0  # a check that hangs fails; none of them comes near it
SHORT_SECONDS = 0.03  # for waits that must not be answered
SOON_SECONDS = 0.01  # for waits that nobody is there to answer
BUFFER_BYTES = 128 * 1024
SOCKET_BUFFER_BYTES = 32 * 1024
TOO_MUCH_BYTES = 2 * 1024 * 1024  # more than any stream takes while nobody reads
MIB = 1024 * 1024

CHECKS: list[Check] = []


def _check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def check_stream(make_pair: MakePair, check: Check) -> None:
    """Run one *check* over a fresh pair of *make_pair*."""
    here, there = make_pair()
    try:
        with Deadline(HARD_SECONDS, "a check"):
            check(here, there)
    finally:
        here.close()
        there.close()


# -- what tests of streams share ----------------------------------------------------------------


class Pause(NamedTuple):
    """How likely one is, and how long; 0 seconds are a turn of the others."""

    chance: float
    seconds: float = 0.0

    def perhaps(self, dice: random.Random) -> None:
        """Make one, or not."""
        if dice.random() < self.chance:
            gevent.sleep(self.seconds)


NO_PAUSE = Pause(0.0)


def tcp_pair(
    host: str = "127.0.0.1", buffer_bytes: int = SOCKET_BUFFER_BYTES, segment_bytes: int = 0
) -> tuple[SocketStream, SocketStream]:
    """A connection over loopback, with small buffers so that a writer soon has to wait.

    Its sockets are as accept() gives them: it is each call that must not block. A size that is 0
    is the kernel's choice.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        if segment_bytes:
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment_bytes)
        near = socket.create_connection(listening.getsockname()[:2])
        far, _ = listening.accept()
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF) if buffer_bytes else ():
            sock.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)
    return (
        SocketStream(near, Endpoint.from_sockaddr(near.getpeername())),
        SocketStream(far, Endpoint.from_sockaddr(far.getpeername())),
    )


@contextmanager
def beside(*functions: Callable[[], object]) -> Iterator[list[gevent.Greenlet[..., Any]]]:
    """Run *functions* beside the body, then wait for them and raise what they raised."""
    greenlets = [gevent.spawn(function) for function in functions]
    try:
        yield greenlets
        for one in greenlets:
            one.get()
    finally:
        gevent.killall(greenlets)


def until(condition: Callable[[], object], seconds: float = HARD_SECONDS) -> None:
    """Let the others run until *condition* holds; fail after *seconds*."""
    with Deadline(seconds, f"waiting for {condition}"):
        while not condition():
            gevent.sleep(0.001)


def send_by_pieces(
    stream: Stream,
    data: bytes,
    dice: random.Random,
    sizes: tuple[int, ...],
    pause: Pause = NO_PAUSE,
) -> None:
    """Send *data* in pieces of any of *sizes*, with a pause after some of them; then the end."""
    left = memoryview(data)
    while left:
        size = dice.choice(sizes)
        stream.send_all(left[:size])
        left = left[size:]
        pause.perhaps(dice)
    stream.close_write()


def read_by_pieces(
    stream: Stream, dice: random.Random, sizes: tuple[int, ...], pause: Pause = NO_PAUSE
) -> bytearray:
    """Read to the end in the same manner."""
    received = bytearray()
    while piece := stream.recv(dice.choice(sizes)):
        received += piece
        pause.perhaps(dice)
    return received


def settle() -> None:
    """Give everybody who can go on a few turns."""
    for _ in range(20):
        gevent.sleep(0)
    gevent.sleep(0.002)


def noise(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes in which a lost, doubled or swapped piece shows."""
    return random.Random(seed).randbytes(size_bytes)


def read_exactly(stream: Stream, size_bytes: int) -> bytes:
    """Read so many bytes; an earlier end fails."""
    data = bytearray()
    while len(data) < size_bytes:
        piece = stream.recv(min(size_bytes - len(data), BUFFER_BYTES))
        assert piece, f"ended after {len(data)} of {size_bytes} bytes"
        data += piece
    return bytes(data)


def read_to_end(stream: Stream) -> bytes:
    """Read until the end of the stream."""
    data = bytearray()
    while piece := stream.recv(BUFFER_BYTES):
        data += piece
    return bytes(data)


def read_to_end_into(stream: Stream) -> bytes:
    """The same by way of recv_into and wait_readable."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    data = bytearray()
    while True:
        while (count := stream.recv_into(buffer)) is None:
            stream.wait_readable()
        if not count:
            return bytes(data)
        data += buffer[:count]


@contextmanager
def raises(kind: type[Exception]) -> Iterator[None]:
    """Demand an error of just this kind."""
    try:
        yield
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message to try read_message with: its length in one octet, never 0, then its body."""

    body: bytes

    LIMIT_BYTES = 256

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, int] | None:
        """See terms.Decoder."""
        if not data:
            return None
        if data[0] == 0:
            raise ProtocolError("a parcel of nothing")
        end = 1 + data[0]
        return (cls(data[1:end]), end) if len(data) >= end else None

    def encode(self) -> bytes:
        """Write length and body."""
        return bytes((len(self.body),)) + self.body


HELLO = Parcel(b"hello")


class _Owner:
    """Lends one buffer; spoils it once it is back, so that what is sent later shows."""

    def __init__(self, data: bytes) -> None:
        self.buffer = memoryview(bytearray(data))
        self.given = 0

    def give(self, buffer: memoryview) -> None:
        assert buffer is self.buffer
        self.given += 1
        buffer[:] = b"\xee" * len(buffer)


def _read_what_came(stream: Stream) -> bytes:
    """Read until the end, or the reset that a sealed stream makes of a cut."""
    data = bytearray()
    try:
        while piece := stream.recv(BUFFER_BYTES):
            data += piece
    except ResetError:
        pass
    return bytes(data)


def _rejects(call: Callable[[], object]) -> Callable[[], None]:
    """What *call* must do is break."""

    def run() -> None:
        with raises(ResetError):
            call()

    return run


# -- bytes --------------------------------------------------------------------------------------


@_check
def bytes_arrive_in_order_however_they_are_cut(here: Stream, there: Stream) -> None:
    dice = random.Random(2)
    data = noise(300_000)

    def send() -> None:
        left = memoryview(data)
        while left:
            size = dice.choice((1, 2, 100, 4095, 4096, 4097, 20_000))
            here.send_all(left[:size])
            left = left[size:]
            if dice.random() < 0.2:
                gevent.sleep(0)
        here.close_write()

    received = bytearray()
    with beside(send):
        while piece := there.recv(dice.choice((1, 3, 1000, 65_536))):
            received += piece
    assert received == data


@_check
def recv_returns_no_more_than_was_asked_for(here: Stream, there: Stream) -> None:
    here.send_all(b"abcdef")
    assert there.recv(1) == b"a"
    assert len(there.recv(2)) <= 2


@_check
def recv_into_takes_what_recv_left(here: Stream, there: Stream) -> None:
    here.send_all(b"abcdef")
    assert there.recv(1) == b"a"
    here.close_write()
    assert read_to_end_into(there) == b"bcdef"


@_check
def recv_into_does_not_wait(here: Stream, there: Stream) -> None:
    assert there.recv_into(memoryview(bytearray(BUFFER_BYTES))) is None
    here.send_all(b"x")
    there.wait_readable()
    there.wait_readable()
    assert there.recv(10) == b"x"
    assert there.recv_into(memoryview(bytearray(BUFFER_BYTES))) is None


@_check
def recv_into_leaves_the_rest_of_the_buffer_alone(here: Stream, there: Stream) -> None:
    buffer = memoryview(bytearray(b"." * BUFFER_BYTES))
    here.send_all(b"abc")
    while (count := there.recv_into(buffer)) is None:
        there.wait_readable()
    assert bytes(buffer[:count]) == b"abc"[:count]
    assert bytes(buffer[count : count + 10]) == b"." * 10


def _sizes_survive(size_bytes: int) -> Check:
    def check(here: Stream, there: Stream) -> None:
        data = noise(size_bytes)

        def send() -> None:
            here.send_all(data)
            here.close_write()

        with beside(send):
            assert read_to_end_into(there) == data

    check.__name__ = f"{size_bytes}_bytes_sent_at_once_arrive_whole"
    return check


for _size in (1, 65_535, 65_536, 65_537, MIB - 1, MIB, MIB + 1):
    _check(_sizes_survive(_size))


@_check
def a_part_of_a_buffer_is_sent_and_may_be_reused_afterwards(here: Stream, there: Stream) -> None:
    buffer = bytearray(b"..sent..")
    here.send_all(memoryview(buffer)[2:6])
    buffer[:] = b"-" * len(buffer)
    here.close_write()
    assert read_to_end(there) == b"sent"


@_check
def what_there_is_room_for_is_sent_without_a_wait(here: Stream, there: Stream) -> None:
    room_bytes = here.room_bytes
    assert 0 <= room_bytes < TOO_MUCH_BYTES

    def send() -> None:
        here.send_all(bytes(room_bytes))

    sender = gevent.spawn(send)
    gevent.sleep(0)
    assert sender.dead
    sender.get()
    here.close_write()
    assert len(read_to_end(there)) == room_bytes


@_check
def a_lent_buffer_goes_back_once_its_bytes_are_elsewhere(here: Stream, there: Stream) -> None:
    data = noise(300_000)
    owner = _Owner(data + b"not to be sent")

    def send() -> None:
        here.send_lent(owner.buffer, len(data), owner)
        here.close_write()

    with beside(send):
        assert read_to_end(there) == data
    assert owner.given == 1


@_check
def a_lent_buffer_goes_back_when_the_time_is_over(here: Stream, there: Stream) -> None:
    owner = _Owner(noise(TOO_MUCH_BYTES))
    with raises(DeadlineError), Deadline(SHORT_SECONDS, "a send"):
        here.send_lent(owner.buffer, TOO_MUCH_BYTES, owner)
    assert owner.given == 1
    here.close()
    assert noise(TOO_MUCH_BYTES).startswith(_read_what_came(there))


@_check
def a_lent_buffer_goes_back_when_its_sender_is_killed(here: Stream, there: Stream) -> None:
    owner = _Owner(noise(TOO_MUCH_BYTES))
    sender = gevent.spawn(here.send_lent, owner.buffer, TOO_MUCH_BYTES, owner)
    settle()
    sender.kill()
    assert owner.given == 1
    here.close()
    assert noise(TOO_MUCH_BYTES).startswith(_read_what_came(there))


@_check
def a_lent_buffer_goes_back_at_a_reset(here: Stream, there: Stream) -> None:
    owner = _Owner(bytes(TOO_MUCH_BYTES))
    with beside(_rejects(lambda: here.send_lent(owner.buffer, TOO_MUCH_BYTES, owner))):
        settle()
        there.abort()
    assert owner.given == 1


@_check
def what_is_sent_is_counted_while_the_rest_waits(here: Stream, there: Stream) -> None:
    def send() -> None:
        here.send_all(bytes(TOO_MUCH_BYTES))
        here.close_write()

    with beside(send):
        for _ in range(3):
            before = here.sent_bytes
            while here.sent_bytes == before:
                assert there.recv(4096), "it was counted at once"
                gevent.sleep(0)
        read_to_end(there)
    assert here.sent_bytes >= TOO_MUCH_BYTES


@_check
def sending_nothing_does_nothing(here: Stream, there: Stream) -> None:
    here.send_all(b"")
    here.send_all(memoryview(b""))
    here.send_all(b"x")
    assert there.recv(10) == b"x"


@_check
def one_greenlet_reads_while_another_writes_at_both_ends(here: Stream, there: Stream) -> None:
    up, down = noise(MIB, 3), noise(MIB + 5, 4)
    received: dict[str, bytes] = {}

    def send(stream: Stream, data: bytes) -> None:
        stream.send_all(data)
        stream.close_write()

    def receive(name: str, stream: Stream) -> None:
        received[name] = read_to_end(stream)

    with beside(
        lambda: send(here, up),
        lambda: send(there, down),
        lambda: receive("up", there),
        lambda: receive("down", here),
    ):
        pass
    assert received["up"] == up
    assert received["down"] == down


@_check
def each_end_knows_the_other_ones_address(here: Stream, there: Stream) -> None:
    assert here.peer == there.bound
    assert there.peer == here.bound
    assert here.bound != there.bound


# -- messages -----------------------------------------------------------------------------------


@_check
def a_message_is_read_one_byte_at_a_time(here: Stream, there: Stream) -> None:
    def dribble() -> None:
        for number in HELLO.encode():
            here.send_all(bytes((number,)))
            settle()

    with beside(dribble):
        assert there.read_message(Parcel, Parcel.LIMIT_BYTES) == HELLO


@_check
def what_follows_a_message_comes_out_of_recv(here: Stream, there: Stream) -> None:
    here.send_all(HELLO.encode() + b"more")
    assert there.read_message(Parcel, Parcel.LIMIT_BYTES) == HELLO
    assert there.recv(1) == b"m"
    assert there.recv(100) == b"ore"
    here.send_all(b"later")
    assert there.recv(100) == b"later"


@_check
def what_follows_a_message_comes_out_of_recv_into(here: Stream, there: Stream) -> None:
    here.send_all(HELLO.encode() + b"more")
    assert there.read_message(Parcel, Parcel.LIMIT_BYTES) == HELLO
    there.wait_readable()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    assert there.recv_into(buffer[:3]) == 3
    assert there.recv_into(buffer[3:]) == 1
    assert bytes(buffer[:4]) == b"more"
    assert there.recv_into(buffer) is None


@_check
def messages_glued_together_are_read_one_by_one(here: Stream, there: Stream) -> None:
    parcels = [Parcel(noise(1 + number * 5, number)) for number in range(50)]

    def send() -> None:
        here.send_all(b"".join(parcel.encode() for parcel in parcels) + b"tail")
        here.close_write()

    with beside(send):
        assert [there.read_message(Parcel, Parcel.LIMIT_BYTES) for _ in parcels] == parcels
        assert read_to_end(there) == b"tail"


@_check
def a_message_may_be_as_long_as_the_limit(here: Stream, there: Stream) -> None:
    longest = Parcel(noise(255))
    here.send_all(longest.encode())
    assert there.read_message(Parcel, Parcel.LIMIT_BYTES) == longest


@_check
def a_message_beyond_the_limit_is_refused(here: Stream, there: Stream) -> None:
    here.send_all(b"\xff" + bytes(100))
    with raises(ProtocolError):
        there.read_message(Parcel, 50)


@_check
def a_wrong_message_is_refused(here: Stream, there: Stream) -> None:
    here.send_all(b"\x00")
    with raises(ProtocolError):
        there.read_message(Parcel, Parcel.LIMIT_BYTES)


@_check
def an_end_inside_a_message_is_a_protocol_error(here: Stream, there: Stream) -> None:
    here.send_all(HELLO.encode()[:-1])
    here.close_write()
    with raises(ProtocolError):
        there.read_message(Parcel, Parcel.LIMIT_BYTES)


@_check
def an_end_in_front_of_a_message_is_a_protocol_error(here: Stream, there: Stream) -> None:
    here.send_all(HELLO.encode())
    here.close_write()
    assert there.read_message(Parcel, Parcel.LIMIT_BYTES) == HELLO
    with raises(ProtocolError):
        there.read_message(Parcel, Parcel.LIMIT_BYTES)


# -- ends ---------------------------------------------------------------------------------------


@_check
def one_direction_ends_while_the_other_lives(here: Stream, there: Stream) -> None:
    here.send_all(b"question")
    here.close_write()
    assert read_to_end(there) == b"question"
    for piece in (b"an", b"swer"):
        there.send_all(piece)
        assert here.recv(100) == piece
    there.close_write()
    assert here.recv(100) == b""


@_check
def an_end_stays_an_end(here: Stream, there: Stream) -> None:
    here.close_write()
    for _ in range(3):
        there.wait_readable()
        assert there.recv(10) == b""
        assert there.recv_into(memoryview(bytearray(BUFFER_BYTES))) == 0


@_check
def bytes_sent_before_a_close_arrive(here: Stream, there: Stream) -> None:
    here.send_all(b"last words")
    here.close()
    assert read_to_end(there) == b"last words"


@_check
def both_ends_may_half_close(here: Stream, there: Stream) -> None:
    here.close_write()
    there.close_write()
    assert read_to_end(here) == read_to_end(there) == b""


@_check
def sending_after_a_half_close_breaks(here: Stream, there: Stream) -> None:
    here.close_write()
    with raises(ResetError):
        here.send_all(b"x")


@_check
def closing_twice_is_once(here: Stream, there: Stream) -> None:
    here.close()
    here.close()
    here.abort()
    assert there.recv(10) == b""
    there.abort()
    there.close()
    there.abort()


@_check
def a_closed_stream_breaks_whoever_uses_it(here: Stream, there: Stream) -> None:
    here.close()
    with raises(ResetError):
        here.send_all(b"x")
    there.abort()
    with raises(ResetError):
        there.send_all(b"x")


# -- resets -------------------------------------------------------------------------------------


@_check
def a_reset_reaches_a_reader_as_a_reset(here: Stream, there: Stream) -> None:
    with beside(_rejects(lambda: there.recv(10))):
        settle()
        here.abort()


@_check
def a_reset_reaches_recv_into_as_a_reset(here: Stream, there: Stream) -> None:
    here.abort()
    with raises(ResetError):
        read_to_end_into(there)


@_check
def a_reset_reaches_read_message_as_a_reset(here: Stream, there: Stream) -> None:
    here.send_all(HELLO.encode()[:2])

    def read() -> None:
        with raises(ResetError):
            there.read_message(Parcel, Parcel.LIMIT_BYTES)

    with beside(read):
        settle()
        here.abort()


@_check
def a_reset_reaches_a_waiting_writer(here: Stream, there: Stream) -> None:
    with beside(_rejects(lambda: there.send_all(bytes(TOO_MUCH_BYTES)))):
        settle()
        here.abort()


@_check
def a_reset_reaches_reader_and_writer_both(here: Stream, there: Stream) -> None:
    """Linux reports a reset to one call; the other must not take what comes then for an end."""
    for_reader = _rejects(lambda: there.recv(10))
    for_writer = _rejects(lambda: there.send_all(bytes(TOO_MUCH_BYTES)))
    with beside(for_writer, for_reader):
        settle()
        here.abort()


@_check
def a_reset_stays_a_reset(here: Stream, there: Stream) -> None:
    here.abort()
    there.wait_readable()
    for _ in range(2):
        with raises(ResetError):
            there.recv(10)
        with raises(ResetError):
            there.recv_into(memoryview(bytearray(BUFFER_BYTES)))
        with raises(ResetError):
            there.send_all(b"x")


@_check
def a_reset_after_an_end_reaches_the_writer(here: Stream, there: Stream) -> None:
    here.close_write()
    assert there.recv(10) == b""
    with beside(_rejects(lambda: there.send_all(bytes(TOO_MUCH_BYTES)))):
        settle()
        here.abort()


@_check
def a_half_close_of_what_was_reset_breaks(here: Stream, there: Stream) -> None:
    here.abort()
    there.wait_readable()
    with raises(ResetError):
        there.recv(10)
    with raises(ResetError):
        there.close_write()


@_check
def closing_with_bytes_unread_is_a_reset(here: Stream, there: Stream) -> None:
    there.send_all(b"never read")
    here.wait_readable()
    here.close()
    with raises(ResetError):
        there.recv(10)


# -- waits --------------------------------------------------------------------------------------


@_check
def a_writer_waits_for_the_reader_and_loses_nothing(here: Stream, there: Stream) -> None:
    data = noise(TOO_MUCH_BYTES)

    def send() -> None:
        here.send_all(data)
        here.close_write()

    with beside(send) as (writer,):
        settle()
        assert not writer.dead, "so much was taken although nobody reads"
        assert read_to_end(there) == data


@_check
def a_deadline_ends_every_kind_of_reading(here: Stream, there: Stream) -> None:
    waits: list[Callable[[], object]] = [
        lambda: there.recv(10),
        there.wait_readable,
        lambda: there.read_message(Parcel, Parcel.LIMIT_BYTES),
    ]
    for wait in waits:
        with raises(DeadlineError), Deadline(SOON_SECONDS, "a read"):
            wait()
    here.send_all(b"still alive")
    assert there.recv(100) == b"still alive"


@_check
def a_deadline_ends_a_waiting_send(here: Stream, there: Stream) -> None:
    data = noise(TOO_MUCH_BYTES)
    with raises(DeadlineError), Deadline(SHORT_SECONDS, "a send"):
        here.send_all(data)
    here.close()
    received = read_to_end(there)
    assert received == data[: len(received)]
    assert len(received) < len(data)


@_check
def one_direction_stands_while_the_other_moves(here: Stream, there: Stream) -> None:
    """Backpressure in one direction is none of the other's business."""

    def send() -> None:
        with raises(ResetError):
            here.send_all(bytes(TOO_MUCH_BYTES))

    with beside(send):
        for _ in range(100):
            there.send_all(b"ping")
            assert read_exactly(here, 4) == b"ping"
        there.abort()


# -- lingering ----------------------------------------------------------------------------------


@_check
def a_lingering_reply_arrives_although_bytes_wait_unread(here: Stream, there: Stream) -> None:
    def leave() -> None:
        here.wait_readable()
        here.send_all(b"no")
        here.linger(HARD_SECONDS)
        here.close()

    with beside(leave):
        there.send_all(noise(20_000))
        settle()
        there.send_all(noise(10_000))
        assert read_to_end(there) == b"no"
        there.close()


@_check
def lingering_ends_after_its_time(here: Stream, there: Stream) -> None:
    here.send_all(b"no")
    here.linger(SOON_SECONDS)
    here.close()
    assert read_to_end(there) == b"no"


@_check
def lingering_ends_at_once_where_nothing_was_sent(here: Stream, there: Stream) -> None:
    there.send_all(b"unread")
    with Deadline(HARD_SECONDS / 2, "lingering"):
        here.linger(HARD_SECONDS)


@_check
def lingering_bears_a_reset(here: Stream, there: Stream) -> None:
    here.send_all(b"no")
    with beside(lambda: here.linger(HARD_SECONDS)):
        settle()
        there.abort()
    here.linger(HARD_SECONDS)


@_check
def lingering_does_not_swallow_the_deadline_around_it(here: Stream, there: Stream) -> None:
    here.send_all(b"no")
    with raises(DeadlineError), Deadline(SOON_SECONDS, "the whole"):
        here.linger(HARD_SECONDS)
