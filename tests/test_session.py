"""The spine: whatever ends a session, its line says so, its client hears it, and all is closed.

The streams are real connections; what negotiates, decides and dials is made here.
"""

import errno
import gc
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent import get_hub
from gevent.event import Event

from geproxy.ending import report
from geproxy.errors import (
    AuthenticationError,
    CommandError,
    DeadlineError,
    DeniedError,
    GeproxyError,
    LimitError,
    ProtocolError,
    ResetError,
    ResolveError,
    ShutdownError,
    UncheckedError,
)
from geproxy.net.accept import Gate
from geproxy.net.buffers import BufferPool
from geproxy.net.dial import dial_error
from geproxy.net.greenlets import interrupt
from geproxy.net.ownways import TABLE_BYTES, OwnWays
from geproxy.net.places import Places
from geproxy.net.sockopt import reset_on_close
from geproxy.net.stream import SocketStream
from geproxy.observe.line import Lines
from geproxy.observe.log import Log
from geproxy.observe.record import Record
from geproxy.observe.sink import Sink
from geproxy.relay.associations import Associations
from geproxy.relay.stream import Relays
from geproxy.seams import Listener, Permit, Request, Route, Subject
from geproxy.session import serve
from geproxy.streams import Stream
from geproxy.terms import Address, Command, Endpoint, Outcome, plain_address
from tests.support.living import set_heap_aside

WAIT_SECONDS = 10.0
TARGET = Endpoint("example.net", 443)
DIALED = Endpoint(IPv4Address("192.0.2.1"), 443)

FIELDS = [
    *("time", "level", "event", "listen", "client", "user", "command", "target", "address", "via"),
    *("up", "down", "seconds", "connect_ms", "code"),
]

Hook = Callable[[], None]


def nothing() -> None:
    """A step at which nothing happens."""


def failing(error: Exception) -> Hook:
    def fail() -> None:
        raise error

    return fail


class Wish:
    """One line of text as a request: enough of a protocol for a session."""

    @classmethod
    def decode(cls, data: bytes) -> tuple[str, int] | None:
        end = data.find(b"\n")
        return (data[:end].decode(), end + 1) if end >= 0 else None


class Asked:
    """A request that answers in words."""

    def __init__(self, stream: Stream, command: Command, user: str | None, stage: "Stage") -> None:
        self.stream = stream
        self.command = command
        self.target = TARGET
        self.user = user
        self.claimed: str | None = stage.claimed
        self._stage = stage

    def grant(self, bound: Endpoint) -> None:
        self._stage.in_grant()
        self.stream.send_all(b"GRANT\n")

    def refuse(self, outcome: Outcome) -> None:
        self._stage.in_refuse()
        self.stream.send_all(f"REFUSE {outcome.name}\n".encode())


class Written:
    """A log's channel that keeps everything."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes, /) -> int:
        self.data += data
        return len(data)

    def close(self) -> None:
        pass

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.splitlines()]


def losses(reason: str, count: int, client: Endpoint) -> None:
    raise AssertionError("nobody loses a place here")


class Stage:
    """One session, and everything around it: inbound, policy, way out and site in one."""

    name = "direct"  # as a way out
    handshake_seconds = bind_seconds = WAIT_SECONDS

    def __init__(self) -> None:
        self.client, self.accepted = connection()
        self.target, self.dialed = connection()
        self.written = Written()
        sink = Sink("memory", self.written, Lines("json"))
        self.log = Log(sink, sink, level="info")
        self.places = Places(
            Gate(100), 0, 64, lambda client, reached: client.host, lambda session: 0.0, losses
        )
        self.relays = Relays(BufferPool(), 60.0, 10.0, 1 << 30)
        self.associations = Associations(60.0)
        self.own_connections = OwnWays(bytearray(TABLE_BYTES), (), lambda client, reached: False)
        self.policy = self
        self.command = Command.CONNECT
        self.user: str | None = "alice"
        self.claimed: str | None = None
        self.dialed_at_all = False
        # What happens at each step, before the step itself.
        self.in_negotiate = self.in_decide = self.in_connect = nothing
        self.in_grant = self.in_refuse = nothing

    # -- inbound, policy, outbound

    def negotiate(self, stream: Stream) -> Request:
        self.in_negotiate()
        stream.read_message(Wish, 100)
        return Asked(stream, self.command, self.user, self)

    def admit(self, subject: Subject) -> None:
        raise AssertionError("nobody asks for datagrams here")

    def decide(self, subject: Subject, target: Endpoint) -> Route:
        assert (subject.client, subject.user) == (self.accepted.peer.host, self.user)
        assert (subject.listener.name, subject.command) == ("a", Command.CONNECT)
        self.in_decide()
        return Route(self, target, lambda endpoint: None)

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> Stream:
        assert (target, client) == (TARGET, self.accepted.peer.host)
        self.in_connect()
        self.dialed_at_all = True
        return self.dialed

    # -- the test's side

    def start(self, wish: bytes = b"please\n") -> gevent.Greenlet:
        self.client.sendall(wish)
        listener = Listener("a", self, True, "direct")
        self.session = gevent.spawn(serve, self.accepted, listener, self)
        return self.session

    def start_relay(self) -> None:
        """Come as far as bytes that go both ways."""
        self.start()
        assert self.client.recv(100) == b"GRANT\n"
        self.client.sendall(b"ping")
        assert self.target.recv(100) == b"ping"
        self.target.sendall(b"answer")
        assert self.client.recv(100) == b"answer"

    def end(self) -> dict[str, Any]:
        """Wait for the session's end; returns its line, of which there is exactly one."""
        self.session.get(timeout=WAIT_SECONDS)
        return self.line()

    def line(self) -> dict[str, Any]:
        (line,) = self.lines("session.end")
        return line

    def lines(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.written.lines() if line["event"] == event]

    def close(self) -> None:
        for sock in (self.client, self.target):
            sock.close()
        if not self.dialed_at_all:
            self.dialed.close()


def connection() -> tuple[gevent.socket.socket, SocketStream]:
    """A TCP connection on the loopback: the far side's socket, and ours as a stream."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        far = socket.create_connection(listening.getsockname(), timeout=WAIT_SECONDS)
        near, sockaddr = listening.accept()
    near.setblocking(False)
    theirs = gevent.socket.socket(fileno=far.detach())
    theirs.settimeout(WAIT_SECONDS)
    return theirs, SocketStream(near, Endpoint.from_sockaddr(sockaddr))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module", autouse=True)
def the_heap_of_others_is_not_walked() -> None:
    set_heap_aside()


@pytest.fixture
def stage(capfd: pytest.CaptureFixture[str]) -> Iterator[Stage]:
    """A session in the making; afterwards all is closed, and nothing was printed."""
    get_hub()
    gc.collect()  # or what an earlier test left to the collector is counted, and then gone
    before = descriptors()
    stage = Stage()
    yield stage
    stage.close()
    assert descriptors() == before
    assert capfd.readouterr() == ("", "")


def read_to_end(sock: gevent.socket.socket) -> bytes:
    """All bytes to the end of the stream. Raises ConnectionResetError where it is none."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def is_reset(sock: gevent.socket.socket) -> bool:
    try:
        read_to_end(sock)
    except ConnectionResetError:
        return True
    return False


def test_a_session_that_goes_well_is_told_with_all_its_fields(stage: Stage) -> None:
    stage.start_relay()
    client, dialed = stage.accepted.peer, stage.dialed.peer
    stage.client.shutdown(socket.SHUT_WR)
    assert read_to_end(stage.target) == b""
    stage.target.sendall(b" and more")
    stage.target.close()
    assert read_to_end(stage.client) == b" and more"
    line = stage.end()
    assert list(line) == FIELDS
    assert 0 <= line.pop("seconds") < WAIT_SECONDS
    assert 0 <= line.pop("connect_ms") < WAIT_SECONDS * 1000
    line.pop("time")
    assert line == {
        "level": "info",
        "event": "session.end",
        "listen": "a",
        "client": str(client),
        "user": "alice",
        "command": "connect",
        "target": "example.net:443",
        "address": str(dialed),
        "via": "direct",
        "up": 4,
        "down": 15,
        "code": "ok",
    }


EARLY_ENDS = [
    pytest.param(ProtocolError("VER is 0x04, not 5"), "protocol", id="bytes of no protocol"),
    pytest.param(CommandError("CMD is 0x09"), "command", id="an unknown command"),
    pytest.param(AuthenticationError("wrong password", "mallory"), "auth", id="a wrong password"),
    pytest.param(LimitError("too many passwords"), "limit", id="a limit"),
    pytest.param(ResetError("Connection reset by peer"), "reset", id="a reset"),
    pytest.param(DeadlineError("the handshake took longer"), "timeout", id="a deadline"),
    pytest.param(ShutdownError("the proxy stops"), "shutdown", id="the end of the program"),
]


@pytest.mark.parametrize(("error", "code"), EARLY_ENDS)
def test_a_session_that_ends_before_its_request_tells_what_is_known(
    stage: Stage, error: GeproxyError, code: str
) -> None:
    stage.in_negotiate = failing(error)
    stage.start()
    stage.client.shutdown(socket.SHUT_WR)
    line = stage.end()
    assert list(line) == [*FIELDS, "reason"]
    assert (line["code"], line["reason"]) == (code, str(error))
    assert line["user"] == getattr(error, "user", None)
    unknown = ("command", "target", "address", "via", "connect_ms")
    assert [line[key] for key in unknown] == [None] * 5
    assert (line["up"], line["down"]) == (0, 0)


def test_the_inbound_has_the_only_word_before_there_is_a_request(stage: Stage) -> None:
    def say_no() -> None:
        stage.accepted.send_all(b"NO\n")
        raise ProtocolError("not our protocol")

    stage.in_negotiate = say_no
    stage.start()
    assert read_to_end(stage.client) == b"NO\n"
    stage.client.close()
    assert stage.end()["code"] == "protocol"


def test_a_failed_authentication_has_a_line_of_its_own(stage: Stage) -> None:
    stage.in_negotiate = failing(AuthenticationError("wrong password", "mallory"))
    stage.start()
    stage.client.shutdown(socket.SHUT_WR)
    stage.end()
    (line,) = stage.lines("auth.fail")
    line.pop("time")
    assert line == {
        "level": "warning",
        "event": "auth.fail",
        "listen": "a",
        "client": str(stage.accepted.peer),
        "user": "mallory",
        "reason": "wrong password",
    }


def test_a_guess_that_was_not_checked_counts_as_failed_and_ends_as_a_limit(stage: Stage) -> None:
    stage.in_negotiate = failing(UncheckedError("too many passwords to check at once", 37))
    stage.start()
    stage.client.shutdown(socket.SHUT_WR)
    end = stage.end()
    assert (end["code"], end["user"]) == ("limit", None)
    (line,) = stage.lines("auth.fail")
    assert line["client"] == str(stage.accepted.peer)
    assert (line["user"], line["repeated"]) == (None, 37)


def test_an_honest_client_that_came_at_a_bad_time_has_failed_nothing(stage: Stage) -> None:
    stage.in_negotiate = failing(LimitError("too many passwords to check at once"))
    stage.start()
    stage.client.shutdown(socket.SHUT_WR)
    assert stage.end()["code"] == "limit"
    assert stage.lines("auth.fail") == []


def test_the_failures_of_a_flood_are_counted_by_source() -> None:
    written, failure = Written(), AuthenticationError("wrong password", "mallory")
    sink = Sink("memory", written, Lines("json"))
    log = Log(sink, None, level="info")
    clients = [
        *("2001:db8::1", "2001:db8::2", "2001:db8::ffff:0:0:1") * 10,  # one /64
        *("2001:db8:0:1::1", "192.0.2.1"),
    ]
    for client in clients:
        report(Record("a", Endpoint(plain_address(client), 1)), failure, log)
    log.conclude()
    lines = written.lines()
    assert [line["client"] for line in lines[5:]] == [
        "[2001:db8:0:1::1]:1",
        "192.0.2.1:1",
        "[2001:db8::ffff:0:0:1]:1",
    ]
    assert lines[-1]["repeated"] == 25


def test_no_other_end_is_a_failed_authentication(stage: Stage) -> None:
    stage.in_decide = failing(DeniedError("port 25 is closed"))
    stage.start()
    stage.client.shutdown(socket.SHUT_WR)
    stage.end()
    assert stage.lines("auth.fail") == []


REFUSALS = [
    pytest.param(DeniedError("no"), "denied", "DENIED", id="denied"),
    pytest.param(ResolveError("no address"), "resolve", "HOST_UNREACHABLE", id="unknown name"),
    pytest.param(
        dial_error(errno.ECONNREFUSED, DIALED), "refused", "REFUSED", id="a refused connection"
    ),
    pytest.param(
        dial_error(errno.ENETUNREACH, DIALED), "unreachable", "NETWORK_UNREACHABLE", id="no route"
    ),
    pytest.param(
        dial_error(errno.EHOSTUNREACH, DIALED), "unreachable", "HOST_UNREACHABLE", id="no host"
    ),
    pytest.param(dial_error(errno.ETIMEDOUT, DIALED), "timeout", "TIMED_OUT", id="no answer"),
    pytest.param(dial_error(errno.EMFILE, DIALED), "limit", "FAILED", id="no descriptor left"),
    pytest.param(LimitError("too many look-ups"), "limit", "FAILED", id="a limit of ours"),
    pytest.param(ShutdownError("the proxy stops"), "shutdown", "FAILED", id="the program's end"),
]


@pytest.mark.parametrize("step", ["in_decide", "in_connect"])
@pytest.mark.parametrize(("error", "code", "outcome"), REFUSALS)
def test_a_request_that_fails_is_refused_in_its_own_protocol(
    stage: Stage, error: GeproxyError, code: str, outcome: str, step: str
) -> None:
    setattr(stage, step, failing(error))
    stage.start()
    assert read_to_end(stage.client) == f"REFUSE {outcome}\n".encode()
    stage.client.close()
    line = stage.end()
    assert (line["code"], line["reason"]) == (code, str(error))
    assert (line["user"], line["command"], line["target"]) == (
        "alice", "connect", "example.net:443",
    )  # fmt: skip
    assert line["via"] == (None if step == "in_decide" else "direct")
    assert line["address"] is None
    assert line["connect_ms"] is None


def test_a_name_that_is_only_claimed_is_told_as_such_and_is_no_user(stage: Stage) -> None:
    stage.user, stage.claimed = None, "root"
    stage.start_relay()
    stage.client.close()
    stage.target.close()
    line = stage.end()
    assert list(line)[: len(FIELDS) + 1] == [*FIELDS, "claimed"]
    assert (line["user"], line["claimed"]) == (None, "root")


def test_the_line_is_written_before_the_session_lingers(stage: Stage) -> None:
    stage.in_decide = failing(DeniedError("no"))
    stage.start()
    assert read_to_end(stage.client) == b"REFUSE DENIED\n"
    assert not stage.session.dead  # it waits for the client to read and to leave
    assert stage.line()["code"] == "denied"
    stage.client.close()
    stage.end()


def test_a_client_hears_its_refusal_although_bytes_wait_unread(stage: Stage) -> None:
    """A close with unread bytes is a reset, which would overtake the refusal."""
    stage.in_decide = failing(DeniedError("no"))
    stage.start(b"please\n" + b"x" * 100_000)
    stage.client.sendall(b"y" * 100_000)
    assert read_to_end(stage.client) == b"REFUSE DENIED\n"
    stage.client.close()
    assert stage.end()["code"] == "denied"


@pytest.mark.slow
def test_a_refused_client_that_never_leaves_is_left(stage: Stage) -> None:
    stage.in_decide = failing(DeniedError("no"))
    stage.start()
    assert stage.end()["code"] == "denied"
    assert read_to_end(stage.client) == b"REFUSE DENIED\n"


def test_a_client_that_says_nothing_has_its_time_and_no_more(stage: Stage) -> None:
    stage.handshake_seconds = 0.05
    stage.start(b"")
    assert read_to_end(stage.client) == b""
    line = stage.end()
    assert (line["code"], line["command"]) == ("timeout", None)


def test_a_client_that_sends_a_byte_now_and_then_has_no_more_time(stage: Stage) -> None:
    stage.handshake_seconds = 0.2
    stage.start(b"")
    deadline = time.monotonic() + WAIT_SECONDS
    while not stage.session.dead and time.monotonic() < deadline:
        try:
            stage.client.sendall(b"x")
        except OSError:
            break
        gevent.sleep(0.02)
    assert stage.end()["code"] == "timeout"


def test_a_client_that_leaves_in_the_handshake_is_a_protocol_error(stage: Stage) -> None:
    stage.start(b"plea")
    stage.client.close()
    assert stage.end()["code"] == "protocol"


def test_a_client_that_resets_in_the_handshake_is_a_reset(stage: Stage) -> None:
    stage.start(b"plea")
    gevent.sleep(0)
    reset_on_close(stage.client)
    stage.client.close()
    assert stage.end()["code"] == "reset"


@pytest.mark.parametrize("who", ["client", "target"])
def test_a_reset_of_one_side_reaches_the_other_as_a_reset(stage: Stage, who: str) -> None:
    stage.start_relay()
    breaking, other = (
        (stage.client, stage.target) if who == "client" else (stage.target, stage.client)
    )
    reset_on_close(breaking)
    breaking.close()
    assert is_reset(other)
    line = stage.end()
    assert line["code"] == "reset"
    assert (line["up"], line["down"]) == (4, 6)


def test_a_relay_in_which_nothing_moves_ends_as_idle_with_resets(stage: Stage) -> None:
    stage.start_relay()
    stage.relays.sweep(1000.0)
    stage.relays.sweep(1061.0)
    assert is_reset(stage.client)
    assert is_reset(stage.target)
    line = stage.end()
    assert (line["code"], line["reason"]) == ("idle", "silent for 60 seconds")
    assert (line["up"], line["down"]) == (4, 6)


def test_a_half_closed_relay_has_less_time(stage: Stage) -> None:
    stage.start_relay()
    stage.client.shutdown(socket.SHUT_WR)
    assert read_to_end(stage.target) == b""
    stage.relays.sweep(1000.0)
    stage.relays.sweep(1011.0)
    assert is_reset(stage.client)
    assert stage.end()["code"] == "idle"


def test_the_end_of_the_program_ends_a_relay_with_resets(stage: Stage) -> None:
    stage.start_relay()
    interrupt(stage.session, ShutdownError("the proxy stops"))
    assert is_reset(stage.client)
    assert is_reset(stage.target)
    assert stage.end()["code"] == "shutdown"


def test_the_end_of_the_program_ends_a_handshake(stage: Stage) -> None:
    stage.start(b"")
    gevent.sleep(0)
    interrupt(stage.session, ShutdownError("the proxy stops"))
    assert stage.end()["code"] == "shutdown"


def test_the_end_of_the_program_ends_a_dial_with_a_refusal(stage: Stage) -> None:
    dialing = Event()

    def dial_for_ever() -> None:
        dialing.set()
        gevent.sleep(2 * WAIT_SECONDS)

    stage.in_connect = dial_for_ever
    stage.start()
    assert dialing.wait(WAIT_SECONDS)
    interrupt(stage.session, ShutdownError("the proxy stops"))
    assert read_to_end(stage.client) == b"REFUSE FAILED\n"
    stage.client.close()
    assert stage.end()["code"] == "shutdown"


def test_the_end_of_the_program_ends_lingering_without_a_second_line(stage: Stage) -> None:
    stage.in_decide = failing(DeniedError("no"))
    stage.start()
    assert read_to_end(stage.client) == b"REFUSE DENIED\n"
    interrupt(stage.session, ShutdownError("the proxy stops"))
    assert stage.end()["code"] == "denied"


def test_what_fails_after_the_way_stands_resets_instead_of_refusing(stage: Stage) -> None:
    stage.in_grant = failing(dial_error(errno.ECONNRESET, DIALED))
    stage.start()
    assert is_reset(stage.client)
    assert is_reset(stage.target)
    line = stage.end()
    assert (line["code"], line["address"]) == ("reset", str(stage.dialed.peer))


@pytest.mark.parametrize("step", ["in_negotiate", "in_decide", "in_connect", "in_grant"])
def test_a_bug_ends_its_session_alone_and_says_where_it_is(stage: Stage, step: str) -> None:
    setattr(stage, step, failing(KeyError("of ours")))
    stage.start()
    if step in ("in_decide", "in_connect"):
        assert read_to_end(stage.client) == b"REFUSE FAILED\n"
        stage.client.close()
    else:
        assert is_reset(stage.client)
    line = stage.end()
    assert (line["code"], line["reason"]) == ("internal", "KeyError")
    (fault,) = stage.lines("session.fault")
    assert fault["level"] == "error"
    assert fault["error"] == "KeyError('of ours')"
    file, _, number = fault["where"].rpartition(":")
    assert file == __file__
    assert int(number) > 0


def test_a_bug_in_the_refusal_is_told_as_well(stage: Stage) -> None:
    stage.in_decide = failing(DeniedError("no"))
    stage.in_refuse = failing(KeyError("of ours"))
    stage.start()
    stage.session.get(timeout=WAIT_SECONDS)
    assert stage.line()["code"] == "denied"
    assert len(stage.lines("session.fault")) == 1
    assert is_reset(stage.client) or read_to_end(stage.client) == b""


def test_a_client_that_is_gone_when_it_is_refused_changes_nothing(stage: Stage) -> None:
    def leave_and_deny() -> None:
        reset_on_close(stage.client)
        stage.client.close()
        raise DeniedError("no")

    stage.in_decide = leave_and_deny
    stage.start()
    assert stage.end()["code"] == "denied"


def test_a_listener_without_users_has_sessions_without_a_user(stage: Stage) -> None:
    stage.user = None
    stage.in_decide = failing(DeniedError("no"))
    stage.start()
    stage.client.shutdown(socket.SHUT_WR)
    assert stage.end()["user"] is None
