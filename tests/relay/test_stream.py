"""Relays: both directions until both are done, broken, or silent for too long."""

import socket
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, cast

import gevent
import pytest

from geproxy.crypto.methods import AES_128_GCM
from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import (
    DeadlineError,
    GeproxyError,
    IdleError,
    LimitError,
    ResetError,
    ShutdownError,
)
from geproxy.net.buffers import BUFFER_BYTES, BufferPool
from geproxy.net.deadline import Deadline
from geproxy.net.forward import Flow
from geproxy.net.greenlets import Event, interrupt
from geproxy.net.sealed import SealedStream
from geproxy.net.sockopt import CAPPED_BYTES, SO_BUF_LOCK, TCP_CLOSE
from geproxy.relay.stream import ASK_SECONDS, Relays, _Relay
from geproxy.streams import Stream
from tests.support.conformance import (
    HARD_SECONDS,
    MakePair,
    beside,
    noise,
    read_exactly,
    read_to_end,
    settle,
    tcp_pair,
    until,
)
from tests.support.floods import FEW, Flood, items_before_others
from tests.support.living import left_since, living, set_heap_aside
from tests.support.memory import NoKernel, memory_pair

IDLE_SECONDS, HALF_CLOSE_SECONDS = 100.0, 10.0
STUCK_BYTES = 1 << 30
BUFFERS = (socket.SO_SNDBUF, socket.SO_RCVBUF)


@pytest.fixture(scope="module", autouse=True)
def the_heap_of_others_is_not_walked() -> None:
    set_heap_aside()


@pytest.fixture
def relays() -> Iterator[Relays]:
    before = living()
    with Deadline(HARD_SECONDS, "a test"):
        yield Relays(BufferPool(), IDLE_SECONDS, HALF_CLOSE_SECONDS, STUCK_BYTES)
    assert not left_since(before), "a greenlet outlived its relay"


class Session:
    """application -> client, relay, target -> service; and how the relay ended."""

    def __init__(self, relays: Relays, make_pair: MakePair = memory_pair) -> None:
        self.application, self.client = make_pair()
        self.target, self.service = make_pair()
        self.up, self.down = Flow(), Flow()
        self.error: GeproxyError | None = None
        self.relays = relays
        self.greenlet: gevent.Greenlet[..., Any] = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            self.relays.run(self.client, self.target, self.up, self.down)
        except GeproxyError as error:
            self.error = error
        else:  # what a session does, and what the end of the second direction is left to
            self.target.close()
            self.client.close()

    @property
    def over(self) -> bool:
        return bool(self.greenlet.dead)

    def end(self) -> GeproxyError | None:
        """Wait for the end; close all; say how it ended."""
        self.greenlet.join(HARD_SECONDS)
        assert self.over
        for stream in (self.application, self.client, self.target, self.service):
            stream.close()
        return self.error


@pytest.fixture(params=[pytest.param(memory_pair, id="memory"), pytest.param(tcp_pair, id="TCP")])
def session(request: pytest.FixtureRequest, relays: Relays) -> Iterator[Session]:
    made = Session(relays, request.param)
    yield made
    made.greenlet.kill()
    made.end()


# -- ends ---------------------------------------------------------------------------------------


def test_a_half_close_by_the_client_still_delivers_the_answer(session: Session) -> None:
    session.application.send_all(b"question")
    session.application.close_write()
    assert read_to_end(session.service) == b"question"
    settle()
    assert not session.over
    session.service.send_all(b"answer")
    session.service.close_write()
    assert read_to_end(session.application) == b"answer"
    assert session.end() is None
    assert (session.up.bytes, session.down.bytes) == (8, 6)
    assert session.up.ended
    assert session.down.ended


def test_a_half_close_by_the_target_still_takes_the_upload(session: Session) -> None:
    session.service.send_all(b"go on")
    session.service.close_write()
    assert read_to_end(session.application) == b"go on"
    settle()
    assert not session.over
    data = noise(300_000)
    sender = gevent.spawn(session.application.send_all, data)
    assert read_exactly(session.service, len(data)) == data
    sender.get()
    session.application.close_write()
    assert session.service.recv(10) == b""
    assert session.end() is None
    assert (session.up.bytes, session.down.bytes) == (300_000, 5)


def test_a_session_without_a_byte_ends_well(session: Session) -> None:
    session.application.close_write()
    session.service.close_write()
    assert session.end() is None
    assert (session.up.bytes, session.down.bytes) == (0, 0)


def test_both_directions_move_at_once(session: Session) -> None:
    up, down = noise(500_000, 1), noise(700_000, 2)

    def send(stream: Any, data: bytes) -> None:
        stream.send_all(data)
        stream.close_write()

    senders = [
        gevent.spawn(send, session.application, up),
        gevent.spawn(send, session.service, down),
    ]
    reader = gevent.spawn(read_to_end, session.application)
    assert read_to_end(session.service) == up
    assert reader.get() == down
    gevent.joinall(senders, raise_error=True)
    assert session.end() is None
    assert (session.up.bytes, session.down.bytes) == (500_000, 700_000)


@pytest.mark.parametrize("side", ["application", "service"])
def test_a_reset_of_either_side_ends_both_directions(session: Session, side: str) -> None:
    session.application.send_all(b"up")
    session.service.send_all(b"down")
    assert read_exactly(session.service, 2) == b"up"
    assert read_exactly(session.application, 4) == b"down"
    settle()
    getattr(session, side).abort()
    assert isinstance(session.end(), ResetError)
    assert (session.up.bytes, session.down.bytes) == (2, 4)
    assert not (session.up.ended or session.down.ended)


@pytest.mark.parametrize("side", ["application", "service"])
def test_a_reset_after_a_half_close_ends_the_rest(session: Session, side: str) -> None:
    session.application.close_write()
    assert session.service.recv(10) == b""
    settle()
    getattr(session, side).abort()
    if side == "application":
        session.service.send_all(b"for nobody")
    assert isinstance(session.end(), ResetError)
    assert not session.down.ended


@pytest.mark.parametrize("side", ["application", "service"])
def test_a_reset_is_no_clean_end_although_a_send_was_waiting(session: Session, side: str) -> None:
    """The kernel reports the reset to the waiting send; the read beside it must not see an end."""
    other = session.service if side == "application" else session.application
    sender = gevent.spawn(_send_until_broken, other)
    flow = session.down if side == "application" else session.up
    back = session.up if side == "application" else session.down
    until(lambda: flow.bytes)
    settle()
    getattr(session, side).abort()
    session.greenlet.join(HARD_SECONDS)
    sender.kill()
    assert isinstance(session.end(), ResetError)
    assert not back.ended, "the reset was passed on as an end"


def _send_until_broken(stream: Any) -> None:
    try:
        stream.send_all(bytes(4_000_000))
    except ResetError:
        pass


class ForgetfulPool(BufferPool):
    """A pool that keeps no buffer, and knows which of them somebody else keeps alive."""

    def __init__(self) -> None:
        super().__init__()
        self.pipes._left = 0  # all is copied
        self._lent: list[weakref.ref[memoryview]] = []

    def take(self, wanted_bytes: int = BUFFER_BYTES) -> memoryview:
        buffer = super().take(wanted_bytes)
        self._lent.append(weakref.ref(buffer))
        return buffer

    def give(self, buffer: memoryview) -> None:
        pass

    @property
    def alive(self) -> int:
        return sum(buffer() is not None for buffer in self._lent)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("end", ["a reset", "silence"])
@pytest.mark.parametrize("stopped", ["application", "service"])
def test_a_stalled_relay_that_is_ended_leaves_no_buffer_to_the_collector(
    stopped: str, end: str
) -> None:
    pool = ForgetfulPool()
    relays = Relays(pool, IDLE_SECONDS, HALF_CLOSE_SECONDS, STUCK_BYTES)
    session = Session(relays, tcp_pair)
    other, flow = (
        (session.service, session.down)
        if stopped == "application"
        else (session.application, session.up)
    )
    sender = gevent.spawn(_send_until_broken, other)
    with Deadline(HARD_SECONDS, "a test"):
        before = -1
        while not flow.bytes or before != flow.bytes:
            before = flow.bytes
            for _ in range(5):
                settle()
        assert pool.alive == 1
        if end == "a reset":
            getattr(session, stopped).abort()
        else:
            relays.sweep(0.0)
            relays.sweep(IDLE_SECONDS)
        session.greenlet.join()
        sender.kill()
        assert isinstance(session.end(), ResetError | IdleError)
    session.error = None
    assert pool.alive == 0


# -- silence ------------------------------------------------------------------------------------


def test_a_relay_in_which_nothing_moves_is_ended_after_the_idle_limit(relays: Relays) -> None:
    session = Session(relays)
    settle()
    for now_seconds in (1000.0, 1050.0, 1099.9):
        relays.sweep(now_seconds)
        settle()
        assert not session.over, now_seconds
    relays.sweep(1100.0)
    error = session.end()
    assert isinstance(error, IdleError)
    assert str(error) == "silent for 100 seconds"


@pytest.mark.parametrize("side", ["application", "service"])
def test_a_byte_in_either_direction_keeps_a_relay_alive(relays: Relays, side: str) -> None:
    session = Session(relays)
    settle()
    relays.sweep(0.0)
    relays.sweep(99.0)
    getattr(session, side).send_all(b"x")
    until(lambda: session.up.bytes + session.down.bytes == 1)
    relays.sweep(101.0)
    relays.sweep(200.9)
    settle()
    assert not session.over
    relays.sweep(201.0)
    assert isinstance(session.end(), IdleError)


@pytest.mark.parametrize("side", ["application", "service"])
def test_a_half_closed_relay_has_a_limit_of_its_own(relays: Relays, side: str) -> None:
    session = Session(relays)
    settle()
    relays.sweep(0.0)
    getattr(session, side).close_write()
    until(lambda: session.up.ended or session.down.ended)
    relays.sweep(50.0)  # the half-close counts as a movement
    relays.sweep(59.9)
    settle()
    assert not session.over
    relays.sweep(60.0)
    error = session.end()
    assert isinstance(error, IdleError)
    assert str(error) == "half-closed and silent for 10 seconds"


def test_a_half_closed_relay_whose_answer_flows_lives_on(relays: Relays) -> None:
    session = Session(relays)
    session.application.close_write()
    until(lambda: session.up.ended)
    for step in range(20):
        session.service.send_all(b"x")
        until(lambda count=step + 1: session.down.bytes == count)
        relays.sweep(step * 9.0)
    settle()
    assert not session.over
    session.service.close_write()
    assert session.end() is None


def test_a_reader_that_has_stopped_counts_as_silence(relays: Relays) -> None:
    session = Session(relays)
    sender = gevent.spawn(_send_until_broken, session.service)
    settle()
    relays.sweep(0.0)
    relays.sweep(99.0)
    settle()
    assert not session.over
    relays.sweep(100.0)
    assert isinstance(session.end(), IdleError)
    sender.join()


def test_a_slow_reader_of_what_a_buffer_holds_is_not_silent(relays: Relays) -> None:
    """A limit on silence must not hit a client that needs minutes for a full buffer."""
    secret = Secret(AES_128_GCM, bytes(16))
    makers = (SaltMaker(secret, role) for role in (b"client", b"listener"))
    ends = zip(memory_pair(1_000_000), makers, strict=True)
    sealed = [SealedStream(one, maker, BufferPool()) for one, maker in ends]
    pairs: list[tuple[Stream, Stream]] = [memory_pair(1000), (sealed[0], sealed[1])]
    session = Session(relays, lambda: pairs.pop(0))
    session.service.send_all(noise(90_000))
    until(lambda: session.client.sent_bytes == 1000)
    for step in range(10):
        relays.sweep(step * 99.0)
        before = session.client.sent_bytes
        read_exactly(session.application, 500)
        until(lambda seen=before: session.over or session.client.sent_bytes > seen)
        assert not session.over, f"ended after {step} sweeps"
    assert session.down.bytes == 0, "it was more than one buffer"
    relays.sweep(990.0)
    relays.sweep(1090.0)
    assert isinstance(session.end(), IdleError)


def test_only_the_silent_relays_are_ended(relays: Relays) -> None:
    silent, lively = Session(relays), Session(relays)
    settle()
    relays.sweep(0.0)
    lively.application.send_all(b"x")
    until(lambda: lively.up.bytes)
    relays.sweep(100.0)
    assert isinstance(silent.end(), IdleError)
    assert not lively.over
    lively.application.close_write()
    lively.service.close_write()
    assert lively.end() is None


def test_a_relay_that_begins_late_has_its_full_time(relays: Relays) -> None:
    relays.sweep(0.0)
    session = Session(relays)
    settle()
    relays.sweep(500.0)
    settle()
    assert not session.over
    relays.sweep(600.0)
    assert isinstance(session.end(), IdleError)


@pytest.mark.parametrize(
    ("idle_seconds", "half_close_seconds", "sweep_seconds"),
    [(3600, 300, 5.0), (3600, 8, 2.0), (4, 300, 1.0), (0.1, 300, 0.25)],
)
def test_sweeps_come_often_enough_for_the_shorter_limit(
    idle_seconds: float, half_close_seconds: float, sweep_seconds: float
) -> None:
    assert (
        Relays(BufferPool(), idle_seconds, half_close_seconds, STUCK_BYTES).sweep_seconds
        == sweep_seconds
    )


# -- readers that stop --------------------------------------------------------------------------


def room(stream: Stream) -> tuple[int, int, int]:
    """The buffers of a TCP connection, in bytes, and whether they are kept from growing."""
    sock = stream._socket  # type: ignore[attr-defined]
    send, receive = (sock.getsockopt(socket.SOL_SOCKET, one) for one in BUFFERS)
    return send, receive, sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)


def test_for_a_reader_that_stops_the_kernel_keeps_no_more_until_it_reads_again(
    relays: Relays,
) -> None:
    session = Session(relays, partial(tcp_pair, buffer_bytes=0))
    feeding = gevent.spawn(session.service.send_all, noise(20_000_000))
    until(lambda: session.client.kernel.blocked)
    settle()
    free = room(session.client), room(session.target)
    relays.sweep(0.0)  # all that it has sent was new to this look
    relays.sweep(5.0)
    assert (room(session.client), room(session.target)) == free
    relays.sweep(10.0)
    assert max(room(session.client)[0], room(session.target)[1]) <= 2 * CAPPED_BYTES
    waiting = gevent.spawn(read_to_end, session.application)
    feeding.join()
    session.service.close_write()
    waiting.join()
    assert len(waiting.value) == 20_000_000
    relays.sweep(15.0)
    assert (room(session.client)[2], room(session.target)[2]) == (0, 0)
    session.application.close_write()
    assert session.end() is None


def test_where_stuck_readers_take_too_much_the_largest_ends_and_others_go_on() -> None:
    relays = Relays(BufferPool(), IDLE_SECONDS, HALF_CLOSE_SECONDS, 1)
    stuck, silent = Session(relays, tcp_pair), Session(relays, tcp_pair)
    fill(stuck.service, stuck.client)
    for number in range(3):
        settle()
        assert not stuck.over
        relays.sweep(5.0 * number)
    error = stuck.end()
    assert isinstance(error, LimitError)
    assert error.code == "limit"
    settle()
    assert not silent.over
    assert relays._stuck._bytes == {}
    silent.application.close_write()
    silent.service.close_write()
    assert silent.end() is None


def test_a_reader_that_only_is_slow_is_not_ended_while_there_is_room(relays: Relays) -> None:
    session = Session(relays, tcp_pair)
    fill(session.service, session.client)
    for number in range(10):
        relays.sweep(5.0 * number)
        read_exactly(session.application, 1024)
        settle()
    assert not session.over
    session.service.close_write()
    assert len(read_to_end(session.application)) == session.service.sent_bytes - 10 * 1024
    session.application.close_write()
    assert session.end() is None


# -- interruptions and sums ---------------------------------------------------------------------


def test_an_interruption_ends_both_directions(relays: Relays) -> None:
    session = Session(relays)
    settle()
    interrupt(session.greenlet, ShutdownError("over"))
    assert isinstance(session.end(), ShutdownError)


def test_a_sweep_and_a_shutdown_at_one_moment_end_it_once(relays: Relays) -> None:
    session = Session(relays)
    settle()
    relays.sweep(0.0)
    relays.sweep(100.0)
    interrupt(session.greenlet, ShutdownError("over"))
    assert isinstance(session.end(), IdleError | ShutdownError)


def test_a_deadline_around_a_relay_ends_it(relays: Relays) -> None:
    client, target = memory_pair()
    with pytest.raises(DeadlineError), Deadline(0.01, "a relay"):
        relays.run(client, target, Flow(), Flow())


def test_the_totals_are_exact_while_relays_live_and_when_they_have_ended(relays: Relays) -> None:
    assert relays.totals() == (0, 0)
    well, broken, living_on = Session(relays), Session(relays), Session(relays)
    for number, session in enumerate((well, broken, living_on), 1):
        session.application.send_all(bytes(number))
        session.service.send_all(bytes(number * 100))
        assert read_exactly(session.service, number) == bytes(number)
        assert read_exactly(session.application, number * 100) == bytes(number * 100)
        until(lambda one=session, n=number: (one.up.bytes, one.down.bytes) == (n, n * 100))
    assert relays.totals() == (6, 600)
    well.application.close_write()
    well.service.close_write()
    assert well.end() is None
    assert relays.totals() == (6, 600)
    broken.application.abort()
    assert isinstance(broken.end(), ResetError)
    assert relays.totals() == (6, 600)
    living_on.application.send_all(b"x")
    assert read_exactly(living_on.service, 1) == b"x"
    until(lambda: living_on.up.bytes == 4)
    assert relays.totals() == (7, 600)
    living_on.service.abort()
    assert isinstance(living_on.end(), ResetError)
    assert relays.totals() == (7, 600)


def test_neither_stream_is_closed(relays: Relays) -> None:
    client_side, client = memory_pair()
    target, target_side = memory_pair()
    client_side.close_write()
    target_side.close_write()
    relays.run(client, target, Flow(), Flow())
    assert not client.closed
    assert not target.closed


@pytest.mark.parametrize("attempt", range(20))
def test_a_refused_upload_still_delivers_what_the_target_said_before_it_broke(
    relays: Relays, attempt: int
) -> None:
    session = Session(relays, tcp_pair)
    refusal = b"413 too large"
    upload = gevent.spawn(session.application.send_all, noise(1_000_000))
    settle()  # by now the upload is stuck: nobody reads it
    # What was said, and the reset for what was never read, reach the relay together.
    session.service.send_all(refusal)
    session.service.close()
    assert read_exactly(session.application, len(refusal)) == refusal
    upload.kill()
    assert isinstance(session.end(), ResetError)


@pytest.mark.parametrize("side", ["client", "target"])
def test_a_side_that_answers_nothing_ends_the_relay(
    relays: Relays, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(relays)
    settle()
    relays.sweep(0.0)
    relays.sweep(ASK_SECONDS)
    settle()
    assert not session.over
    monkeypatch.setattr(type(session.client), "lost", property(lambda self: self is gone))
    gone = session.client if side == "client" else session.target
    relays.sweep(2 * ASK_SECONDS)
    error = session.end()
    assert isinstance(error, DeadlineError)
    assert error.code == "timeout"


def test_a_client_that_is_gone_while_its_bytes_wait_for_the_target_ends_the_relay(
    relays: Relays,
) -> None:
    """Nobody reads from it then, and so nobody meets its reset."""
    session = Session(relays, tcp_pair)
    upload = gevent.spawn(session.application.send_all, noise(1_000_000))
    settle()  # by now the upload is stuck: nobody reads it
    upload.kill()
    session.application.abort()
    settle()
    relays.sweep(0.0)
    assert not session.over
    relays.sweep(ASK_SECONDS)
    settle()
    assert session.over
    assert isinstance(session.end(), DeadlineError)


def test_a_client_that_has_ended_and_whose_bytes_wait_for_the_target_is_left_alone() -> None:
    """The kernel is done with it, both directions having ended, and we have not read it all."""
    relays = Relays(BufferPool(), 1000.0, 1000.0, STUCK_BYTES)
    session = Session(relays, tcp_pair)
    session.service.close_write()
    assert session.application.recv(1) == b""
    fill(session.application, session.target)
    session.application.close_write()
    until(lambda: is_closed(session.client))
    sweep_thrice(relays)
    assert not session.over
    assert len(read_to_end(session.service)) == session.application.sent_bytes
    assert session.end() is None


def test_a_target_that_has_said_all_and_is_gone_is_left_to_a_client_that_reads_slowly() -> None:
    """A probe finds that it has forgotten the connection: a reset, behind a proper end."""
    relays = Relays(BufferPool(), 1000.0, 1000.0, STUCK_BYTES)
    session = Session(relays, tcp_pair)
    fill(session.service, session.client)
    session.service.close_write()
    settle()
    sent_bytes = session.service.sent_bytes
    session.service.abort()
    until(lambda: is_closed(session.target))
    sweep_thrice(relays)
    assert not session.over
    assert len(read_to_end(session.application)) == sent_bytes
    session.application.close_write()
    assert session.end() is None


def fill(sender: Stream, taker: Stream) -> None:
    """Send until the relay cannot pass on any more to *taker*, and a little that it cannot read."""
    passed_bytes = -1
    while taker.sent_bytes != passed_bytes:
        passed_bytes = taker.sent_bytes
        sender.send_all(noise(10_000))
        settle()
    sender.send_all(noise(10_000))


def is_closed(stream: Any) -> bool:
    """Whether the kernel is done with it."""
    info = stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return bool(info[0] == TCP_CLOSE)


def sweep_thrice(relays: Relays) -> None:
    for now_seconds in (0.0, ASK_SECONDS, 2 * ASK_SECONDS):
        relays.sweep(now_seconds)
        settle()


def test_a_side_that_answers_nothing_while_bytes_wait_for_it_ends_the_relay_at_once(
    relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as a sink that broke, whose last words would be waited for."""
    session = Session(relays, tcp_pair)
    upload = gevent.spawn(session.application.send_all, noise(1_000_000))
    settle()  # by now the upload is stuck: nobody reads it
    relays.sweep(0.0)
    monkeypatch.setattr(type(session.target), "lost", property(lambda self: True))
    relays.sweep(ASK_SECONDS)
    settle()
    assert session.over
    assert isinstance(session.end(), DeadlineError)
    upload.kill()


def test_a_sweep_of_many_leaves_others_their_turn_and_lets_alone_who_ends_meanwhile(
    relays: Relays,
) -> None:
    flood = Flood()

    class Slow:
        """A stream that takes a while to be looked at."""

        lost = False
        kernel = NoKernel()

        @property
        def sent_bytes(self) -> int:
            flood.item()
            return 0

        def keep_alive(self) -> None:
            pass

    def wait() -> None:
        with suppress(IdleError):
            Event().wait()

    owners = [gevent.spawn(wait) for _ in range(4 * FEW)]
    slow = cast(Stream, Slow())
    there = [_Relay(owner, slow, slow, Flow(), Flow()) for owner in owners]
    relays._live.update(zip(owners, there, strict=True))
    assert items_before_others(lambda: relays.sweep(0.0), flood) < FEW
    relays.sweep(0.0)

    def end_all() -> None:
        relays._live.clear()

    with beside(lambda: relays.sweep(IDLE_SECONDS), end_all) as (sweeping, ending):
        gevent.joinall([sweeping, ending], raise_error=True)
    settle()
    assert sum(owner.dead for owner in owners) < FEW
    gevent.killall(owners)
