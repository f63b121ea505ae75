"""Both implementations give the documents' answers, and each other's."""

import importlib.util
import random
import sys
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.crypto import aead
from geproxy.crypto.aead import NONCE_BYTES, TAG_BYTES, Aead, BadTag, TwinAead, make_aead
from geproxy.crypto.methods import CHACHA20_POLY1305, METHODS, Method
from tests.vectors import shadowsocks_crypto as known

Make = Callable[[Method, bytes], Aead]

MAKERS = [pytest.param(make_aead, id="fast"), pytest.param(TwinAead, id="twin")]
EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
EVERY_MAKER = pytest.mark.parametrize("make", MAKERS)

NONCE = bytes(range(NONCE_BYTES))
CHUNK_BYTES = 0x3FFF

sizes = st.one_of(st.integers(0, 300), st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES]))


def key_for(method: Method) -> bytes:
    return bytes(range(method.key_bytes))


def seal(cipher: Aead, nonce: bytes, plain: bytes) -> bytes:
    sealed = bytearray(len(plain) + TAG_BYTES)
    assert cipher.encrypt_into(nonce, plain, None, memoryview(sealed)) == len(sealed)
    return bytes(sealed)


def opened(cipher: Aead, nonce: bytes, sealed: bytes) -> bytes:
    plain = bytearray(len(sealed) - TAG_BYTES)
    assert cipher.decrypt_into(nonce, sealed, None, memoryview(plain)) == len(plain)
    return bytes(plain)


def poly1305(one_time_key: bytes, associated: bytes, sealed: bytes) -> bytes:
    """The tag by RFC 8439 sections 2.5 and 2.8, in numbers of any size."""

    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 16)

    lengths = len(associated).to_bytes(8, "little") + len(sealed).to_bytes(8, "little")
    message = padded(associated) + padded(sealed) + lengths
    r = int.from_bytes(one_time_key[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for start in range(0, len(message), 16):
        block = int.from_bytes(message[start : start + 16] + b"\x01", "little")
        total = (total + block) * r % (2**130 - 5)
    s = int.from_bytes(one_time_key[16:], "little")
    return ((total + s) % 2**128).to_bytes(16, "little")


def test_the_fast_one_is_there_where_the_tests_run() -> None:
    assert aead.FAST, "cryptography is missing, or older than 47.0"
    for method in METHODS.values():
        assert not isinstance(make_aead(method, key_for(method)), TwinAead)


@EVERY_METHOD
def test_without_the_fast_one_the_twin_serves(
    monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    sealed = seal(make_aead(method, key_for(method)), NONCE, b"hello")
    monkeypatch.setattr(aead, "FAST", False)
    fallback = make_aead(method, key_for(method))
    assert isinstance(fallback, TwinAead)
    assert opened(fallback, NONCE, sealed) == b"hello"


def test_where_cryptography_is_not_installed_the_twin_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("aead_alone", aead.__file__)
    assert spec is not None and spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert not alone.FAST
    cipher = alone.make_aead(CHACHA20_POLY1305, bytes(32))
    sealed = seal(cipher, NONCE, b"hello")
    assert opened(cipher, NONCE, sealed) == b"hello"
    with pytest.raises(alone.BadTag):
        opened(cipher, bytes(NONCE_BYTES), sealed)


@EVERY_MAKER
@pytest.mark.parametrize(
    ("name", "key", "nonce", "plain", "sealed", "tag"),
    [pytest.param(*row[1:], id=f"test case {row[0]}") for row in known.GCM],
)
def test_gcm_gives_the_answers_of_its_specification(
    make: Make, name: str, key: str, nonce: str, plain: str, sealed: str, tag: str
) -> None:
    cipher = make(METHODS[name], bytes.fromhex(key))
    expected = bytes.fromhex(sealed + tag)
    assert seal(cipher, bytes.fromhex(nonce), bytes.fromhex(plain)) == expected
    assert opened(cipher, bytes.fromhex(nonce), expected) == bytes.fromhex(plain)


def test_the_reckoned_tag_is_that_of_rfc_8439_where_the_rfc_has_one() -> None:
    tag = poly1305(known.CHACHA_ONE_TIME_KEY, known.CHACHA_ASSOCIATED, known.CHACHA_SEALED)
    assert tag == known.CHACHA_TAG


@EVERY_MAKER
def test_chacha20_gives_the_answer_of_rfc_8439(make: Make) -> None:
    cipher = make(CHACHA20_POLY1305, known.CHACHA_KEY)
    expected = known.CHACHA_SEALED + poly1305(known.CHACHA_ONE_TIME_KEY, b"", known.CHACHA_SEALED)
    assert seal(cipher, known.CHACHA_NONCE, known.CHACHA_PLAIN) == expected
    assert opened(cipher, known.CHACHA_NONCE, expected) == known.CHACHA_PLAIN


@EVERY_METHOD
@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 2**32))
def test_the_fast_one_and_the_twin_are_each_other(
    method: Method, size_bytes: int, seed: int
) -> None:
    dice = random.Random(seed)
    key, nonce = dice.randbytes(method.key_bytes), dice.randbytes(NONCE_BYTES)
    plain = dice.randbytes(size_bytes)
    fast, twin = make_aead(method, key), TwinAead(method, key)
    sealed = seal(fast, nonce, plain)
    assert seal(twin, nonce, plain) == sealed
    assert opened(twin, nonce, sealed) == opened(fast, nonce, sealed) == plain


@EVERY_MAKER
@EVERY_METHOD
def test_any_changed_bit_is_noticed(make: Make, method: Method) -> None:
    cipher = make(method, key_for(method))
    sealed = bytearray(seal(cipher, NONCE, b"twenty bytes of text"))
    for place in range(len(sealed)):
        for bit in range(8):
            sealed[place] ^= 1 << bit
            with pytest.raises(BadTag):
                opened(cipher, NONCE, bytes(sealed))
            sealed[place] ^= 1 << bit
    assert opened(cipher, NONCE, bytes(sealed)) == b"twenty bytes of text"


@EVERY_MAKER
@EVERY_METHOD
@pytest.mark.parametrize("size_bytes", [0, 1, 15, 16, 17, 1200, 65_535])
def test_a_message_by_itself_is_sealed_as_one_that_is_written_into_a_buffer(
    make: Make, method: Method, size_bytes: int
) -> None:
    cipher, plain = make(method, key_for(method)), bytes(size_bytes)
    sealed = cipher.encrypt(NONCE, plain, None)
    assert sealed == seal(cipher, NONCE, plain)
    assert cipher.decrypt(NONCE, sealed, None) == plain
    for place in (0, len(sealed) // 2, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(BadTag):
            cipher.decrypt(NONCE, bytes(changed), None)
    with pytest.raises(BadTag):
        cipher.decrypt(bytes(NONCE_BYTES), sealed, None)


@EVERY_MAKER
@EVERY_METHOD
def test_another_nonce_opens_nothing(make: Make, method: Method) -> None:
    cipher = make(method, key_for(method))
    sealed = seal(cipher, NONCE, b"hello")
    with pytest.raises(BadTag):
        opened(cipher, bytes(NONCE_BYTES), sealed)


@EVERY_MAKER
@EVERY_METHOD
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_sealed_and_opened_in_the_middle_of_another(
    make: Make, method: Method, kind: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    cipher, plain = make(method, key_for(method)), b"hello"
    around = bytearray(b"." * 40)
    end = 3 + len(plain) + TAG_BYTES
    cipher.encrypt_into(NONCE, kind(plain), None, memoryview(around)[3:end])
    assert (around[:3], around[end:]) == (b"...", b"." * (40 - end))
    sealed = bytes(around[3:end])
    around = bytearray(b"." * 40)
    cipher.decrypt_into(NONCE, kind(sealed), None, memoryview(around)[7:12])
    assert around == b"......." + plain + b"." * 28
