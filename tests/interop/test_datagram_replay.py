"""What a recorder between shadowsocks-libev and geproxy can do, and a stranger: nothing."""

from __future__ import annotations

import json
import random
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.interop.datagrams import OfTunnel, by_tunnel, check_sizes
from tests.live.test_reload import reload_wholly
from tests.support.peers import ss_server, ss_tunnel
from tests.support.proxy import (
    SEALED_PASSWORD,
    WORKERS,
    Address,
    Proxy,
    Values,
    command,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.shadowsocks_twin import METHODS
from tests.support.udp_client import (
    BUFFER_BYTES,
    DatagramTarget,
    datagram_target,
    udp_socket,
)

pytestmark = pytest.mark.slow

METHOD = "aes-256-gcm"
COPIES = 100
PORTS = 20  # and a copy from each of so many others
RANDOM_DATAGRAMS = 100


class Drops:
    """How many datagrams the workers have dropped since the last look, by geproxy status."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._before = self.by_worker()

    def workers(self) -> list[dict[str, int]]:
        done = command("status", "--json", "-f", str(self._proxy.folder / "geproxy.conf"))
        assert (done.returncode, done.stderr) == (0, "")
        found: list[dict[str, int]] = json.loads(done.stdout)["workers"]
        return found

    def by_worker(self) -> dict[int, int]:
        return {worker["pid"]: worker["dropped"] for worker in self.workers()}

    def wait_for(self, count: int) -> None:
        """Wait until just *count* more are counted, by whichever workers."""

        def counted() -> bool:
            now = self.by_worker()
            more = sum(dropped - self._before.get(pid, 0) for pid, dropped in now.items())
            assert more <= count
            return more == count

        wait_until(counted)
        self._before = self.by_worker()

    def wait_for_successors(self, old: set[int]) -> None:
        """Wait until none of *old* is left but for the associations that it has."""

        def succeeded() -> bool:
            return all(each["associations"] for each in self.workers() if each["pid"] in old)

        wait_until(succeeded)
        self._before = self.by_worker()


@contextmanager
def sealed_proxy(folder: Path, listen: dict[str, Values], **vias: Values) -> Iterator[Proxy]:
    """Run geproxy so that its status can be asked for."""
    config = configuration(listen, server={"pidfile": "geproxy.pid"}, **vias)
    with running(folder, config) as proxy:
        yield proxy


class Recorder:
    """Stands in front of *beyond*, which answers each datagram, and keeps what passes."""

    def __init__(self, beyond: Address) -> None:
        self.onward = udp_socket()
        self.onward.connect(beyond)
        self.answers: list[bytes] = []

    def forward(self, data: bytes) -> bytes:
        self.onward.send(data)
        self.answers.append(self.onward.recv(BUFFER_BYTES))
        return self.answers[-1]


@contextmanager
def recording(beyond: Address) -> Iterator[tuple[DatagramTarget, Recorder]]:
    """Run a recorder in front of *beyond*: the side that faces the client, and the other."""
    recorder = Recorder(beyond)
    with closing(recorder.onward), datagram_target(recorder.forward) as facing:
        yield facing, recorder


def check_silence(sockets: list[socket.socket]) -> None:
    """Nothing has come to any of *sockets*; whatever could have is done with."""
    assert not select.select(sockets, [], [], 0)[0]


def test_a_recorded_datagram_reaches_the_target_once(tmp_path: Path) -> None:
    listen = {"sealed": {"url": ss_url(METHOD, ("127.0.0.1", 0))}}
    with ExitStack() as stack:
        there = stack.enter_context(datagram_target())
        proxy = stack.enter_context(sealed_proxy(tmp_path, listen))
        facing, recorder = stack.enter_context(recording(proxy.address))
        tunnel = ss_tunnel(tmp_path, METHOD, SEALED_PASSWORD, place(facing), place(there))
        client = stack.enter_context(by_tunnel(stack.enter_context(tunnel)))
        others = [stack.enter_context(udp_socket()) for _ in range(PORTS)]

        drops = Drops(proxy)
        check_talks(client, b"once")
        (sealed,) = facing.data

        def send_again() -> None:
            for _ in range(COPIES):
                recorder.onward.send(sealed)
            for other in others:
                other.sendto(sealed, proxy.address)
            drops.wait_for(COPIES + PORTS)
            assert there.data == [b"once"]
            check_silence([recorder.onward, *others])

        send_again()
        old = set(proxy.workers())
        reload_wholly(proxy)
        drops.wait_for_successors(old)
        send_again()
        check_talks(client, b"again")
        assert there.data == [b"once", b"again"]


def test_a_recorded_answer_reaches_the_client_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        there = stack.enter_context(datagram_target())
        server = stack.enter_context(ss_server(tmp_path, METHOD, SEALED_PASSWORD))
        facing, recorder = stack.enter_context(recording(server))
        tunnel = {"url": "udp://127.0.0.1:0", "target": f"{there.host}:{there.port}"}
        vias = {"via.theirs": {"url": ss_url(METHOD, place(facing))}}
        door = {"door": {**tunnel, "via": "theirs"}}
        proxy = stack.enter_context(sealed_proxy(tmp_path, door, **vias))
        client = stack.enter_context(by_tunnel(proxy.address))

        drops = Drops(proxy)
        check_talks(client, b"once")
        ((port_of_ours, _),) = facing.seen
        for _ in range(COPIES):
            facing.socket.sendto(recorder.answers[0], port_of_ours)
        drops.wait_for(COPIES)
        check_silence([client.socket])
        check_talks(client, b"again")


def place(target: DatagramTarget) -> Address:
    return str(target.host), target.port


def check_talks(client: OfTunnel, data: bytes) -> None:
    client.send(data)
    assert client.receive() == data


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    listen = {method: {"url": ss_url(method, ("127.0.0.1", 0))} for method in METHODS}
    with sealed_proxy(tmp_path_factory.mktemp("proxy"), listen) as proxy:
        yield proxy


@pytest.mark.parametrize("method", METHODS)
def test_what_nobody_sealed_is_dropped_in_silence(
    listening: Proxy, tmp_path: Path, method: str
) -> None:
    """The shortest ones have ended other Shadowsocks programs."""
    (sealed,) = listening.addresses(method)
    workers, drops = listening.wait_for_workers(WORKERS), Drops(listening)
    short = [random.randbytes(size) for size in range(4) for _ in range(5)]
    long = [random.randbytes(random.randrange(4, 1500)) for _ in range(RANDOM_DATAGRAMS)]
    with ExitStack() as stack:
        strangers = [stack.enter_context(udp_socket()) for _ in range(PORTS)]
        for number, data in enumerate(short + long):
            strangers[number % PORTS].sendto(data, sealed)
        drops.wait_for(len(short) + len(long))
        check_silence(strangers)
    assert listening.workers() == workers
    with datagram_target() as there:
        target = (str(there.host), there.port)
        tunnel = ss_tunnel(tmp_path, method, SEALED_PASSWORD, sealed, target)
        with tunnel as door, by_tunnel(door) as client:
            check_sizes(client, [0, 1, 1200])
