"""Whole SOCKS4 and 4A conversations: every way to cut them, every way to go wrong."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from geproxy.errors import (
    AuthenticationError,
    CommandError,
    DeadlineError,
    GeproxyError,
    ProtocolError,
    ResetError,
)
from geproxy.inbound.socks4 import Socks4Inbound, Socks4Request
from geproxy.net.deadline import Deadline
from geproxy.terms import Command, Endpoint, Outcome
from tests.support.conformance import HARD_SECONDS, beside, read_exactly
from tests.support.memory import memory_pair

DATA = b"\x16\x03\x01 the first bytes\0 of what is relayed"
BOUND = Endpoint(IPv4Address("192.0.2.9"), 40_000)
GRANTED = b"\x00\x5a\x9c\x40\xc0\x00\x02\x09"
REJECTED = b"\x00\x5b\x00\x00\x00\x00\x00\x00"

IPV4 = b"\x04\x01\x01\xbb\xc6\x33\x64\x01alice\0"
NAME = b"\x04\x01\x01\xbb\x00\x00\x00\x01alice\0example.net\0"

TARGETS = [
    pytest.param(IPV4, Endpoint(IPv4Address("198.51.100.1"), 443), id="IPv4"),
    pytest.param(NAME, Endpoint("example.net", 443), id="a name"),
]


@pytest.fixture(autouse=True)
def every_wait_ends() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        yield


class Conversation:
    """All that a client sends, in pieces, and all that it hears."""

    def __init__(self, *pieces: bytes, users_wanted: bool = False) -> None:
        self.client, self.stream = memory_pair()
        self.inbound = Socks4Inbound(users_wanted=users_wanted)
        for piece in pieces:
            self.client.send_all(piece)

    def negotiate(self) -> Socks4Request:
        return self.inbound.negotiate(self.stream)

    def fail(self, kind: type[GeproxyError]) -> GeproxyError:
        """Negotiate; demand just this error."""
        with pytest.raises(GeproxyError) as caught:
            self.negotiate()
        assert type(caught.value) is kind
        return caught.value

    def heard(self) -> bytes:
        """What the client has been told so far."""
        return read_exactly(self.client, self.client.unread_bytes)


def check_granted(target: Endpoint, *pieces: bytes) -> None:
    talk = Conversation(*pieces)
    request = talk.negotiate()
    assert (request.command, request.target) == (Command.CONNECT, target)
    assert (request.user, request.claimed) == (None, "alice")
    assert talk.heard() == b""
    request.grant(BOUND)
    assert talk.heard() == GRANTED
    assert read_exactly(request.stream, len(DATA)) == DATA


# -- every way to cut the bytes -----------------------------------------------------------------


@pytest.mark.parametrize(("request_bytes", "target"), TARGETS)
def test_any_two_pieces_are_as_good_as_one(request_bytes: bytes, target: Endpoint) -> None:
    wire = request_bytes + DATA
    check_granted(target, wire)
    for cut in range(1, len(wire)):
        check_granted(target, wire[:cut], wire[cut:])


@pytest.mark.parametrize(("request_bytes", "target"), TARGETS)
def test_one_byte_at_a_time_is_as_good(request_bytes: bytes, target: Endpoint) -> None:
    check_granted(target, *(bytes((number,)) for number in request_bytes + DATA))


@pytest.mark.parametrize(("request_bytes", "target"), TARGETS)
def test_a_client_that_waits_for_its_answer_gets_it(request_bytes: bytes, target: Endpoint) -> None:
    talk = Conversation()

    def ask() -> None:
        talk.client.send_all(request_bytes)
        assert read_exactly(talk.client, len(GRANTED)) == GRANTED
        talk.client.send_all(DATA)

    with beside(ask):
        request = talk.negotiate()
        assert request.target == target
        request.grant(BOUND)
        assert read_exactly(request.stream, len(DATA)) == DATA


def test_a_user_id_and_a_name_of_full_length_fit() -> None:
    wire = b"\x04\x01\x00\x50\0\0\0\x01" + b"u" * 255 + b"\0" + b"n" * 255 + b"\0"
    request = Conversation(wire).negotiate()
    assert (request.target, request.claimed) == (Endpoint("n" * 255, 80), "u" * 255)


# -- requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cd", "command"), [(1, Command.CONNECT), (2, Command.BIND)])
@pytest.mark.parametrize("rest", [IPV4[2:], NAME[2:]], ids=["IPv4", "a name"])
def test_the_two_commands_are_known(cd: int, command: Command, rest: bytes) -> None:
    assert Conversation(bytes((4, cd)) + rest).negotiate().command is command


@pytest.mark.parametrize("cd", [0, 3, 4, 90, 0xFF])
def test_an_unknown_command_is_rejected(cd: int) -> None:
    talk = Conversation(bytes((4, cd)) + NAME[2:])
    assert talk.fail(CommandError).outcome is Outcome.COMMAND_UNSUPPORTED
    assert talk.heard() == REJECTED


@pytest.mark.parametrize(
    ("user_id", "claimed"),
    [
        pytest.param(b"", None, id="no claim"),
        pytest.param(b"alice", "alice", id="a user"),
        pytest.param(b"b\xc3\xbccher", "b\u00fccher", id="UTF-8"),
        pytest.param(b"\xff\xfe", "\udcff\udcfe", id="no UTF-8"),
        pytest.param(b"a\nb c=d", "a\nb c=d", id="what would forge a line of the log"),
    ],
)
def test_the_user_id_is_claimed_and_proves_nothing(user_id: bytes, claimed: str | None) -> None:
    request = Conversation(b"\x04\x01\x00\x50\xc0\x00\x02\x07" + user_id + b"\0").negotiate()
    assert (request.user, request.claimed) == (None, claimed)


@pytest.mark.parametrize("cd", [1, 2])
def test_zeros_are_a_target_like_others(cd: int) -> None:
    """What BIND to any peer asks for. Policy, which has the last word, sees it as it came."""
    request = Conversation(bytes((4, cd)) + bytes(7)).negotiate()
    assert request.target == Endpoint(IPv4Address("0.0.0.0"), 0)


@pytest.mark.parametrize(
    "request_bytes", [IPV4, NAME, b"\x04\x02" + IPV4[2:], b"\x04\x09" + IPV4[2:]]
)
def test_where_users_are_wanted_nobody_gets_in(request_bytes: bytes) -> None:
    talk = Conversation(request_bytes, users_wanted=True)
    error = talk.fail(AuthenticationError)
    assert isinstance(error, AuthenticationError)
    assert (error.user, str(error)) == ("alice", "SOCKS4 cannot authenticate")
    assert talk.heard() == REJECTED


def test_a_client_that_resets_before_its_refusal_is_refused_all_the_same() -> None:
    talk = Conversation(IPV4, users_wanted=True)
    talk.client.abort()
    error = talk.fail(AuthenticationError)
    assert isinstance(error, AuthenticationError)
    assert error.user == "alice"


def test_where_users_are_wanted_a_client_that_claims_nothing_does_not_get_in() -> None:
    talk = Conversation(b"\x04\x01\x00\x50\xc0\x00\x02\x07\0", users_wanted=True)
    error = talk.fail(AuthenticationError)
    assert isinstance(error, AuthenticationError)
    assert error.user is None
    assert talk.heard() == REJECTED


@pytest.mark.parametrize("users_wanted", [False, True], ids=["open", "with users"])
@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(IPV4[:8] + b"u" * 256, id="a USERID that does not end"),
        pytest.param(NAME[:8] + b"\0" + b"n" * 256, id="a name that does not end"),
        pytest.param(b"\x05\x01\x00", id="SOCKS5"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", id="TLS"),
        pytest.param(b"\x00", id="a NUL"),
    ],
)
def test_a_request_that_cannot_be_is_rejected_at_once(wire: bytes, users_wanted: bool) -> None:
    talk = Conversation(wire, users_wanted=users_wanted)
    talk.fail(ProtocolError)
    assert talk.heard() == REJECTED


def test_there_are_no_datagrams() -> None:
    request = Conversation(IPV4).negotiate()
    with pytest.raises(CommandError):
        _ = request.codec


# -- replies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_rejected_alike(outcome: Outcome) -> None:
    talk = Conversation(NAME)
    talk.negotiate().refuse(outcome)
    assert talk.heard() == REJECTED


@pytest.mark.parametrize(
    ("bound", "wire"),
    [
        pytest.param(BOUND, GRANTED, id="IPv4"),
        pytest.param(
            Endpoint(IPv6Address("2001:db8::2"), 40_000), GRANTED[:4] + bytes(4), id="IPv6"
        ),
    ],
)
def test_a_grant_names_what_it_can_of_the_address_in_use(bound: Endpoint, wire: bytes) -> None:
    talk = Conversation(IPV4)
    talk.negotiate().grant(bound)
    assert talk.heard() == wire


def test_bind_is_answered_twice() -> None:
    talk = Conversation(b"\x04\x02" + IPV4[2:])
    request = talk.negotiate()
    request.grant(BOUND)
    request.grant(Endpoint(IPv4Address("198.51.100.1"), 20))
    assert talk.heard() == GRANTED + b"\x00\x5a\x00\x14\xc6\x33\x64\x01"


def test_the_second_answer_to_bind_may_be_no() -> None:
    talk = Conversation(b"\x04\x02" + IPV4[2:])
    request = talk.negotiate()
    request.grant(BOUND)
    request.refuse(Outcome.TIMED_OUT)
    assert talk.heard() == GRANTED + REJECTED


# -- endings ------------------------------------------------------------------------------------


def test_an_end_anywhere_in_the_middle_is_a_protocol_error_and_rejected() -> None:
    for cut in range(len(NAME)):
        talk = Conversation(*([NAME[:cut]] if cut else []))
        talk.client.close_write()
        talk.fail(ProtocolError)
        assert talk.heard() == REJECTED, f"after {cut} bytes"


@pytest.mark.parametrize("sent", [b"", IPV4[:3], NAME[:-1]])
def test_a_reset_in_the_middle_is_a_reset(sent: bytes) -> None:
    talk = Conversation(*([sent] if sent else []))
    talk.client.abort()
    talk.fail(ResetError)


@pytest.mark.parametrize("sent", [b"", IPV4[:3], NAME[:-1]])
def test_a_client_that_says_no_more_meets_the_deadline(sent: bytes) -> None:
    talk = Conversation(*([sent] if sent else []))
    with pytest.raises(DeadlineError), Deadline(0.01, "the handshake"):
        talk.negotiate()
    assert talk.heard() == b""
