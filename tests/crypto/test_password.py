"""scrypt hashes: RFC 7914's answers, passlib's form, and no users file that costs gigabytes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest
from Crypto.Protocol.KDF import scrypt as other_scrypt
from hypothesis import given
from hypothesis import strategies as st

from geproxy.crypto.password import PasswordHash, _scrypt, dummy_hash, hash_password, weakness

SALT = b"0123456789abcdef"
DIGEST = bytes(range(32))
SALT_TEXT = "MDEyMzQ1Njc4OWFiY2RlZg"
DIGEST_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

# The documentation of passlib.hash.scrypt: the password is "password". 64 MiB, so it also shows
# that OpenSSL's own limit of 32 MiB is lifted.
PASSLIB = "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"


def stored(password: bytes, ln: int = 10) -> PasswordHash:
    """Hash *password* as cheaply as the bounds allow."""
    return PasswordHash(ln, 1, 1, SALT, _scrypt(password, SALT, ln, 1, 1, 32))


@pytest.mark.parametrize(
    ("password", "salt", "ln", "r", "p", "digest"),
    [  # RFC 7914 §12; the fourth, N=2^20, asks for 1 GiB
        pytest.param(
            b"",
            b"",
            4,
            1,
            1,
            "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442"
            "fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
            id="an empty password and an empty salt",
        ),
        pytest.param(
            b"password",
            b"NaCl",
            10,
            8,
            16,
            "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
            "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
            id="sixteen lanes",
        ),
        pytest.param(
            b"pleaseletmein",
            b"SodiumChloride",
            14,
            8,
            1,
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
            "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
            id="the cost that we write",
        ),
    ],
)
def test_answers_of_rfc_7914(
    password: bytes, salt: bytes, ln: int, r: int, p: int, digest: str
) -> None:
    assert _scrypt(password, salt, ln, r, p, 64).hex() == digest


@pytest.mark.parametrize(
    ("ln", "r", "p", "size_bytes"),
    [
        pytest.param(10, 1, 16, 64, id="as many lanes as allowed"),
        pytest.param(10, 32, 1, 16, id="blocks as wide as allowed"),
        pytest.param(12, 3, 5, 33, id="odd numbers all through"),
    ],
)
def test_agrees_with_pycryptodome(ln: int, r: int, p: int, size_bytes: int) -> None:
    ours = _scrypt(b"p\xc3\xa4ss\x00word", SALT, ln, r, p, size_bytes)
    assert ours == other_scrypt(b"p\xc3\xa4ss\x00word", SALT, size_bytes, 1 << ln, r, p)


def test_a_hash_written_by_passlib_is_verified() -> None:
    assert PasswordHash.parse(PASSLIB).verify(b"password")


def test_a_new_hash_accepts_its_password_after_it_was_stored() -> None:
    written = str(hash_password(b"correct horse"))
    assert re.fullmatch(r"\$scrypt\$ln=14,r=8,p=1\$[\w+/]{22}\$[\w+/]{43}", written)
    assert PasswordHash.parse(written).verify(b"correct horse")


def test_the_same_password_is_never_stored_twice_alike() -> None:
    first, second = hash_password(b"correct horse"), hash_password(b"correct horse")
    assert first.salt != second.salt
    assert first.digest != second.digest


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"Secret", id="another case"),
        pytest.param(b"secre", id="a character missing"),
        pytest.param(b"secret ", id="a space more"),
        pytest.param(b"secret" * 100, id="very long"),
    ],
)
def test_a_wrong_password_is_refused(wrong: bytes) -> None:
    assert stored(b"secret").verify(b"secret")
    assert not stored(b"secret").verify(wrong)


def test_an_empty_password_is_a_password_like_others() -> None:
    assert stored(b"").verify(b"")
    assert not stored(b"").verify(b" ")


def test_a_password_shorter_than_64_bytes_equals_itself_with_nuls_behind() -> None:
    # HMAC fills its key with zeros (RFC 2104 §2), so scrypt cannot tell. No help to a guesser.
    assert stored(b"secret").verify(b"secret\0")
    assert not stored(b"secret").verify(b"\0secret")


@given(
    ln=st.integers(10, 13),
    r=st.integers(1, 16),
    p=st.integers(1, 16),
    salt=st.binary(min_size=8, max_size=64),
    digest=st.binary(min_size=16, max_size=64),
)
def test_what_is_written_is_read_back(ln: int, r: int, p: int, salt: bytes, digest: bytes) -> None:
    written = PasswordHash(ln, r, p, salt, digest)
    assert PasswordHash.parse(str(written)) == written


@pytest.mark.parametrize("new", ["", "$", ",", "=", "0", "9", "A", "/", "\n", "é"])
def test_one_altered_character_gives_another_hash_or_a_value_error(new: str) -> None:
    text = str(PasswordHash(14, 8, 1, SALT, DIGEST))
    for position in range(len(text)):
        altered = text[:position] + new + text[position + 1 :]
        try:
            assert str(PasswordHash.parse(altered)) == altered
        except ValueError:
            pass  # what most of them give


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("correct horse", id="a password in the clear"),
        pytest.param("$2b$12$WApznUOJfkEGSmYRfnkrPOr466oFDCaj", id="bcrypt"),
        pytest.param("$7$C6..../....SodiumChloride$kBGj9fHznVYFQMEn", id="scrypt as libc has it"),
        pytest.param(f"scrypt$ln=14,r=8,p=1${SALT_TEXT}${DIGEST_TEXT}", id="no dollar in front"),
        pytest.param(f"$scrypt$ln=14,r=8,p=1${DIGEST_TEXT}", id="no salt"),
        pytest.param(f"$scrypt$ln=14,r=8,p=1$${DIGEST_TEXT}", id="an empty salt"),
        pytest.param(f"$scrypt$ln=14,r=8,p=1${SALT_TEXT}$", id="an empty hash"),
        pytest.param(f"$scrypt$ln=14,r=8,p=1${SALT_TEXT}${DIGEST_TEXT}$", id="a dollar at the end"),
        pytest.param(f"$scrypt$ln=14,r=8,p=1${SALT_TEXT}${DIGEST_TEXT}\n", id="a newline"),
        pytest.param(f" $scrypt$ln=14,r=8,p=1${SALT_TEXT}${DIGEST_TEXT}", id="a space in front"),
        pytest.param(f"$scrypt$r=8,ln=14,p=1${SALT_TEXT}${DIGEST_TEXT}", id="another order"),
        pytest.param(f"$scrypt$ln=14,r=8${SALT_TEXT}${DIGEST_TEXT}", id="a parameter missing"),
        pytest.param(f"$scrypt$ln=014,r=8,p=1${SALT_TEXT}${DIGEST_TEXT}", id="a leading zero"),
        pytest.param(f"$scrypt$ln=-14,r=8,p=1${SALT_TEXT}${DIGEST_TEXT}", id="a sign"),
        pytest.param(f"$scrypt$ln=١٤,r=8,p=1${SALT_TEXT}${DIGEST_TEXT}", id="digits not of ASCII"),
        pytest.param(f"$scrypt$ln=14,r=8,p=0${SALT_TEXT}${DIGEST_TEXT}", id="a zero"),
        pytest.param(f"$scrypt$ln=14,r=99999,p=1${SALT_TEXT}${DIGEST_TEXT}", id="five digits"),
        pytest.param(f"$scrypt$ln=14,r=8,p=1${SALT_TEXT}==${DIGEST_TEXT}", id="padding"),
        pytest.param(f"$scrypt$ln=14,r=8,p=1${SALT_TEXT[:-1]}-${DIGEST_TEXT}", id="base64url"),
    ],
)
def test_another_form_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not of the form") as caught:
        PasswordHash.parse(text)
    assert str(caught.value) == "not of the form $scrypt$ln=14,r=8,p=1$SALT$HASH"


@pytest.mark.parametrize(
    ("salt", "digest", "complaint"),
    [
        pytest.param(
            SALT_TEXT + "AAA", DIGEST_TEXT, "salt: .* a part of it is missing", id="a salt cut off"
        ),
        pytest.param(
            SALT_TEXT, DIGEST_TEXT[:-2], "hash: .* a part of it is missing", id="a hash cut off"
        ),
        pytest.param(
            SALT_TEXT[:-1] + "h",
            DIGEST_TEXT,
            "salt: .* its last character",
            id="a salt's last bits",
        ),
        pytest.param(
            SALT_TEXT,
            DIGEST_TEXT[:-1] + "9",
            "hash: .* its last character",
            id="a hash's last bits",
        ),
    ],
)
def test_damaged_base64_is_refused(salt: str, digest: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PasswordHash.parse(f"$scrypt$ln=14,r=8,p=1${salt}${digest}")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"ln": 9}, r"ln: 9 is not in 10\.\.20", id="N below 2^10"),
        pytest.param({"ln": 21, "r": 1}, r"ln: 21 is not in 10\.\.20", id="N above 2^20"),
        pytest.param({"r": 0}, r"r: 0 is not in 1\.\.32", id="r of zero"),
        pytest.param({"ln": 10, "r": 33}, r"r: 33 is not in 1\.\.32", id="r above 32"),
        pytest.param({"p": 0}, r"p: 0 is not in 1\.\.16", id="p of zero"),
        pytest.param({"ln": 10, "p": 17}, r"p: 17 is not in 1\.\.16", id="p above 16"),
        pytest.param({"salt": bytes(7)}, r"salt bytes: 7 is not in 8\.\.64", id="a short salt"),
        pytest.param({"salt": bytes(65)}, r"salt bytes: 65 is not in 8\.\.64", id="a long salt"),
        pytest.param(
            {"digest": bytes(15)}, r"hash bytes: 15 is not in 16\.\.64", id="a short hash"
        ),
        pytest.param({"digest": bytes(65)}, r"hash bytes: 65 is not in 16\.\.64", id="a long hash"),
        pytest.param({"ln": 20}, "1024 MiB of work .* 256 MiB is the most", id="a gigabyte"),
        pytest.param({"ln": 18, "r": 9}, "288 MiB of work", id="a little more memory than allowed"),
        pytest.param({"ln": 14, "p": 16, "r": 9}, "288 MiB of work", id="a little more time"),
    ],
)
def test_parameters_out_of_bounds_are_refused(
    change: dict[str, int | bytes], complaint: str
) -> None:
    fields: dict[str, int | bytes] = {"ln": 14, "r": 8, "p": 1, "salt": SALT, "digest": DIGEST}
    with pytest.raises(ValueError, match=complaint):
        PasswordHash(**{**fields, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ln", "r", "p"),
    [
        pytest.param(10, 1, 1, id="the least"),
        pytest.param(18, 8, 1, id="all of the work in memory"),
        pytest.param(14, 8, 16, id="all of the work in lanes"),
        pytest.param(20, 2, 1, id="the largest N"),
        pytest.param(17, 8, 1, id="OWASP's first choice"),
        pytest.param(13, 8, 10, id="OWASP's last choice"),
    ],
)
def test_parameters_in_bounds_are_read(ln: int, r: int, p: int) -> None:
    text = f"$scrypt$ln={ln},r={r},p={p}${SALT_TEXT}${DIGEST_TEXT}"
    assert PasswordHash.parse(text) == PasswordHash(ln, r, p, SALT, DIGEST)


def test_repr_keeps_salt_and_hash_to_itself() -> None:
    assert repr(PasswordHash(14, 8, 1, SALT, DIGEST)) == "PasswordHash(ln=14, r=8, p=1)"


def test_the_dummy_costs_what_a_new_hash_costs() -> None:
    new = hash_password(b"correct horse")
    assert replace(dummy_hash(), salt=new.salt, digest=new.digest) == new


def test_the_dummy_costs_what_the_costliest_user_costs() -> None:
    known = [PasswordHash(ln, 8, p, SALT, DIGEST) for ln, p in ((14, 1), (12, 9), (13, 1))]
    dummy = dummy_hash(known)
    assert (dummy.ln, dummy.r, dummy.p) == (12, 8, 9)
    assert dummy.digest != DIGEST


def test_the_dummy_is_made_without_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hashlib, "scrypt")
    assert dummy_hash().ln == 14


def test_no_password_opens_the_dummy() -> None:
    dummy = dummy_hash([stored(b"secret")])
    assert not dummy.verify(b"")
    assert not dummy.verify(b"secret")


@pytest.mark.parametrize(
    ("password", "complaint"),
    [
        pytest.param("", "shorter than 8", id="empty"),
        pytest.param("sh0rt-1", "shorter than 8", id="seven characters"),
        pytest.param("schlüßl".encode(), "shorter than 8", id="seven characters in nine bytes"),
        pytest.param("Alexandra", "user's name", id="the user's name in another case"),
        pytest.param("19841231", "digits only", id="a date"),
        pytest.param("zzzzzzzzzzzz", "repeats", id="one character again and again"),
        pytest.param("abc1abc1abc1", "repeats", id="four characters again and again"),
        pytest.param(b"\xff\xfe" * 10, None, id="bytes that are no text"),
        pytest.param("correct horse", None, id="two words"),
        pytest.param("tr0ub4dor&3", None, id="a word in disguise"),
        pytest.param("k7#Qz!m2k7#Qz!m2", None, id="eight good characters twice"),
        pytest.param(b"correct horse", None, id="two words in bytes"),
    ],
)
def test_weakness_is_said_in_a_sentence(password: str | bytes, complaint: str | None) -> None:
    said = weakness(password, "alexandra")
    if complaint is None:
        assert said is None
    else:
        assert said is not None and complaint in said


def test_no_user_name_is_no_match() -> None:
    assert weakness("alexandra") is None
