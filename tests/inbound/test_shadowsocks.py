"""Shadowsocks clients get in; whoever probes gets no byte, no reset, and no answer before time."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import gevent
import pytest

from geproxy.crypto.methods import AES_128_GCM, METHODS, Method
from geproxy.crypto.secret import Secret
from geproxy.errors import (
    AuthenticationError,
    DeadlineError,
    GeproxyError,
    ProtocolError,
    ReplayError,
    ResetError,
)
from geproxy.inbound.shadowsocks import ShadowsocksInbound, ShadowsocksRequest
from geproxy.net.buffers import BufferPool
from geproxy.net.deadline import Deadline
from geproxy.net.greenlets import Event
from geproxy.net.silence import Silence
from geproxy.net.stream import SocketStream
from geproxy.state.memory import ProcessMemory
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint, Outcome
from geproxy.wire.shadowsocks import MAX_CHUNK_BYTES, ChunkSealer, Target, sealed_size
from tests.support.conformance import (
    HARD_SECONDS,
    beside,
    noise,
    read_exactly,
    read_to_end,
    settle,
    tcp_pair,
)
from tests.support.memory import MemoryStream, memory_pair

SECRET = Secret(AES_128_GCM, bytes(range(16)))
TARGET = Endpoint("target.example", 443)
HEAD = Target(TARGET).encode()
HANDSHAKE_SECONDS = 0.05
EARLY_SECONDS = 0.002  # what the loop's clock and ours may differ by
PIECE_BYTES = 1 << 20


@pytest.fixture(autouse=True)
def hard_deadline() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


def flight(*pieces: bytes, secret: Secret = SECRET, salt: bytes | None = None) -> bytes:
    """A first flight as the document has it: a salt, and a chunk for each of *pieces*."""
    salt = salt or os.urandom(secret.method.salt_bytes)
    sealer = ChunkSealer(secret.subkey(salt))
    sealed = bytearray(salt)
    for piece in pieces:
        buffer = bytearray(sealed_size(len(piece)))
        sealer.seal_into(piece, memoryview(buffer))
        sealed += buffer
    return bytes(sealed)


def inbound(secret: Secret = SECRET) -> ShadowsocksInbound:
    return ShadowsocksInbound(secret, ProcessMemory(10_000), BufferPool())


def client_of(*pieces: bytes) -> tuple[MemoryStream, MemoryStream]:
    """A connection on which a client has sent *pieces*: its end and ours."""
    client, stream = memory_pair(PIECE_BYTES)
    for piece in pieces:
        client.send_all(piece)
    return client, stream


# -- clients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(
    "target",
    [
        pytest.param(TARGET, id="a name"),
        pytest.param(Endpoint(IPv4Address("192.0.2.7"), 80), id="an IPv4 address"),
        pytest.param(Endpoint(IPv6Address("2001:db8::1"), 80), id="an IPv6 address"),
        pytest.param(Endpoint("n" * 255, 65535), id="the longest name"),
        pytest.param(Endpoint("caf\udce9", 1), id="a name that is no UTF-8"),
    ],
)
def test_the_first_bytes_are_the_target(target: Endpoint, method: Method) -> None:
    secret = Secret(method, b"k" * method.key_bytes)
    client, stream = client_of(flight(Target(target).encode(), secret=secret))
    request = inbound(secret).negotiate(stream)
    assert (request.target, request.command, request.user) == (target, Command.CONNECT, None)
    assert client.unread_bytes == 0


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param((HEAD + b"hello",), id="in the target's chunk"),
        pytest.param((HEAD, b"hello"), id="in a chunk of their own"),
        pytest.param((HEAD[:1], HEAD[1:] + b"he", b"llo"), id="in chunks cut anywhere"),
    ],
)
def test_bytes_glued_to_the_target_are_relayed(pieces: tuple[bytes, ...]) -> None:
    client, stream = client_of(flight(*pieces))
    request = inbound().negotiate(stream)
    assert read_exactly(request.stream, 5) == b"hello"
    assert request.stream.recv_into(memoryview(bytearray(PIECE_BYTES))) is None
    client.close_write()
    assert request.stream.recv(10) == b""


@pytest.mark.parametrize("size_bytes", [4000, 5000, MAX_CHUNK_BYTES - len(HEAD), 100_000])
def test_much_that_is_glued_to_the_target_is_relayed_whole(size_bytes: int) -> None:
    data = noise(size_bytes)
    client, stream = client_of(flight(HEAD + data))
    client.close_write()
    assert read_to_end(inbound().negotiate(stream).stream) == data


def test_a_salt_may_arrive_alone_and_the_rest_byte_by_byte() -> None:
    sealed = flight(HEAD + b"hello")
    client, stream = memory_pair()
    served: list[ShadowsocksRequest] = []
    with beside(lambda: served.append(inbound().negotiate(stream))):
        client.send_all(sealed[:16])
        settle()
        for place in range(16, len(sealed)):
            client.send_all(sealed[place : place + 1])
            gevent.sleep(0)
    assert served[0].target == TARGET
    assert served[0].stream.recv(10) == b"hello"


def test_neither_yes_nor_no_is_said() -> None:
    client, stream = client_of(flight(HEAD))
    request = inbound().negotiate(stream)
    request.grant(Endpoint(IPv4Address("192.0.2.1"), 1))
    for outcome in Outcome:
        request.refuse(outcome)
    assert client.unread_bytes == 0


def test_the_answer_is_sealed_and_has_no_head() -> None:
    client, stream = client_of(flight(HEAD))
    request = inbound().negotiate(stream)
    assert not request.stream.holds_head
    request.stream.send_all(b"hello")
    sent = client.recv(PIECE_BYTES)
    assert sent == flight(b"hello", salt=sent[:16])


# -- probes --------------------------------------------------------------------------------------


@dataclass
class Probe:
    """One connection of a stranger, and how it went."""

    client: MemoryStream
    stream: MemoryStream
    error: GeproxyError | None = None
    seconds: float = 0.0

    def run(self, inbound: ShadowsocksInbound) -> None:
        began = time.monotonic()
        try:
            with Deadline(HANDSHAKE_SECONDS, "the handshake"):
                inbound.negotiate(self.stream)
        except GeproxyError as error:
            self.error = error
            keep_in_silence(self.stream, error, began)
        self.seconds = time.monotonic() - began

    def check(self, *kinds: type[GeproxyError]) -> None:
        """Prove that nothing could be seen from outside, and that the error is one of *kinds*."""
        assert type(self.error) in kinds
        assert self.client.unread_bytes == 0, "a byte was answered"
        assert self.seconds >= HANDSHAKE_SECONDS - EARLY_SECONDS, "it was over before its time"
        assert self.stream.unread_bytes == 0, "what came was not read, so a close were a reset"


def keep_in_silence(stream: Stream, error: GeproxyError, began: float) -> None:
    """Do as the session does with one who must not learn that it failed."""
    if error.in_silence:
        over = Event()
        Silence(lambda held: over.set()).hold(stream, began + HANDSHAKE_SECONDS)
        over.wait()


Then = Callable[[MemoryStream], None]


def hold(client: MemoryStream) -> None:
    """Say no more."""


def end(client: MemoryStream) -> None:
    """Half-close."""
    client.close_write()


def chatter(client: MemoryStream) -> None:
    """Go on."""
    client.send_all(noise(3000))


def probes(inbound: ShadowsocksInbound, flights: list[bytes], then: Then) -> list[Probe]:
    """Send each of *flights* on a connection of its own, all at once."""
    sent = []
    for data in flights:
        probe = Probe(*client_of(data))
        then(probe.client)
        sent.append(probe)
    with beside(*(lambda probe=probe: probe.run(inbound) for probe in sent)):  # type: ignore[misc]
        pass
    return sent


EVERY_ENDING = pytest.mark.parametrize(
    "then",
    [
        pytest.param(hold, id="then silence"),
        pytest.param(end, id="then an end"),
        pytest.param(chatter, id="then more"),
    ],
)


ENDED_OR_NOT = pytest.mark.parametrize(
    "then", [pytest.param(hold, id="then silence"), pytest.param(end, id="then an end")]
)


@pytest.mark.slow
@ENDED_OR_NOT
def test_a_first_flight_cut_anywhere_is_kept_until_the_deadline(then: Then) -> None:
    """In two chunks, the target's end in the second."""
    size_bytes = len(flight(HEAD[:9], HEAD[9:]))
    # A salt each: the first chunk of some is whole and authentic, and spends its salt.
    flights = [flight(HEAD[:9], HEAD[9:])[:cut] for cut in range(size_bytes)]
    for cut, probe in enumerate(probes(inbound(), flights, then)):
        if then is hold:
            probe.check(DeadlineError)
        elif 0 < cut < len(flight(HEAD[:9])):  # no chunk is whole, so nothing is proven
            probe.check(AuthenticationError)
        else:
            probe.check(ProtocolError)


@pytest.mark.slow
@EVERY_ENDING
def test_a_first_flight_with_any_byte_flipped_is_kept_until_the_deadline(then: Then) -> None:
    flights = []
    for place in range(len(flight(HEAD[:9], HEAD[9:]))):
        changed = bytearray(flight(HEAD[:9], HEAD[9:]))
        changed[place] ^= 1 << place % 8
        flights.append(bytes(changed))
    for probe in probes(inbound(), flights, then):
        probe.check(AuthenticationError)


@pytest.mark.slow
@ENDED_OR_NOT
def test_garbage_of_any_length_is_kept_until_the_deadline(then: Then) -> None:
    """What is shorter than a salt and a sealed length could still become a first flight."""
    garbage = [noise(size, size) for size in range(256)]
    for probe, data in zip(probes(inbound(), garbage, then), garbage, strict=True):
        if then is hold and len(data) < 16 + 18:
            probe.check(DeadlineError)
        else:
            probe.check(AuthenticationError if data else ProtocolError)


@EVERY_ENDING
def test_a_replay_is_kept_like_garbage(then: Then) -> None:
    listening, sealed = inbound(), flight(HEAD + b"hello")
    assert listening.negotiate(client_of(sealed)[1]).target == TARGET
    for probe in probes(listening, [sealed] * 8, then):
        probe.check(ReplayError)


@EVERY_ENDING
def test_our_own_bytes_sent_back_are_kept_like_garbage(then: Then) -> None:
    listening = inbound()
    client, stream = client_of(flight(HEAD))
    listening.negotiate(stream).stream.send_all(HEAD + b"hello")
    for probe in probes(listening, [client.recv(PIECE_BYTES)], then):
        probe.check(ReplayError)


@EVERY_ENDING
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\x00\x00\x00", id="ATYP 0"),
        pytest.param(b"\x05\x01\x00", id="a SOCKS5 greeting"),
    ],
)
def test_an_authentic_target_that_cannot_be_is_kept_like_garbage(head: bytes, then: Then) -> None:
    for probe in probes(inbound(), [flight(head)], then):
        probe.check(ProtocolError)


def test_of_one_flight_sent_many_times_at_once_one_is_served() -> None:
    found = probes(inbound(), [flight(HEAD)] * 8, hold)
    assert [probe.error for probe in found].count(None) == 1
    for probe in found:
        if probe.error is not None:
            probe.check(ReplayError)


def test_a_salt_that_came_with_garbage_first_still_serves_its_client() -> None:
    listening, sealed = inbound(), flight(HEAD)
    poison = [
        sealed[:16] + noise(49),
        sealed[:34] + noise(100),
        sealed[:-1] + bytes((sealed[-1] ^ 1,)),
    ]
    for probe in probes(listening, poison, hold):
        probe.check(AuthenticationError)
    assert listening.negotiate(client_of(sealed)[1]).target == TARGET


# -- how a probe's connection ends ---------------------------------------------------------------


def test_a_reset_ends_it_at_once() -> None:
    for data in (b"", noise(10)):  # more is known for garbage, and then Silence has it
        client, stream = client_of(data)

        def negotiate(stream: Stream = stream) -> None:
            with pytest.raises(ResetError), Deadline(HARD_SECONDS / 2, "the handshake"):
                inbound().negotiate(stream)

        with beside(negotiate):
            settle()
            client.abort()


def negotiate_with_a_stranger(stream: Stream) -> None:
    began = time.monotonic()
    with pytest.raises((AuthenticationError, DeadlineError)) as caught:  # noqa: SIM117  # this order
        with Deadline(HANDSHAKE_SECONDS, "the handshake"):
            inbound().negotiate(stream)
    keep_in_silence(stream, caught.value, began)


def test_whoever_ends_and_then_resets_changes_nothing() -> None:
    client, stream = tcp_pair()
    client.send_all(noise(100))
    client.close_write()
    with beside(lambda: negotiate_with_a_stranger(stream)):
        settle()
        client.abort()
    stream.close()


def test_a_stranger_who_never_stops_sending_does_not_outlast_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        pid = os.fork()
        if not pid:
            try:
                flood(listening.getsockname())
            finally:
                os._exit(0)
        sock, sockaddr = listening.accept()
    sock.setblocking(False)
    stream = SocketStream(sock, Endpoint.from_sockaddr(sockaddr))
    try:
        negotiate_with_a_stranger(stream)
    finally:
        stream.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def flood(address: tuple[str, int]) -> None:
    """Send zeros, from a process of our own, until the other side is gone."""
    with socket.create_connection(address, HARD_SECONDS) as sock:
        while True:
            sock.sendall(bytes(PIECE_BYTES))


@pytest.mark.parametrize(
    "data", [b"", noise(20), noise(100), noise(100_000)], ids=["0", "20", "100", "100000"]
)
def test_a_closed_probe_sees_an_end_and_no_reset(data: bytes) -> None:
    client, stream = tcp_pair()

    def serve() -> None:
        negotiate_with_a_stranger(stream)
        stream.close()

    with beside(serve):
        client.send_all(data)
        assert client.recv(10) == b""
    client.close()
