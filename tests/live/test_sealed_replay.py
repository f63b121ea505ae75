"""What was sealed once is served once, whichever worker gets it and whatever becomes of that."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.live.test_reload import reload_wholly
from tests.support.crowd import End, send_at_once
from tests.support.proxy import (
    SEALED_PASSWORD,
    Proxy,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.shadowsocks_twin import Key, Opener, address, flight, opened
from tests.support.socks import Tunnel, connect
from tests.support.targets import Target, echo, read_exactly, silent, target

pytestmark = pytest.mark.slow

METHOD = "chacha20-ietf-poly1305"
KEY = Key.from_password(METHOD, SEALED_PASSWORD)
WORKERS = 4
HANDSHAKE_SECONDS = 2
FLIGHTS, COPIES = 200, 8
CONNECTIONS_AT_ONCE = 400
ROUNDS = 5  # until a new worker has got some of them, which is left to chance
MIDDLE = 10  # the flight with which a worker dies
RESPONSES = 8000
SERVED = b"served"
SEALED_SILENCE = 49  # more than the salt and the length of a chunk: it is judged


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    listen = {"sealed": {"url": ss_url(METHOD, ("127.0.0.1", 0))}}
    config = configuration(listen, WORKERS, limits={"handshake_seconds": HANDSHAKE_SECONDS})
    with running(tmp_path_factory.mktemp("proxy"), config) as served:
        yield served


class Counted:
    """A target that is told a number by each client, and what was told."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def serve(self, sock: socket.socket) -> int:
        (number,) = struct.unpack("!I", read_exactly(sock, 4))
        self.numbers.append(int(number))
        sock.sendall(SERVED)
        return int(number)


def numbered(there: Target, number: int) -> bytes:
    """A first flight that tells the target a number."""
    return flight(KEY, address(there.host, there.port) + struct.pack("!I", number))


def check_ends(ends: Sequence[End], served: int) -> None:
    """Of these, just so many were answered, and the others learned nothing."""
    answers = [end for end in ends if end.data]
    assert len(answers) == served
    assert all(opened(KEY, end.data) == SERVED for end in answers)
    assert not any(end.reset for end in ends)


class Held:
    """Which workers got some of the connections that were open together."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self.workers: set[int] = set()

    def look(self, sockets: Sequence[socket.socket]) -> None:
        self.workers.update(self._proxy.owners(sockets))


def fire(proxy: Proxy, flights: Sequence[bytes], copies: int, held: Held) -> list[list[End]]:
    """Send each flight over *copies* connections at once; the ends, flight by flight."""
    messages = [each for each in flights for _ in range(copies)]
    ends: list[End] = []
    for start in range(0, len(messages), CONNECTIONS_AT_ONCE):
        some = messages[start : start + CONNECTIONS_AT_ONCE]
        ends += send_at_once(proxy.address, some, opened=held.look)
    return [ends[start : start + copies] for start in range(0, len(ends), copies)]


def test_one_flight_fired_8_times_at_once_is_served_once_and_never_again(proxy: Proxy) -> None:
    counted, held = Counted(), Held(proxy)
    with target(counted.serve) as there:
        flights = [numbered(there, number) for number in range(FLIGHTS)]
        since = proxy.mark()
        for ends in fire(proxy, flights, COPIES, held):
            check_ends(ends, served=1)
        assert Counter(counted.numbers) == Counter(range(FLIGHTS))
        assert held.workers == proxy.accepting(), "not every worker had a part in this"
        refused = FLIGHTS * (COPIES - 1)
        wait_until(lambda: len(codes(proxy, since, "replay")) == refused)
        wait_until(lambda: proxy.failures(since) == refused)

        for upset in (kill_a_worker, reload_wholly):
            upset(proxy)
            held = Held(proxy)
            for _ in range(ROUNDS):
                for ends in fire(proxy, flights, 1, held):
                    check_ends(ends, served=0)
                if proxy.accepting() <= held.workers:
                    break
            assert proxy.accepting() <= held.workers, "not every worker had a part in this"
        assert len(counted.numbers) == len(there.seen) == FLIGHTS


def codes(proxy: Proxy, since: int, code: str) -> list[str]:
    """The clients whose sessions ended with *code*."""
    lines = proxy.events("session.end", since)
    return [line.fields["client"] for line in lines if line.fields["code"] == code]


def kill_a_worker(proxy: Proxy) -> None:
    """Kill one, and wait until another has its place."""
    since = proxy.mark()
    lost = min(proxy.accepting())
    os.kill(lost, signal.SIGKILL)
    proxy.wait_for("worker.ready", since=since)
    wait_until(lambda: len(proxy.accepting() - {lost}) == WORKERS)


def test_a_worker_that_is_killed_in_the_middle_of_it_has_no_flight_served_twice(
    proxy: Proxy,
) -> None:
    victim = min(proxy.accepting())
    counted = Counted()

    def serve(sock: socket.socket) -> None:
        if counted.serve(sock) == MIDDLE:
            os.kill(victim, signal.SIGKILL)

    with target(serve) as there:
        flights = [numbered(there, number) for number in range(CONNECTIONS_AT_ONCE // COPIES)]
        messages = [each for each in flights for _ in range(COPIES)]
        send_at_once(proxy.address, messages)
        wait_until(lambda: len(proxy.accepting() - {victim}) == WORKERS)
        # Where every copy was with the one that died, this is the first time.
        missing = len(flights) - len(counted.numbers)
        answers = [end for end in send_at_once(proxy.address, flights) if end.data]
        assert len(answers) <= missing
        assert Counter(counted.numbers).most_common(1)[0][1] == 1


def test_a_salt_that_was_sent_with_garbage_is_not_used_up(proxy: Proxy) -> None:
    counted, since = Counted(), proxy.mark()
    with target(counted.serve) as there:
        flights = [numbered(there, number) for number in range(FLIGHTS)]
        poison = [each[: KEY.salt_bytes] + os.urandom(SEALED_SILENCE) for each in flights]
        check_ends(send_at_once(proxy.address, poison), served=0)
        wait_until(lambda: len(codes(proxy, since, "auth")) == FLIGHTS)
        check_ends(send_at_once(proxy.address, flights), served=FLIGHTS)
        assert sorted(counted.numbers) == list(range(FLIGHTS))


def test_a_flight_that_was_sent_in_part_is_not_used_up(proxy: Proxy) -> None:
    """Not even where the sealed length came whole: only a payload proves that nobody copied it."""
    counted = Counted()
    with target(counted.serve) as there:
        flights = [numbered(there, number) for number in range(len(numbered(there, 0)))]
        parts = [each[:cut] for cut, each in enumerate(flights)]
        check_ends(send_at_once(proxy.address, parts), served=0)
        check_ends(send_at_once(proxy.address, flights), served=len(flights))


def test_an_answer_of_ours_that_is_sent_back_is_refused(proxy: Proxy) -> None:
    with target(silent) as canary:
        request = address(canary.host, canary.port)
        with target(lambda sock: sock.sendall(request)) as speaking:
            asked = [flight(KEY, address(speaking.host, speaking.port)) for _ in range(50)]
            answers = [end.data for end in send_at_once(proxy.address, asked)]
        assert all(opened(KEY, answer) == request for answer in answers)
        since = proxy.mark()
        check_ends(send_at_once(proxy.address, answers), served=0)
        wait_until(lambda: len(codes(proxy, since, "replay")) == len(answers))
        assert canary.seen == []


@pytest.mark.parametrize(
    "far_end",
    [
        pytest.param(echo, id="at once"),
        pytest.param(lambda sock: sock.sendall(sock.recv(1 << 16)), id="once, and then ends"),
    ],
)
def test_a_far_end_that_only_sends_our_bytes_back_is_no_far_end(
    tmp_path_factory: pytest.TempPathFactory, far_end: Callable[[socket.socket], None]
) -> None:
    with target(far_end) as mirror:
        peer = {"url": ss_url(METHOD, (str(mirror.host), mirror.port))}
        listen = {"socks": {"url": "socks5://127.0.0.1:0", "via": "mirror"}}
        config = configuration(listen, **{"via.mirror": peer})
        with running(tmp_path_factory.mktemp("local"), config) as local:
            with connect(local.address, "name.invalid", 80) as tunnel:
                tunnel.send(b"hello")
                assert what_comes(tunnel) == b""
            local.wait_for("session.end", code="replay")


def what_comes(tunnel: Tunnel) -> bytes:
    """All that comes, until the stream ends or breaks."""
    data = b""
    try:
        while more := tunnel.socket.recv(1 << 16):
            data += more
    except ConnectionResetError:
        pass
    return data


@pytest.mark.timeout(180)  # 8000 connections: a loaded machine takes its time
def test_no_two_answers_have_the_same_salt(proxy: Proxy) -> None:
    salts: list[bytes] = []
    held = Held(proxy)
    with target(lambda sock: sock.sendall(SERVED)) as there:
        wanted = address(there.host, there.port)
        for _ in range(0, RESPONSES, CONNECTIONS_AT_ONCE):
            sent = [flight(KEY, wanted) for _ in range(CONNECTIONS_AT_ONCE)]
            ends = send_at_once(proxy.address, sent, opened=held.look)
            salts += [salt_of(end.data) for end in ends]
            salts += [first[: KEY.salt_bytes] for first in sent]
    assert held.workers == proxy.accepting()
    assert len(set(salts)) == len(salts) == 2 * RESPONSES


def salt_of(answer: bytes) -> bytes:
    opener = Opener(KEY)
    assert opener.open(answer) == SERVED
    return opener.salt
