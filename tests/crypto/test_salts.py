"""Salts that their maker knows again, and nobody else."""

import os
from hashlib import blake2b

import pytest

from geproxy.crypto.methods import METHODS, Method
from geproxy.crypto.salts import MARK_BYTES, SaltMaker
from geproxy.crypto.secret import Secret

EVERY_METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
ROLE = b"a role"
MANY = 200


def secret_for(method: Method, seed: bytes = b"k") -> Secret:
    return Secret(method, seed * method.key_bytes)


@EVERY_METHOD
def test_a_salt_is_as_long_as_the_document_wants_and_never_the_same(method: Method) -> None:
    maker = SaltMaker(secret_for(method), ROLE)
    salts = [maker.make() for _ in range(MANY)]
    assert {len(salt) for salt in salts} == {method.salt_bytes}
    assert len({salt[:-MARK_BYTES] for salt in salts}) == MANY, "before the mark, too"


@EVERY_METHOD
def test_the_maker_knows_its_own_and_so_does_another_of_its_role(method: Method) -> None:
    maker, other = (SaltMaker(secret_for(method), ROLE) for _ in range(2))
    for _ in range(MANY):
        salt = maker.make()
        assert maker.is_ours(salt)
        assert other.is_ours(salt), "another worker's, or that of one before a restart"


@EVERY_METHOD
def test_another_role_and_another_key_do_not_know_them(method: Method) -> None:
    salt = SaltMaker(secret_for(method), ROLE).make()
    assert not SaltMaker(secret_for(method), b"another role").is_ours(salt)
    assert not SaltMaker(secret_for(method, b"K"), ROLE).is_ours(salt)


@EVERY_METHOD
def test_a_strangers_salt_is_not_ours(method: Method) -> None:
    maker = SaltMaker(secret_for(method), ROLE)
    assert not any(maker.is_ours(os.urandom(method.salt_bytes)) for _ in range(MANY))


@EVERY_METHOD
def test_a_salt_with_any_bit_changed_is_not_ours(method: Method) -> None:
    maker = SaltMaker(secret_for(method), ROLE)
    salt = maker.make()
    for bit in range(8 * len(salt)):
        changed = bytearray(salt)
        changed[bit // 8] ^= 1 << bit % 8
        assert not maker.is_ours(bytes(changed)), f"bit {bit}"


def test_the_mark_is_a_keyed_hash_of_the_rest() -> None:
    """Written down, for workers of two versions meet in a reload."""
    secret = secret_for(METHODS["aes-256-gcm"])
    salt = SaltMaker(secret, ROLE).make()
    mark = blake2b(salt[:28], key=secret.key, person=ROLE, digest_size=4).digest()
    assert salt[28:] == mark


def test_children_of_one_process_make_salts_of_their_own() -> None:
    """Nothing is drawn ahead of its use."""
    maker = SaltMaker(secret_for(METHODS["aes-128-gcm"]), ROLE)
    found = {maker.make()}
    for _ in range(3):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writing, maker.make())
            finally:
                os._exit(0)
        os.close(writing)
        found.add(os.read(reading, 100))
        os.close(reading)
        assert os.waitpid(pid, 0) == (pid, 0)
    assert len(found) == 4
