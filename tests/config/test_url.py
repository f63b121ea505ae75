"""Listener URLs: what is accepted, what is refused, and that no error tells a secret."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geproxy.config.url import ListenUrl, parse_listen_url, parse_target
from geproxy.terms import Endpoint

SECRET = "hunter2"

ACCEPTED = [  # text, addresses, port, user, password
    pytest.param("socks5://127.0.0.1:1080", ["127.0.0.1"], 1080, None, None, id="a plain address"),
    pytest.param("socks5://127.0.0.1", ["127.0.0.1"], 1080, None, None, id="no port means 1080"),
    pytest.param("socks5://10.0.0.1:0", ["10.0.0.1"], 0, None, None, id="port 0 is the kernel's"),
    pytest.param("socks5://10.0.0.1:65535", ["10.0.0.1"], 65535, None, None, id="the last port"),
    pytest.param("SOCKS5://LocalHost:1", ["127.0.0.1"], 1, None, None, id="case does not count"),
    pytest.param("socks5://[::1]:8", ["::1"], 8, None, None, id="IPv6 stands in brackets"),
    pytest.param("socks5://[::1]", ["::1"], 1080, None, None, id="IPv6 without a port"),
    pytest.param("socks5://[::]:8", ["::"], 8, None, None, id="every address on one socket"),
    pytest.param("socks5://:8", ["0.0.0.0", "::"], 8, None, None, id="an empty host is both"),
    pytest.param("socks5://", ["0.0.0.0", "::"], 1080, None, None, id="nothing but a scheme"),
    pytest.param("socks5://127.0.0.1:8/", ["127.0.0.1"], 8, None, None, id="a bare slash is empty"),
    pytest.param(
        "socks5://[::ffff:127.0.0.1]:8", ["127.0.0.1"], 8, None, None, id="mapped means IPv4"
    ),
    pytest.param("socks5://al:pw@[::1]:8", ["::1"], 8, "al", b"pw", id="a user"),
    pytest.param(
        "socks5://al:a:b@:8", ["0.0.0.0", "::"], 8, "al", b"a:b", id="colons in a password"
    ),
    pytest.param(
        "socks5://al:a@b@[::1]:8", ["::1"], 8, "al", b"a@b", id="the last @ ends the user"
    ),
    pytest.param(
        "socks5://%C3%A9:%00%ff%2F@[::1]:8", ["::1"], 8, "é", b"\x00\xff/", id="percent-encoding"
    ),
]


@pytest.mark.parametrize(("text", "addresses", "port", "user", "password"), ACCEPTED)
def test_a_good_url_says_where_and_who(text, addresses, port, user, password):
    expected = ListenUrl("socks5", tuple(map(ip_address, addresses)), port, user, password)
    assert parse_listen_url(text) == expected


BY_SCHEME = [
    pytest.param("mixed://127.0.0.1", "mixed", 1080, None, id="mixed"),
    pytest.param("socks4://127.0.0.1", "socks4", 1080, None, id="SOCKS4"),
    pytest.param("socks5://127.0.0.1", "socks5", 1080, None, id="SOCKS5"),
    pytest.param("TCP://127.0.0.1:7", "tcp", 7, None, id="a TCP tunnel"),
    pytest.param("udp://127.0.0.1:0", "udp", 0, None, id="a UDP tunnel at a port of the kernel's"),
    pytest.param("mixed://al:pw@127.0.0.1:7", "mixed", 7, "al", id="mixed with a user"),
]


@pytest.mark.parametrize(("text", "scheme", "port", "user"), BY_SCHEME)
def test_each_scheme_has_its_default_port_or_wants_one(text, scheme, port, user):
    url = parse_listen_url(text)
    assert (url.scheme, url.port, url.user) == (scheme, port, user)
    assert url.addresses == (ip_address("127.0.0.1"),)
    assert url.masked().startswith(f"{scheme}://")


@pytest.mark.parametrize(
    ("text", "udp", "transports"),
    [
        pytest.param("mixed://", True, ("TCP",), id="an association's sockets are no listeners"),
        pytest.param("socks5://", True, ("TCP",), id="SOCKS5"),
        pytest.param("socks4://", True, ("TCP",), id="SOCKS4"),
        pytest.param("tcp://:1", True, ("TCP",), id="a TCP tunnel"),
        pytest.param("udp://:1", True, ("UDP",), id="a UDP tunnel"),
        pytest.param("ss://aes-128-gcm@", True, ("TCP", "UDP"), id="a sealed listener"),
        pytest.param("ss://aes-128-gcm@", False, ("TCP",), id="a sealed listener without UDP"),
    ],
)
def test_a_url_knows_what_listens_there(text, udp, transports):
    assert parse_listen_url(text).transports(udp=udp) == transports


TARGETS = [  # text, host, port
    pytest.param("example.net:443", "example.net", 443, id="a name"),
    pytest.param("localhost:1", "localhost", 1, id="a name without a dot"),
    pytest.param("192.0.2.1:65535", ip_address("192.0.2.1"), 65535, id="an IPv4 address"),
    pytest.param("[2001:db8::1]:53", ip_address("2001:db8::1"), 53, id="an IPv6 address"),
    pytest.param("[::ffff:192.0.2.1]:53", ip_address("192.0.2.1"), 53, id="mapped means IPv4"),
    pytest.param("Bücher.Example:53", "xn--bcher-kva.example", 53, id="a name beyond ASCII"),
    pytest.param("127。0.0.1:53", ip_address("127.0.0.1"), 53, id="an ideographic full stop"),
    pytest.param("0x7f.1:53", ip_address("127.0.0.1"), 53, id="an address in hexadecimal"),
]


@pytest.mark.parametrize(("text", "host", "port"), TARGETS)
def test_a_good_target_is_a_host_and_a_port(text, host, port):
    assert parse_target(text) == Endpoint(host, port)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "a port is wanted: HOST:PORT", id="nothing"),
        pytest.param("example.net", "a port is wanted: HOST:PORT", id="no port"),
        pytest.param("[::1]", "a port is wanted: HOST:PORT", id="IPv6 without a port"),
        pytest.param(":53", "the host of a target is a name", id="no host"),
        pytest.param("example.net:0", "port 0 is not in 1..65535", id="port 0"),
        pytest.param("example.net:65536", "port 65536 is not in 1..65535", id="a port too high"),
        pytest.param("example.net:domain", "the port is a number in 1..65535", id="a service"),
        pytest.param("::1:53", "an IPv6 address stands in brackets", id="IPv6 without brackets"),
        pytest.param("[fe80::1%eth0]:53", "without a zone", id="a zone"),
        pytest.param("[example.net]:53", "the host of a target", id="a name in brackets"),
        pytest.param(" example.net:53", "the host of a target", id="a blank in front"),
        pytest.param("\u3000example.net:53", "the host of a target", id="a wide blank in front"),
        pytest.param("256.1.1.1:53", "the host of a target", id="numbers that are no address"),
        pytest.param("al:hunter2@example.net:53", "stands in brackets", id="a user"),
        pytest.param("hunter2@example.net:53", "the host of a target", id="a user alone"),
        pytest.param("udp://example.net:53", "without a scheme", id="a URL"),
        pytest.param("a b:53", "the host of a target", id="a space"),
        pytest.param("a\0:53", "the host of a target", id="a NUL"),
    ],
)
def test_a_wrong_target_says_what_would_be_right(text, message):
    with pytest.raises(ValueError) as caught:
        parse_target(text)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


REFUSED = [
    pytest.param("socks5://127.0.0.1:70000", "port 70000 is not in 0..65535", id="a port too high"),
    pytest.param("socks5://127.0.0.1:", "the port is a number", id="a colon without a port"),
    pytest.param("socks5://127.0.0.1:-1", "the port is a number", id="a negative port"),
    pytest.param("socks5://127.0.0.1:" + "9" * 5000, "the port is a number", id="a huge port"),
    pytest.param("socks5://127.0.0.1:٣", "the port is a number", id="a port in Arabic digits"),
    pytest.param("HTTP://127.0.0.1:8080", "scheme http:// is not in this version", id="http"),
    pytest.param("tcp://127.0.0.1", "a port is wanted: HOST:PORT", id="a tunnel without a port"),
    pytest.param("udp://", "a port is wanted: HOST:PORT", id="a tunnel with nothing at all"),
    pytest.param("tcp://:", "the port is a number", id="a tunnel with a colon alone"),
    pytest.param("udp://:53/example.net:53", "nothing follows the port", id="a target for a path"),
    pytest.param(
        "socks4://al:pw@127.0.0.1:1",
        "a user stands in socks5:// and mixed:// alone, not in socks4://",
        id="a user for SOCKS4",
    ),
    pytest.param("tcp://al:pw@:1", "not in tcp://", id="a user for a tunnel"),
    pytest.param("udp://@:1", "not in udp://", id="an @ alone for a tunnel"),
    pytest.param("mixed://al@127.0.0.1:1", "comes with a password", id="a user alone for mixed"),
    pytest.param("gopher://127.0.0.1:70", "scheme is unknown", id="an unknown scheme"),
    pytest.param("127.0.0.1:1080", "is no URL", id="no scheme"),
    pytest.param("", "is no URL", id="nothing"),
    pytest.param("socks5://127.0.0.1:1/path", "nothing follows the port", id="a path"),
    pytest.param("socks5://127.0.0.1:1?udp=1", "nothing follows the port", id="a query"),
    pytest.param("socks5://127.0.0.1:1#x", "nothing follows the port", id="a fragment"),
    pytest.param("socks5://127.0.0.1:1\n", "no space or control", id="a newline"),
    pytest.param("socks5:// 127.0.0.1:1", "no space or control", id="a space"),
    pytest.param("socks5://a:\udcff@[::1]:1", "no space or control", id="argv that is not UTF-8"),
    pytest.param("socks5://proxy.example:1080", "the host of a listener", id="a name"),
    pytest.param("socks5://127.1:1080", "the host of a listener", id="a shortened address"),
    pytest.param("socks5://[127.0.0.1]:1", "the host of a listener", id="IPv4 in brackets"),
    pytest.param("socks5://[]:1", "the host of a listener", id="empty brackets"),
    pytest.param("socks5://[fe80::1%25eth0]:1", "without a zone", id="a zone"),
    pytest.param("socks5://::1:1080", "stands in brackets", id="IPv6 without brackets"),
    pytest.param("socks5://[::1]1080", "HOST:PORT is wanted", id="no colon after the bracket"),
    pytest.param("socks5://al@127.0.0.1:1", "comes with a password", id="a user alone"),
    pytest.param("socks5://@127.0.0.1:1", "comes with a password", id="an @ alone"),
    pytest.param("socks5://:pw@127.0.0.1:1", "the user is empty", id="a password alone"),
    pytest.param("socks5://al:@127.0.0.1:1", "1 to 255 bytes, not 0", id="an empty password"),
    pytest.param(
        "socks5://al:" + "x" * 256 + "@127.0.0.1:1", "bytes, not 256", id="a password too long"
    ),
    pytest.param(
        "socks5://" + "x" * 256 + ":pw@127.0.0.1:1", "at most 255 bytes", id="a user too long"
    ),
    pytest.param("socks5://al:5%@127.0.0.1:1", "is written %25", id="a bare percent sign"),
    pytest.param("socks5://%ff:pw@127.0.0.1:1", "not UTF-8", id="a user that is not UTF-8"),
    pytest.param("socks5://a%3Ab:pw@127.0.0.1:1", "holds no colon", id="a colon in the user"),
    pytest.param("socks5://a%0A:pw@127.0.0.1:1", "no control character", id="a newline in a user"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_a_wrong_url_says_what_would_be_right(text, message):
    with pytest.raises(ValueError) as caught:
        parse_listen_url(text)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_port_out_of_range_is_said_word_for_word():
    with pytest.raises(ValueError) as caught:
        parse_listen_url("socks5://127.0.0.1:70000")
    assert str(caught.value) == "port 70000 is not in 0..65535"


TELLTALES = [
    pytest.param(f"socks5://al:{SECRET}", id="the host forgotten"),
    pytest.param(f"al:{SECRET}@127.0.0.1:1080", id="the scheme forgotten"),
    pytest.param(f"socks5://al:{SECRET}/x@127.0.0.1:1080", id="a slash that is not encoded"),
    pytest.param("socks5://al:70000/hunter2@127.0.0.1:1", id="digits before the slash"),
    pytest.param(f"socks5://al:x?{SECRET}@127.0.0.1:1080", id="a question mark"),
    pytest.param(f"socks5://al:[{SECRET}", id="a bracket and no host"),
    pytest.param(f"socks5://al:%{SECRET}@127.0.0.1:1080", id="a bare percent sign"),
    pytest.param(f"socks5://al:{SECRET}@127.0.0.1:70001", id="a wrong port"),
    pytest.param(f"socks5://al:{SECRET}@example.net:1080", id="a name for a host"),
    pytest.param(f"sokcs5://al:{SECRET}@127.0.0.1:1080", id="a misspelt scheme"),
    pytest.param(f"http://al:{SECRET}@127.0.0.1:1080", id="a scheme of a later version"),
    pytest.param(f"socks4://al:{SECRET}@127.0.0.1:1080", id="a scheme without passwords"),
    pytest.param(f"tcp://al:{SECRET}@127.0.0.1:1080", id="a tunnel"),
    pytest.param(f"socks5://{SECRET}@127.0.0.1:1080", id="a password and no user"),
]


@pytest.mark.parametrize("text", TELLTALES)
def test_no_error_tells_a_password(text):
    with pytest.raises(ValueError) as caught:
        parse_listen_url(text)
    assert SECRET not in str(caught.value)
    assert "70000" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "loopback", "dual_stack"),
    [
        pytest.param("socks5://127.9.9.9", True, False, id="all of 127.0.0.0/8 is loopback"),
        pytest.param("socks5://[::1]", True, False, id="so is ::1"),
        pytest.param("socks5://localhost", True, False, id="so is localhost"),
        pytest.param("socks5://[::ffff:127.0.0.1]", True, False, id="so is mapped loopback"),
        pytest.param("socks5://[::ffff:10.0.0.1]", False, False, id="not so another mapped one"),
        pytest.param("socks5://10.0.0.1", False, False, id="not so a private address"),
        pytest.param("socks5://:1080", False, False, id="an empty host is two sockets"),
        pytest.param("socks5://[::]", False, True, id="[::] alone takes both families"),
        pytest.param("socks5://0.0.0.0", False, False, id="0.0.0.0 takes IPv4"),
    ],
)
def test_a_url_knows_whom_it_lets_in(text, loopback, dual_stack):
    url = parse_listen_url(text)
    assert (url.loopback, url.dual_stack) == (loopback, dual_stack)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        pytest.param("127.0.0.1:1", "127.0.0.1:1", True, id="the same address"),
        pytest.param("127.0.0.1:1", "127.0.0.1:2", False, id="another port"),
        pytest.param("127.0.0.1:0", "127.0.0.1:0", False, id="the kernel chooses twice"),
        pytest.param("127.0.0.1:1", "127.0.0.2:1", False, id="another address"),
        pytest.param("0.0.0.0:1", "127.0.0.1:1", True, id="every IPv4 address and one of them"),
        pytest.param("0.0.0.0:1", "[::1]:1", False, id="every IPv4 address and an IPv6 one"),
        pytest.param(":1", "[::1]:1", True, id="both families and one IPv6 address"),
        pytest.param("[::]:1", "[::1]:1", True, id="dual stack and one IPv6 address"),
        pytest.param("[::]:1", "127.0.0.1:1", True, id="dual stack and one IPv4 address"),
        pytest.param("[::]:1", "0.0.0.0:1", True, id="dual stack and every IPv4 address"),
        pytest.param("[::ffff:127.0.0.1]:1", "127.0.0.1:1", True, id="mapped and plain"),
    ],
)
def test_urls_that_cannot_be_bound_together_overlap(one, other, overlap):
    first, second = parse_listen_url(f"socks5://{one}"), parse_listen_url(f"socks5://{other}")
    assert first.overlaps(second) is overlap
    assert second.overlaps(first) is overlap


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        pytest.param("socks5://al:pw@[::1]:8", "socks5://al:***@[::1]:8", id="the password goes"),
        pytest.param("socks5://%40:pw@:8", "socks5://%40:***@:8", id="the user is encoded again"),
        pytest.param("socks5://", "socks5://:1080", id="an empty host stays empty"),
        pytest.param("socks5://127.0.0.1:0", "socks5://127.0.0.1:0", id="nothing to hide"),
    ],
)
def test_a_masked_url_shows_stars(text, masked):
    url = parse_listen_url(text)
    assert url.masked() == masked
    assert "pw" not in repr(url)


@given(
    st.text()
    | st.builds("{}://{}".format, st.sampled_from(["mixed", "tcp", "udp"]), st.text("[:]@#.01"))
    | st.text("socks5:/[]@%#?.0123af ").map("socks5://".__add__)
    | st.from_regex(
        r"socks5://(\w+:\w*@)?(\[[0-9a-f:.%]*\]|[0-9.]*|localhost)(:\d*)?", fullmatch=True
    )
)
def test_any_text_is_a_url_or_a_value_error(text):
    try:
        url = parse_listen_url(text)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(error).isprintable()
    else:
        masked = url.masked()
        if url.user is None:
            assert parse_listen_url(masked) == url
