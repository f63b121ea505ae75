"""Sealed datagrams: the twin's bytes, and nothing opens but what was sealed with the key."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.crypto.aead import TAG_BYTES
from geproxy.crypto.methods import METHODS, Method
from geproxy.crypto.secret import Secret
from geproxy.errors import AuthenticationError, ProtocolError
from geproxy.wire.sealed_datagram import open_datagram, seal_datagram
from tests.support.shadowsocks_twin import Key, opened_datagram, sealed_datagram

EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
HEAD = b"\x01\x7f\0\0\x01\0\x35"
SIZES = [0, 1, 512, 1200, 8191, 8192, 8193, 16384, 65_507 - 7 - 32 - TAG_BYTES]


def secret_for(method: Method) -> Secret:
    return Secret(method, bytes(range(method.key_bytes)))


def twin_of(secret: Secret) -> Key:
    return Key(secret.method.name, secret.key)


def salt_for(method: Method, first: int = 0) -> bytes:
    return bytes((first + number) % 256 for number in range(method.salt_bytes))


@EVERY_METHOD
@pytest.mark.parametrize("size_bytes", SIZES)
def test_it_is_sealed_as_the_twin_seals_it(method: Method, size_bytes: int) -> None:
    secret, salt, plain = secret_for(method), salt_for(method), HEAD + os.urandom(size_bytes)
    sealed = seal_datagram(secret, salt, plain)
    assert sealed == sealed_datagram(twin_of(secret), plain, salt)
    assert len(sealed) == method.salt_bytes + len(plain) + TAG_BYTES
    assert opened_datagram(twin_of(secret), sealed) == plain


@EVERY_METHOD
@pytest.mark.parametrize("size_bytes", SIZES)
def test_it_opens_what_the_twin_has_sealed(method: Method, size_bytes: int) -> None:
    secret, plain = secret_for(method), HEAD + os.urandom(size_bytes)
    sealed = sealed_datagram(twin_of(secret), plain)
    assert open_datagram(secret, sealed) == (sealed[: method.salt_bytes], plain)


@EVERY_METHOD
def test_the_same_words_under_another_salt_look_like_others(method: Method) -> None:
    secret = secret_for(method)
    sealed = [seal_datagram(secret, salt_for(method, first), HEAD + bytes(32)) for first in (0, 1)]
    first, second = (datagram[method.salt_bytes :] for datagram in sealed)
    blocks = range(0, 32, 8)
    assert all(first[at : at + 8] != second[at : at + 8] for at in blocks)


@EVERY_METHOD
def test_every_truncation_is_refused_and_says_how(method: Method) -> None:
    secret = secret_for(method)
    sealed = seal_datagram(secret, salt_for(method), HEAD + b"data")
    shortest = method.salt_bytes + TAG_BYTES
    for cut in range(len(sealed)):
        with pytest.raises(ProtocolError if cut < shortest else AuthenticationError):
            open_datagram(secret, sealed[:cut])


@EVERY_METHOD
def test_every_bit_counts(method: Method) -> None:
    secret = secret_for(method)
    sealed = bytearray(seal_datagram(secret, salt_for(method), HEAD + b"data"))
    for bit in range(8 * len(sealed)):
        sealed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AuthenticationError):
            open_datagram(secret, bytes(sealed))
        sealed[bit // 8] ^= 1 << bit % 8
    assert open_datagram(secret, bytes(sealed))[1] == HEAD + b"data"


@EVERY_METHOD
@pytest.mark.parametrize("tail", [b"\0", b"tail"])
def test_what_is_longer_than_it_was_sealed_is_refused(method: Method, tail: bytes) -> None:
    secret = secret_for(method)
    with pytest.raises(AuthenticationError):
        open_datagram(secret, seal_datagram(secret, salt_for(method), HEAD) + tail)


@EVERY_METHOD
def test_another_key_opens_nothing(method: Method) -> None:
    sealed = seal_datagram(Secret(method, b"K" * method.key_bytes), salt_for(method), HEAD)
    with pytest.raises(AuthenticationError):
        open_datagram(secret_for(method), sealed)


@pytest.mark.parametrize("name", METHODS)
def test_no_other_cipher_opens_it(name: str) -> None:
    for other, method in METHODS.items():
        if other == name or method.key_bytes != METHODS[name].key_bytes:
            continue
        sealed = seal_datagram(secret_for(METHODS[name]), salt_for(METHODS[name]), HEAD)
        with pytest.raises(AuthenticationError):
            open_datagram(secret_for(method), sealed)


@EVERY_METHOD
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_of_two_errors(method: Method, data: bytes) -> None:
    with pytest.raises((ProtocolError, AuthenticationError)):
        open_datagram(secret_for(method), data)
