"""UDP ASSOCIATE over the real thing: what goes through comes back as it was, from whom it came."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from tests.support.hosts import other_host, with_files
from tests.support.nameserver import answer_a, question
from tests.support.proxy import Proxy, configuration, running, ss_url, wait_until
from tests.support.shadowsocks_twin import KEY_BYTES, TAG_BYTES
from tests.support.udp_client import (
    LAST,
    MAX_PAYLOAD_BYTES,
    Association,
    check_echo,
    datagram,
    datagram_target,
    echo,
    head,
    silent,
    sockname,
    udp_socket,
)

pytestmark = pytest.mark.slow

METHOD = "aes-256-gcm"
IPV4, IPV6 = "127.0.0.1", "::1"
FAMILIES = [pytest.param(IPV4, id="IPv4"), pytest.param(IPV6, id="IPv6")]
WAYS = ["direct", "sealed"]
DATAGRAMS = 10_000
WINDOW = 64
DESTINATIONS = 10_000
# Of a sealed datagram, what is neither head nor data
SEALING_BYTES = KEY_BYTES[METHOD] + TAG_BYTES


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Proxy]]:
    """One proxy that goes straight out, and one that goes out by a third."""
    listen = {"v4": {"url": f"socks5://{IPV4}:0"}, "v6": {"url": f"socks5://[{IPV6}]:0"}}
    through = {name: {**values, "via": "remote"} for name, values in listen.items()}
    ipv4 = {"family": "ipv4"}  # a name's first address is the one that datagrams go to
    folders = [tmp_path_factory.mktemp(name) for name in (*WAYS, "remote")]
    remote_config = configuration({"sealed": {"url": ss_url(METHOD, (IPV4, 0))}}, resolver=ipv4)
    with running(folders[2], remote_config) as remote:
        via = {"url": ss_url(METHOD, remote.address)}
        sealed_config = configuration(through, 1, **{"via.remote": via})
        with (
            running(folders[0], configuration(listen, 1, resolver=ipv4)) as direct,
            running(folders[1], sealed_config) as sealed,
        ):
            yield {"direct": direct, "sealed": sealed}


@pytest.fixture
def direct(proxies: dict[str, Proxy]) -> Proxy:
    return proxies["direct"]


def at(proxy: Proxy, host: str) -> tuple[str, int]:
    return proxy.addresses("v6" if ":" in host else "v4")[0]


def ended(proxy: Proxy, association: Association) -> dict[str, str]:
    """Close *association*, and read the line that tells of it."""
    association.close()
    return dict(association.end(proxy).fields)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", FAMILIES)
def test_every_one_of_10_000_datagrams_comes_back(
    proxies: dict[str, Proxy], way: str, host: str
) -> None:
    with datagram_target(echo, host) as there, Association.open(at(proxies[way], host)) as client:
        check_echo(client, there.host, there.port, DATAGRAMS, WINDOW)
        fields = ended(proxies[way], client)
    count, volume = str(DATAGRAMS), str(DATAGRAMS * 64)
    assert (fields["command"], fields["code"], fields["dropped"]) == ("udp", "ok", "-")
    assert (fields["up_datagrams"], fields["down_datagrams"]) == (count, count)
    assert (fields["up"], fields["down"]) == (volume, volume)
    assert fields["via"] == ("direct" if way == "direct" else "remote")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", FAMILIES)
def test_datagrams_of_every_size_come_back_byte_for_byte(
    proxies: dict[str, Proxy], way: str, host: str
) -> None:
    with datagram_target(echo, host) as there, Association.open(at(proxies[way], host)) as client:
        around = len(head(there.host, there.port))
        around += SEALING_BYTES if way == "sealed" else 3  # RSV and FRAG
        for size in (0, 1, 512, 1200, 8191, 8192, 8193, 16384, MAX_PAYLOAD_BYTES - around):
            data = os.urandom(size)
            client.send(there.host, there.port, data)
            assert client.receive() == ((host, there.port), data)
            assert there.data.pop() == data


def test_a_reply_that_does_not_fit_with_its_header_is_dropped_and_counted(direct: Proxy) -> None:
    def swell(data: bytes) -> bytes:
        return data if data == b"small" else bytes(MAX_PAYLOAD_BYTES)

    with datagram_target(swell) as there, Association.open(at(direct, IPV4)) as client:
        for data in (b"large", b"small"):
            client.send(there.host, there.port, data)
        assert client.receive()[1] == b"small"
        assert ended(direct, client)["dropped"] == "size:1"


@pytest.mark.parametrize("way", WAYS)
def test_a_target_may_be_a_name(proxies: dict[str, Proxy], way: str) -> None:
    with datagram_target() as there, Association.open(at(proxies[way], IPV4)) as client:
        client.send("localhost", there.port, b"by name")
        assert client.receive() == ((IPV4, there.port), b"by name")


def test_a_name_that_hangs_holds_up_nobody_and_64_datagrams_wait_for_it(tmp_path: Path) -> None:
    files = {"/etc/resolv.conf": "nameserver 127.0.0.1\n"}
    with other_host() as host:
        prefix = with_files(tmp_path, files, host.enter)
        config = configuration(workers=1, resolver={"family": "ipv4"})
        with (
            host.udp(IPV4, 53) as nameserver,  # nothing else is on this host
            running(tmp_path, config, prefix=prefix) as proxy,
            datagram_target(echo, sock=host.udp(IPV4)) as there,
            Association(host.dial(IPV4, proxy.address), host.udp(IPV4)) as client,
            Association(host.dial(IPV4, proxy.address), host.udp(IPV4)) as other,
        ):
            client.ask()
            other.ask()
            for number in range(70):
                client.send("hangs.example", there.port, b"%d" % number)
            query, asker = nameserver.recvfrom(512)
            assert question(query) == "hangs.example"
            for one in (client, other):
                check_echo(one, there.host, there.port, 20, 5)
            assert len(there.seen) == 40, "nobody has told yet where that name is"
            nameserver.sendto(answer_a(query, IPV4), asker)
            waited = [client.receive()[1] for _ in range(64)]
            assert waited == [b"%d" % number for number in range(64)]
            assert ended(proxy, client)["dropped"] == "limit:6"


# -- who the client is ----------------------------------------------------------------------------


def test_the_port_that_speaks_first_is_the_only_one(direct: Proxy) -> None:
    with (
        datagram_target() as there,
        Association.open(at(direct, IPV4)) as client,
        udp_socket() as other,
    ):
        client.send(there.host, there.port, b"first")
        assert client.receive()[1] == b"first"
        other.sendto(datagram(there.host, there.port, b"not the client"), client.relay)
        client.send(there.host, there.port, b"second")
        assert client.receive()[1] == b"second"
        assert there.data == [b"first", b"second"]


@pytest.mark.parametrize(
    "host",
    [pytest.param(IPv4Address(0), id="0.0.0.0"), pytest.param(IPv4Address(IPV4), id="our own")],
)
def test_an_announced_port_that_has_spoken_is_heard_and_no_other(
    direct: Proxy, host: IPv4Address
) -> None:
    with datagram_target() as there, udp_socket() as sock, udp_socket() as other:
        with Association.open(at(direct, IPV4), (host, sockname(sock)[1])) as client:
            client.socket.close()
            client.socket = sock
            client.send(there.host, there.port, b"the client")
            assert client.receive()[1] == b"the client"
            other.sendto(datagram(there.host, there.port, b"not the client"), client.relay)
            client.send(there.host, there.port, b"the client")
            assert client.receive()[1] == b"the client"
        assert there.data == [b"the client"] * 2


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(IPv4Address("192.168.9.9"), id="an address behind NAT"),
        pytest.param("client.example", id="a name"),
        pytest.param("not a name", id="what is no name"),
        pytest.param("", id="nothing"),
    ],
)
def test_what_a_client_announces_besides_its_own_address_is_neither_taken_nor_refused(
    direct: Proxy, host: IPv4Address | str
) -> None:
    announced = host, 5000
    with datagram_target() as there, Association.open(at(direct, IPV4), announced) as client:
        client.send(there.host, there.port, b"hello")
        assert client.receive()[1] == b"hello"


# -- what is in a datagram ------------------------------------------------------------------------


HOSTILE = [
    pytest.param(b"", "protocol", id="nothing"),
    pytest.param(b"\0\0\0", "protocol", id="a header that is cut off"),
    pytest.param(b"\0\0\0\x02rest", "protocol", id="an unknown address type"),
    pytest.param(b"\0\0\0\x03\x00\0\x35x", "denied", id="a name of no bytes"),
    pytest.param(datagram(IPv4Address(IPV4), 0, b"x"), "denied", id="DST.PORT 0"),
    pytest.param(datagram(IPv4Address(IPV4), 25, b"x"), "denied", id="port 25"),
    pytest.param(datagram("not a name", 80, b"x"), "denied", id="a name that is none"),
]


@pytest.mark.parametrize(("message", "code"), HOSTILE)
def test_what_goes_nowhere_is_counted_and_ends_nothing(
    direct: Proxy, message: bytes, code: str
) -> None:
    with datagram_target() as there, Association.open(at(direct, IPV4)) as client:
        for _ in range(3):
            client.socket.sendto(message, client.relay)
        client.send(there.host, there.port, b"after it")
        assert client.receive()[1] == b"after it"
        assert ended(direct, client)["dropped"] == f"{code}:3"
        assert there.data == [b"after it"]


SEQUENCES = [
    pytest.param([1, LAST | 2], [b"ab"], id="two in order"),
    pytest.param([1, 2, 3, LAST | 4], [b"abcd"], id="four in order"),
    pytest.param([LAST | 1], [b"a"], id="one that is first and last"),
    pytest.param([1, 1, LAST | 2], [b"bc"], id="a first one again begins anew"),
    pytest.param([LAST | 2, 1], [], id="the last before the first"),
    pytest.param([1, 3, LAST | 4], [], id="one is lost"),
    pytest.param([2, LAST | 3], [], id="the first is lost"),
    pytest.param([1, 2, 0, LAST | 3], [b"c"], id="a whole one ends the sequence"),
    pytest.param([0, 1, LAST | 2, 0], [b"a", b"bc", b"d"], id="whole ones around a sequence"),
]


@pytest.mark.parametrize(("frags", "whole"), SEQUENCES)
def test_fragments_arrive_as_the_datagram_that_they_are_of(
    direct: Proxy, frags: list[int], whole: list[bytes]
) -> None:
    with datagram_target(silent) as there, Association.open(at(direct, IPV4)) as client:
        for frag, letter in zip(frags, b"abcd", strict=False):
            client.send(there.host, there.port, bytes((letter,)), frag)
        with datagram_target() as witness:
            client.send(witness.host, witness.port, b"done")
            assert client.receive()[1] == b"done"
        fields = ended(direct, client)
        assert int(fields["up_datagrams"]) == len(whole) + 1
        wait_until(lambda: len(there.seen) >= len(whole))
        assert there.data == whole


def test_every_order_of_three_fragments_gives_the_datagram_or_nothing(direct: Proxy) -> None:
    frags = {b"a": 1, b"b": 2, b"c": LAST | 3}
    with datagram_target() as there, Association.open(at(direct, IPV4)) as client:
        for order in itertools.permutations(frags):
            for data in order:
                client.send(there.host, there.port, data, frags[data])
            client.send(there.host, there.port, b"done")
            expected = [b"abc", b"done"] if order == tuple(frags) else [b"done"]
            assert [client.receive()[1] for _ in expected] == expected


# -- many targets ---------------------------------------------------------------------------------


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.skipif(os.geteuid() != 0, reason="a worker shows its descriptors to root alone")
def test_10_000_destinations_cost_no_more_than_two_descriptors(direct: Proxy) -> None:
    (worker,) = direct.workers()
    with datagram_target(echo, "0.0.0.0") as there, Association.open(at(direct, IPV4)) as client:
        before = descriptors(worker)
        for number in range(DESTINATIONS):
            client.send(IPv4Address("127.1.0.1") + number, there.port, b"%d" % number)
            if number >= WINDOW:
                client.receive()
        for _ in range(WINDOW):
            client.receive()
        assert descriptors(worker) <= before + 2
        sources = {source for source, _ in there.seen}
        assert len(there.seen) == DESTINATIONS
        assert len(sources) == 1, "every target meets the same port of ours (RFC 4787 REQ-1)"
        assert ended(direct, client)["dropped"] == "-"


@pytest.mark.parametrize("host", FAMILIES)
def test_a_closed_port_of_a_target_does_not_end_the_association(direct: Proxy, host: str) -> None:
    with udp_socket(host) as closed:
        port = sockname(closed)[1]
    with datagram_target(echo, host) as there, Association.open(at(direct, host)) as client:
        for number in range(50):
            client.send(ip_address(host), port, b"nobody is there")  # ICMP says so
            client.send(there.host, there.port, b"%d" % number)
            assert client.receive()[1] == b"%d" % number


def test_a_client_on_one_family_reaches_targets_on_the_other(direct: Proxy) -> None:
    with datagram_target(echo, IPV6) as there, Association.open(at(direct, IPV4)) as client:
        client.send(there.host, there.port, b"hello")
        assert client.receive() == ((IPV6, there.port), b"hello")


def test_a_mapped_target_is_the_ipv4_target_inside(direct: Proxy) -> None:
    with datagram_target() as there, Association.open(at(direct, IPV6)) as client:
        client.send(IPv6Address(f"::ffff:{IPV4}"), there.port, b"hello")
        assert client.receive() == ((IPV4, there.port), b"hello")
