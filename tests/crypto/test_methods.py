"""The ciphers, their names and their keys as text."""

import base64

import pytest

from geproxy.crypto.methods import (
    AES_128_GCM,
    AES_256_GCM,
    CHACHA20_POLY1305,
    METHODS,
    Method,
    decode_key,
    generate_key,
    method_by_name,
)

ALL = [pytest.param(method, id=name) for name, method in METHODS.items()]

# Written with the last two characters of either alphabet
KEY = bytes((0xFB, 0xFF)) * 8
STANDARD = "+//7//v/+//7//v/+//7/w=="
URL = "-__7__v_-__7__v_-__7_w=="


@pytest.mark.parametrize(
    ("method", "key_bytes", "salt_bytes"),
    [  # SIP004: the table of ciphers
        pytest.param(AES_128_GCM, 16, 16, id="aes-128-gcm"),
        pytest.param(AES_256_GCM, 32, 32, id="aes-256-gcm"),
        pytest.param(CHACHA20_POLY1305, 32, 32, id="chacha20-ietf-poly1305"),
    ],
)
def test_key_and_salt_are_as_long_as_the_document_says(
    method: Method, key_bytes: int, salt_bytes: int
) -> None:
    assert (method.key_bytes, method.salt_bytes) == (key_bytes, salt_bytes)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        pytest.param("aes-128-gcm", AES_128_GCM, id="SIP004's name of the shortest key"),
        pytest.param("aes-256-gcm", AES_256_GCM, id="SIP004's name of AES with 256 bits"),
        pytest.param("chacha20-ietf-poly1305", CHACHA20_POLY1305, id="SIP004's name of ChaCha20"),
        pytest.param("AEAD_AES_128_GCM", AES_128_GCM, id="go-shadowsocks2's, 128 bits"),
        pytest.param("AEAD_AES_256_GCM", AES_256_GCM, id="go-shadowsocks2's, 256 bits"),
        pytest.param("AEAD_CHACHA20_POLY1305", CHACHA20_POLY1305, id="go-shadowsocks2's ChaCha20"),
        pytest.param("aead_chacha20_poly1305", CHACHA20_POLY1305, id="the same in small letters"),
        pytest.param("chacha20-poly1305", CHACHA20_POLY1305, id="ChaCha20 for short"),
        pytest.param("AES-256-GCM", AES_256_GCM, id="capital letters"),
        pytest.param("Aes-128-Gcm", AES_128_GCM, id="mixed letters"),
    ],
)
def test_a_cipher_is_found_by_any_of_its_names(name: str, method: Method) -> None:
    assert method_by_name(name) is method


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="no name"),
        pytest.param("aes-192-gcm", id="a key size that few peers have"),
        pytest.param("xchacha20-ietf-poly1305", id="a nonce of 24 bytes"),
        pytest.param("aes-256-cfb", id="a stream cipher"),
        pytest.param("rc4-md5", id="a broken one"),
        pytest.param("none", id="none"),
        pytest.param("plain", id="plain"),
        pytest.param("2022-blake3-aes-256-gcm", id="one of SIP022"),
        pytest.param(" aes-256-gcm", id="a blank in front"),
    ],
)
def test_what_is_no_cipher_of_ours_is_refused_with_the_names_that_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"aes-128-gcm, aes-256-gcm, chacha20-ietf-poly1305"):
        method_by_name(name)


@pytest.mark.parametrize("method", ALL)
def test_a_generated_key_is_read_back_at_its_full_length(method: Method) -> None:
    text = generate_key(method)
    assert len(decode_key(text, method)) == method.key_bytes
    assert base64.urlsafe_b64decode(text) == decode_key(text, method)


@pytest.mark.parametrize("method", ALL)
def test_no_two_generated_keys_are_alike(method: Method) -> None:
    assert len({generate_key(method) for _ in range(100)}) == 100


@pytest.mark.parametrize("method", ALL)
def test_a_generated_key_fits_into_a_url_as_it_is(method: Method) -> None:
    for _ in range(50):
        assert not set(generate_key(method)) & set("+/?#&%")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(URL, id="base64url with padding"),
        pytest.param(URL.rstrip("="), id="without padding"),
        pytest.param(URL[:-1], id="with half of it"),
        pytest.param(STANDARD, id="standard base64"),
        pytest.param(STANDARD.rstrip("="), id="standard base64 without padding"),
        pytest.param(f"  {URL}\n", id="as the line of a file"),
    ],
)
def test_a_key_may_be_spelled_in_any_base64(text: str) -> None:
    assert decode_key(text, AES_128_GCM) == KEY


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("AAAAAAAAAAA AAAAAAAAAA", id="a blank inside"),
        pytest.param("AAAAAAAAAA\nAAAAAAAAAAA", id="two lines"),
        pytest.param("AAAAAAAAAAA*AAAAAAAAAA", id="a character of no alphabet"),
        pytest.param("AAAAAAAAAAA=AAAAAAAAAA", id="padding inside"),
        pytest.param("AAAAAAAAAAAAAAAAAAAAA", id="a length that base64 never has"),
        pytest.param("\u00e4AAAAAAAAAAAAAAAAAAAAA", id="a letter beyond ASCII"),
    ],
)
def test_a_key_is_never_mended_in_silence(text: str) -> None:
    with pytest.raises(ValueError, match="the key is not base64url"):
        decode_key(text, AES_128_GCM)


@pytest.mark.parametrize(
    ("size_bytes", "method"),
    [
        pytest.param(0, AES_128_GCM, id="nothing"),
        pytest.param(15, AES_128_GCM, id="a byte too few"),
        pytest.param(17, AES_128_GCM, id="a byte too many"),
        pytest.param(32, AES_128_GCM, id="the key of a longer cipher"),
        pytest.param(16, AES_256_GCM, id="the key of a shorter cipher"),
        pytest.param(16, CHACHA20_POLY1305, id="half of what ChaCha20 needs"),
    ],
)
def test_a_key_of_another_length_is_refused_with_both_lengths(
    size_bytes: int, method: Method
) -> None:
    text = base64.urlsafe_b64encode(bytes(size_bytes)).decode()
    with pytest.raises(ValueError, match=rf"{size_bytes} bytes.*{method.key_bytes}"):
        decode_key(text, method)


def test_an_error_about_a_key_does_not_print_it() -> None:
    for text in ("c2VjcmV0IHNlY3JldCBzZWNyZXQ", "secret*secret"):
        with pytest.raises(ValueError) as caught:
            decode_key(text, AES_128_GCM)
        assert text not in str(caught.value)
