"""UDP sockets: every size passes whole, sending never waits, and ICMP ends nothing.

What travels together through the kernel is, to everybody else, as if each had been sent alone.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import cycle

import pytest

from geproxy.errors import DeadlineError, DeniedError, DialError, DropError, ProtocolError
from geproxy.net import udp
from geproxy.net.datagram import MAX_SEGMENTS, QUEUE_LIMIT, DatagramSocket, Sockaddr
from geproxy.net.deadline import Deadline
from geproxy.net.udp import (
    adopted,
    head_of,
    open_outwards,
    open_towards,
    open_towards_clients,
    target_of,
)
from geproxy.terms import Address, Endpoint
from geproxy.wire.address import encode_address
from tests.support.conformance import HARD_SECONDS, SHORT_SECONDS, beside, noise, settle
from tests.support.datagrams import (
    MAX_DATAGRAM_BYTES,
    MAX_PAYLOAD_BYTES,
    SIZES,
    CountedSocket,
    closed_udp_port,
    losses_of,
    send_nothing_more,
    udp_peer,
)
from tests.support.hosts import CLIENT, CLIENT_6, PROXY, OtherHost, other_host, two_hosts

LOOPBACK = IPv4Address("127.0.0.1")
LOOPBACK_6 = IPv6Address("::1")
HOSTS = ["127.0.0.1", "::1"]
SO_NO_CHECK = 11  # asm-generic/socket.h
IPV6_MTU_DISCOVER, PMTUDISC_DO = 23, 2  # linux/in6.h, linux/in.h


@pytest.fixture(autouse=True)
def hard_deadline_and_nothing_left_open() -> Iterator[None]:
    with Deadline(HARD_SECONDS, "a test"):
        before = len(os.listdir("/proc/self/fd"))
        yield
        assert len(os.listdir("/proc/self/fd")) <= before


@contextmanager
def opened(make: Callable[[], DatagramSocket]) -> Iterator[DatagramSocket]:
    sock = make()
    try:
        yield sock
    finally:
        sock.close()


@contextmanager
def outwards() -> Iterator[DatagramSocket]:
    with opened(open_outwards) as sock:
        yield sock


@contextmanager
def at(host: str) -> Iterator[DatagramSocket]:
    with opened(lambda: open_towards_clients(ip_address(host), None)) as sock:
        yield sock


@contextmanager
def towards(peer: Endpoint) -> Iterator[DatagramSocket]:
    with opened(lambda: open_towards(peer)) as sock:
        yield sock


def send_to(sock: DatagramSocket, data: bytes, to: Endpoint) -> None:
    """Send at once: on loopback *data* is there when this returns."""
    sock.send(data, len(data), sock.place(to))
    sock.flush()


def queue(sock: DatagramSocket, datagrams: Iterable[tuple[bytes, Sockaddr | None]]) -> None:
    for data, place in datagrams:
        sock.send(data, len(data), place)


def received(sock: DatagramSocket) -> bytes:
    while (found := sock.receive()) is None:
        sock.wait_readable()
    return found[0]


# -- what passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("size_bytes", SIZES)
def test_every_size_passes_whole_in_both_directions(host: str, size_bytes: int) -> None:
    data = noise(size_bytes)
    with at(host) as sock, udp_peer(host) as peer:
        peer.send(data, sock.bound)
        found = sock.receive()
        assert found is not None
        assert (found[0], Endpoint.from_sockaddr(found[1])) == (data, peer.endpoint)
        send_to(sock, data, peer.endpoint)
        assert peer.receive() == (data, sock.bound)


@pytest.mark.parametrize("size_bytes", [MAX_PAYLOAD_BYTES + 1, 65_535, 70_000])
def test_what_is_too_large_for_udp_is_dropped_for_its_size(size_bytes: int) -> None:
    with outwards() as sock, udp_peer() as peer:
        with pytest.raises(DropError) as caught:
            send_to(sock, bytes(size_bytes), peer.endpoint)
        assert caught.value.code == "size"
        send_to(sock, b"next", peer.endpoint)
        assert peer.waiting() == [b"next"]
    with udp_peer() as peer, towards(peer.endpoint) as sock:
        with pytest.raises(DropError) as caught:
            sock.send(bytes(size_bytes), size_bytes)
        assert caught.value.code == "size"
        sock.send(b"next", 4)
        assert peer.waiting() == [b"next"]


def test_nothing_there_is_none_and_no_wait() -> None:
    with outwards() as sock:
        assert sock.receive() is None


def test_datagrams_stay_apart_and_in_order() -> None:
    sent = [bytes((number,)) * number for number in range(100)]
    with at("127.0.0.1") as sock, udp_peer() as peer:
        for data in sent:
            peer.send(data, sock.bound)
        assert [received(sock) for _ in sent] == sent
        assert sock.receive() is None


def test_a_wait_ends_with_a_datagram_and_with_an_error_thrown_in() -> None:
    with at("127.0.0.1") as sock, udp_peer() as peer:
        for _ in range(2):
            with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a wait"):
                sock.wait_readable()
            with beside(sock.wait_readable):
                settle()
                peer.send(b"x", sock.bound)
            assert received(sock) == b"x"


def test_a_socket_that_was_waited_on_can_be_closed_twice() -> None:
    sock = open_towards_clients(LOOPBACK, None)
    with pytest.raises(DeadlineError), Deadline(SHORT_SECONDS, "a wait"):
        sock.wait_readable()
    sock.close()
    sock.close()


# -- ICMP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
def test_a_closed_port_is_no_error_of_an_unconnected_socket(host: str) -> None:
    with outwards() as sock, udp_peer(host) as peer, closed_udp_port(host) as nobody:
        lost = losses_of(sock)
        for _ in range(5):
            send_to(sock, b"lost", nobody)
            assert sock.receive() is None
            send_to(sock, b"found", peer.endpoint)
        assert (peer.waiting(), lost) == ([b"found"] * 5, [])


@pytest.mark.parametrize("host", HOSTS)
def test_what_icmp_told_does_not_end_receiving_from_a_peer_that_came_late(host: str) -> None:
    with closed_udp_port(host) as nobody, towards(nobody) as sock:
        lost = losses_of(sock)
        for _ in range(3):
            sock.send(b"lost", 4)
            sock.flush()
            assert sock.receive() is None
        assert lost == []


@pytest.mark.parametrize("host", HOSTS)
def test_what_icmp_told_of_one_datagram_does_not_cost_the_next(host: str) -> None:
    """The kernel reports it on the next call, which may be the send of another datagram."""
    with udp_peer(host) as early:
        port = early.endpoint.port
        with towards(early.endpoint) as sock:
            early.connect(Endpoint(ip_address(host), 9))  # it hears us no longer
            lost = losses_of(sock)
            sock.send(b"lost", 4)
            sock.flush()
            early.connect(sock.bound)
            sock.send(b"found", 5)
            assert (early.waiting(), lost) == ([b"found"], [])
            assert early.endpoint.port == port


@pytest.mark.parametrize("host", HOSTS)
def test_what_icmp_told_of_one_datagram_costs_none_of_a_run(host: str) -> None:
    sent = [bytes((number,)) * 100 for number in range(9)]
    with udp_peer(host) as early, towards(early.endpoint) as sock:
        lost = losses_of(sock)
        early.connect(Endpoint(ip_address(host), 9))
        for _ in range(3):
            queue(sock, [(data, None) for data in sent])
            sock.flush()
        early.connect(sock.bound)
        for _ in range(2):
            queue(sock, [(data, None) for data in sent])
            sock.flush()
        assert (early.waiting(), lost) == (sent * 2, [])


def test_an_error_of_the_socket_itself_is_raised() -> None:
    sock = open_outwards()
    sock.close()
    with pytest.raises(OSError) as caught:
        sock.receive()
    assert caught.value.errno == errno.EBADF


# -- what travels together -----------------------------------------------------------------------

LONG = MAX_PAYLOAD_BYTES // 2  # two of them, and one byte, are the most that can be one

# Sizes in the order of sending; how many of them go as one, each time that more than one does.
RUNS = [
    pytest.param([100], [], id="one alone"),
    pytest.param([100] * 2, [2], id="two"),
    pytest.param([100] * MAX_SEGMENTS, [64], id="as many as may be one"),
    pytest.param([100] * (MAX_SEGMENTS + 1), [64], id="one more"),
    pytest.param([100] * (2 * MAX_SEGMENTS + 2), [64, 64, 2], id="several times as many"),
    pytest.param([1] * 10, [10], id="single bytes"),
    pytest.param([0] * 5, [], id="empty ones"),
    pytest.param([100, 100, 0, 0, 100, 100], [2, 2], id="empty ones between"),
    pytest.param([100] * 4 + [99], [4], id="a shorter one last"),
    pytest.param([100] * 4 + [101] * 4 + [100] * 4, [4, 4, 4], id="a change of size and back"),
    pytest.param([100, 101] * 5, [], id="two sizes in turn"),
    pytest.param([1023] * 64, [64], id="as many bytes as may be one, of 64"),
    pytest.param([1024] * 64, [63], id="bytes beyond what may be one, of 64"),
    pytest.param([LONG] * 3, [2], id="as many bytes as may be one, of two"),
    pytest.param([LONG + 1] * 3, [], id="bytes beyond what may be one, of two"),
    pytest.param([MAX_PAYLOAD_BYTES] * 3, [], id="the longest there are"),
]


@contextmanager
def counted(host: str) -> Iterator[tuple[DatagramSocket, list[int]]]:
    """A socket, and how many datagrams it gives to the kernel as one."""
    made = CountedSocket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with opened(lambda: DatagramSocket(made)) as sock:
        yield sock, made.together


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("sizes", "together"), RUNS)
def test_runs_of_one_size_go_together_and_arrive_one_by_one(
    host: str, sizes: list[int], together: list[int]
) -> None:
    sent = [noise(size_bytes, number) for number, size_bytes in enumerate(sizes)]
    with counted(host) as (sock, seen), udp_peer(host) as peer:
        lost = losses_of(sock)
        place = sock.place(peer.endpoint)
        queue(sock, [(data, place) for data in sent])
        assert seen == [], "nothing goes before the end of the turn"
        assert peer.waiting() == sent
        assert (seen, lost) == (together, [])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("sizes", "together"), RUNS)
def test_runs_towards_the_peer_of_connect_are_no_different(
    host: str, sizes: list[int], together: list[int]
) -> None:
    sent = [noise(size_bytes, number) for number, size_bytes in enumerate(sizes)]
    with counted(host) as (sock, seen), udp_peer(host) as peer:
        lost = losses_of(sock)
        sock.connect(peer.endpoint.sockaddr)
        queue(sock, [(data, None) for data in sent])
        assert (peer.waiting(), seen, lost) == (sent, together, [])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("in_a_row", [1, 3, 10])
@pytest.mark.parametrize("peers", [2, 3])
def test_places_in_turn_get_each_their_own_in_order(host: str, peers: int, in_a_row: int) -> None:
    with counted(host) as (sock, seen), ExitStack() as held:
        there = [held.enter_context(udp_peer(host)) for _ in range(peers)]
        places = [sock.place(peer.endpoint) for peer in there]
        sent: list[list[bytes]] = [[] for _ in there]
        for number, who in zip(range(60), cycle(range(peers)), strict=False):
            if number % 7 == 6:
                who = 0
            for _ in range(in_a_row if number < 12 else 1):
                data = noise(100 + number // 12, len(sent[who]))
                sent[who].append(data)
                sock.send(data, len(data), places[who])
        assert [peer.waiting() for peer in there] == sent
        if in_a_row == 10:
            assert seen[:6] == [10] * 6, "each place's run is one"


def test_a_place_of_ipv4_and_one_of_ipv6_share_a_turn() -> None:
    sent = [noise(100, number) for number in range(20)]
    with outwards() as sock, udp_peer() as four, udp_peer("::1") as six:
        for peer in (four, six):
            place = sock.place(peer.endpoint)
            queue(sock, [(data, place) for data in sent])
        assert (four.waiting(), six.waiting()) == (sent, sent)


def test_nobody_waits_for_more_than_the_limit() -> None:
    sent = [bytes((number % 256,)) * 10 for number in range(QUEUE_LIMIT + 10)]
    with counted("127.0.0.1") as (sock, seen), udp_peer() as peer:
        place = sock.place(peer.endpoint)
        queue(sock, [(data, place) for data in sent[:QUEUE_LIMIT]])
        assert seen == []
        queue(sock, [(data, place) for data in sent[QUEUE_LIMIT:]])
        assert seen == [MAX_SEGMENTS] * (QUEUE_LIMIT // MAX_SEGMENTS)
        assert peer.waiting() == sent
        assert seen[-1] == 10


def test_the_close_sends_what_waits_and_nothing_is_sent_after_it() -> None:
    sent = [bytes((number,)) * 10 for number in range(5)]
    with udp_peer() as peer:
        sock = open_outwards()
        lost = losses_of(sock)
        place = sock.place(peer.endpoint)
        queue(sock, [(data, place) for data in sent])
        sock.close()
        with at("127.0.0.1"):  # it may well have got the same descriptor
            assert (peer.waiting(), lost) == (sent, [])


def test_where_the_kernel_refuses_to_send_together_each_goes_alone() -> None:
    """A socket without checksums is one that it refuses for whatever the size (udp.c)."""
    with counted("127.0.0.1") as (sock, seen), udp_peer() as peer:
        lost = losses_of(sock)
        sock._socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        place = sock.place(peer.endpoint)

        def tries(size_bytes: int) -> list[int]:
            seen.clear()
            sent = [noise(size_bytes, number) for number in range(5)]
            queue(sock, [(data, place) for data in sent])
            assert (peer.waiting(), lost) == (sent, [])
            return seen

        assert tries(100) == [5]
        assert tries(100) == tries(101) == tries(1000) == [], "once is enough"
        assert tries(99) == [5], "shorter ones might pass"
        assert tries(99) == []


MTU_BYTES = 1300
LONGEST = [  # that need no fragments: less the headers of IP and UDP
    pytest.param(CLIENT, MTU_BYTES - 28, id="IPv4"),
    pytest.param(CLIENT_6, MTU_BYTES - 48, id="IPv6"),
]


def on_host(host: OtherHost, family: int) -> socket.socket:
    made = host.make_socket(family, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("address", "longest"), LONGEST)
def test_what_needs_fragments_goes_alone_and_the_rest_together(address: str, longest: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with two_hosts() as (here, there):
        here.configure(f"link set wire mtu {MTU_BYTES}\n")
        with (
            opened(lambda: DatagramSocket(on_host(here, family))) as sock,
            opened(lambda: DatagramSocket(on_host(there, family))) as target,
        ):
            lost = losses_of(sock)
            target._socket.bind((address, 0))
            place = sock.place(target.bound)

            def bursts(size_bytes: int) -> list[bool]:
                """Send ten; say of each whether more of its burst came behind it."""
                sent = [noise(size_bytes, number) for number in range(10)]
                queue(sock, [(data, place) for data in sent])
                sock.flush()
                more = []
                for data in sent:
                    assert received(target) == data
                    more.append(target.in_burst)
                return more

            as_one = [True] * 9 + [False]
            assert bursts(longest) == as_one
            assert sock._longest == MAX_DATAGRAM_BYTES
            assert bursts(longest + 1) == [False] * 10
            assert sock._longest == longest, "that is remembered"
            assert bursts(longest + 1) == bursts(8000) == [False] * 10
            assert bursts(longest) == as_one
            assert (sock._longest, lost) == (longest, [])


# -- bursts that come ----------------------------------------------------------------------------

# Bytes in all, and of each but the last. With its headers a burst stays below 64 KiB on loopback,
# or is taken apart by the kernel; IPv6 and Ethernet have 62 bytes of them.
MAX_BURST_BYTES = 65_535 - 62
BURSTS = [
    pytest.param(2, 1, id="two bytes"),
    pytest.param(64, 1, id="64 single bytes"),
    pytest.param(6400, 100, id="64 of 100"),
    pytest.param(6399, 100, id="the last one shorter"),
    pytest.param(6301, 100, id="the last one a single byte"),
    pytest.param(150, 100, id="two, the last one shorter"),
    pytest.param(100, 100, id="one of its very size"),
    pytest.param(50, 100, id="one that is shorter"),
    pytest.param(64 * 1023, 1023, id="64 of the longest"),
    pytest.param(MAX_BURST_BYTES, 1200, id="as many bytes as stay one"),
    pytest.param(65_473, 32_736, id="the last one a single byte behind long ones"),
    pytest.param(MAX_BURST_BYTES, MAX_BURST_BYTES - 1, id="a single byte behind a long one"),
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("burst_bytes", "size_bytes"), BURSTS)
def test_a_burst_is_taken_apart(host: str, burst_bytes: int, size_bytes: int) -> None:
    data = noise(burst_bytes)
    expected = [data[at : at + size_bytes] for at in range(0, burst_bytes, size_bytes)]
    with at(host) as sock, udp_peer(host) as peer:
        for _ in range(2):
            peer.send_burst(data, size_bytes, sock.bound)
        for number in range(2 * len(expected)):
            assert not sock.in_burst or number % len(expected)
            found = sock.receive()
            assert found is not None
            assert found[0] == expected[number % len(expected)]
            assert Endpoint.from_sockaddr(found[1]) == peer.endpoint
            assert sock.in_burst == (number % len(expected) < len(expected) - 1)
        assert sock.receive() is None


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("size_bytes", [1200, LONG])
def test_a_burst_that_the_kernel_takes_apart_is_none(host: str, size_bytes: int) -> None:
    data = noise(MAX_PAYLOAD_BYTES)
    with at(host) as sock, udp_peer(host) as peer:
        peer.send_burst(data, size_bytes, sock.bound)
        for start in range(0, len(data), size_bytes):
            assert received(sock) == data[start : start + size_bytes]
            assert not sock.in_burst
        assert sock.receive() is None


@pytest.mark.parametrize("host", HOSTS)
def test_bursts_and_single_ones_of_several_sources_stay_apart(host: str) -> None:
    with at(host) as sock, udp_peer(host) as one, udp_peer(host) as other:
        one.send_burst(b"aabbc", 2, sock.bound)
        other.send(b"single", sock.bound)
        other.send_burst(b"ddee", 2, sock.bound)
        one.send(b"", sock.bound)
        one.send(b"ff", sock.bound)
        other.send(b"", sock.bound)
        one.send_burst(b"gghh", 2, sock.bound)
        found = []
        while (taken := sock.receive()) is not None:
            found.append((taken[0], Endpoint.from_sockaddr(taken[1])))
    assert found == [
        *((data, one.endpoint) for data in (b"aa", b"bb", b"c")),
        *((data, other.endpoint) for data in (b"single", b"dd", b"ee")),
        *((data, one.endpoint) for data in (b"", b"ff")),
        (b"", other.endpoint),
        *((data, one.endpoint) for data in (b"gg", b"hh")),
    ]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("sizes", "together"), RUNS)
def test_what_one_socket_sends_another_receives_as_it_was(
    host: str, sizes: list[int], together: list[int]
) -> None:
    sent = [noise(size_bytes, number) for number, size_bytes in enumerate(sizes)]
    with counted(host) as (sock, seen), at(host) as target:
        place = sock.place(target.bound)
        queue(sock, [(data, place) for data in sent])
        sock.flush()
        assert [received(target) for _ in sent] == sent
        assert (target.receive(), seen) == (None, together)


# -- what the system does not take ---------------------------------------------------------------


def test_a_send_never_waits_and_a_full_buffer_is_a_loss() -> None:
    """A queue of Unix datagrams is the one that fills without a second machine."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    with far, opened(lambda: DatagramSocket(near)) as sock:
        lost = losses_of(sock)
        sent = 0
        while not lost:
            assert sent < 100_000
            sock.send(bytes(1000), 900)
            sock.flush()
            sent += 1
        assert lost == [("full", 900, None)]
        assert [len(far.recv(2000)) for _ in range(sent - 1)] == [1000] * (sent - 1)
        sock.send(b"there is room again", 19)
        sock.flush()
        assert far.recv(2000) == b"there is room again"
        assert len(lost) == 1


def test_a_full_buffer_costs_every_datagram_of_a_run_and_no_wait() -> None:
    """What waits for the Ethernet address of a neighbour that is not there is in our buffer."""
    with other_host() as host:
        host.configure(
            "link add wire type veth peer name far\n"
            f"addr add {PROXY}/24 dev wire\nlink set wire up\nlink set far up\n"
        )
        made = on_host(host, socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
        with opened(lambda: DatagramSocket(made)) as sock:
            lost = losses_of(sock)
            place = CLIENT, 9
            queue(sock, [(bytes(1000), place)] * 40)
            sock.flush()
            assert lost == [], "the first one of an empty buffer has room, whatever its size"
            queue(sock, [(bytes(1000), place)] * 40)
            sock.send(b"alone", 3, place)
            sock.flush()
            assert lost == [("full", 1000, place)] * 40 + [("full", 3, place)]
            assert sock._longest == MAX_DATAGRAM_BYTES, "that says nothing of the size"


def test_what_the_kernel_forbids_is_a_loss() -> None:
    """A broadcast, for which nobody has asked it."""
    with outwards() as sock, udp_peer() as peer:
        lost = losses_of(sock)
        allowed = sock.place(peer.endpoint)
        forbidden = sock.place(Endpoint(IPv4Address("255.255.255.255"), 9))
        sock.send(b"one", 3, allowed)
        for size in (11, 12, 13):
            sock.send(b"two", size, forbidden)
        sock.send(b"three", 5, allowed)
        assert (peer.waiting(), sock.receive()) == ([b"one", b"three"], None)
        assert lost == [("unreachable", size, forbidden) for size in (11, 12, 13)]


def test_what_is_too_long_for_the_way_is_a_loss_for_its_size() -> None:
    """Loopback carries 65 536 bytes, headers included, and IPv6 has 48 of them."""
    with at("::1") as sock, udp_peer("::1") as peer:
        sock._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
        lost = losses_of(sock)
        place = sock.place(peer.endpoint)
        fits, too_long = noise(65_536 - 48), noise(65_536 - 47)
        queue(sock, [(too_long, place), (fits, place)])
        sock.flush()
        assert (peer.waiting(), lost) == ([fits], [("size", len(too_long), place)])


def test_what_nobody_asks_of_is_lost_in_silence() -> None:
    with at("127.0.0.1") as sock, udp_peer() as peer:
        send_nothing_more(sock)
        send_to(sock, b"x", peer.endpoint)
        assert (peer.waiting(), sock.receive()) == ([], None)


# -- sockets for each purpose --------------------------------------------------------------------


def test_one_socket_reaches_both_families_from_one_port() -> None:
    with outwards() as sock, udp_peer() as four, udp_peer("::1") as six:
        send_to(sock, b"4", four.endpoint)
        send_to(sock, b"6", six.endpoint)
        data, seen_by_4 = four.receive()
        assert (data, seen_by_4.host) == (b"4", LOOPBACK)
        data, seen_by_6 = six.receive()
        assert (data, seen_by_6.host) == (b"6", LOOPBACK_6)
        assert seen_by_4.port == seen_by_6.port == sock.bound.port
        four.send(b"four", seen_by_4)
        six.send(b"six", seen_by_6)
        for peer in (four, six):
            found = sock.receive()
            assert found is not None
            assert Endpoint.from_sockaddr(found[1]) == peer.endpoint


def test_where_the_kernel_has_no_ipv6_there_is_a_socket_of_ipv4(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = udp._make

    def without_ipv6(family: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family)

    monkeypatch.setattr(udp, "_make", without_ipv6)
    with outwards() as sock, udp_peer() as peer:
        send_to(sock, b"x", peer.endpoint)
        assert peer.waiting() == [b"x"]
        lost = losses_of(sock)
        send_to(sock, b"x", Endpoint(LOOPBACK_6, 9))
        assert lost == [("unreachable", 1, ("::1", 9))]


def test_the_port_of_a_socket_outwards_is_known_before_it_sends() -> None:
    with outwards() as sock, udp_peer() as peer:
        port = sock.bound.port
        assert port != 0
        send_to(sock, b"x", peer.endpoint)
        assert peer.receive()[1].port == port


@pytest.mark.parametrize("host", HOSTS)
def test_a_socket_towards_a_peer_hears_nobody_else(host: str) -> None:
    with udp_peer(host) as peer, udp_peer(host) as stranger, towards(peer.endpoint) as sock:
        stranger.send(b"stranger", sock.bound)
        peer.send(b"peer", sock.bound)
        assert received(sock) == b"peer"
        assert sock.receive() is None


@pytest.mark.parametrize("host", HOSTS)
def test_after_connect_nobody_else_is_heard_but_what_came_before_is_there(host: str) -> None:
    with at(host) as sock, udp_peer(host) as client, udp_peer(host) as stranger:
        stranger.send(b"before", sock.bound)
        place = sock.connect(client.endpoint.sockaddr)
        stranger.send(b"after", sock.bound)
        client.send(b"client", sock.bound)
        assert received(sock) == b"before"
        found = sock.receive()
        assert found == (b"client", place), "what connect() gives is what receive() shows"
        assert sock.receive() is None


def test_a_port_towards_clients_is_no_one_elses() -> None:
    with at("127.0.0.1") as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            thief.bind(sock.bound.sockaddr)


def test_a_port_towards_clients_is_taken_from_the_range() -> None:
    with udp_peer() as free:
        port = free.endpoint.port
    with opened(lambda: open_towards_clients(LOOPBACK, range(port, port + 1))) as sock:
        assert sock.bound == Endpoint(LOOPBACK, port)
        with pytest.raises(DialError):
            open_towards_clients(LOOPBACK, range(port, port + 1))


def test_an_address_that_is_not_ours_cannot_be_listened_at() -> None:
    with pytest.raises(DialError):
        open_towards_clients(IPv4Address("192.0.2.1"), None)


def test_a_link_local_address_is_listened_at_on_its_interface_alone() -> None:
    with pytest.raises(DialError):
        open_towards_clients(IPv6Address("fe80::1"), None)


def test_a_duplicate_is_the_same_socket_for_another_owner() -> None:
    sock = open_towards_clients(LOOPBACK, None)
    where = sock.bound
    with opened(lambda: adopted(sock.duplicate())) as heir, udp_peer() as peer:
        sock.close()
        assert heir.bound == where
        peer.send(b"x", where)
        assert received(heir) == b"x"
        assert heir.receive() is None, "it never blocks"


def test_where_there_is_no_descriptor_left_it_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(family: int) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(udp, "_make", full)
    for attempt in (
        open_outwards,
        lambda: open_towards(Endpoint(LOOPBACK, 9)),
        lambda: open_towards_clients(LOOPBACK, None),
    ):
        with pytest.raises(DialError) as caught:
            attempt()
        assert caught.value.code == "limit"


# -- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [Endpoint(LOOPBACK, 53), Endpoint(LOOPBACK_6, 53), Endpoint("target.example", 53)],
    ids=str,
)
def test_a_head_names_its_target(endpoint: Endpoint) -> None:
    head = encode_address(endpoint)
    assert target_of(head) == endpoint
    for cut in range(len(head)):
        with pytest.raises(ProtocolError):
            target_of(head[:cut])


def test_an_impossible_head_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        target_of(b"\x02\0\0\0\0\0\0")


@pytest.mark.parametrize("name", [b"", b"\0", b"a b", b"\xff", b"fe80::1%lo", b"a" * 64])
def test_the_head_of_what_is_no_host_is_denied(name: bytes) -> None:
    with pytest.raises(DeniedError):
        target_of(b"\x03" + bytes((len(name),)) + name + b"\0\x35")


@pytest.mark.parametrize(
    ("name", "host"),
    [
        pytest.param(b"[127.0.0.1]", IPv4Address("127.0.0.1"), id="brackets"),
        pytest.param(b" 127.1 ", IPv4Address("127.0.0.1"), id="blanks"),
        pytest.param("BÜCHER.example".encode(), "xn--bcher-kva.example", id="beyond ASCII"),
    ],
)
def test_a_head_names_its_target_in_the_one_spelling(name: bytes, host: Address | str) -> None:
    head = b"\x03" + bytes((len(name),)) + name + b"\0\x35"
    assert target_of(head) == Endpoint(host, 53)
    assert head_of(target_of(head)) == encode_address(Endpoint(host, 53))
