"""Sources of a flood are distinct, and none is a probe's; the sealed client is understood."""

import socket
import threading

from benchmarks import attack_client, attack_flood, attack_probe
from benchmarks.attack_plan import MANY, ROWS
from tests.support.shadowsocks_twin import Key


def test_a_flood_has_as_many_sources_as_it_says() -> None:
    assert len({attack_flood.source(number, MANY) for number in range(2000)}) == MANY
    assert len({attack_flood.source(number, 1) for number in range(2000)}) == 1


def test_probes_come_from_addresses_of_their_own() -> None:
    flooding = {attack_flood.source(number, MANY) for number in range(MANY)}
    probing = {attack_probe.source(number) for number in range(1000)}
    assert len(probing) == 1000
    assert not flooding & probing


def test_each_row_names_a_flood_and_a_probe() -> None:
    assert {row.flood for row in ROWS} <= {*attack_flood.KINDS, "bursts"}
    assert {row.probe for row in ROWS} <= {*attack_probe.KINDS, "fast"}


def test_the_sealed_clients_key_is_that_of_the_secret() -> None:
    wanted = Key.from_password("aes-256-gcm", attack_client.SECRET)
    assert attack_client._key() == wanted.key


def test_a_sealed_chunk_is_read_as_it_was_written() -> None:
    salt = bytes(attack_client.SALT_BYTES)
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(5)
        sender = threading.Thread(
            target=far.sendall, args=(attack_client.Sealed(salt).seal(b"chunk"),)
        )
        sender.start()
        assert attack_client.Sealed(salt).read(near) == b"chunk"
        sender.join()
