"""[[rule]] over the real thing: the same verdict for CONNECT, BIND and UDP ASSOCIATE."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.counters import PIDFILE, counters
from tests.support.hosts import (
    CLIENT,
    PROXY,
    PUBLIC,
    STRANGER,
    OtherHost,
    two_hosts,
    with_files,
)
from tests.support.proxy import (
    Address,
    Proxy,
    Values,
    command,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.rules import with_rules
from tests.support.socks import BIND, CONNECT, Host, RefusedError, Tunnel, connect
from tests.support.targets import Target, echo, target
from tests.support.udp_client import (
    Association,
    DatagramTarget,
    datagram_target,
    is_quiet,
    udp_socket,
)

pytestmark = pytest.mark.slow

METHOD = "aes-256-gcm"
HOST = "127.0.0.1"
DENIED_CLIENT = "127.0.0.5"
DENIED_HOST = "127.0.0.6"
FAR_HOST = "127.0.0.7"
PASSWORD = "correct horse battery"
NAMES = {
    "/etc/hosts": f"{HOST} localhost open.example shut.example a.corp.example\n"
    f"{DENIED_HOST} inside.example\n"
}
FAR_NAMES = {"/etc/hosts": f"{HOST} localhost far.example\n"}
REP_DENIED = 2
TRIES = 20


@dataclass(frozen=True)
class World:
    """A proxy with rules, the far end of one of its ways out, and targets of both kinds."""

    proxy: Proxy
    remote: Proxy
    stream: Target
    datagrams: DatagramTarget
    denied_stream: Target
    denied_datagrams: DatagramTarget


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        streams = [stack.enter_context(target(echo, "0.0.0.0")) for _ in range(2)]
        datagrams = [stack.enter_context(datagram_target(host="0.0.0.0")) for _ in range(2)]
        folder = tmp_path_factory.mktemp("remote")
        config = configuration({"sealed": {"url": ss_url(METHOD, (HOST, 0))}}, server=PIDFILE)
        prefix = with_files(folder, FAR_NAMES)
        remote = stack.enter_context(running(folder, config, prefix=prefix))
        folder = tmp_path_factory.mktemp("local")
        for user in ("alice", "bob"):
            assert command("passwd", "users", user, folder=folder, given=PASSWORD).returncode == 0
        listen: dict[str, Values] = {
            "socks": {"url": f"socks5://{HOST}:0"},
            "members": {"url": f"socks5://{HOST}:0", "users": "users"},
        }
        rules: list[Values] = [
            {"to": ["shut.example", "*.corp.example"], "action": "deny"},
            {"to": [f"{DENIED_HOST}/32"], "action": "deny"},
            {"port": [streams[1].port, datagrams[1].port], "action": "deny"},
            {"listen": ["members"], "user": ["bob"], "action": "deny"},
            {"client": [f"{DENIED_CLIENT}/32"], "action": "deny"},
            {"to": [FAR_HOST, "far.example"], "action": "remote"},
        ]
        via = {"url": ss_url(METHOD, remote.address)}
        config = configuration(listen, resolver={"family": "ipv4"}, **{"via.remote": via})
        prefix = with_files(folder, NAMES)
        proxy = stack.enter_context(running(folder, with_rules(config, *rules), prefix=prefix))
        yield World(proxy, remote, streams[0], datagrams[0], streams[1], datagrams[1])


@dataclass(frozen=True)
class Asking:
    """Who asks, and what for."""

    host: Host = "open.example"
    denied_port: bool = False
    user: str | None = None
    client: str = HOST

    def dial(self, world: World) -> Tunnel:
        """Come to the listener for whom this is."""
        address = world.proxy.addresses("members" if self.user else "socks")[0]
        return Tunnel(socket.create_connection(address, 20, (self.client, 0)))

    @property
    def login(self) -> tuple[str, str] | None:
        """What it logs in with."""
        return (self.user, PASSWORD) if self.user else None


def by_connect(world: World, asking: Asking) -> bool:
    return by_stream(world, asking, CONNECT)


def by_bind(world: World, asking: Asking) -> bool:
    return by_stream(world, asking, BIND)


def by_stream(world: World, asking: Asking, cmd: int) -> bool:
    """Tell whether the request is granted; REP 2 is the only other answer."""
    there = world.denied_stream if asking.denied_port else world.stream
    with asking.dial(world) as tunnel:
        tunnel.log_in(*asking.login or ())
        try:
            tunnel.ask(asking.host, there.port, cmd)
        except RefusedError as refused:
            assert refused.rep == REP_DENIED
            return False
        return True


def by_udp(world: World, asking: Asking) -> bool:
    """Tell whether a datagram comes back; one that does not must be counted as denied."""
    there = world.denied_datagrams if asking.denied_port else world.datagrams
    for _ in range(TRIES):
        with Association(asking.dial(world), udp_socket(asking.client)) as client:
            try:
                client.ask(login=asking.login)
            except RefusedError as refused:
                assert refused.rep == REP_DENIED
                return False
            client.send(asking.host, there.port, b"hello")
            if not is_quiet(client.socket):
                assert client.receive()[1] == b"hello"
                return True
        ended = client.end(world.proxy)
        if ended.fields["dropped"] == "denied:1":
            return False
        # Its name was being looked up still: nobody has said yes or no.
    raise AssertionError("no verdict")


VERDICTS = [
    pytest.param(Asking(), True, id="no rule matches"),
    pytest.param(Asking(IPv4Address(HOST)), True, id="no rule matches the address"),
    pytest.param(Asking("shut.example"), False, id="the name"),
    pytest.param(Asking("SHUT.Example."), False, id="the name, written otherwise"),
    pytest.param(Asking("a.corp.example"), False, id="a glob of names"),
    pytest.param(Asking(IPv4Address(DENIED_HOST)), False, id="the network"),
    pytest.param(Asking("inside.example"), False, id="the network that a name resolves to"),
    pytest.param(Asking("127.6"), False, id="the network, spelled oddly"),
    pytest.param(Asking(denied_port=True), False, id="the port"),
    pytest.param(Asking(user="alice"), True, id="another user"),
    pytest.param(Asking(user="bob"), False, id="the user"),
    pytest.param(Asking(client=DENIED_CLIENT), False, id="the client's network"),
]
COMMANDS = [
    pytest.param(by_connect, id="CONNECT"),
    pytest.param(by_bind, id="BIND"),
    pytest.param(by_udp, id="UDP ASSOCIATE"),
]


@pytest.mark.parametrize(("asking", "granted"), VERDICTS)
@pytest.mark.parametrize("ask", COMMANDS)
def test_a_rule_denies_whatever_the_command(
    world: World, ask: Callable[[World, Asking], bool], asking: Asking, granted: bool
) -> None:
    assert ask(world, asking) is granted


# -- the way out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [IPv4Address(FAR_HOST), "far.example"], ids=repr)
def test_a_rule_chooses_the_way_of_a_connection(world: World, host: Host) -> None:
    here, there = world.proxy.mark(), world.remote.mark()
    with connect(world.proxy.addresses("socks")[0], host, world.stream.port) as tunnel:
        tunnel.send(b"x")
        assert tunnel.receive(1) == b"x"
    asked = f"{host}:{world.stream.port}"
    world.proxy.wait_for("session.end", since=here, target=asked, via="remote", code="ok")
    world.remote.wait_for("session.end", since=there, target=asked, via="direct", code="ok")


def test_the_datagrams_of_one_association_go_each_their_targets_way(world: World) -> None:
    port = world.datagrams.port
    world.datagrams.seen.clear()
    before = counters(world.remote)["up_datagrams"]
    with Association.open(world.proxy.addresses("socks")[0]) as client:
        for host in (IPv4Address(HOST), IPv4Address(FAR_HOST), "far.example", "open.example"):
            client.send(host, port, str(host).encode())
            assert client.receive()[1] == str(host).encode()
        client.send("shut.example", port, b"denied")
        client.send(IPv4Address(HOST), port, b"done")
        assert client.receive()[1] == b"done"
        client.close()
        ended = client.end(world.proxy).fields
    sources = {data.decode(): source for source, data in world.datagrams.seen}
    assert sources[HOST] == sources["open.example"] == sources["done"]
    assert sources[FAR_HOST] == sources["far.example"] != sources[HOST]
    assert ended["via"] == "direct,remote"
    assert (ended["up_datagrams"], ended["dropped"]) == ("5", "denied:1")
    wait_until(lambda: counters(world.remote)["up_datagrams"] == before + 2)


def test_a_bind_for_a_peer_that_is_reached_through_another_is_rep_7(world: World) -> None:
    with Asking().dial(world) as tunnel:
        tunnel.log_in()
        with pytest.raises(RefusedError) as refused:
            tunnel.ask(IPv4Address(FAR_HOST), 21, BIND)
        assert refused.value.rep == 7


# -- clients from elsewhere -----------------------------------------------------------------------


@dataclass(frozen=True)
class Elsewhere:
    """A proxy on a host of its own, clients on another."""

    there: OtherHost
    proxy: Proxy

    def verdicts(self, listen: str, source: str, host: str, ports: tuple[int, int]) -> list[bool]:
        """Ask for *host* by CONNECT, BIND and UDP: which of them are allowed?"""
        address = self.proxy.addresses(listen)[0]
        found = [self._is_granted(address, source, host, ports[0], cmd) for cmd in (CONNECT, BIND)]
        return [*found, self._comes_back(address, source, host, ports[1])]

    def _is_granted(self, proxy: Address, source: str, host: str, port: int, cmd: int) -> bool:
        with self.there.dial(source, proxy) as tunnel:
            tunnel.log_in()
            try:
                tunnel.ask(IPv4Address(host), port, cmd)
            except RefusedError as refused:
                assert refused.rep == REP_DENIED
                return False
            return True

    def _comes_back(self, proxy: Address, source: str, host: str, port: int) -> bool:
        with Association(self.there.dial(source, proxy), self.there.udp(source)) as client:
            try:
                client.ask()
            except RefusedError as refused:
                assert refused.rep == REP_DENIED
                return False
            client.send(IPv4Address(host), port, b"hello")
            client.send(IPv4Address(PUBLIC), port, b"done")
            first = client.receive()[1]
            client.close()
            ended = client.end(self.proxy)
            # Neither needs to be looked up: the second never overtakes the first.
            assert (first, ended.fields["dropped"]) in ((b"hello", "-"), (b"done", "denied:1"))
            return first == b"hello"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    listen: dict[str, Values] = {
        "lan": {"url": f"socks5://{PROXY}:0", "open": True},
        "network": {"url": f"socks5://{PROXY}:0", "open": True},
        "private": {"url": f"socks5://{PROXY}:0", "open": True},
        "star": {"url": f"socks5://{PROXY}:0", "open": True},
        "guests": {"url": f"socks5://{PROXY}:0"},  # nobody but whom a rule names
    }
    rules: list[Values] = [
        {"listen": ["network"], "to": [f"{STRANGER}/32"], "action": "direct"},
        {"listen": ["private"], "to": ["private"], "action": "direct"},
        {"listen": ["star"], "to": ["*"], "action": "direct"},
        {"listen": ["guests"], "client": [f"{CLIENT}/32"], "action": "direct"},
    ]
    config = with_rules(configuration(listen), *rules)
    with two_hosts() as (here, there):
        folder = tmp_path_factory.mktemp("elsewhere")
        with running(folder, config, prefix=here.enter) as proxy:
            yield Elsewhere(there, proxy)


@pytest.fixture(scope="module")
def ports(elsewhere: Elsewhere) -> Iterator[tuple[int, int]]:
    """A TCP and a UDP port that are there at every address of the other host."""
    with (
        elsewhere.there.make_socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        datagram_target(sock=elsewhere.there.udp("0.0.0.0")) as datagrams,
    ):
        stream.bind(("0.0.0.0", 0))
        stream.listen(128)  # the kernel connects, whether or not anybody accepts
        yield stream.getsockname()[1], datagrams.port


OPENED = [
    pytest.param("lan", STRANGER, False, id="no rule"),
    pytest.param("network", STRANGER, True, id="its network"),
    pytest.param("network", CLIENT, False, id="another's network"),
    pytest.param("private", STRANGER, True, id="private"),
    pytest.param("star", STRANGER, False, id="*, which means names and public addresses"),
]


@pytest.mark.parametrize(("listen", "host", "opened"), OPENED)
def test_what_is_private_is_opened_by_a_rule_that_names_it(
    elsewhere: Elsewhere, ports: tuple[int, int], listen: str, host: str, opened: bool
) -> None:
    assert elsewhere.verdicts(listen, CLIENT, PUBLIC, ports) == [True] * 3
    assert elsewhere.verdicts(listen, CLIENT, host, ports) == [opened] * 3


def test_a_listener_without_users_lets_in_whom_a_rule_names(
    elsewhere: Elsewhere, ports: tuple[int, int]
) -> None:
    assert elsewhere.verdicts("guests", CLIENT, PUBLIC, ports) == [True] * 3
    assert elsewhere.verdicts("guests", STRANGER, PUBLIC, ports) == [False] * 3


def test_without_a_rule_on_clients_such_a_listener_does_not_start(tmp_path: Path) -> None:
    config = configuration({"guests": {"url": "socks5://0.0.0.0:0"}})
    rule = {"to": ["example.net"], "action": "direct"}
    path = tmp_path / "geproxy.conf"
    path.write_text(with_rules(config, rule))
    done = command("-f", str(path), "-t")
    assert done.returncode == 2
    assert "listen.guests.url" in done.stderr
