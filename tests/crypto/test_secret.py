"""A secret opens what it sealed, and shows itself to nobody."""

import pytest

from geproxy.crypto.aead import NONCE_BYTES, TAG_BYTES, BadTag
from geproxy.crypto.methods import AES_256_GCM, METHODS, Method
from geproxy.crypto.secret import Secret

NONCE = bytes(NONCE_BYTES)


def seal(secret: Secret, salt: bytes, plain: bytes) -> bytes:
    sealed = bytearray(len(plain) + TAG_BYTES)
    secret.subkey_aead(salt).encrypt_into(NONCE, plain, None, memoryview(sealed))
    return bytes(sealed)


def opened(secret: Secret, salt: bytes, sealed: bytes) -> bytes:
    plain = bytearray(len(sealed) - TAG_BYTES)
    secret.subkey_aead(salt).decrypt_into(NONCE, sealed, None, memoryview(plain))
    return bytes(plain)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_same_key_and_salt_open_what_they_sealed(method: Method) -> None:
    secret = Secret(method, b"k" * method.key_bytes)
    salt = b"s" * method.salt_bytes
    assert opened(secret, salt, seal(secret, salt, b"hello")) == b"hello"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_another_key_or_another_salt_opens_nothing(method: Method) -> None:
    secret = Secret(method, b"k" * method.key_bytes)
    salt = b"s" * method.salt_bytes
    sealed = seal(secret, salt, b"hello")
    with pytest.raises(BadTag):
        opened(Secret(method, b"K" * method.key_bytes), salt, sealed)
    with pytest.raises(BadTag):
        opened(secret, b"S" * method.salt_bytes, sealed)


def test_a_key_never_shows_in_what_python_prints() -> None:
    secret = Secret(AES_256_GCM, b"very secret key, of thirty-two b")
    for text in (repr(secret), str(secret), f"{secret}"):
        assert "aes-256-gcm" in text
        assert "secret key" not in text
