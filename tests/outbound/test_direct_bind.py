"""BIND straight out: whom the port waits for, and where it is."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.errors import DeniedError, ResolveError
from geproxy.net.deadline import Deadline
from geproxy.net.dialer import Dialer
from geproxy.outbound.direct import DirectOutbound
from geproxy.terms import AS_WE_ARE, Address, Command, Endpoint, Offer, Outcome
from tests.support.conformance import HARD_SECONDS
from tests.support.memory import memory_pair
from tests.support.names import knowing

US = Endpoint(IPv4Address("127.0.0.1"), 1080)
CLIENT = Endpoint(IPv4Address("127.0.0.9"), 50001)


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


def names(name: str) -> tuple[Address, ...]:
    known = {"ftp.example": ("127.0.0.2", "127.0.0.3"), "nobody.example": ()}
    return tuple(map(ip_address, known[name]))


def outbound() -> DirectOutbound:
    return DirectOutbound(Dialer(knowing(names), HARD_SECONDS))


class Request:
    """A request for BIND from CLIENT, which reached us at *bound*."""

    command = Command.BIND
    user = claimed = codec = None

    def __init__(self, host: Address | str, bound: Endpoint = US) -> None:
        self.target = Endpoint(host, 21)
        _, self.stream = memory_pair(client=CLIENT, target=bound)

    def grant(self, bound: Endpoint) -> None:
        raise AssertionError("the session grants")

    def refuse(self, outcome: Outcome) -> None:
        raise AssertionError("the session refuses")


def anybody(endpoint: Endpoint) -> None:
    """A permit for all."""


def comes(source: str, to: Endpoint) -> socket.socket:
    return socket.create_connection(to.sockaddr, HARD_SECONDS, (source, 0))


@pytest.mark.parametrize("source", ["127.0.0.2", "127.0.0.3"])
def test_any_address_of_the_name_is_the_expected_peer_whatever_its_port(source: str) -> None:
    with (
        closing(outbound().bind(Request("ftp.example"), anybody, AS_WE_ARE)) as waiting,
        comes("127.0.0.4", waiting.bound),
        comes(source, waiting.bound) as peer,
    ):
        stream = waiting.accept()
        assert stream.peer == Endpoint.from_sockaddr(peer.getsockname())
        stream.close()


def test_only_the_addresses_that_are_allowed_are_expected() -> None:
    def permit(endpoint: Endpoint) -> None:
        if endpoint.host == IPv4Address("127.0.0.2"):
            raise DeniedError("no")

    with (
        closing(outbound().bind(Request("ftp.example"), permit, AS_WE_ARE)) as waiting,
        comes("127.0.0.2", waiting.bound),
        comes("127.0.0.3", waiting.bound),
    ):
        stream = waiting.accept()
        assert stream.peer.host == IPv4Address("127.0.0.3")
        stream.close()


def test_a_peer_that_is_denied_is_not_waited_for() -> None:
    judged = []

    def deny(endpoint: Endpoint) -> None:
        judged.append(endpoint)
        raise DeniedError("no")

    with pytest.raises(DeniedError):
        outbound().bind(Request(IPv4Address("127.0.0.2")), deny, AS_WE_ARE)
    assert judged == [Endpoint(IPv4Address("127.0.0.2"), 21)]


def test_a_peer_without_an_address_is_told() -> None:
    with pytest.raises(ResolveError):
        outbound().bind(Request("nobody.example"), anybody, AS_WE_ARE)


@pytest.mark.parametrize(
    ("target", "bound"),
    [
        pytest.param("0.0.0.0", US, id="0.0.0.0"),
        pytest.param("::", Endpoint(IPv6Address("::1"), 1080), id="::"),
        pytest.param("0.0.0.0", Endpoint(IPv6Address("::1"), 1080), id="0.0.0.0 over IPv6"),
        pytest.param("::", US, id=":: over IPv4"),
    ],
)
def test_the_unspecified_address_is_anybody_at_the_address_that_the_client_reached(
    target: str, bound: Endpoint
) -> None:
    judged: list[Endpoint] = []
    request = Request(ip_address(target), bound)
    with closing(outbound().bind(request, judged.append, AS_WE_ARE)) as waiting:
        assert judged == [Endpoint(ip_address(target), 21)], "which a rule must allow"
        assert waiting.bound.host == bound.host
        source = "::1" if ":" in str(bound.host) else "127.0.0.7"
        with comes(source, waiting.bound):
            waiting.accept().close()


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_the_port_is_where_that_peer_can_reach_it(host: str) -> None:
    with closing(outbound().bind(Request(ip_address(host)), anybody, AS_WE_ARE)) as waiting:
        assert waiting.bound.host.version == ip_address(host).version  # type: ignore[union-attr]
        with comes(host, waiting.bound):
            waiting.accept().close()


def test_the_port_is_taken_from_the_range_that_is_offered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    offer = Offer((), range(port, port + 1))
    request = Request(IPv4Address(0))
    with closing(outbound().bind(request, anybody, offer)) as waiting:
        assert waiting.bound.port == port
