"""Whole SOCKS5 conversations: every way to cut them, every way to go wrong."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from geproxy.errors import (
    AuthenticationError,
    CommandError,
    DeadlineError,
    GeproxyError,
    LimitError,
    ProtocolError,
    ResetError,
)
from geproxy.inbound.socks5 import Socks5Inbound, Socks5Request
from geproxy.net.deadline import Deadline
from geproxy.seams import Authenticator
from geproxy.streams import Stream
from geproxy.terms import Command, Endpoint, Outcome
from tests.support.conformance import HARD_SECONDS, beside, read_exactly
from tests.support.memory import memory_pair

DATA = b"\x16\x03\x01 the first bytes of what is relayed"
BOUND = Endpoint(IPv4Address("192.0.2.9"), 40_000)
GRANTED = b"\x05\x00\x00\x01\xc0\x00\x02\x09\x9c\x40"
NOWHERE = b"\x00\x01\x00\x00\x00\x00\x00\x00"

GREETING = b"\x05\x02\x00\x02"
CREDENTIALS = b"\x01\x05alice\x06secret"
IPV4 = b"\x01\xc6\x33\x64\x01\x01\xbb"
IPV6 = b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x00\x50"
NAME = b"\x03\x0bexample.net\x01\xbb"
CONNECT = b"\x05\x01\x00"

TARGETS = [
    pytest.param(IPV4, Endpoint(IPv4Address("198.51.100.1"), 443), id="IPv4"),
    pytest.param(IPV6, Endpoint(IPv6Address("2001:db8::1"), 80), id="IPv6"),
    pytest.param(NAME, Endpoint("example.net", 443), id="a name"),
]


class OneUser:
    """Knows alice, whose password is "secret"; busy for a user called "busy"."""

    def authenticate(self, user: str, password: bytes, client: Stream) -> None:
        if user == "busy":
            raise LimitError("too many verifications at once")
        if (user, password) != ("alice", b"secret"):
            raise AuthenticationError("wrong password", user)


METHODS = [
    pytest.param(None, b"", b"\x05\x00", None, id="no authentication"),
    pytest.param(OneUser(), CREDENTIALS, b"\x05\x02\x01\x00", "alice", id="a password"),
]


@pytest.fixture(autouse=True)
def every_wait_ends() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


class Conversation:
    """All that a client sends, in pieces, and all that it hears."""

    def __init__(self, users: Authenticator | None, pieces: list[bytes]) -> None:
        self.client, self.stream = memory_pair()
        self.inbound = Socks5Inbound(users)
        for piece in pieces:
            self.client.send_all(piece)

    def negotiate(self) -> Socks5Request:
        return self.inbound.negotiate(self.stream)

    def fail(self, kind: type[GeproxyError]) -> GeproxyError:
        """Negotiate; demand just this error."""
        with pytest.raises(GeproxyError) as caught:
            self.negotiate()
        assert type(caught.value) is kind
        return caught.value

    def heard(self) -> bytes:
        """What the client has been told so far."""
        size = self.client.unread_bytes
        return read_exactly(self.client, size)


def check_granted(
    users: Authenticator | None, pieces: list[bytes], replies: bytes, target: Endpoint
) -> None:
    talk = Conversation(users, pieces)
    request = talk.negotiate()
    assert (request.command, request.target) == (Command.CONNECT, target)
    assert request.user == (None if users is None else "alice")
    assert talk.heard() == replies
    request.grant(BOUND)
    assert talk.heard() == GRANTED
    assert read_exactly(request.stream, len(DATA)) == DATA


# -- every way to cut the bytes -----------------------------------------------------------------


@pytest.mark.parametrize(("users", "credentials", "replies", "user"), METHODS)
@pytest.mark.parametrize(("address", "target"), TARGETS)
def test_any_two_pieces_are_as_good_as_one(
    users: Authenticator | None,
    credentials: bytes,
    replies: bytes,
    user: str | None,
    address: bytes,
    target: Endpoint,
) -> None:
    wire = GREETING + credentials + CONNECT + address + DATA
    check_granted(users, [wire], replies, target)
    for cut in range(1, len(wire)):
        check_granted(users, [wire[:cut], wire[cut:]], replies, target)


@pytest.mark.parametrize(("users", "credentials", "replies", "user"), METHODS)
@pytest.mark.parametrize(("address", "target"), TARGETS)
def test_one_byte_at_a_time_is_as_good(
    users: Authenticator | None,
    credentials: bytes,
    replies: bytes,
    user: str | None,
    address: bytes,
    target: Endpoint,
) -> None:
    wire = GREETING + credentials + CONNECT + address + DATA
    check_granted(users, [bytes((number,)) for number in wire], replies, target)


@pytest.mark.parametrize(("users", "credentials", "replies", "user"), METHODS)
@pytest.mark.parametrize(("address", "target"), TARGETS)
def test_a_client_that_waits_for_every_answer_gets_it(
    users: Authenticator | None,
    credentials: bytes,
    replies: bytes,
    user: str | None,
    address: bytes,
    target: Endpoint,
) -> None:
    talk = Conversation(users, [])

    def ask() -> None:
        talk.client.send_all(GREETING)
        assert read_exactly(talk.client, 2) == replies[:2]
        if credentials:
            talk.client.send_all(credentials)
            assert read_exactly(talk.client, 2) == replies[2:]
        talk.client.send_all(CONNECT + address)
        assert read_exactly(talk.client, len(GRANTED)) == GRANTED
        talk.client.send_all(DATA)

    with beside(ask):
        request = talk.negotiate()
        assert request.target == target
        assert request.user == user
        request.grant(BOUND)
        assert read_exactly(request.stream, len(DATA)) == DATA


def test_a_name_of_full_length_fits() -> None:
    name = b"n" * 255
    talk = Conversation(None, [GREETING, CONNECT, b"\x03\xff" + name + b"\x00\x50"])
    assert talk.negotiate().target == Endpoint(name.decode(), 80)


def test_a_greeting_and_credentials_of_full_length_fit() -> None:
    wire = b"\x05\xff" + bytes(range(255)) + b"\x01\xff" + b"u" * 255 + b"\xff" + b"p" * 255
    talk = Conversation(OneUser(), [wire])
    error = talk.fail(AuthenticationError)
    assert isinstance(error, AuthenticationError)
    assert error.user == "u" * 255


# -- methods and passwords ----------------------------------------------------------------------


@pytest.mark.parametrize("offered", [b"\x00", b"\x02\x00", b"\x00\x01\x02\x80", bytes(range(255))])
def test_without_users_no_authentication_is_chosen_wherever_it_stands(offered: bytes) -> None:
    greeting = bytes((5, len(offered))) + offered
    talk = Conversation(None, [greeting + CONNECT + NAME])
    assert talk.negotiate().user is None
    assert talk.heard() == b"\x05\x00"


@pytest.mark.parametrize("offered", [b"\x02", b"\x02\x00", b"\x00\x02"])
def test_with_users_the_password_is_chosen_whatever_else_is_offered(offered: bytes) -> None:
    greeting = bytes((5, len(offered))) + offered
    talk = Conversation(OneUser(), [greeting + CREDENTIALS + CONNECT + NAME])
    assert talk.negotiate().user == "alice"
    assert talk.heard() == b"\x05\x02\x01\x00"


@pytest.mark.parametrize(
    ("users", "offered", "error"),
    [
        pytest.param(None, b"\x02", ProtocolError, id="only a password, which nobody wants"),
        pytest.param(None, b"\x01", ProtocolError, id="only GSSAPI"),
        pytest.param(None, b"\xff", ProtocolError, id="255, which is no method"),
        pytest.param(OneUser(), b"\x00", AuthenticationError, id="no password where one is due"),
        pytest.param(OneUser(), b"\x01\x80", AuthenticationError, id="GSSAPI and a private one"),
    ],
)
def test_without_an_acceptable_method_the_client_hears_so(
    users: Authenticator | None, offered: bytes, error: type[GeproxyError]
) -> None:
    greeting = bytes((5, len(offered))) + offered
    talk = Conversation(users, [greeting + CREDENTIALS + CONNECT + NAME])
    talk.fail(error)
    assert talk.heard() == b"\x05\xff"


@pytest.mark.parametrize(
    ("credentials", "kind", "user"),
    [
        pytest.param(b"\x01\x05alice\x05wrong", AuthenticationError, "alice", id="wrong password"),
        pytest.param(b"\x01\x03bob\x06secret", AuthenticationError, "bob", id="unknown user"),
        pytest.param(b"\x01\x05alice\x00", AuthenticationError, "alice", id="empty password"),
        pytest.param(b"\x01\x00\x06secret", AuthenticationError, "", id="empty user"),
        pytest.param(b"\x01\x02\xff\xfe\x01x", AuthenticationError, "\udcff\udcfe", id="no text"),
        pytest.param(b"\x01\x04busy\x06secret", LimitError, None, id="too busy to look"),
    ],
)
def test_who_is_not_let_in_hears_a_failure_and_nothing_more(
    credentials: bytes, kind: type[GeproxyError], user: str | None
) -> None:
    talk = Conversation(OneUser(), [GREETING + credentials + CONNECT + NAME])
    error = talk.fail(kind)
    if isinstance(error, AuthenticationError):
        assert error.user == user
    assert talk.heard() == b"\x05\x02\x01\x01"


def test_a_client_that_does_not_wait_for_the_verdict_has_it_all_the_same() -> None:
    class Slow:
        """The client leaves before it has its verdict."""

        def authenticate(self, user: str, password: bytes, client: Stream) -> None:
            talk.client.abort()
            raise AuthenticationError("wrong password", user)

    talk = Conversation(Slow(), [GREETING + CREDENTIALS])
    error = talk.fail(AuthenticationError)
    assert isinstance(error, AuthenticationError)
    assert error.user == "alice"


@pytest.mark.parametrize(
    ("users", "wire", "kind"),
    [
        pytest.param(OneUser(), b"\x05\x01\x00", AuthenticationError, id="no password is offered"),
        pytest.param(None, b"\x05\x01\x02", ProtocolError, id="only a password is"),
    ],
)
def test_what_a_client_did_is_said_of_it_although_it_resets_before_the_answer(
    users: Authenticator | None, wire: bytes, kind: type[GeproxyError]
) -> None:
    talk = Conversation(users, [wire])
    talk.client.abort()
    talk.fail(kind)


def test_whose_password_it_is_is_told_with_the_connection_that_it_came_by() -> None:
    clients: list[Stream] = []

    class Curious(OneUser):
        def authenticate(self, user: str, password: bytes, client: Stream) -> None:
            clients.append(client)

    talk = Conversation(Curious(), [GREETING + CREDENTIALS + CONNECT + NAME])
    talk.negotiate()
    assert clients == [talk.stream]


def test_an_empty_password_can_be_the_right_one() -> None:
    class Open:
        def authenticate(self, user: str, password: bytes, client: Stream) -> None:
            assert (user, password) == ("alice", b"")

    talk = Conversation(Open(), [GREETING + b"\x01\x05alice\x00" + CONNECT + NAME])
    assert talk.negotiate().user == "alice"


def test_credentials_of_another_version_end_it() -> None:
    talk = Conversation(OneUser(), [GREETING + b"\x05" + CREDENTIALS[1:]])
    talk.fail(ProtocolError)
    assert talk.heard()[:2] == b"\x05\x02"


# -- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cmd", "command"),
    [(1, Command.CONNECT), (2, Command.BIND), (3, Command.UDP_ASSOCIATE)],
)
def test_the_three_commands_are_known(cmd: int, command: Command) -> None:
    talk = Conversation(None, [GREETING, bytes((5, cmd, 0)) + IPV4])
    assert talk.negotiate().command is command


@pytest.mark.parametrize("cmd", [0, 4, 0x80, 0xF0, 0xFF])
def test_an_unknown_command_is_answered_with_rep_7(cmd: int) -> None:
    talk = Conversation(None, [GREETING, bytes((5, cmd, 0)) + NAME])
    assert talk.fail(CommandError).outcome is Outcome.COMMAND_UNSUPPORTED
    assert talk.heard() == b"\x05\x00" + b"\x05\x07" + NOWHERE


@pytest.mark.parametrize("kind", [0, 2, 5, 0xFF])
def test_an_unknown_address_type_is_answered_with_rep_8_at_once(kind: int) -> None:
    talk = Conversation(None, [GREETING, CONNECT + bytes((kind,))])
    assert talk.fail(ProtocolError).outcome is Outcome.ADDRESS_UNSUPPORTED
    assert talk.heard() == b"\x05\x00" + b"\x05\x08" + NOWHERE


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"\x04\x01\x00" + IPV4, id="VER 4"),
        pytest.param(b"\x01\x01\x00" + IPV4, id="the VER of RFC 1929"),
    ],
)
def test_a_request_that_cannot_be_is_answered_with_rep_1(request_bytes: bytes) -> None:
    talk = Conversation(None, [GREETING, request_bytes])
    talk.fail(ProtocolError)
    assert talk.heard() == b"\x05\x00" + b"\x05\x01" + NOWHERE


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", id="SOCKS4"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
        pytest.param(b"CONNECT example.net:443 HTTP/1.1\r\n\r\n", id="HTTP CONNECT"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", id="TLS"),
        pytest.param(b"\x00", id="a NUL"),
        pytest.param(b"\x05\x00", id="a greeting that offers nothing"),
    ],
)
def test_whoever_does_not_speak_socks5_hears_nothing(wire: bytes) -> None:
    talk = Conversation(None, [wire])
    talk.fail(ProtocolError)
    assert talk.heard() == b""


@pytest.mark.parametrize("reserved", [1, 5, 0xFF])
def test_whatever_stands_in_rsv_is_tolerated(reserved: int) -> None:
    talk = Conversation(None, [GREETING, bytes((5, 1, reserved)) + NAME])
    assert talk.negotiate().target == Endpoint("example.net", 443)


# -- replies ------------------------------------------------------------------------------------

REPS = {
    Outcome.GRANTED: 0,
    Outcome.FAILED: 1,
    Outcome.DENIED: 2,
    Outcome.NETWORK_UNREACHABLE: 3,
    Outcome.HOST_UNREACHABLE: 4,
    Outcome.REFUSED: 5,
    Outcome.TIMED_OUT: 6,
    Outcome.COMMAND_UNSUPPORTED: 7,
    Outcome.ADDRESS_UNSUPPORTED: 8,
}


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_its_rep(outcome: Outcome) -> None:
    talk = Conversation(None, [GREETING + CONNECT + NAME])
    request = talk.negotiate()
    talk.heard()
    request.refuse(outcome)
    assert talk.heard() == bytes((5, REPS[outcome])) + NOWHERE


@pytest.mark.parametrize(
    ("bound", "wire"),
    [
        (BOUND, GRANTED),
        (
            Endpoint(IPv6Address("2001:db8::2"), 1),
            b"\x05\x00\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x02\x00\x01",
        ),
    ],
    ids=["IPv4", "IPv6"],
)
def test_a_grant_names_the_address_in_use(bound: Endpoint, wire: bytes) -> None:
    talk = Conversation(None, [GREETING + CONNECT + NAME])
    request = talk.negotiate()
    talk.heard()
    request.grant(bound)
    assert talk.heard() == wire


# -- endings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("users", "credentials", "replies", "user"), METHODS)
def test_an_end_anywhere_in_the_middle_is_a_protocol_error(
    users: Authenticator | None, credentials: bytes, replies: bytes, user: str | None
) -> None:
    before_request = GREETING + credentials
    wire = before_request + CONNECT + NAME
    for cut in range(len(wire)):
        talk = Conversation(users, [wire[:cut]] if cut else [])
        talk.client.close_write()
        talk.fail(ProtocolError)
        if cut < len(GREETING):
            expected = b""
        elif cut < len(before_request):
            expected = replies[:2]
        else:
            expected = replies + b"\x05\x01" + NOWHERE
        assert talk.heard() == expected, f"after {cut} bytes"


@pytest.mark.parametrize("sent", [b"", GREETING, GREETING + CONNECT + NAME[:5]])
def test_a_reset_in_the_middle_is_a_reset(sent: bytes) -> None:
    talk = Conversation(None, [sent] if sent else [])
    talk.client.abort()
    talk.fail(ResetError)


@pytest.mark.parametrize("sent", [b"", GREETING, GREETING + CONNECT + NAME[:5]])
def test_a_client_that_says_no_more_meets_the_deadline(sent: bytes) -> None:
    talk = Conversation(None, [sent] if sent else [])
    with pytest.raises(DeadlineError), Deadline(0.01, "the handshake"):
        talk.negotiate()
