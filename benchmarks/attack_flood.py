"""One flood, in a process of its own: python -m benchmarks.attack_flood KIND RATE MOST SOURCES.

It lasts until its standard input ends, and then prints what it did as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import sys
import time
from collections.abc import Callable

import gevent
from gevent import socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.socket import wait_read

from benchmarks import attack_client as client

UDP_SEGMENT = 103  # linux/udp.h
SOL_UDP = 17

BURST, DATAGRAM_BYTES = 64, 60  # a sendmsg's datagrams: the kernel's most, and little in each
TURN_SENDS = 32  # how many bursts leave between two looks at standard input
TICK_SECONDS = 0.002
SLOW_BYTES = 1024  # a second
UNREAD_BYTES = 4096  # SO_RCVBUF: all hosts here share one tcp_mem, and ours must not fill it
NICE = 10  # the flood takes what the proxy and the probes leave: the proxy is measured, not us


def source(number: int, sources: int) -> str:
    """The address of flood source *number*, below 10.77.0.0/17."""
    return f"10.77.{number % sources // 250 + 1}.{number % sources % 250 + 1}"


class Count:
    """What the flood has done."""

    def __init__(self) -> None:
        self.begun = self.held = self.most = 0

    def hold(self, sock: socket.socket, wait: Callable[[], object]) -> None:
        """Keep *sock* until *wait* returns."""
        self.held += 1
        self.most = max(self.most, self.held)
        try:
            sock.settimeout(None)
            wait()
        finally:
            self.held -= 1


def one_byte(count: Count, own: str) -> None:
    with client.dial(own, client.SEALED_PORT) as sock:
        sock.sendall(b"x")
        sock.shutdown(socket.SHUT_WR)
        count.hold(sock, lambda: sock.recv(1))


def held(count: Count, own: str) -> None:
    with client.dial(own, client.SOCKS_PORT) as sock:
        client.greet(sock)
        client.ask(sock, client.CONNECT, client.ECHO_PORT)
        count.hold(sock, lambda: sock.recv(1))


def associated(count: Count, own: str) -> None:
    with client.dial(own, client.SOCKS_PORT) as sock:
        client.greet(sock)
        relay = client.ask(sock, client.UDP_ASSOCIATE, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind((own, 0))
            datagrams.sendto(bytes(3) + client.address(client.TARGET, client.ECHO_PORT), relay)
            count.hold(sock, lambda: sock.recv(1))


def unread(count: Count, own: str) -> None:
    with client.dial(own, client.SOCKS_PORT, UNREAD_BYTES) as sock:
        client.greet(sock)
        client.ask(sock, client.CONNECT, client.BULK_PORT)
        count.hold(sock, Event().wait)


def slow(count: Count, own: str) -> None:
    with client.dial(own, client.SOCKS_PORT, UNREAD_BYTES) as sock:
        client.greet(sock)
        client.ask(sock, client.CONNECT, client.BULK_PORT)

        def trickle() -> None:
            while sock.recv(SLOW_BYTES):
                gevent.sleep(1)

        count.hold(sock, trickle)


def wrong(count: Count, own: str) -> None:
    with client.dial(own, client.USERS_PORT) as sock:
        client.greet(sock, f"user{count.begun % 100}", f"wrong{count.begun}")


KINDS = {each.__name__: each for each in (one_byte, held, associated, unread, slow, wrong)}


def _one(kind: Callable[[Count, str], None], count: Count, own: str) -> None:
    try:
        kind(count, own)
    except (OSError, EOFError):
        pass  # refused, ended or too slow: what the flood has earned


def flood(kind: str, rate: int, most: int, sources: int, ended: Event) -> Count:
    """Begin *rate* a second, and hold *most* at once, until *ended* is."""
    count, pool, began = Count(), Pool(most), time.monotonic()
    skipped = 0
    while not ended.is_set():
        due = int((time.monotonic() - began) * rate) - skipped
        while count.begun < due:
            if pool.full():
                skipped += due - count.begun
                break
            pool.spawn(_one, KINDS[kind], count, source(count.begun, sources))
            count.begun += 1
        gevent.sleep(TICK_SECONDS)
    return count


def bursts(ended: Event) -> Count:
    """Send bursts without a key from one port, as fast as they go."""
    count = Count()
    segment = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", DATAGRAM_BYTES))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source(0, 1), 0))
        sock.connect((client.PROXY, client.SEALED_PORT))
        while not ended.is_set():
            burst = os.urandom(BURST * DATAGRAM_BYTES)
            for _ in itertools.repeat(None, TURN_SENDS):
                sock.sendmsg([burst], segment)
            count.begun += BURST * TURN_SENDS
            gevent.sleep(0)
    return count


def main() -> None:
    """Flood until nobody holds the other end of standard input."""
    kind, rate, most, sources = sys.argv[1], *map(int, sys.argv[2:])
    os.nice(NICE)
    began = time.monotonic()
    ended = Event()
    gevent.spawn(wait_read, sys.stdin.fileno()).link(lambda _: ended.set())
    count = bursts(ended) if kind == "bursts" else flood(kind, rate, most, sources, ended)
    seconds = time.monotonic() - began
    print(json.dumps({"rate": count.begun / seconds, "held": count.most}), flush=True)
    os._exit(0)  # thousands of greenlets have nothing to say any more


if __name__ == "__main__":
    main()
