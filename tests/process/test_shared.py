"""The memories of sealed listeners: made once, found again by a reload, given back."""

import dataclasses
import os
from collections.abc import Iterator

import pytest

from geproxy.config.settings import Listen
from geproxy.config.url import parse_listen_url
from geproxy.crypto.methods import AES_128_GCM
from geproxy.crypto.secret import Secret
from geproxy.process.shared import Shared

SECRET = Secret(AES_128_GCM, bytes(16))


@pytest.fixture
def salts() -> Iterator[Shared]:
    before = len(os.listdir("/proc/self/fd"))
    salts = Shared()
    yield salts
    salts.close_others(())
    assert len(os.listdir("/proc/self/fd")) == before


def sealed(name: str) -> Listen:
    url = parse_listen_url("ss://aes-128-gcm:password@127.0.0.1:0")
    return Listen(name=name, url=url, secret=SECRET)


def plain(name: str) -> Listen:
    return Listen(name=name, url=parse_listen_url("socks5://127.0.0.1:0"))


def test_sealed_listeners_alone_have_memories_each_of_its_own(salts: Shared) -> None:
    salts.open([sealed("a"), plain("b"), sealed("c")])
    assert set(salts.salts) == set(salts.datagram_salts) == {"a", "c"}
    assert salts.salts["a"].remember_once(b"salt")
    assert not salts.salts["a"].remember_once(b"salt")
    assert salts.salts["c"].remember_once(b"salt")


def test_a_salt_of_a_stream_is_none_of_a_datagram(salts: Shared) -> None:
    """A flood of datagrams must not push the salts of connections out of the memory."""
    salts.open([sealed("a")])
    assert salts.salts["a"].remember_once(b"salt")
    assert salts.datagram_salts["a"].remember_once(b"salt")
    assert salts.salts["a"] is not salts.datagram_salts["a"]


def test_a_reload_finds_what_is_remembered(salts: Shared) -> None:
    salts.open([sealed("a")])
    salts.salts["a"].remember_once(b"one")
    salts.datagram_salts["a"].remember_once(b"two")
    salts.open([dataclasses.replace(sealed("a"), udp=False)])
    salts.close_others([sealed("a")])
    salts.open([sealed("a")])
    assert not salts.salts["a"].remember_once(b"one")
    assert not salts.datagram_salts["a"].remember_once(b"two")


def test_what_is_no_longer_named_is_given_back(salts: Shared) -> None:
    salts.open([sealed("a")])
    before = len(os.listdir("/proc/self/fd"))
    salts.open([sealed("a"), sealed("b")])
    assert len(os.listdir("/proc/self/fd")) > before
    salts.close_others([sealed("a"), plain("b")])
    assert set(salts.salts) == set(salts.datagram_salts) == {"a"}
    assert len(os.listdir("/proc/self/fd")) == before
