"""What others get meanwhile: python -m benchmarks.attack_probe KIND RATE SECONDS FIRST.

Probe number N, from FIRST on, comes from an address of its own. The result is JSON: the times from
connect to the first echo in seconds, and how many failed; or the bytes a second of a download.
"""

from __future__ import annotations

import json
import sys
import time

import gevent
from cryptography.exceptions import InvalidTag
from gevent import socket

from benchmarks import attack_client as client

PAYLOAD = bytes(range(256)) * 4
SOURCES = 10_000  # more than probes of a run: who comes twice may have a place in a cache
READ_BYTES = 1 << 18
ALL_SECONDS = 10.0  # a probe that takes longer has failed


def source(number: int) -> str:
    """The address of probe *number*, in the upper half of 10.77.0.0/16: no flood's."""
    return f"10.77.{128 + number % SOURCES // 250}.{number % 250 + 1}"


def _echo(sock: socket.socket) -> None:
    client.ask(sock, client.CONNECT, client.ECHO_PORT)
    sock.sendall(PAYLOAD)
    if client.read(sock, len(PAYLOAD)) != PAYLOAD:
        raise EOFError


def socks(number: int) -> None:
    with client.dial(source(number), client.SOCKS_PORT) as sock:
        client.greet(sock)
        _echo(sock)


def login(number: int) -> None:
    with client.dial(source(number), client.USERS_PORT) as sock:
        sock.settimeout(ALL_SECONDS)
        if not client.greet(sock, f"user{number}", f"right{number}"):
            raise EOFError
        _echo(sock)


def sealed(number: int) -> None:
    with client.dial(source(number), client.SEALED_PORT) as sock:
        if client.sealed_echo(sock, PAYLOAD) != PAYLOAD:
            raise EOFError


def udp(number: int) -> None:
    with (
        client.dial(source(number), client.SOCKS_PORT) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        client.greet(sock)
        relay = client.ask(sock, client.UDP_ASSOCIATE, 0)
        datagrams.bind((source(number), 0))
        datagrams.settimeout(client.CONNECT_SECONDS)
        header = bytes(3) + client.address(client.TARGET, client.ECHO_PORT)
        datagrams.sendto(header + PAYLOAD, relay)
        if not datagrams.recv(2048).endswith(PAYLOAD):
            raise EOFError


KINDS = {each.__name__: each for each in (socks, login, sealed, udp)}


def probes(kind: str, rate: int, seconds: float, first: int) -> tuple[list[float], int]:
    """Begin *rate* probes a second, whether or not earlier ones are done; times and failures."""
    times: list[float] = []

    def one(number: int) -> None:
        began = time.monotonic()
        try:
            with gevent.Timeout(ALL_SECONDS, EOFError):
                KINDS[kind](number)
        except (OSError, EOFError, InvalidTag):
            return
        times.append(time.monotonic() - began)

    running, began = [], time.monotonic()
    for number in range(int(rate * seconds)):
        gevent.sleep(max(0.0, began + number / rate - time.monotonic()))
        running.append(gevent.spawn(one, first + number))
    gevent.joinall(running)
    return times, len(running) - len(times)


def fast(seconds: float, first: int) -> float:
    """Bytes a second of one download."""
    with client.dial(source(first), client.SOCKS_PORT) as sock:
        client.greet(sock)
        client.ask(sock, client.CONNECT, client.BULK_PORT)
        buffer, count, began = bytearray(READ_BYTES), 0, time.monotonic()
        while time.monotonic() < began + seconds:
            more = sock.recv_into(buffer)
            if not more:
                break
            count += more
        return count / (time.monotonic() - began)


def main() -> None:
    """Probe, and print what was found."""
    kind, rate, seconds, first = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    if kind == "fast":
        try:
            print(json.dumps({"rate": fast(seconds, first)}))
        except (OSError, EOFError):
            print(json.dumps({"rate": 0.0}))
        return
    times, failed = probes(kind, rate, seconds, first)
    print(json.dumps({"times": times, "failed": failed}))


if __name__ == "__main__":
    main()
