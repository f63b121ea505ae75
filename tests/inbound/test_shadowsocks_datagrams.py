"""Datagrams of Shadowsocks clients: the twin's are understood, and none is relayed twice."""

import os

import pytest

from geproxy.crypto.aead import TAG_BYTES
from geproxy.crypto.methods import METHODS, Method
from geproxy.crypto.salts import SaltMaker
from geproxy.crypto.secret import Secret
from geproxy.errors import AuthenticationError, GeproxyError, ProtocolError, ReplayError
from geproxy.inbound.shadowsocks import ROLE, ShadowsocksDatagrams
from geproxy.outbound import shadowsocks as outbound
from geproxy.state.memory import ProcessMemory
from tests.support.shadowsocks_twin import Key, address, opened_datagram, sealed_datagram
from tests.vectors.rfc1928 import ADDRESSES

EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
HEAD = address("target.example", 53)


class Clients:
    """A listener's codec, and the twin as a client with its key."""

    def __init__(self, method: Method = METHODS["aes-128-gcm"]) -> None:
        self.secret = Secret(method, b"k" * method.key_bytes)
        self.key = Key(method.name, self.secret.key)
        self.memory = ProcessMemory(10_000)
        self.codec = ShadowsocksDatagrams(self.secret, self.memory)

    def sealed(self, plain: bytes, salt: bytes | None = None) -> bytes:
        return sealed_datagram(self.key, plain, salt)

    def check_dropped(self, datagram: bytes, kind: type[GeproxyError]) -> None:
        with pytest.raises(GeproxyError) as caught:
            self.codec.read(datagram)
        assert type(caught.value) is kind


@EVERY_METHOD
@pytest.mark.parametrize("head", [pytest.param(row[2], id=row[0]) for row in ADDRESSES])
@pytest.mark.parametrize("data", [b"", b"x", b"d" * 65_000], ids=["nothing", "a byte", "much"])
def test_a_datagram_is_head_and_data(method: Method, head: bytes, data: bytes) -> None:
    clients = Clients(method)
    assert clients.codec.read(clients.sealed(head + data)) == (head, data)


@EVERY_METHOD
@pytest.mark.parametrize("data", [b"", b"x", b"d" * 65_000], ids=["nothing", "a byte", "much"])
def test_the_client_opens_what_it_is_sent(method: Method, data: bytes) -> None:
    clients = Clients(method)
    datagram = clients.codec.write(HEAD, data)
    assert opened_datagram(clients.key, datagram) == HEAD + data
    assert len(datagram) == method.salt_bytes + len(HEAD + data) + TAG_BYTES


@EVERY_METHOD
def test_no_two_datagrams_have_one_salt(method: Method) -> None:
    clients = Clients(method)
    salts = {clients.codec.write(HEAD, b"the same")[: method.salt_bytes] for _ in range(500)}
    assert len(salts) == 500


# -- replays -------------------------------------------------------------------------------------


@EVERY_METHOD
def test_a_datagram_that_is_sent_again_is_a_replay(method: Method) -> None:
    clients = Clients(method)
    datagram = clients.sealed(HEAD + b"pay")
    assert clients.codec.read(datagram) == (HEAD, b"pay")
    for _ in range(3):
        clients.check_dropped(datagram, ReplayError)
    assert clients.codec.read(clients.sealed(HEAD + b"pay")) == (HEAD, b"pay")


def test_a_replay_is_found_out_by_another_worker_too() -> None:
    clients = Clients()
    datagram = clients.sealed(HEAD + b"pay")
    clients.codec.read(datagram)
    with pytest.raises(ReplayError):
        ShadowsocksDatagrams(clients.secret, clients.memory).read(datagram)


@EVERY_METHOD
def test_what_we_sent_ourselves_is_a_replay_and_costs_no_memory(method: Method) -> None:
    clients = Clients(method)
    datagram = clients.codec.write(HEAD, b"from the target")
    clients.check_dropped(datagram, ReplayError)
    with pytest.raises(ReplayError):
        # After a restart, with a memory that is empty.
        ShadowsocksDatagrams(clients.secret, ProcessMemory(1)).read(datagram)
    assert clients.memory.remember_once(datagram[: method.salt_bytes])


@EVERY_METHOD
def test_a_geproxy_at_the_other_end_is_no_reflection_of_ours(method: Method) -> None:
    """Both ends have one key: their roles tell them apart."""
    clients = Clients(method)
    salt = SaltMaker(clients.secret, outbound.ROLE).make()
    assert clients.codec.read(clients.sealed(HEAD + b"x", salt)) == (HEAD, b"x")
    salt = SaltMaker(clients.secret, ROLE).make()
    clients.check_dropped(clients.sealed(HEAD + b"x", salt), ReplayError)


@EVERY_METHOD
def test_a_salt_is_not_claimed_by_who_has_not_the_key(method: Method) -> None:
    """Or a stranger who is faster could keep a client's datagram from being taken."""
    clients = Clients(method)
    salt = os.urandom(method.salt_bytes)
    forged = sealed_datagram(Key(method.name, b"K" * method.key_bytes), HEAD + b"x", salt)
    clients.check_dropped(forged, AuthenticationError)
    assert clients.codec.read(clients.sealed(HEAD + b"x", salt)) == (HEAD, b"x")


# -- whatever else comes -------------------------------------------------------------------------


@EVERY_METHOD
def test_every_truncation_is_dropped_and_the_whole_is_then_taken(method: Method) -> None:
    clients = Clients(method)
    datagram = clients.sealed(HEAD + b"data")
    for cut in range(len(datagram)):
        kind = ProtocolError if cut < method.salt_bytes + TAG_BYTES else AuthenticationError
        clients.check_dropped(datagram[:cut], kind)
    assert clients.codec.read(datagram) == (HEAD, b"data")


@pytest.mark.parametrize("size_bytes", range(4))
def test_of_so_few_bytes_all_are_dropped(size_bytes: int) -> None:
    clients = Clients()
    for byte in range(256):
        clients.check_dropped(bytes((byte,)) * size_bytes, ProtocolError)


@EVERY_METHOD
def test_with_any_bit_changed_it_is_dropped(method: Method) -> None:
    clients = Clients(method)
    datagram = bytearray(clients.sealed(HEAD + b"data"))
    for bit in range(8 * len(datagram)):
        datagram[bit // 8] ^= 1 << bit % 8
        clients.check_dropped(bytes(datagram), AuthenticationError)
        datagram[bit // 8] ^= 1 << bit % 8
    assert clients.codec.read(bytes(datagram)) == (HEAD, b"data")


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x02" + bytes(6), id="an unknown ATYP"),
        pytest.param(b"\x03", id="a name without its length"),
        pytest.param(HEAD[:-1], id="an address that is cut off"),
        pytest.param(b"\x04" + bytes(17), id="an IPv6 address that is cut off"),
    ],
)
def test_what_is_authentic_and_no_message_is_a_protocol_error(plain: bytes) -> None:
    clients = Clients()
    clients.check_dropped(clients.sealed(plain), ProtocolError)


@EVERY_METHOD
def test_noise_of_any_length_is_dropped(method: Method) -> None:
    clients = Clients(method)
    for size_bytes in range(200):
        with pytest.raises((ProtocolError, AuthenticationError)):
            clients.codec.read(os.urandom(size_bytes))
