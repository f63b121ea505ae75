"""Two workers and the line between them: who has which UDP clients, before and after."""

import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address

import gevent
import pytest

from geproxy.config.load import from_urls
from geproxy.config.settings import Limits, Listen, Settings, Via
from geproxy.config.url import parse_listen_url, parse_peer_url
from geproxy.crypto.methods import AES_128_GCM
from geproxy.crypto.secret import Secret
from geproxy.ending import fault
from geproxy.inbound.tunnel import TunnelDatagrams
from geproxy.net import lasting
from geproxy.net.deadline import Deadline
from geproxy.net.handover import Line
from geproxy.net.lasting import Lasting
from geproxy.net.route import OwnAddresses
from geproxy.observe.line import Lines
from geproxy.observe.log import Log
from geproxy.observe.sink import Descriptor, Sink
from geproxy.process import slots as module
from geproxy.process.listeners import Place
from geproxy.process.shared import Shared
from geproxy.process.slots import Slots
from geproxy.site import Site
from geproxy.terms import Endpoint, Filtering
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, settle, until
from tests.support.datagrams import Peer, udp_peer

FOR_EVER = float("inf")
CLIENTS = 20
LOG_BYTES = 1 << 20
SMALL_BUFFER_BYTES = 1  # the kernel makes it what it needs for one or two messages
PLACE = Place("tunnel", 0, 0)


def tunnel_to(target: Endpoint, name: str = "tunnel") -> Settings:
    """One UDP tunnel. Its sockets are the test's own."""
    listen = Listen(name=name, url=parse_listen_url("udp://127.0.0.1:5300"), target=target)
    return dataclasses.replace(from_urls(["socks5://127.0.0.1:0"]), listen=(listen,))


class Worker:
    """What one worker has of UDP."""

    def __init__(self, settings: Settings, sockets: Mapping[Place, socket.socket]) -> None:
        self._said, write = socket.socketpair()
        self._said.setblocking(False)
        sink = Sink("memory", Descriptor(write.detach()), Lines("text"))
        self._log = Log(sink, sink, level="info")
        self.site = Site(settings, [], [], self._log, Shared())
        self.sockets = list(sockets.values())
        self.slots = Slots(
            sockets, settings, self.site, Lasting(lambda _, error: fault(error, self._log))
        )
        self.text = ""

    def log(self, event: str) -> list[str]:
        """The lines of one *event* so far."""
        self._log.flush()
        try:
            self.text += self._said.recv(LOG_BYTES).decode()
        except BlockingIOError:
            pass
        return [line for line in self.text.splitlines() if f" {event} " in line]

    @property
    def clients(self) -> int:
        return len(self.site.associations)

    def close(self) -> None:
        self.slots.leave(0.0)
        until(lambda: not self.slots.busy and not self.clients)
        until(lambda: all(sock.fileno() == -1 for sock in self.sockets))
        self.site.owners.close()
        self._log.close()
        self._said.close()


class Host:
    """The listener's socket, workers that share it, a target, and clients."""

    def __init__(self, held: ExitStack, target: Peer) -> None:
        self._held = held
        self.target = target
        self.socket = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.socket.setblocking(False)
        self.socket.bind(("127.0.0.1", 0))
        self.where = Endpoint.from_sockaddr(self.socket.getsockname())

    def worker(self, settings: Settings | None = None, *, reads: bool = True) -> Worker:
        """Make a worker; without *reads*, one that has no socket from its birth."""
        sockets = {PLACE: self.socket.dup()} if reads else {}
        made = Worker(settings or tunnel_to(self.target.endpoint), sockets)
        self._held.callback(made.close)
        return made

    def client(self) -> Peer:
        return self._held.enter_context(udp_peer())

    def meets(self, client: Peer) -> Endpoint:
        """Have *client* reach the target; returns the port of ours that the target saw."""
        client.send(b"question", self.where)
        data, source = self.target.receive()
        assert data == b"question"
        return source

    def answers(self, port: Endpoint, client: Peer) -> None:
        """Have the target's answer to *port* reach *client* from where it expects it."""
        self.target.send(b"answer", port)
        assert client.receive() == (b"answer", self.where)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_REPLIES_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv("RES_OPTIONS", "")  # which a site sets
    asked: list[OwnAddresses] = []  # each site has one, and needs it for as long as it lives

    def own_addresses() -> OwnAddresses:
        asked.append(OwnAddresses())
        return asked[-1]

    monkeypatch.setattr("geproxy.site.OwnAddresses", own_addresses)
    gevent.get_hub()
    before = open_descriptors()
    with Deadline(HARD_SECONDS, "a test"):
        with ExitStack() as held:
            yield Host(held, held.enter_context(udp_peer()))
        for one in asked:
            one.close()
        until(lambda: open_descriptors() <= before)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def pair() -> tuple[int, int]:
    """Both ends of a line."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return here.detach(), there.detach()


def link(old: Worker, new: Worker) -> None:
    """What the master does for all slots."""
    here, there = pair()
    old.slots.has_heir(frozenset({0, 1}), here)
    new.slots.expect(there)


def fields(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


# -- all goes well ---------------------------------------------------------------------------------


def test_an_heir_goes_on_with_every_client_and_its_counts(host: Host) -> None:
    old, new = host.worker(), host.worker()
    old.slots.serve()
    clients = [host.client() for _ in range(CLIENTS)]
    ports = [host.meets(client) for client in clients]
    link(old, new)
    new.slots.serve()
    settle()
    assert (old.clients, new.clients) == (CLIENTS, 0), "nobody leaves before it is told to"
    old.slots.leave(FOR_EVER)
    assert [host.meets(client) for client in clients] == ports
    assert (old.clients, new.clients) == (0, CLIENTS)
    for port, client in zip(ports, clients, strict=True):
        host.answers(port, client)
    until(lambda: not old.slots.busy)
    assert old.log("session.end") == []
    new.slots.leave(0.0)
    until(lambda: len(new.log("session.end")) == CLIENTS)
    ended = {fields(line)["client"]: fields(line) for line in new.log("session.end")}
    assert set(ended) == {str(client.endpoint) for client in clients}
    assert {(one["up_datagrams"], one["down_datagrams"]) for one in ended.values()} == {("2", "1")}


def test_a_worker_that_leaves_reads_nothing_more_and_what_comes_waits(host: Host) -> None:
    old, new = host.worker(), host.worker()
    old.slots.serve()
    client = host.client()
    port = host.meets(client)
    link(old, new)
    old.slots.leave(FOR_EVER)
    settle()
    client.send(b"while nobody reads", host.where)
    assert host.target.waiting() == []
    new.slots.serve()
    assert host.target.receive() == (b"while nobody reads", port)


def test_an_heir_without_the_socket_gets_it_and_reads_it(host: Host) -> None:
    """As when there is one worker too many."""
    old, new = host.worker(), host.worker(reads=False)
    old.slots.serve()
    new.slots.serve()
    client = host.client()
    port = host.meets(client)
    link(old, new)
    old.slots.leave(FOR_EVER)
    until(lambda: new.clients == 1)
    assert host.meets(client) == port
    assert host.meets(host.client()) != port


def test_what_was_handed_over_is_held_open_by_the_heir_alone(host: Host) -> None:
    old, new = host.worker(), host.worker()
    old.slots.serve()
    host.meets(host.client())
    before = open_descriptors()
    link(old, new)
    old.slots.leave(FOR_EVER)
    until(lambda: new.clients == 1 and not old.slots.busy)
    assert open_descriptors() == before - 1
    assert old.sockets[0].fileno() == -1


def test_who_has_to_leave_before_it_has_taken_over_hands_on_what_it_gets(host: Host) -> None:
    """As when one reload follows another at once."""
    first, second, third = host.worker(), host.worker(), host.worker()
    first.slots.serve()
    client = host.client()
    port = host.meets(client)
    link(first, second)
    second.slots.serve()
    link(second, third)
    second.slots.leave(FOR_EVER)
    third.slots.serve()
    settle()
    first.slots.leave(FOR_EVER)
    until(lambda: third.clients == 1)
    assert host.meets(client) == port


# -- what has changed ------------------------------------------------------------------------------


def by_peer(settings: Settings, secret: bytes = bytes(16), port: int = 8388) -> Settings:
    url = parse_peer_url(f"ss://aes-128-gcm:password@127.0.0.1:{port}")
    via = Via(name="peer", url=url, secret=Secret(AES_128_GCM, secret))
    return dataclasses.replace(settings, via=(via,))


def changed(settings: Settings, **changes: object) -> Settings:
    (listen,) = settings.listen
    listen = dataclasses.replace(listen, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(settings, listen=(listen,))


Change = Callable[[Settings], Settings]
DIFFERENCES = [
    pytest.param(
        lambda one: changed(one, target=Endpoint(IPv4Address("192.0.2.1"), 53)), id="its target"
    ),
    pytest.param(lambda one: changed(one, via="peer"), id="its way out"),
    pytest.param(
        lambda one: changed(one, udp_filtering=Filtering.ADDRESS), id="whom it lets answer"
    ),
    pytest.param(lambda one: by_peer(one, secret=b"x" * 16), id="the key of a way out"),
    pytest.param(lambda one: by_peer(one, port=8389), id="the peer of a way out"),
]
ELSEWHERE = [
    pytest.param(
        lambda one: changed(one, url=parse_listen_url("udp://127.0.0.1:5301")), id="another port"
    ),
    pytest.param(
        lambda one: changed(one, url=parse_listen_url("udp://127.0.0.2:5300")), id="another address"
    ),
    pytest.param(
        lambda one: changed(one, url=parse_listen_url("udp://:5300")), id="one address more"
    ),
    pytest.param(lambda one: changed(one, name="another"), id="another name"),
]
NO_DIFFERENCES = [
    pytest.param(lambda one: one, id="nothing"),
    pytest.param(lambda one: changed(one, open=True), id="what is asked at the start alone"),
    pytest.param(
        lambda one: dataclasses.replace(one, limits=Limits(udp_idle_seconds=1.0)), id="limits"
    ),
    pytest.param(
        lambda one: dataclasses.replace(one, listen=(*one.listen, *tunnel_to(NOBODY, "b").listen)),
        id="another listener",
    ),
]
NOBODY = Endpoint(IPv4Address("192.0.2.1"), 53)


@pytest.mark.parametrize("change", NO_DIFFERENCES)
def test_a_change_that_no_client_can_notice_takes_none_from_its_heir(
    host: Host, change: Change
) -> None:
    before = by_peer(tunnel_to(host.target.endpoint))
    old, new = host.worker(before), host.worker(change(before))
    old.slots.serve()
    client = host.client()
    port = host.meets(client)
    link(old, new)
    old.slots.leave(FOR_EVER)
    new.slots.serve()
    assert host.meets(client) == port


@pytest.mark.parametrize("change", DIFFERENCES)
def test_who_came_before_a_change_is_answered_until_it_is_quiet(host: Host, change: Change) -> None:
    before = by_peer(tunnel_to(host.target.endpoint))
    old, new = host.worker(before), host.worker(change(before))
    old.slots.serve()
    client = host.client()
    port = host.meets(client)
    link(old, new)
    old.slots.leave(FOR_EVER)
    gevent.sleep(2 * SHORT_SECONDS)  # longer than those have who are not kept
    assert (old.clients, new.clients) == (1, 0)
    host.answers(port, client)
    old.site.associations.sweep(time.monotonic())
    old.site.associations.sweep(time.monotonic() + 1000.0)
    until(lambda: not old.slots.busy and old.sockets[0].fileno() == -1)
    (line,) = old.log("session.end")
    assert fields(line)["code"] == "ok"
    assert old.log("handover.fail") == old.log("session.fault") == []


@pytest.mark.parametrize("change", ELSEWHERE)
def test_who_came_to_a_socket_that_is_gone_is_answered_for_a_little_time(
    host: Host, change: Change
) -> None:
    before = tunnel_to(host.target.endpoint)
    old, new = host.worker(before), Worker(change(before), {})
    old.slots.serve()
    client = host.client()
    port = host.meets(client)
    link(old, new)
    old.slots.leave(FOR_EVER)
    host.answers(port, client)
    until(lambda: old.sockets[0].fileno() == -1)
    assert (old.clients, new.clients) == (0, 0)
    (line,) = old.log("session.end")
    assert fields(line)["code"] == "shutdown"
    new.close()


def test_who_has_no_heir_is_answered_for_a_little_time(host: Host) -> None:
    """As when the last UDP listener goes."""
    old = host.worker()
    old.slots.serve()
    client = host.client()
    port = host.meets(client)
    old.slots.leave(FOR_EVER)
    host.answers(port, client)
    until(lambda: old.sockets[0].fileno() == -1)
    assert (old.clients, old.slots.busy) == (0, False)


# -- all goes wrong --------------------------------------------------------------------------------


def test_an_heir_that_never_answers_is_not_waited_for_for_ever(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDOVER_SECONDS", SHORT_SECONDS)
    old = host.worker()
    old.slots.serve()
    client = host.client()
    port = host.meets(client)
    here, there = pair()
    old.slots.has_heir(frozenset({0}), here)
    old.slots.leave(FOR_EVER)
    host.answers(port, client)
    until(lambda: old.log("handover.fail"))
    host.answers(port, client)
    until(lambda: old.sockets[0].fileno() == -1)
    os.close(there)


def test_an_heir_that_is_dead_already_is_no_failure(host: Host) -> None:
    old = host.worker()
    old.slots.serve()
    client = host.client()
    port = host.meets(client)
    here, there = pair()
    old.slots.has_heir(frozenset({0}), here)
    os.close(there)
    old.slots.leave(FOR_EVER)
    host.answers(port, client)
    until(lambda: old.sockets[0].fileno() == -1)
    assert old.log("handover.fail") == []
    (line,) = old.log("session.end")
    assert fields(line)["code"] == "shutdown"


@pytest.mark.parametrize("dead", [False, True], ids=["hangs", "is dead"])
def test_a_worker_that_never_hands_over_does_not_keep_its_heir_from_serving(
    host: Host, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    monkeypatch.setattr(module, "HANDOVER_SECONDS", SHORT_SECONDS)
    new = host.worker()
    here, there = pair()
    new.slots.expect(there)
    if dead:
        os.close(here)
    new.slots.serve()
    assert host.meets(host.client())
    assert len(new.log("handover.late")) == (0 if dead else 1)
    if not dead:
        os.close(here)
    until(lambda: new.clients == 1)


def test_a_line_that_breaks_loses_nobody_but_those_who_were_on_it(host: Host) -> None:
    old, new = host.worker(), host.worker()
    old.slots.serve()
    clients = [host.client() for _ in range(CLIENTS)]
    ports = {client.endpoint: host.meets(client) for client in clients}
    before = open_descriptors()
    old_end, between_old = pair()
    with socket.socket(fileno=os.dup(old_end)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
    between_new, new_end = pair()
    old.slots.has_heir(frozenset({0}), old_end)
    new.slots.expect(new_end)
    towards_old, towards_new = Line(between_old), Line(between_new)
    fingerprints = towards_new.receive()
    assert fingerprints is not None
    towards_old.send(*fingerprints)
    old.slots.leave(FOR_EVER)
    arrived = []
    for _ in range(3):  # the socket and two clients
        message, descriptors = towards_old.receive() or ({}, [])
        arrived.append(message)
        towards_new.send(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
    towards_old.close()
    towards_new.close()
    until(lambda: old.log("handover.fail"))
    until(lambda: new.clients == 2)
    new.slots.serve()
    assert 0 < old.clients < CLIENTS - 2, "some were on the line"
    # The clients that were lost have given back their ports, and the copies are closed.
    assert open_descriptors() <= before - (CLIENTS - 2 - old.clients)
    gone_over = {tuple(message["source"]) for message in arrived[1:]}
    for client in clients:
        same = host.meets(client) == ports[client.endpoint]
        assert same == (client.endpoint.sockaddr in gone_over)
    until(lambda: old.sockets[0].fileno() == -1)
    assert len(old.log("session.end")) == len(
        {fields(line)["client"] for line in old.log("session.end")}
    )
    assert new.log("handover.fail") == []


# -- faults of ours --------------------------------------------------------------------------------


def test_a_fault_of_ours_is_logged_and_is_not_the_end_of_reading(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = TunnelDatagrams.read

    def faulty(codec: TunnelDatagrams, datagram: bytes) -> tuple[bytes, bytes]:
        if datagram == b"a bug":
            raise KeyError("of ours")
        return read(codec, datagram)

    monkeypatch.setattr(TunnelDatagrams, "read", faulty)
    old = host.worker()
    old.slots.serve()
    client = host.client()
    client.send(b"a bug", host.where)
    until(lambda: len(old.log("session.fault")) == 1)
    assert host.meets(client)
    monkeypatch.setattr(lasting, "FIRST_PAUSE_SECONDS", HARD_SECONDS)
    monkeypatch.setattr(lasting, "LAST_PAUSE_SECONDS", HARD_SECONDS)
    client.send(b"a bug", host.where)
    until(lambda: len(old.log("session.fault")) == 2)
    old.slots.leave(0.0)  # while it pauses
    until(lambda: old.sockets[0].fileno() == -1)
    assert capsys.readouterr().err == ""
