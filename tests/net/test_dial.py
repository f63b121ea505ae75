"""Dialing: the first address that stands, in time, and nothing left of the others."""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from geproxy.errors import DeadlineError, DialError
from geproxy.net.deadline import Deadline
from geproxy.net.dial import STAGGER_SECONDS, dial, dial_error, interleave
from geproxy.net.sockopt import RENO, TCP_CA_NAME_MAX
from geproxy.net.stream import SocketStream
from geproxy.terms import Endpoint, Outcome
from tests.support.conformance import HARD_SECONDS, settle
from tests.support.nobody import black_hole, refusing

# connect(2) answers both on the spot on any host: multicast is no target of TCP, and a link-local
# address needs a scope.
MULTICAST = Endpoint(ip_address("224.0.0.1"), 9)
UNSCOPED = Endpoint(ip_address("fe80::1"), 9)


@pytest.fixture(autouse=True)
def no_descriptor_is_kept() -> Iterator[None]:
    settle()
    before = len(os.listdir("/proc/self/fd"))
    with Deadline(HARD_SECONDS, "a test"):
        yield
    assert len(os.listdir("/proc/self/fd")) == before


def dial_within(endpoints: Sequence[Endpoint], seconds: float = HARD_SECONDS) -> SocketStream:
    """Dial with time enough, unless there is less around this call."""
    return dial(endpoints, endpoints[0], seconds)


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[Endpoint]:
    """An address that accepts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as sock:
        yield Endpoint.from_sockaddr(sock.getsockname())


def test_the_one_address_there_is_is_dialed() -> None:
    with listening() as good:
        stream = dial_within([good])
        assert stream.peer == good
        assert stream.bound.host == good.host
        stream.close()


def test_ipv6_is_dialed_too() -> None:
    with listening("::1") as good:
        stream = dial_within([good])
        assert stream.peer == good
        stream.close()


def test_a_connection_carries_bytes_both_ways() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        stream = dial_within([Endpoint.from_sockaddr(sock.getsockname())])
        far, _ = sock.accept()
        with far:
            stream.send_all(b"up")
            assert far.recv(10) == b"up"
            far.sendall(b"down")
            assert stream.recv(10) == b"down"
        stream.close()


def test_a_dialed_connection_is_prepared() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        stream = dial_within([Endpoint.from_sockaddr(sock.getsockname())])
        stream.send_all(b"what leaves at once of itself")
        assert not stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        stream.send_all(b"what would wait for the first bytes to be acknowledged")
        assert stream._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not stream._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        stream.keep_alive()  # which a relay does once it is silent
        assert stream._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        stream.close()


def test_where_the_system_paces_a_target_on_this_machine_is_spared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("geproxy.net.sockopt._system_paces", lambda: True)
    with listening() as good:
        stream = dial_within([good])
        sock = stream._socket
        name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, TCP_CA_NAME_MAX)
        assert name.rstrip(b"\0") == RENO
        stream.close()


def test_where_the_first_refuses_the_second_is_dialed_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("geproxy.net.dial.STAGGER_SECONDS", 60.0)
    with refusing() as bad, listening() as good:
        with Deadline(30.0, "no stagger after a failure"):
            stream = dial_within([bad, bad, bad, good])
        assert stream.peer == good
        stream.close()


def test_of_many_addresses_eight_are_dialed() -> None:
    with refusing() as bad, listening() as good:
        stream = dial_within([bad] * 7 + [good])
        assert stream.peer == good
        stream.close()
        with pytest.raises(DialError) as caught:
            dial_within([bad] * 8 + [good])
    assert caught.value.code == "refused"


def test_what_fails_on_the_spot_does_not_end_the_dialing() -> None:
    with listening() as good:
        stream = dial_within([UNSCOPED, MULTICAST, good])
        assert stream.peer == good
        stream.close()


@pytest.mark.slow
def test_where_the_first_is_silent_the_second_is_dialed_after_a_while() -> None:
    with black_hole() as silent, listening() as good:
        stream = dial_within([silent, good])
        assert stream.peer == good
        stream.close()


@pytest.mark.slow
def test_a_failure_beside_a_silent_one_does_not_end_the_dialing() -> None:
    with black_hole() as silent, refusing() as bad, listening() as good:
        stream = dial_within([silent, bad, good])
        assert stream.peer == good
        stream.close()


def test_a_deadline_ends_every_attempt() -> None:
    with black_hole() as silent, pytest.raises(DeadlineError), Deadline(0.02, "connect"):
        dial_within([silent])


@pytest.mark.slow
def test_a_deadline_ends_attempts_that_run_side_by_side() -> None:
    late = Deadline(STAGGER_SECONDS * 1.5, "connect")
    ended = pytest.raises(DeadlineError)
    with black_hole() as one, black_hole() as two, refusing() as bad, ended, late:
        dial_within([one, bad, two])


@pytest.mark.parametrize("order", [1, -1], ids=["refused last", "refused first"])
def test_where_all_fail_the_most_telling_failure_is_heard(order: int) -> None:
    with refusing() as bad, pytest.raises(DialError) as caught:
        dial_within([MULTICAST, UNSCOPED, bad][::order])
    assert caught.value.code == "refused"
    assert caught.value.outcome is Outcome.REFUSED
    assert str(caught.value) == f"{bad}: Connection refused"


def test_an_address_without_a_way_to_it_is_unreachable() -> None:
    with pytest.raises(DialError) as caught:
        dial_within([UNSCOPED])
    assert (caught.value.code, caught.value.outcome) == (
        "unreachable",
        Outcome.NETWORK_UNREACHABLE,
    )


A, B, C = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))
X, Y, Z = (ip_address(f"2001:db8::{number}") for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("addresses", "ordered"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([A], [A], id="one"),
        pytest.param([A, B, C], [A, B, C], id="one family keeps its order"),
        pytest.param([X, Y, A, B], [X, A, Y, B], id="in turn"),
        pytest.param([A, B, X, Y], [A, X, B, Y], id="the first one's family leads"),
        pytest.param([X, Y, Z, A], [X, A, Y, Z], id="what is left over comes last"),
        pytest.param([X, A, B, C], [X, A, B, C], id="so it does in the other family"),
        pytest.param([X, A, Y, B], [X, A, Y, B], id="what is in turn stays so"),
    ],
)
def test_families_are_dialed_in_turn(addresses: list, ordered: list) -> None:
    assert interleave(addresses) == ordered


@pytest.mark.parametrize(
    ("number", "code", "outcome"),
    [
        (errno.ECONNREFUSED, "refused", Outcome.REFUSED),
        (errno.ETIMEDOUT, "timeout", Outcome.TIMED_OUT),
        (errno.EHOSTUNREACH, "unreachable", Outcome.HOST_UNREACHABLE),
        (errno.EHOSTDOWN, "unreachable", Outcome.HOST_UNREACHABLE),
        (errno.EACCES, "unreachable", Outcome.HOST_UNREACHABLE),
        (errno.EPERM, "unreachable", Outcome.HOST_UNREACHABLE),
        (errno.ENETUNREACH, "unreachable", Outcome.NETWORK_UNREACHABLE),
        (errno.ENETDOWN, "unreachable", Outcome.NETWORK_UNREACHABLE),
        (errno.EAFNOSUPPORT, "unreachable", Outcome.NETWORK_UNREACHABLE),
        (errno.EADDRNOTAVAIL, "unreachable", Outcome.NETWORK_UNREACHABLE),
        (errno.EINVAL, "unreachable", Outcome.NETWORK_UNREACHABLE),
        (errno.ECONNRESET, "reset", Outcome.FAILED),
        (errno.EMFILE, "limit", Outcome.FAILED),
        (errno.ENFILE, "limit", Outcome.FAILED),
        (errno.ENOBUFS, "limit", Outcome.FAILED),
        (errno.ENOMEM, "limit", Outcome.FAILED),
        (errno.EAGAIN, "limit", Outcome.FAILED),
        (errno.EADDRINUSE, "limit", Outcome.FAILED),
        (errno.EIO, "internal", Outcome.FAILED),
        (0, "internal", Outcome.FAILED),
    ],
    ids=lambda value: errno.errorcode.get(value, "0") if isinstance(value, int) else "",
)
def test_every_errno_has_its_code_and_outcome(number: int, code: str, outcome: Outcome) -> None:
    error = dial_error(number, Endpoint(A, 80))
    assert (error.code, error.outcome) == (code, outcome)
    assert str(error).startswith("192.0.2.1:80: ")
