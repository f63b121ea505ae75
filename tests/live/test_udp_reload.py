"""Workers come and go; the clients of UDP listeners stay who they are to their targets."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.test_reload import FREE, reload_wholly
from tests.support.counters import PIDFILE, counters
from tests.support.daemon import NOBODY, as_user, descriptors
from tests.support.proxy import (
    PATIENCE_SECONDS,
    WORKERS,
    Address,
    Proxy,
    Values,
    configuration,
    running,
    ss_url,
    wait_until,
)
from tests.support.udp_client import (
    BUFFER_BYTES,
    Association,
    DatagramTarget,
    datagram_target,
    silent,
    sockname,
    udp_socket,
)

pytestmark = pytest.mark.slow

METHOD = "aes-256-gcm"
HOST = "127.0.0.1"
CLIENTS = 50  # of each tunnel
RELOADS = 5
ROUNDS = 3  # of questions and answers after each change, before the next
DRAIN_SECONDS = 600  # no test waits so long
# Another user's program: for each way to bind, the errno that it meets
THIEF = """
import socket, sys
for family, host in ((socket.AF_INET, sys.argv[1]), (socket.AF_INET, ""), (socket.AF_INET6, "")):
    for options in ((), (2,), (15,), (2, 15)):  # SO_REUSEADDR and SO_REUSEPORT
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            for option in options:
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            try:
                sock.bind((host, int(sys.argv[2])))
            except OSError as error:
                print(error.errno)
            else:
                print(0)
"""
WAYS_TO_BIND = 12


class Crowd:
    """Clients that ask in rounds: each has one question under way, and asks none of them twice."""

    def __init__(self, doors: Mapping[str, Address]) -> None:
        self.rounds = 0
        self.failures: list[str] = []
        self.clients: dict[str, socket.socket] = {}
        for door, address in doors.items():
            for number in range(CLIENTS):
                client = self.clients[f"{door}-{number}"] = udp_socket(address[0])
                client.connect(address)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set() and not self.failures:
            asked = {name: f"{name} {self.rounds}".encode() for name in self.clients}
            for name, client in self.clients.items():
                client.send(asked[name])
            for name, client in self.clients.items():
                try:
                    answer = client.recv(BUFFER_BYTES)
                except OSError as error:
                    self.failures.append(f"{asked[name]!r}: {error!r}")
                else:
                    if answer != asked[name]:
                        self.failures.append(f"{asked[name]!r}: {answer!r}")
            self.rounds += 1

    def go_on(self) -> None:
        """Return when some more rounds have gone well."""
        goal = self.rounds + ROUNDS
        wait_until(lambda: self.rounds >= goal or self.failures)
        assert self.failures == []

    def stop(self) -> None:
        """Finish the round. Whatever came beside the one answer to each is a failure."""
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        assert self.failures == []
        sockets = list(self.clients.values())
        assert not select.select(sockets, [], [], 0)[0], "an answer that came twice"

    def close(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)
        for client in self.clients.values():
            client.close()


@contextmanager
def crowd(doors: Mapping[str, Address]) -> Iterator[Crowd]:
    clients = Crowd(doors)
    try:
        clients.go_on()
        yield clients
    finally:
        clients.close()


def ports_of(there: DatagramTarget) -> dict[str, set[Address]]:
    """Where the target saw each client, by the client's name."""
    found: dict[str, set[Address]] = {}
    for source, data in there.seen:
        found.setdefault(data.split()[0].decode(), set()).add(source)
    return found


def check_nobody_changed(there: DatagramTarget, clients: Crowd) -> None:
    """One port for each client, from its first question to its last; none came twice."""
    ports = ports_of(there)
    assert {name: len(sources) for name, sources in ports.items()} == dict.fromkeys(
        clients.clients, 1
    )
    assert len(set.union(*ports.values())) == len(ports)
    assert len(there.data) == len(set(there.data)) == clients.rounds * len(clients.clients)


def held_ports(pid: int) -> set[int]:
    """The UDP ports of which a process has a descriptor (proc(5), /proc/net/udp)."""
    rows = []
    for name in ("udp", "udp6"):
        table = Path(f"/proc/net/{name}")
        rows += table.read_text().splitlines()[1:] if table.exists() else []
    ports = {f"socket:[{row.split()[9]}]": row.split()[1] for row in rows}
    try:
        held = descriptors(pid).values()
    except FileNotFoundError:
        return set()  # it ended
    return {int(ports[what].rpartition(":")[2], 16) for what in held if what in ports}


@dataclass(frozen=True)
class World:
    """A proxy with a tunnel straight out and one by a far end, and where they lead."""

    local: Proxy
    remote: Proxy
    there: DatagramTarget

    @property
    def doors(self) -> dict[str, Address]:
        return {name: self.local.addresses(name)[0] for name in ("direct", "sealed")}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        there = stack.enter_context(datagram_target())
        listen: dict[str, Values] = {"far": {"url": ss_url(METHOD, (HOST, 0))}}
        config = configuration(listen)
        remote = stack.enter_context(running(tmp_path_factory.mktemp("remote"), config))
        tunnel = {"url": f"udp://{HOST}:0", "target": f"{HOST}:{there.port}"}
        listen = {"socks": FREE, "direct": tunnel, "sealed": {**tunnel, "via": "remote"}}
        via = {"url": ss_url(METHOD, remote.address)}
        config = configuration(listen, **{"via.remote": via})
        local = stack.enter_context(running(tmp_path_factory.mktemp("local"), config))
        yield World(local, remote, there)


@pytest.mark.parametrize("end", ["local", "remote"])
def test_reloads_under_traffic_change_no_port_and_lose_no_datagram(world: World, end: str) -> None:
    world.there.seen.clear()
    proxy: Proxy = getattr(world, end)
    with crowd(world.doors) as clients:
        since = proxy.mark()
        for _ in range(RELOADS):
            reload_wholly(proxy)
            clients.go_on()
        proxy.wait_for_workers(WORKERS)  # those before them have nobody left to stay for
        assert proxy.events("session.end", since) == []
        clients.stop()
        check_nobody_changed(world.there, clients)
        # Of the sealed ones the target sees the far end's ports.
        check_held_by_one(proxy, world.there, "direct" if end == "local" else "sealed")


def check_held_by_one(proxy: Proxy, there: DatagramTarget, door: str) -> None:
    """Each port that a client of *door* has is one worker's, and each worker has some of them."""
    clients = [sources for name, sources in ports_of(there).items() if name.startswith(door)]
    ports = {port for sources in clients for _, port in sources}
    held = [ports & held_ports(pid) for pid in proxy.workers()]
    assert len(ports) == sum(map(len, held)) == CLIENTS
    assert all(held)


def test_one_worker_fewer_and_one_more_change_no_port_and_lose_no_datagram(world: World) -> None:
    world.there.seen.clear()
    with crowd(world.doors) as clients:
        for proxy in (world.local, world.remote):
            since = proxy.mark()
            proxy.signal(signal.SIGTTOU)
            (last,) = proxy.wait_for_workers(1)
            clients.go_on()
            proxy.signal(signal.SIGTTIN)
            proxy.wait_for_workers(2)
            clients.go_on()
            assert last in proxy.workers()
            reload_wholly(proxy)  # from now on the second has its share again
            clients.go_on()
            assert last not in proxy.wait_for_workers(WORKERS)
            assert proxy.events("session.end", since) == []
        clients.stop()
        check_nobody_changed(world.there, clients)


def test_a_killed_worker_is_replaced_and_only_its_own_clients_get_new_ports(world: World) -> None:
    world.there.seen.clear()
    door = world.doors["direct"]
    with ExitStack() as stack:
        clients = [stack.enter_context(udp_socket()) for _ in range(CLIENTS)]
        for client in clients:
            assert asked(client, door) == b"%d" % sockname(client)[1]
        before = {int(name): sources for name, sources in ports_of(world.there).items()}
        killed, other = world.local.wait_for_workers(WORKERS)
        lost = held_ports(killed)
        since = world.local.mark()
        os.kill(killed, signal.SIGKILL)
        world.local.wait_for("worker.lost", since=since, pid=killed)
        world.there.seen.clear()
        for client in clients:
            # What came while nobody read waits in the socket for the one who will.
            assert asked(client, door) == b"%d" % sockname(client)[1]
        after = {int(name): sources for name, sources in ports_of(world.there).items()}
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {name for name, ((_, port),) in before.items() if port in lost}
        assert changed and changed != set(before)
        assert other in world.local.wait_for_workers(WORKERS)


def asked(client: socket.socket, door: Address) -> bytes:
    """Ask by the client's own port, and wait for the answer."""
    client.sendto(b"%d" % sockname(client)[1], door)
    data, source = client.recvfrom(BUFFER_BYTES)
    assert source == door
    return data


# -- what does change ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["target", "via"])
def test_a_change_is_for_new_datagrams_and_earlier_ones_are_answered_still(
    world: World, tmp_path: Path, change: str
) -> None:
    with datagram_target(silent) as first, datagram_target(silent) as second:
        then = second if change == "target" else first

        def config(target: DatagramTarget, via: str) -> str:
            tunnel = {"url": f"udp://{HOST}:0", "target": f"{HOST}:{target.port}", "via": via}
            remote = {"url": ss_url(METHOD, world.remote.address)}
            return configuration({"tunnel": tunnel, "socks": FREE}, **{"via.remote": remote})

        with running(tmp_path, config(first, "direct")) as proxy, udp_socket() as client:
            client.sendto(b"one", proxy.address)
            wait_until(lambda: first.data == [b"one"])
            (port, _) = first.seen.pop()
            before = set(proxy.workers())
            reload_wholly(proxy, config(then, "direct" if change == "target" else "remote"))
            client.sendto(b"two", proxy.address)
            wait_until(lambda: then.data == [b"two"])
            (later, _) = then.seen.pop()
            assert later != port
            outwards = proxy if change == "target" else world.remote
            assert any(later[1] in held_ports(pid) for pid in outwards.workers())
            # The one who had the first goes on with it alone.
            assert len(before & set(proxy.wait_for_workers(WORKERS + 1))) == 1
            for target, source in ((first, port), (then, later)):
                target.socket.sendto(b"to %d" % source[1], source)
                assert client.recvfrom(BUFFER_BYTES) == (b"to %d" % source[1], proxy.address)


def test_a_listener_that_went_and_comes_back_has_all_its_clients(tmp_path: Path) -> None:
    """A worker that stays for others keeps no socket of it: the kernel would give it clients."""
    with datagram_target() as there, datagram_target(silent) as mute, ExitStack() as stack:
        with udp_socket() as free:
            door = sockname(free)

        def tunnel(there: DatagramTarget) -> Values:
            return {"url": f"udp://{HOST}:{door[1]}", "target": f"{HOST}:{there.port}"}

        def config(**more: Values) -> str:
            return configuration({"socks": FREE, **more}, workers=1)

        with running(tmp_path, config(tunnel=tunnel(mute))) as proxy:
            (socks,) = proxy.addresses("socks")
            early = stack.enter_context(udp_socket())
            early.sendto(b"a question", door)
            wait_until(lambda: mute.seen)
            for more in ({"tunnel": tunnel(mute)}, {}):
                stack.enter_context(Association.open(socks))  # for which the worker stays
                reload_wholly(proxy, config(**more))
            mute.socket.sendto(b"its answer", mute.seen[0][0])
            assert early.recvfrom(BUFFER_BYTES) == (b"its answer", door)
            wait_until(lambda: not any(door[1] in held_ports(pid) for pid in proxy.workers()))
            reload_wholly(proxy, config(tunnel=tunnel(there)))
            for _ in range(CLIENTS):
                client = stack.enter_context(udp_socket())
                assert asked(client, door) == b"%d" % sockname(client)[1]
            assert len(proxy.workers()) == 3, "those before are there still"


# -- the end ---------------------------------------------------------------------------------------


def test_one_line_counts_the_whole_life_of_a_client_and_term_waits_for_none(
    tmp_path: Path,
) -> None:
    with datagram_target() as there, udp_socket() as client:
        listen = {"tunnel": {"url": f"udp://{HOST}:0", "target": f"{HOST}:{there.port}"}}
        server = {**PIDFILE, "drain_seconds": DRAIN_SECONDS}
        with running(tmp_path, configuration(listen, server=server)) as proxy:
            for turn in range(3):
                for _ in range(10):
                    asked(client, proxy.address)
                if turn < 2:
                    proxy.reload()
                    wait_until(lambda: len(proxy.workers()) == WORKERS)
            wait_until(lambda: counters(proxy)["up_datagrams"] == 30)
            assert counters(proxy)["associations"] == 1
            proxy.signal(signal.SIGTERM)
            assert proxy.wait_for_exit() == 0
        (ended,) = proxy.events("session.end")
        size = 30 * len(str(sockname(client)[1]))
        expected = {
            "client": f"{HOST}:{sockname(client)[1]}",
            "up": str(size),
            "down": str(size),
            "up_datagrams": "30",
            "down_datagrams": "30",
            "dropped": "-",
            "code": "shutdown",
        }
        assert {name: ended.fields[name] for name in expected} == expected
        assert float(ended.fields["seconds"]) > 0


# -- another user of the host ----------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="for root")
def test_another_user_can_bind_neither_a_listeners_udp_port_nor_an_associations(
    world: World,
) -> None:
    with Association.open(world.local.addresses("socks")[0]) as association:
        for address in (*world.doors.values(), world.remote.address, association.relay):
            done = subprocess.run(
                [*as_user(NOBODY), sys.executable, "-c", THIEF, address[0], str(address[1])],
                cwd="/",
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
            assert done.stderr == ""
            assert done.stdout.split() == [str(errno.EADDRINUSE)] * WAYS_TO_BIND, address
