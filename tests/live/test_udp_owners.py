"""Who has the port of an association: what a client announces, and its address, prove nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from tests.support.accounts import AS_ROOT, NOBODY, account
from tests.support.daemon import SOMEBODY
from tests.support.hosts import PUBLIC, OtherHost, two_hosts
from tests.support.proxy import Address, Proxy, configuration, running, wait_until
from tests.support.socks import UDP_ASSOCIATE, Tunnel, request
from tests.support.udp_client import (
    Association,
    datagram,
    datagram_target,
    is_quiet,
    sockname,
    udp_socket,
)

pytestmark = pytest.mark.slow

HOSTS = ["127.0.0.1", "::1"]
REBIND_SECONDS = 1


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Its workers give up root, where they have it, before they are asked anything."""
    server = {"user": "nobody"} if os.geteuid() == 0 else {}
    listen = {"dual": {"url": "socks5://[::]:0", "open": True}}
    rule = '[[rule]]\nto = ["private"]\naction = "direct"\n'
    config = configuration(listen, server=server) + rule
    with running(tmp_path_factory.mktemp("proxy"), config) as served:
        yield served


def at(proxy: Proxy, host: str) -> Address:
    return host, proxy.addresses("dual")[0][1]


def dropped(proxy: Proxy, client: Association) -> str:
    client.close()
    return client.end(proxy).fields["dropped"]


# -- what it announces ----------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_that_announces_the_port_of_its_connection_is_served(
    proxy: Proxy, host: str
) -> None:
    with (
        datagram_target(host=host) as there,
        Association(Tunnel.dial(at(proxy, host)), udp_socket(host)) as client,
    ):
        client.ask((ip_address(host), client.control.address[1]))
        client.send(there.host, there.port, b"hello")
        assert client.receive() == ((host, there.port), b"hello")
        assert dropped(proxy, client) == "-"


@pytest.mark.parametrize("host", HOSTS)
def test_a_client_that_announces_its_target_on_its_own_host_is_served(
    proxy: Proxy, host: str
) -> None:
    with (
        datagram_target(host=host) as there,
        Association.open(at(proxy, host), (there.host, there.port)) as client,
    ):
        client.send(there.host, there.port, b"hello")
        assert client.receive() == ((host, there.port), b"hello")
        assert dropped(proxy, client) == "-"


def test_the_announced_port_gets_its_place_from_one_that_was_first(proxy: Proxy) -> None:
    with datagram_target() as there, udp_socket() as other:
        sock = udp_socket()
        with Association(Tunnel.dial(at(proxy, "127.0.0.1")), sock) as client:
            client.ask((IPv4Address("127.0.0.1"), sockname(sock)[1]))
            message = datagram(there.host, there.port, b"the other")
            other.sendto(message, client.relay)
            assert other.recv(100).endswith(b"the other")
            client.send(there.host, there.port, b"the announced")
            assert client.receive()[1] == b"the announced"
            other.sendto(message, client.relay)
            client.send(there.host, there.port, b"the announced")
            assert client.receive()[1] == b"the announced"
            assert is_quiet(other)
        assert there.data == [b"the other", b"the announced", b"the announced"]


def test_after_the_silence_another_port_takes_over_and_the_first_comes_back(
    tmp_path: Path,
) -> None:
    config = configuration(limits={"udp_rebind_seconds": REBIND_SECONDS})
    with (
        running(tmp_path, config) as proxy,
        datagram_target() as there,
        Association.open(proxy.address) as client,
        udp_socket() as other,
    ):
        message = datagram(there.host, there.port, b"the other")
        client.send(there.host, there.port, b"first")
        assert client.receive()[1] == b"first"
        began = time.monotonic()

        def is_served() -> bool:
            other.sendto(message, client.relay)
            return not is_quiet(other, 0.05)

        wait_until(is_served)
        assert time.monotonic() - began >= REBIND_SECONDS / 2
        client.send(there.host, there.port, b"back")
        assert client.receive()[1] == b"back"
        while not is_quiet(other):
            other.recv(100)
        client.send(there.host, there.port, b"here")
        other.sendto(message, client.relay)
        assert client.receive()[1] == b"here"
        assert is_quiet(other)


# -- whose it is ----------------------------------------------------------------------------------


@AS_ROOT
@pytest.mark.parametrize("host", HOSTS)
def test_another_account_of_the_host_does_not_get_it(proxy: Proxy, host: str) -> None:
    with (
        datagram_target(host=host) as there,
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as foe,
    ):
        foe.bind((host, 0))
        with account(SOMEBODY):
            association = Association(Tunnel.dial(at(proxy, host)), udp_socket(host))
        with association as client:
            client.ask((ip_address(host), sockname(foe)[1]))
            message = datagram(there.host, there.port, b"the foe")
            for _ in range(100):
                foe.sendto(message, client.relay)
            client.send(there.host, there.port, b"the client")
            assert client.receive()[1] == b"the client"
            foe.sendto(message, client.relay)
            client.send(there.host, there.port, b"the client")
            assert client.receive()[1] == b"the client"
            assert is_quiet(foe)
            assert dropped(proxy, client) == "stranger:101"
        assert set(there.data) == {b"the client"}


@AS_ROOT
def test_a_client_without_a_name_of_its_own_is_served_by_workers_that_gave_up_root(
    proxy: Proxy,
) -> None:
    for uid in (0, NOBODY, SOMEBODY):
        with datagram_target() as there:
            with account(uid):
                association = Association(Tunnel.dial(at(proxy, "127.0.0.1")), udp_socket())
            with association as client:
                client.ask()
                client.send(there.host, there.port, b"hello")
                assert client.receive()[1] == b"hello"


def test_a_client_that_has_left_is_refused_and_the_log_says_why(proxy: Proxy) -> None:
    """The kernel would call root whoever has closed the connection."""
    host, port = at(proxy, "127.0.0.1")

    def is_refused() -> bool:
        since = proxy.mark()
        with socket.create_connection((host, port)) as control:
            client = "{}:{}".format(*control.getsockname())
            control.sendall(b"\5\1\0" + request(IPv4Address(0), 0, UDP_ASSOCIATE))
        line = proxy.wait_for("session.end", since=since, client=client)
        return line.fields["code"] == "denied" and "no account" in line.fields["reason"]

    wait_until(is_refused)  # one that is faster than its end is granted, and ends at once


# -- on which link --------------------------------------------------------------------------------

LOCAL_PROXY, LOCAL_CLIENT = "fe80::77:1", "fe80::77:2"
SECOND_LOCAL_PROXY = "fe80::99:1"
SECOND_WIRE = "link add other type veth peer name other netns %d\nlink set other up\n"


def index_of(host: OtherHost, link: str) -> int:
    done = subprocess.run(
        [*host.enter, "ip", "-json", "link", "show", link], capture_output=True, check=True
    )
    return int(json.loads(done.stdout)[0]["ifindex"])


def test_a_link_local_client_is_heard_on_its_link_alone(tmp_path: Path) -> None:
    """On another link the same address may be another host's."""
    with two_hosts() as (here, there):
        here.configure(SECOND_WIRE % there.pid)
        there.configure("link set other up\n")
        for host, address in ((here, LOCAL_PROXY), (there, LOCAL_CLIENT)):
            for link in ("wire", "other"):
                host.configure(f"addr add {address}/64 dev {link} nodad\n")
        wire, other = index_of(there, "wire"), index_of(there, "other")
        config = configuration({"all": {"url": "socks5://[::]:0", "open": True}})
        with (
            running(tmp_path, config, prefix=here.enter) as proxy,
            datagram_target(sock=there.udp(PUBLIC)) as target,
            there.make_socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger,
        ):
            port = proxy.addresses("all")[0][1]
            control = there.make_socket(socket.AF_INET6, socket.SOCK_STREAM)
            control.bind((LOCAL_CLIENT, 0, 0, wire))
            control.connect((LOCAL_PROXY, port, 0, wire))
            sock = there.make_socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.settimeout(20)
            sock.bind((LOCAL_CLIENT, 0, 0, wire))
            stranger.bind((LOCAL_CLIENT, 0, 0, other))
            with Association(Tunnel(control), sock) as client:
                client.ask()
                host, relay = client.relay
                assert host == LOCAL_PROXY
                for data, by, link in ((b"no", stranger, other), (b"yes", sock, wire)):
                    message = datagram(target.host, target.port, data)
                    by.sendto(message, (host, relay, 0, link))
                assert sock.recv(100).endswith(b"yes")
            assert target.data == [b"yes"]


@pytest.mark.parametrize("reached", [LOCAL_PROXY, SECOND_LOCAL_PROXY])
def test_a_link_local_client_is_answered_from_the_address_that_it_reached(
    tmp_path: Path, reached: str
) -> None:
    """Of the two, a port at :: would answer from the one that the kernel prefers."""
    with two_hosts() as (here, there):
        for address in (LOCAL_PROXY, SECOND_LOCAL_PROXY):
            here.configure(f"addr add {address}/64 dev wire nodad\n")
        there.configure(f"addr add {LOCAL_CLIENT}/64 dev wire nodad\n")
        wire = index_of(there, "wire")
        listen = {"url": "socks5://[::]:0", "open": True, "udp_address": "2001:db8::7"}
        config = configuration({"all": listen})
        with (
            running(tmp_path, config, prefix=here.enter) as proxy,
            datagram_target(sock=there.udp(PUBLIC)) as target,
        ):
            control = there.make_socket(socket.AF_INET6, socket.SOCK_STREAM)
            control.bind((LOCAL_CLIENT, 0, 0, wire))
            control.connect((reached, proxy.addresses("all")[0][1], 0, wire))
            sock = there.make_socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.settimeout(20)
            sock.bind((LOCAL_CLIENT, 0, 0, wire))
            with Association(Tunnel(control), sock) as client:
                client.ask()
                host, relay = client.relay
                assert host == reached
                message = datagram(target.host, target.port, b"hello")
                sock.sendto(message, (reached, relay, 0, wire))
                answer, source = sock.recvfrom(100)
                assert answer.endswith(b"hello")
                assert source == (reached, relay, 0, wire)


def test_a_link_local_client_on_the_proxys_own_host_is_served(tmp_path: Path) -> None:
    with two_hosts() as (here, _):
        here.configure(f"addr add {LOCAL_PROXY}/64 dev wire nodad\n")
        wire = index_of(here, "wire")
        rule = '[[rule]]\nto = ["private"]\naction = "direct"\n'
        config = configuration({"all": {"url": "socks5://[::]:0", "open": True}}) + rule
        with (
            running(tmp_path, config, prefix=here.enter) as proxy,
            datagram_target(sock=here.udp("127.0.0.1")) as target,
        ):
            control = here.make_socket(socket.AF_INET6, socket.SOCK_STREAM)
            control.connect((LOCAL_PROXY, proxy.addresses("all")[0][1], 0, wire))
            sock = here.make_socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.settimeout(20)
            with Association(Tunnel(control), sock) as client:
                client.ask()
                message = datagram(target.host, target.port, b"hello")
                sock.sendto(message, (LOCAL_PROXY, client.relay[1], 0, wire))
                assert sock.recv(100).endswith(b"hello")
