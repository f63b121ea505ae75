"""Every message of RFC 1929: as a table of octets, and as properties."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.terms import Outcome
from geproxy.wire.userpass import FAILURE, MAX_CREDENTIALS_BYTES, SUCCESS, Credentials, Status
from tests.support.codec import Codec, check_any_bytes, check_codec, check_refused
from tests.vectors.rfc1929 import CREDENTIALS, KINDS, NOT_ONE, STATUSES

fields = st.binary(max_size=255)


@pytest.mark.parametrize(
    ("message", "wire"), [pytest.param(*row[1:], id=row[0]) for row in CREDENTIALS + STATUSES]
)
def test_a_message_is_read_and_written(message: Codec, wire: bytes) -> None:
    check_codec(message, wire)


@pytest.mark.parametrize("version", NOT_ONE)
@pytest.mark.parametrize("kind", KINDS)
def test_another_version_is_refused_at_its_first_octet(kind: type[Codec], version: int) -> None:
    check_refused(kind, bytes((version,)), Outcome.FAILED)


def test_the_limit_is_the_length_of_the_longest_message() -> None:
    longest = Credentials(bytes(255), bytes(255))
    assert len(longest.encode()) == MAX_CREDENTIALS_BYTES == 513


def test_success_is_nought_and_nothing_else() -> None:
    assert (SUCCESS, FAILURE) == (0, 1)


def test_a_password_never_shows_in_what_python_prints() -> None:
    credentials = Credentials(b"alice", b"secret")
    for text in (repr(credentials), str(credentials), f"{credentials}"):
        assert "alice" in text
        assert "secret" not in text


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.builds(Credentials, fields, fields), st.builds(Status, st.integers(0, 255))))
def test_any_message_comes_back_as_it_left_and_no_part_of_it_does(message: Codec) -> None:
    check_codec(message, message.encode())


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(st.sampled_from([b"", b"\x01"]), st.binary(max_size=600))
def test_any_bytes_give_a_message_none_or_a_protocol_error(
    kind: type[Codec], first: bytes, rest: bytes
) -> None:
    check_any_bytes(kind, first + rest)
