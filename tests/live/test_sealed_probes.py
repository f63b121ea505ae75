"""Whoever has no key learns nothing from a sealed listener: no byte, no reset, one time for all."""

from __future__ import annotations

import math
import os
import random
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.crowd import End, send_at_once
from tests.support.proxy import (
    SEALED_PASSWORD,
    Proxy,
    configuration,
    running,
    ss_url,
)
from tests.support.shadowsocks_twin import METHODS, Key, Sealed, address, flight
from tests.support.targets import Target, echo, refused_port, silent, target

pytestmark = pytest.mark.slow

HANDSHAKE_SECONDS = 2.0
EARLY_SECONDS = 0.01  # what two clocks may differ by
LONGEST_RANDOM = 255  # no probe longer than 221 bytes has been reported
REPEATS = 50  # of the kinds that have no lengths of their own
WORDS = b"the first words of a client"
WRONG_ATYP = b"\x02" + bytes(6)


@dataclass(frozen=True)
class Probe:
    """What a stranger sends, and what kind of thing it is."""

    kind: str
    data: bytes


@pytest.fixture(scope="module")
def there() -> Iterator[Target]:
    with target(silent) as running_target:
        yield running_target


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A listener for each cipher."""
    listen = {method: {"url": ss_url(method, ("127.0.0.1", 0))} for method in METHODS}
    config = configuration(listen, limits={"handshake_seconds": HANDSHAKE_SECONDS})
    with running(tmp_path_factory.mktemp("proxy"), config) as served:
        yield served


def probes(key: Key, there: Target, answer: bytes, used: bytes) -> list[Probe]:
    """Every kind of probe; *answer* is what a client once received, *used* what it had sent."""
    wanted = address(there.host, there.port)
    found = [Probe("random", os.urandom(size)) for size in range(LONGEST_RANDOM + 1)]
    for kind, pieces in [
        ("one chunk", [wanted + WORDS]),
        ("two chunks", [wanted[:3], wanted[3:] + WORDS]),  # the first one is sound by itself
    ]:
        size = len(flight(key, *pieces))
        for place in range(size):
            found.append(Probe(f"{kind}, cut", flight(key, *pieces)[:place]))
            changed = bytearray(flight(key, *pieces))
            changed[place] ^= 1 << random.randrange(8)
            found.append(Probe(f"{kind}, changed", bytes(changed)))
    found += [Probe("replayed", used)] * REPEATS
    found += [Probe("reflected", answer)] * REPEATS
    return found


def served_once(listener: tuple[str, int], key: Key, there: Target) -> tuple[bytes, bytes]:
    """Be a client, whose answer would be a request if it were taken for one.

    Returns what was sent, and what was received.
    """
    with target(lambda sock: sock.sendall(address(there.host, there.port) + WORDS)) as speaking:
        used = flight(key, address(speaking.host, speaking.port))
        (end,) = send_at_once(listener, [used])
    assert end.data
    return used, end.data


@pytest.mark.parametrize("half_close", [False, True], ids=["that waits", "that half-closes"])
@pytest.mark.parametrize("method", METHODS)
def test_every_probe_is_read_in_silence_until_the_deadline(
    proxy: Proxy, there: Target, method: str, half_close: bool
) -> None:
    key = Key.from_password(method, SEALED_PASSWORD)
    listener = proxy.addresses(method)[0]
    used, answer = served_once(listener, key, there)
    sent = probes(key, there, answer, used)
    random.shuffle(sent)
    ends = send_at_once(listener, [probe.data for probe in sent], half_close=half_close)
    for probe, end in zip(sent, ends, strict=True):
        told = f"{probe.kind}: {probe.data.hex()} gave {end}"
        assert end.data == b"", told
        assert not end.reset, told
        assert end.seconds >= HANDSHAKE_SECONDS - EARLY_SECONDS, told
    check_times_tell_nothing(sent, ends)
    assert there.seen == []
    assert SEALED_PASSWORD not in proxy.log


def check_times_tell_nothing(sent: list[Probe], ends: list[End]) -> None:
    """No kind of probe is to be known by when it is closed.

    They were sent in random order, so however loaded the machine is, each kind's times are a random
    sample of all. The two-sample test of Kolmogorov and Smirnov says otherwise by accident once
    in a million.
    """
    surprise = math.sqrt(-math.log(1e-6 / 2) / 2)
    for kind in {probe.kind for probe in sent}:
        times = {True: [0.0][:0], False: [0.0][:0]}
        for probe, end in zip(sent, ends, strict=True):
            times[probe.kind == kind].append(end.seconds)
        own, others = sorted(times[True]), sorted(times[False])
        limit = surprise * math.sqrt((len(own) + len(others)) / (len(own) * len(others)))
        assert distance(own, others) < limit, f"{kind}: {own[:3]}... against {others[:3]}..."


def distance(one: list[float], other: list[float]) -> float:
    """How far the distributions of two sorted samples are apart, from 0 to 1."""
    gap = 0.0
    i = j = 0
    while i < len(one) and j < len(other):
        lower = min(one[i], other[j])
        while i < len(one) and one[i] <= lower:
            i += 1
        while j < len(other) and other[j] <= lower:
            j += 1
        gap = max(gap, abs(i / len(one) - j / len(other)))
    return gap


@pytest.mark.parametrize("method", METHODS)
def test_who_has_another_key_is_a_stranger(proxy: Proxy, there: Target, method: str) -> None:
    since = proxy.mark()
    key = Key.from_password(method, "another password")
    sent = flight(key, address(there.host, there.port) + WORDS)
    (end,) = send_at_once(proxy.addresses(method)[0], [sent])
    assert (end.data, end.reset) == (b"", False)
    assert end.seconds >= HANDSHAKE_SECONDS - EARLY_SECONDS
    proxy.wait_for("auth.fail", since=since, listen=method)
    proxy.wait_for("session.end", since=since, listen=method, code="auth")
    assert there.seen == []


# -- those who have the key --------------------------------------------------------------------


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that would wait longer for a handshake than any test here does for an end."""
    listen = {
        "local": {"url": ss_url(METHODS[0], ("127.0.0.1", 0))},
        "anywhere": {"url": ss_url(METHODS[0], ("0.0.0.0", 0))},
    }
    config = configuration(listen, limits={"handshake_seconds": 600})
    with running(tmp_path_factory.mktemp("patient"), config) as served:
        yield served


def at(proxy: Proxy, listen: str) -> tuple[str, int]:
    return "127.0.0.1", proxy.addresses(listen)[0][1]


KEY = Key.from_password(METHODS[0], SEALED_PASSWORD)


@pytest.mark.parametrize(
    ("host", "port", "code"),
    [
        pytest.param("127.0.0.1", None, "refused", id="nobody listens"),
        pytest.param("name.invalid", 80, "resolve", id="an unknown name"),
        pytest.param("127.0.0.1", 25, "denied", id="a port that is closed to all"),
    ],
)
def test_a_holder_of_the_key_is_told_at_once_by_the_end_that_there_is_no_way(
    patient: Proxy, host: str, port: int | None, code: str
) -> None:
    since = patient.mark()
    sent = flight(KEY, address(host, port or refused_port()) + WORDS)
    (end,) = send_at_once(at(patient, "local"), [sent])
    assert (end.data, end.reset) == (b"", False)
    patient.wait_for("session.end", since=since, listen="local", code=code)
    assert not patient.events("auth.fail", since)


PRIVATE = ["127.0.0.1", "localhost", "127.1", "0x7f000001", "::1", "10.0.0.1"]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_client_from_elsewhere_reaches_nothing_private(patient: Proxy, host: str) -> None:
    since = patient.mark()
    with target(silent) as there:
        with Sealed.dial(at(patient, "anywhere"), KEY, host, there.port) as client:
            assert client.receive_all() == b""
            ours = "{}:{}".format(*client.address)
        patient.wait_for("session.end", since=since, client=ours, code="denied")
        assert there.seen == []


def test_a_private_address_that_is_no_name_is_refused_too(patient: Proxy) -> None:
    since = patient.mark()
    with target(silent) as there:
        with Sealed.dial(at(patient, "anywhere"), KEY, there.host, there.port) as client:
            assert client.receive_all() == b""
        patient.wait_for("session.end", since=since, listen="anywhere", code="denied")
        assert there.seen == []


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param([KEY.salt_bytes], id="the salt by itself"),
        pytest.param([KEY.salt_bytes, KEY.salt_bytes + 18 + 1 + 16], id="every chunk by itself"),
        pytest.param(range(200), id="every byte by itself"),
    ],
)
def test_a_client_may_take_its_time_and_cut_its_bytes_anywhere(
    patient: Proxy, cuts: Iterable[int]
) -> None:
    """go-shadowsocks2 sends the salt alone, and the address in a chunk of its own."""
    with target(echo) as there:
        wanted = address(there.host, there.port)
        first = flight(KEY, wanted[:1], wanted[1:], WORDS)
        with socket.create_connection(at(patient, "local"), 20) as sock:
            client = Sealed(sock, KEY)
            start = 0
            for cut in [*cuts, len(first)]:
                sock.sendall(first[start:cut])
                start = cut
                time.sleep(0.002)  # the pace of the bytes, so that they are read apart
            assert client.receive(len(WORDS)) == WORDS
