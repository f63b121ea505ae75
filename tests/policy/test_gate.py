"""What may be reached, from where: before a name is resolved and for every address it gave."""

from collections.abc import Container
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from geproxy.errors import DeniedError
from geproxy.policy.gate import Gate
from geproxy.terms import Address, Command, Endpoint, Inbound, Listener, Outbound, Permit, Stream

PORT = 1080
OWN_PUBLIC = ip_address("93.184.216.34")
OWN_PUBLIC_6 = ip_address("2606:2800:220:1::1")
OWN = frozenset(
    ip_address(text)
    for text in ("127.0.0.1", "::1", "192.168.7.7", str(OWN_PUBLIC), str(OWN_PUBLIC_6))
)


class Direct:
    """A way out that nobody takes here."""

    name = "direct"

    def connect(self, target: Endpoint, permit: Permit, client: Endpoint) -> Stream:
        raise NotImplementedError


class SilentInbound:
    """An inbound that nobody enters here."""

    def negotiate(self, stream: Stream) -> "Asked":
        raise NotImplementedError


@dataclass
class Asked:
    """A request, as far as the gate looks at it."""

    command: Command
    target: Endpoint
    user: str | None = None

    @property
    def stream(self) -> Stream:
        raise NotImplementedError

    def grant(self, bound: Endpoint) -> None:
        raise NotImplementedError

    def refuse(self, outcome: object) -> None:
        raise NotImplementedError


DIRECT: Outbound = Direct()
INBOUND: Inbound = SilentInbound()  # type: ignore[assignment]


def gate(*listening: str, own: Container[Address] = OWN) -> Gate:
    endpoints = [endpoint(text) for text in listening]
    return Gate({"direct": DIRECT}, own, endpoints)


def endpoint(text: str) -> Endpoint:
    """Read ADDRESS:PORT, or [ADDRESS]:PORT."""
    host, _, port = text.rpartition(":")
    return Endpoint(ip_address(host.strip("[]")), int(port))


def listener(*, loopback: bool, via: str = "direct") -> Listener:
    return Listener("a", INBOUND, loopback, via)


def passes(permit: Permit, text: str) -> bool:
    try:
        permit(endpoint(text))
    except DeniedError:
        return False
    return True


@pytest.mark.parametrize("loopback", [True, False], ids=["loopback listener", "public listener"])
@pytest.mark.parametrize(
    ("command", "port", "reason"),
    [
        pytest.param(Command.CONNECT, 0, "port 0", id="CONNECT to port 0"),
        pytest.param(Command.CONNECT, 25, "port 25 is closed", id="CONNECT to port 25"),
        pytest.param(Command.CONNECT, 80, None, id="CONNECT to port 80"),
        pytest.param(Command.CONNECT, 24, None, id="CONNECT to port 24"),
        pytest.param(Command.CONNECT, 65535, None, id="CONNECT to the last port"),
        pytest.param(Command.BIND, 0, None, id="BIND for port 0"),
        pytest.param(Command.UDP_ASSOCIATE, 0, None, id="UDP ASSOCIATE for port 0"),
    ],
)
def test_ports_are_judged_before_anything_is_resolved(
    command: Command, port: int, reason: str | None, loopback: bool
) -> None:
    request = Asked(command, Endpoint("example.net", port))
    if reason is None:
        route = gate().decide(request, listener(loopback=loopback))
        assert route.outbound is DIRECT
    else:
        with pytest.raises(DeniedError, match=f"^{reason}$"):
            gate().decide(request, listener(loopback=loopback))


def test_a_listener_whose_way_out_is_deny_lets_nobody_out() -> None:
    request = Asked(Command.CONNECT, Endpoint("example.net", 443))
    with pytest.raises(DeniedError):
        gate().decide(request, listener(loopback=True, via="deny"))


@pytest.mark.parametrize(
    ("loopback", "target", "expected"),
    [
        pytest.param(True, "127.0.0.1:80", True, id="local to loopback"),
        pytest.param(True, "[::1]:80", True, id="local to IPv6 loopback"),
        pytest.param(True, "10.0.0.1:80", True, id="local to a private network"),
        pytest.param(True, "93.184.216.34:80", True, id="local to an address of this host"),
        pytest.param(True, "1.1.1.1:80", True, id="local to a public address"),
        pytest.param(False, "127.0.0.1:80", False, id="foreign to loopback"),
        pytest.param(False, "0.0.0.0:80", False, id="foreign to 0.0.0.0"),
        pytest.param(False, "[::]:80", False, id="foreign to ::"),
        pytest.param(False, "[::1]:80", False, id="foreign to IPv6 loopback"),
        pytest.param(False, "10.0.0.1:80", False, id="foreign to a private network"),
        pytest.param(False, "169.254.169.254:80", False, id="foreign to a cloud's metadata"),
        pytest.param(False, "[::ffff:10.0.0.1]:80", False, id="foreign to a mapped private one"),
        pytest.param(False, "93.184.216.34:80", False, id="foreign to our public address"),
        pytest.param(False, "[2606:2800:220:1::1]:80", False, id="foreign to our public IPv6 one"),
        pytest.param(False, "1.1.1.1:80", True, id="foreign to a public address"),
        pytest.param(False, "[2606:4700::1111]:80", True, id="foreign to a public IPv6 address"),
    ],
)
def test_who_reaches_what(loopback: bool, target: str, expected: bool) -> None:
    request = Asked(Command.CONNECT, Endpoint("example.net", 80))
    route = gate().decide(request, listener(loopback=loopback))
    assert passes(route.permit, target) is expected


@pytest.mark.parametrize(
    ("bound", "target"),
    [
        pytest.param("127.0.0.1:1080", "127.0.0.1:1080", id="the address itself"),
        pytest.param("127.0.0.1:1080", "0.0.0.0:1080", id="0.0.0.0 means this host"),
        pytest.param("127.0.0.1:1080", "[::]:1080", id=":: means this host"),
        pytest.param("127.0.0.1:1080", "[::ffff:127.0.0.1]:1080", id="the address, mapped"),
        pytest.param("127.0.0.1:1080", "[::ffff:0.0.0.0]:1080", id="0.0.0.0, mapped"),
        pytest.param("[::1]:1080", "[::1]:1080", id="IPv6 loopback itself"),
        pytest.param("[::1]:1080", "[::]:1080", id=":: for IPv6 loopback"),
        pytest.param("0.0.0.0:1080", "127.0.0.1:1080", id="loopback of a wildcard"),
        pytest.param("0.0.0.0:1080", "127.9.9.9:1080", id="another loopback of a wildcard"),
        pytest.param("0.0.0.0:1080", "0.0.0.0:1080", id="a wildcard itself"),
        pytest.param("0.0.0.0:1080", "192.168.7.7:1080", id="a private address of ours"),
        pytest.param("0.0.0.0:1080", "93.184.216.34:1080", id="a public address of ours"),
        pytest.param("0.0.0.0:1080", "[::ffff:93.184.216.34]:1080", id="ours, mapped"),
        pytest.param("[::]:1080", "127.0.0.1:1080", id="IPv4 loopback of a dual-stack one"),
        pytest.param("[::]:1080", "[::1]:1080", id="IPv6 loopback of a dual-stack one"),
        pytest.param("[::]:1080", "93.184.216.34:1080", id="our IPv4 address, dual stack"),
        pytest.param("[::]:1080", "[2606:2800:220:1::1]:1080", id="our IPv6 address"),
        pytest.param("93.184.216.34:1080", "93.184.216.34:1080", id="bound to our public one"),
    ],
)
def test_our_own_port_is_refused_in_every_spelling_even_to_local_clients(
    bound: str, target: str
) -> None:
    assert not passes(gate("10.9.9.9:9999", bound).permit_local, target)
    assert not passes(gate("10.9.9.9:9999", bound).permit_public, target)


@pytest.mark.parametrize(
    ("bound", "target"),
    [
        pytest.param("127.0.0.1:1080", "127.0.0.2:1080", id="another loopback address"),
        pytest.param("127.0.0.1:1080", "127.0.0.1:1081", id="another port"),
        pytest.param("127.0.0.1:1080", "0.0.0.0:1081", id="0.0.0.0 with another port"),
        pytest.param("127.0.0.1:1080", "93.184.216.34:1080", id="another address of this host"),
        pytest.param("192.168.7.7:1080", "127.0.0.1:1080", id="bound to the network alone"),
        pytest.param("0.0.0.0:1080", "1.1.1.1:1080", id="the same port of another host"),
        pytest.param("0.0.0.0:1080", "127.0.0.1:80", id="another port of this host"),
    ],
)
def test_what_is_not_our_own_port_is_open_to_local_clients(bound: str, target: str) -> None:
    assert passes(gate(bound).permit_local, target)


def test_a_port_with_several_sockets_is_ours_on_each() -> None:
    judge = gate("127.0.0.1:1080", "127.0.0.5:1080", "127.0.0.1:1081")
    assert not passes(judge.permit_local, "127.0.0.1:1080")
    assert not passes(judge.permit_local, "127.0.0.5:1080")
    assert not passes(judge.permit_local, "127.0.0.1:1081")
    assert passes(judge.permit_local, "127.0.0.5:1081")


def test_an_address_that_comes_to_this_host_later_is_found() -> None:
    own: set[Address] = set()
    judge = gate(own=own)
    assert passes(judge.permit_public, "1.1.1.1:80")
    own.add(ip_address("1.1.1.1"))
    assert not passes(judge.permit_public, "1.1.1.1:80")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        pytest.param("127.0.0.1:1080", "127.0.0.1:1080: a port of this proxy", id="own port"),
        pytest.param("10.0.0.1:80", "10.0.0.1:80: not a public address", id="not public"),
        pytest.param(
            "93.184.216.34:80", "93.184.216.34:80: an address of this host", id="own address"
        ),
    ],
)
def test_a_refusal_names_the_address_and_the_reason(target: str, reason: str) -> None:
    with pytest.raises(DeniedError) as caught:
        gate("127.0.0.1:1080").permit_public(endpoint(target))
    assert str(caught.value) == reason
