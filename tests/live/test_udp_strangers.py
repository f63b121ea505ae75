"""Whoever finds the port of an association from another host gets nothing by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from tests.support.hosts import (
    CLIENT,
    CLIENT_6,
    PROXY,
    PROXY_6,
    PUBLIC,
    PUBLIC_6,
    STRANGER,
    STRANGER_6,
    OtherHost,
    two_hosts,
)
from tests.support.proxy import Proxy, configuration, running, wait_until
from tests.support.udp_client import (
    Association,
    DatagramTarget,
    datagram,
    datagram_target,
    is_quiet,
    sockname,
)

pytestmark = pytest.mark.slow

DATAGRAMS = 100_000
ANYBODY = ip_address("0.0.0.0")


@dataclass(frozen=True)
class World:
    """A proxy that is open to all, and everybody else."""

    here: OtherHost
    there: OtherHost
    proxy: Proxy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    listen = {
        "v4": {"url": f"socks5://{PROXY}:0", "open": True},
        "v6": {"url": f"socks5://[{PROXY_6}]:0", "open": True},
    }
    with two_hosts() as (here, there):
        folder = tmp_path_factory.mktemp("proxy")
        with running(folder, configuration(listen), prefix=here.enter) as proxy:
            yield World(here, there, proxy)


@dataclass(frozen=True)
class Family:
    """Who is who in one of them."""

    listen: str
    proxy: str
    client: str
    stranger: str
    public: str


FAMILIES = [
    pytest.param(Family("v4", PROXY, CLIENT, STRANGER, PUBLIC), id="IPv4"),
    pytest.param(Family("v6", PROXY_6, CLIENT_6, STRANGER_6, PUBLIC_6), id="IPv6"),
]


@contextmanager
def association(world: World, family: Family, *, announced: bool) -> Iterator[Association]:
    """An association of the client's, with its port announced or not."""
    control = world.there.dial(family.client, world.proxy.addresses(family.listen)[0])
    with Association(control, world.there.udp(family.client)) as client:
        client.ask((ANYBODY, sockname(client.socket)[1]) if announced else None)
        assert client.relay[0] == family.proxy
        yield client


def echoed(client: Association, there: DatagramTarget) -> None:
    """Prove that the client is served; what others sent may have left no room for its first."""

    def comes_back() -> bool:
        client.send(there.host, there.port, b"the client")
        return not is_quiet(client.socket)

    wait_until(comes_back)
    while not is_quiet(client.socket):
        assert client.receive() == ((str(there.host), there.port), b"the client")


MOMENTS = [
    pytest.param(False, False, False, id="another host, before the client has spoken"),
    pytest.param(False, True, False, id="another host, after the client has spoken"),
    pytest.param(True, True, False, id="the client's address, after the client has spoken"),
    pytest.param(True, True, True, id="the client's address, after the announced port has spoken"),
]


@pytest.mark.parametrize(("same_address", "spoken", "announced"), MOMENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_100_000_datagrams_of_a_stranger_are_neither_relayed_nor_answered(
    world: World, family: Family, same_address: bool, spoken: bool, announced: bool
) -> None:
    source = family.client if same_address else family.stranger
    with (
        datagram_target(sock=world.there.udp(family.public)) as there,
        association(world, family, announced=announced) as client,
        world.there.udp(source) as stranger,
    ):
        if spoken:
            echoed(client, there)
        message = datagram(there.host, there.port, b"not the client")
        for _ in range(DATAGRAMS):
            stranger.sendto(message, client.relay)
        echoed(client, there)
        client.close()
        ended = client.end(world.proxy)
        assert set(there.data) == {b"the client"}
        assert is_quiet(stranger)
    assert int(ended.fields["up_datagrams"]) == len(there.seen)
    reasons = {reason.partition(":")[0] for reason in ended.fields["dropped"].split(",")}
    # What the kernel drops for us is in no count.
    assert reasons == ({"-"} if spoken else {"stranger"})


@pytest.mark.parametrize("family", FAMILIES)
def test_clients_from_elsewhere_send_to_public_targets_alone(world: World, family: Family) -> None:
    private = [family.stranger, family.client, family.proxy, "127.0.0.1", "::1"]
    with (
        datagram_target(sock=world.there.udp(family.public)) as public,
        datagram_target(sock=world.there.udp(family.stranger, public.port)) as neighbour,
        datagram_target(sock=world.here.udp("127.0.0.1", public.port)) as inside,
        association(world, family, announced=False) as client,
    ):
        for host in private:
            for _ in range(2):
                client.send(ip_address(host), public.port, b"inside")
        echoed(client, public)
        client.close()
        ended = client.end(world.proxy)
        assert ended.fields["dropped"] == f"denied:{2 * len(private)}"
        assert neighbour.seen + inside.seen == []


def test_anybody_may_answer_a_client_that_has_sent_and_is_named(world: World) -> None:
    """Full cone is the default: what games and telephones need (RFC 4787 §5)."""
    family = FAMILIES[0].values[0]
    with (
        datagram_target(sock=world.there.udp(family.public)) as there,
        world.there.udp(STRANGER) as other,
        association(world, family, announced=False) as client,
    ):
        echoed(client, there)
        other.sendto(b"hello", there.seen[0][0])
        assert client.receive() == (sockname(other), b"hello")
