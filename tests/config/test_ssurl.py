"""ss:// URLs of listeners and peers: every form of them, and what is told of the wrong ones."""

from __future__ import annotations

import base64
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geproxy.config import ssurl
from geproxy.config.sealing import Sealing
from geproxy.config.url import (
    ListenUrl,
    PeerUrl,
    may_hold_secret,
    parse_listen_url,
    parse_peer_url,
)
from geproxy.crypto.methods import (
    AES_128_GCM,
    AES_256_GCM,
    ALIASES,
    CHACHA20_POLY1305,
    METHODS,
    decode_key,
    generate_key,
)
from geproxy.terms import Endpoint

SECRET = "hunter2"
KEY = bytes(range(0xF0, 0x100))  # its base64 holds _ and /, so that both alphabets are seen
KEY_TEXT = base64.urlsafe_b64encode(KEY).decode()
PLAIN_KEY_TEXT = base64.b64encode(KEY).decode()


def b64(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def b64url(text):
    return base64.urlsafe_b64encode(text if isinstance(text, bytes) else text.encode()).decode()


FORMS = [  # what stands behind ss://, method, password, key, port
    pytest.param(
        "aes-256-gcm:pw@127.0.0.1:8488", AES_256_GCM, b"pw", None, 8488, id="plain, as SIP002 lets"
    ),
    pytest.param("aes-256-gcm:pw@127.0.0.1", AES_256_GCM, b"pw", None, 8388, id="no port is 8388"),
    pytest.param(
        "aes-256-gcm:pw@127.0.0.1/", AES_256_GCM, b"pw", None, 8388, id="a slash, no port"
    ),
    pytest.param("aes-256-gcm:pw@127.0.0.1:1/", AES_256_GCM, b"pw", None, 1, id="a trailing slash"),
    pytest.param("AES-256-GCM:pw@127.0.0.1:1", AES_256_GCM, b"pw", None, 1, id="in capitals"),
    pytest.param(
        "AEAD_CHACHA20_POLY1305:your-password@127.0.0.1:8488",  # go-shadowsocks2's README
        CHACHA20_POLY1305,
        b"your-password",
        None,
        8488,
        id="go-shadowsocks2's name",
    ),
    pytest.param(
        "aead_aes_128_gcm:pw@127.0.0.1:1", AES_128_GCM, b"pw", None, 1, id="its name in lower case"
    ),
    pytest.param(
        "aes-128-gcm:%3A%40%2F%23%3F%25@127.0.0.1:1",
        AES_128_GCM,
        b":@/#?%",
        None,
        1,
        id="what has a meaning in a URL is encoded",
    ),
    pytest.param(
        "aes-128-gcm:%00%ff%0A@127.0.0.1:1", AES_128_GCM, b"\0\xff\n", None, 1, id="any byte at all"
    ),
    pytest.param(
        "aes-128-gcm:a:b@c@127.0.0.1:1", AES_128_GCM, b"a:b@c", None, 1, id="colon and at as such"
    ),
    pytest.param(
        "aes-128-gcm:é@127.0.0.1:1", AES_128_GCM, "é".encode(), None, 1, id="letters are UTF-8"
    ),
    pytest.param(
        "aes-128-gcm:a+b@127.0.0.1:1", AES_128_GCM, b"a+b", None, 1, id="a plus is not a space"
    ),
    pytest.param(
        "YWVzLTEyOC1nY206dGVzdA@127.0.0.1:8888#Example1",  # the first example of SIP002
        AES_128_GCM,
        b"test",
        None,
        8888,
        id="SIP002's own example",
    ),
    pytest.param(
        b64url("aes-256-gcm:pass") + "@127.0.0.1:1",
        AES_256_GCM,
        b"pass",
        None,
        1,
        id="base64url with padding",
    ),
    pytest.param(
        b64url("aes-256-gcm:pass").replace("=", "%3D") + "@127.0.0.1:1",
        AES_256_GCM,
        b"pass",
        None,
        1,
        id="base64url with its padding encoded",
    ),
    pytest.param(
        b64url(b"aes-256-gcm:\xff\xfe?>:@") + "@127.0.0.1:1",
        AES_256_GCM,
        b"\xff\xfe?>:@",
        None,
        1,
        id="any byte in base64url",
    ),
    pytest.param(
        b64(b"aes-256-gcm:\xff\xff\xff\xfe?>") + "@127.0.0.1:1",
        AES_256_GCM,
        b"\xff\xff\xff\xfe?>",
        None,
        1,
        id="base64 with slash and plus",
    ),
    pytest.param(
        "YWVzLTEyOC1nY206cGFzcy93b3JkQDEyNy4wLjAuMTo4ODg4#tag",
        AES_128_GCM,
        b"pass/word",
        None,
        8888,
        id="all of it in base64, as before SIP002",
    ),
    pytest.param(
        b64("aes-128-gcm:a@b%41@127.0.0.1:1"),
        AES_128_GCM,
        b"a@b%41",
        None,
        1,
        id="not encoded in it",
    ),
    pytest.param(
        b64("aes-128-gcm:pw@127.0.0.1").rstrip("="),
        AES_128_GCM,
        b"pw",
        None,
        8388,
        id="all of it without padding and port",
    ),
    pytest.param(
        f"aes-128-gcm@127.0.0.1:1?key={KEY_TEXT}", AES_128_GCM, None, KEY, 1, id="a raw key"
    ),
    pytest.param(
        f"aes-128-gcm@127.0.0.1/?x=1&key={KEY_TEXT.rstrip('=')}&y#t",
        AES_128_GCM,
        None,
        KEY,
        8388,
        id="a raw key among others, without padding",
    ),
    pytest.param(
        f"AEAD_AES_128_GCM@127.0.0.1:1?key={PLAIN_KEY_TEXT}",
        AES_128_GCM,
        None,
        KEY,
        1,
        id="a raw key with slash and plus",
    ),
    pytest.param(
        f"aes-128-gcm@127.0.0.1:1?key={PLAIN_KEY_TEXT.replace('/', '%2F')}",
        AES_128_GCM,
        None,
        KEY,
        1,
        id="a raw key, percent-encoded",
    ),
    pytest.param("aes-128-gcm@127.0.0.1:1", AES_128_GCM, None, None, 1, id="the secret elsewhere"),
    pytest.param(
        "aes-128-gcm:pw@127.0.0.1:1?group=a&unknown#t", AES_128_GCM, b"pw", None, 1, id="other keys"
    ),
    pytest.param(
        "aes-128-gcm:pw@127.0.0.1:1/?plugin=",
        AES_128_GCM,
        b"pw",
        None,
        1,
        id="a plugin called none",
    ),
    pytest.param(
        "aes-128-gcm:pw@127.0.0.1:1#my 🇩🇪 \u200dserver@home",
        AES_128_GCM,
        b"pw",
        None,
        1,
        id="a tag of whatever people write",
    ),
]


@pytest.mark.parametrize(("text", "method", "password", "key", "port"), FORMS)
def test_every_form_says_the_same_to_listener_and_peer(text, method, password, key, port):
    sealing = Sealing(method, password, key)
    address = ip_address("127.0.0.1")
    assert parse_listen_url(f"ss://{text}") == ListenUrl("ss", (address,), port, sealing=sealing)
    assert parse_peer_url(f"SS://{text}") == PeerUrl("ss", Endpoint(address, port), sealing)


@pytest.mark.parametrize("name", [*METHODS, *ALIASES])
def test_every_name_of_a_cipher_works_in_every_form(name):
    method = METHODS.get(name) or ALIASES[name]
    urls = [f"{name}:pw@h:1", f"{b64url(name + ':pw')}@h:1", b64(f"{name.upper()}:pw@h:1")]
    for url in urls:
        assert parse_peer_url(f"ss://{url}").sealing == Sealing(method, b"pw")
    assert parse_peer_url(f"ss://{name.title()}@h:1").sealing == Sealing(method)


WHOLE = "ss://METHOD:PASSWORD@HOST:PORT is wanted; METHOD is one of aes-128-gcm"
WRONG = [  # what stands behind ss://, what is said
    pytest.param("", WHOLE, id="nothing"),
    pytest.param("127.0.0.1:8388", WHOLE, id="no cipher"),
    pytest.param("@127.0.0.1:8388", WHOLE, id="an at alone"),
    pytest.param(f"{SECRET}@127.0.0.1:8388", WHOLE, id="neither a cipher nor base64"),
    pytest.param(f"aes-256-gcm:{SECRET}", WHOLE, id="no host"),
    pytest.param(f"aes-256-gcm:x#{SECRET}@127.0.0.1:1", WHOLE, id="a hash that is not encoded"),
    pytest.param(f"aes-256-gcm:x?{SECRET}@127.0.0.1:1", WHOLE, id="a question mark likewise"),
    pytest.param(b64(SECRET), WHOLE, id="base64 of something else"),
    pytest.param(b64(f"aes-256-gcm:{SECRET}"), WHOLE, id="base64 of half of it"),
    pytest.param(b64(SECRET) + "@127.0.0.1:1", WHOLE, id="base64 without a colon"),
    pytest.param(
        f"aes-256-gcm:x@y?{SECRET}@127.0.0.1:1", "no @ follows the host", id="two of them astray"
    ),
    pytest.param(
        f"aes-256-gcm:x/{SECRET}@127.0.0.1:1", "are written %2F %3F %23", id="a slash likewise"
    ),
    pytest.param(f"aes-256-gcm:70000/{SECRET}@h:1", "are written %2F", id="digits before a slash"),
    pytest.param(f"rc4-md5:{SECRET}@127.0.0.1:1", "the cipher is none of", id="another cipher"),
    pytest.param(f"{SECRET}:aes-256-gcm@h:1", "the cipher is none of", id="the wrong way round"),
    pytest.param(b64(b"\xff:pw") + "@h:1", "the cipher is none of", id="a cipher of odd bytes"),
    pytest.param(
        f"2022-blake3-aes-128-gcm:{SECRET}@h:1", "the cipher is none of", id="a cipher of SIP022"
    ),
    pytest.param("aes-256-gcm:@127.0.0.1:1", "the password is empty", id="an empty password"),
    pytest.param(b64("aes-256-gcm:") + "@h:1", "the password is empty", id="empty in base64"),
    pytest.param(f"aes-256-gcm:%{SECRET}@h:1", "is written %25", id="a percent sign by itself"),
    pytest.param(
        f"aes-128-gcm:{SECRET}@127.0.0.1:1?plugin=obfs-local%3Bobfs%3Dhttp",
        "plugins are not in this version",
        id="a plugin",
    ),
    pytest.param(
        f"aes-128-gcm:{SECRET}@127.0.0.1:1?key={KEY_TEXT}", "not both", id="a password and a key"
    ),
    pytest.param(
        f"{b64url('aes-128-gcm:' + SECRET)}@h:1?key={KEY_TEXT}", "not both", id="both in base64"
    ),
    pytest.param(f"aes-128-gcm@h:1?key={KEY_TEXT}&key={KEY_TEXT}", "not more", id="the key twice"),
    pytest.param(
        f"aes-256-gcm@127.0.0.1:1?key={KEY_TEXT}",
        "the key has 16 bytes; aes-256-gcm needs 32",
        id="a key of another cipher",
    ),
    pytest.param(
        "aes-128-gcm@127.0.0.1:1?key=", "the key has 0 bytes; aes-128-gcm needs 16", id="no key"
    ),
    pytest.param(f"aes-128-gcm@h:1?key=!{SECRET}", "not base64url", id="a key that is none"),
    pytest.param("aes-128-gcm@h:1?key=%ff%c3", "not base64url", id="a key of odd bytes"),
    pytest.param(f"aes-128-gcm:{SECRET}@h:70001", "port 70001 is not in ", id="a port too high"),
    pytest.param(f"aes-128-gcm:{SECRET}@h:x", "the port is a number", id="a port that is none"),
    pytest.param(f"aes-128-gcm:{SECRET}@::1:1", "stands in brackets", id="IPv6 without brackets"),
    pytest.param(f"aes-128-gcm:{SECRET}@h:1/x", "no path follows the port", id="a path"),
    pytest.param(f"aes-128-gcm:{SECRET} @h:1", "no space or control", id="a space"),
    pytest.param(f"aes-128-gcm:{SECRET}\n@h:1", "no space or control", id="a newline"),
    pytest.param(f"aes-128-gcm:{SECRET}@[127.0.0.1]:1", "the host of a", id="IPv4 in brackets"),
    pytest.param(f"aes-128-gcm:{SECRET}@[fe80::1%25lo]:1", "without a zone", id="a zone"),
    pytest.param(b64(f"aes-128-gcm:{SECRET}@h\n:1"), "the host of a", id="a newline in base64"),
    pytest.param(b64(f"aes-128-gcm:{SECRET}@é:1"), "the host of a", id="a letter in base64"),
]


@pytest.mark.parametrize("parse", [parse_listen_url, parse_peer_url])
@pytest.mark.parametrize(("text", "message"), WRONG)
def test_a_wrong_form_says_what_would_be_right_and_no_secret(text, message, parse):
    with pytest.raises(ValueError) as caught:
        parse(f"ss://{text}")
    told = str(caught.value)
    assert message in told and told.isprintable()
    assert not any(secret in told for secret in (SECRET, "70000", KEY_TEXT, b64(SECRET)))
    assert type(caught.value) is ValueError  # a UnicodeDecodeError would hold the bytes


HOSTS = [
    pytest.param("relay.example.net", "relay.example.net", id="a name"),
    pytest.param("a_b.example.", "a_b.example.", id="a name with _ and a final dot"),
    pytest.param("localhost", "localhost", id="localhost is resolved as any name"),
    pytest.param("192.0.2.7", ip_address("192.0.2.7"), id="an IPv4 address"),
    pytest.param("[2001:db8::7]", ip_address("2001:db8::7"), id="an IPv6 address"),
    pytest.param("[::ffff:192.0.2.7]", ip_address("192.0.2.7"), id="a mapped one means IPv4"),
    pytest.param("bücher.example", "xn--bcher-kva.example", id="a name beyond ASCII"),
    pytest.param("Relay.Example.", "relay.example.", id="a name in capitals, with its dot"),
    pytest.param("127.1", ip_address("127.0.0.1"), id="an address in short"),
]


@pytest.mark.parametrize(("host", "expected"), HOSTS)
def test_a_peer_has_a_name_or_an_address(host, expected):
    assert parse_peer_url(f"ss://aes-128-gcm:pw@{host}:1").peer == Endpoint(expected, 1)


WRONG_PEERS = [
    pytest.param("ss://aes-128-gcm:pw@:1", "the host of a peer is a name", id="no host"),
    pytest.param("ss://aes-128-gcm:pw@h:0", "port 0 is not in 1..65535", id="port 0"),
    pytest.param("ss://aes-128-gcm:pw@b%C3%BCcher.example", "the host of a peer", id="percent"),
    pytest.param("ss://aes-128-gcm:pw@256.0.0.1", "the host of a peer", id="no address"),
    pytest.param("ss://aes-128-gcm:pw@[relay.example]:1", "the host of a peer", id="brackets"),
    pytest.param("ss://aes-128-gcm:pw@" + "a" * 64, "the host of a peer", id="a label too long"),
    pytest.param("ss://aes-128-gcm:pw@" + "a" * 256, "the host of a peer", id="a name too long"),
    pytest.param("socks5://h:1", "scheme socks5:// is not in this version", id="socks5"),
    pytest.param("http://al:hunter2@h:1", "scheme http:// is not in this version", id="http"),
    pytest.param("mixed://h:1", "the scheme is unknown here", id="a scheme for listeners alone"),
    pytest.param("relay.example.net:8388", "is no URL; one looks like ss://METHOD", id="no scheme"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_PEERS)
def test_a_wrong_peer_is_told(text, message):
    with pytest.raises(ValueError) as caught:
        parse_peer_url(text)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_listener_has_no_name():
    with pytest.raises(ValueError, match="the host of a listener is an IPv4 address"):
        parse_listen_url("ss://aes-128-gcm:pw@relay.example.net:1")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        pytest.param("ss://aes-128-gcm:pw@:1", ["0.0.0.0", "::"], id="an empty host is both"),
        pytest.param("ss://aes-128-gcm:pw@[::]:1", ["::"], id="[::] is one socket"),
        pytest.param("ss://" + b64("aes-128-gcm:pw@:1"), ["0.0.0.0", "::"], id="also in base64"),
    ],
)
def test_a_sealed_listener_may_have_every_address(text, addresses):
    url = parse_listen_url(text)
    assert [str(address) for address in url.addresses] == addresses
    assert [str(address) for address in url.wildcards] == ["0.0.0.0", "::"]


MASKED = [
    pytest.param(f"aes-128-gcm:{SECRET}@[::1]:1", "ss://aes-128-gcm:***@[::1]:1", id="a password"),
    pytest.param(
        f"AEAD_AES_128_GCM@[::1]:1?key={KEY_TEXT}#tag",
        "ss://aes-128-gcm@[::1]:1?key=***",
        id="a raw key",
    ),
    pytest.param("aes-128-gcm@[::1]:1", "ss://aes-128-gcm@[::1]:1", id="nothing to hide"),
]


@pytest.mark.parametrize(("text", "masked"), MASKED)
def test_a_masked_url_shows_stars(text, masked):
    for url in (parse_listen_url(f"ss://{text}"), parse_peer_url(f"ss://{text}")):
        assert url.masked() == masked
        for hidden in (SECRET, KEY_TEXT, repr(KEY)):
            assert hidden not in repr(url) + str(url)


def test_a_masked_listener_without_a_host_has_none():
    assert parse_listen_url("ss://aes-128-gcm:pw@:1").masked() == "ss://aes-128-gcm:***@:1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ss://aes-128-gcm@h:1", False, id="a cipher and its place"),
        pytest.param("SS://AEAD_AES_128_GCM@h:70000#x@y", False, id="with a wrong port and a tag"),
        pytest.param("ss://aes-128-gcm:pw@h", True, id="a password"),
        pytest.param("ss://aes-128-gcm@h?key=x", True, id="a key"),
        pytest.param("ss://aes-128-gcm@pw@h", True, id="a second at"),
        pytest.param("ss://YWVz@h", True, id="what may be base64"),
        pytest.param("ss://YWVz", True, id="what may be all base64"),
        pytest.param("socks5://127.0.0.1", False, id="no user"),
        pytest.param("sokcs5:/al:pw@127.0.0.1", True, id="a user in something wrong"),
    ],
)
def test_what_may_hold_a_secret_is_known_by_its_look(text, expected):
    assert may_hold_secret(text) is expected


ADDRESSES = st.ip_addresses().filter(lambda ip: ip.version == 4 or ip.ipv4_mapped is None)
PORTS = st.integers(1, 65535)
TAGS = st.from_regex("[A-Za-z0-9_-]{1,32}", fullmatch=True)
METHOD = st.sampled_from(list(METHODS.values()))
WITH_PASSWORD = st.builds(Sealing, METHOD, st.binary(min_size=1))
WITH_KEY = METHOD.map(lambda method: Sealing(method, key=decode_key(generate_key(method), method)))


@given(WITH_PASSWORD | WITH_KEY, ADDRESSES, PORTS, TAGS)
def test_what_is_written_reads_back(sealing, host, port, tag):
    written = ssurl.write(sealing, host, port, tag)
    assert written.isascii() and written.isprintable()
    assert parse_peer_url(written) == PeerUrl("ss", Endpoint(host, port), sealing)
    if sealing.key is None:  # SIP002: no padding
        assert "=" not in written


def test_what_is_written_is_sip002s_own_example():
    written = ssurl.write(
        Sealing(AES_128_GCM, b"test"), ip_address("192.168.100.1"), 8888, "Example1"
    )
    assert written == "ss://YWVzLTEyOC1nY206dGVzdA@192.168.100.1:8888#Example1"


PIECES = st.sampled_from(
    ["aes-128-gcm", "AEAD_AES_256_GCM", "pw", "@", ":", "/", "?", "#", "%41", "%", "key=", "&", "="]
    + ["plugin=", KEY_TEXT, "[::1]", "127.0.0.1", "h", ":1", "é", "\n", "\udcff", b64("a:b@c:1")]
)
BASE64 = st.binary().map(b64) | st.lists(PIECES).map(
    lambda pieces: b64("aes-128-gcm:" + "".join(pieces).encode("utf-8", "replace").decode())
)


@given(st.text() | st.lists(PIECES).map("".join) | BASE64, st.sampled_from(["", "ss://"]))
def test_any_text_is_a_url_or_a_value_error(text, scheme):
    for parse in (parse_listen_url, parse_peer_url):
        try:
            url = parse(scheme + text)
        except ValueError as error:
            assert type(error) is ValueError
            assert str(error).isprintable()
        else:
            assert url.masked().isprintable()
            assert (
                may_hold_secret(scheme + text) or url.sealing is None or not url.sealing.has_secret
            )
