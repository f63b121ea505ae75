"""The way straight out dials what the dialer dials."""

import socket
from ipaddress import IPv4Address

import pytest

from geproxy.errors import DeniedError
from geproxy.net.dialer import Dialer
from geproxy.outbound.direct import DirectOutbound
from geproxy.terms import Address, Endpoint
from tests.support.names import knowing

CLIENT = IPv4Address("192.0.2.1")


def look_up(name: str) -> tuple[Address, ...]:
    return (IPv4Address("127.0.0.1"),)


def outbound() -> DirectOutbound:
    return DirectOutbound(Dialer(knowing(look_up), 10.0))


def test_it_is_called_direct() -> None:
    assert outbound().name == "direct"


def test_a_name_is_resolved_here_and_its_address_judged() -> None:
    judged: list[Endpoint] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        stream = outbound().connect(Endpoint("target.example", port), judged.append, CLIENT)
        assert judged == [stream.peer] == [Endpoint(IPv4Address("127.0.0.1"), port)]
        assert not stream.holds_head
        stream.close()


def test_what_is_denied_is_not_dialed() -> None:
    def deny(endpoint: Endpoint) -> None:
        raise DeniedError("no")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        target = Endpoint("target.example", listening.getsockname()[1])
        with pytest.raises(DeniedError):
            outbound().connect(target, deny, CLIENT)
        with pytest.raises(BlockingIOError):
            listening.accept()
