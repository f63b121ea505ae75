"""Keys: OpenSSL's from a password, RFC 5869's from a salt."""

import importlib.util
import sys
from collections.abc import Callable

import pytest
from Crypto.Hash import SHA1
from Crypto.Protocol.KDF import HKDF as OTHER_HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.crypto import kdf
from geproxy.crypto.kdf import key_from_password, session_subkey
from tests.vectors.shadowsocks_crypto import HKDF_SHA1, PASSWORD_KEYS

Derive = Callable[[bytes, bytes, bytes, int], bytes]

EVERY_HKDF = pytest.mark.parametrize(
    "hkdf_sha1",
    [
        pytest.param(kdf._hkdf_sha1_fast, id="fast"),
        pytest.param(kdf._hkdf_sha1_twin, id="twin"),
    ],
)


@pytest.mark.parametrize("key_bytes", [16, 32, 48])
@pytest.mark.parametrize(
    ("password", "chain"), [pytest.param(*row[1:], id=row[0]) for row in PASSWORD_KEYS]
)
def test_a_password_gives_openssls_key(password: bytes, chain: str, key_bytes: int) -> None:
    assert key_from_password(password, key_bytes) == bytes.fromhex(chain)[:key_bytes]


def test_a_password_is_octets_and_not_text() -> None:
    assert key_from_password(b"\xff\xfe\x00", 32) != key_from_password(b"\xff\xfe", 32)


@EVERY_HKDF
@pytest.mark.parametrize(
    ("key", "salt", "info", "output"), [pytest.param(*row[1:], id=row[0]) for row in HKDF_SHA1]
)
def test_hkdf_gives_the_answers_of_rfc_5869(
    hkdf_sha1: Derive, key: bytes, salt: bytes, info: bytes, output: str
) -> None:
    expected = bytes.fromhex(output)
    assert hkdf_sha1(key, salt, info, len(expected)) == expected


@EVERY_HKDF
@pytest.mark.parametrize("size_bytes", [0, 1, 19, 20, 21, 40, 41, 255 * 20])
def test_hkdf_gives_as_much_as_was_asked_for(hkdf_sha1: Derive, size_bytes: int) -> None:
    expected = OTHER_HKDF(b"key", size_bytes or 1, b"salt", SHA1, context=b"info")
    assert hkdf_sha1(b"key", b"salt", b"info", size_bytes) == expected[:size_bytes]


def test_the_fast_one_is_used_where_there_is_one_and_the_twin_where_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kdf.hkdf_sha1 is kdf._hkdf_sha1_fast
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("kdf_alone", kdf.__file__)
    assert spec is not None and spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert alone.hkdf_sha1 is alone._hkdf_sha1_twin
    salt = bytes(range(32))
    assert alone.session_subkey(b"k" * 32, salt) == session_subkey(b"k" * 32, salt)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([16, 32]), st.data())
def test_a_subkey_is_what_another_library_makes_of_sip004(
    key_bytes: int, data: st.DataObject
) -> None:
    key = data.draw(st.binary(min_size=key_bytes, max_size=key_bytes))
    salt = data.draw(st.binary(min_size=key_bytes, max_size=key_bytes))
    expected = OTHER_HKDF(key, key_bytes, salt, SHA1, context=b"ss-subkey")
    assert session_subkey(key, salt) == expected
