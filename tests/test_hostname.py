"""The one spelling of a host: each spelling of an address, each name, and what is neither."""

from __future__ import annotations

import socket
import subprocess
import sys
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geproxy.errors import DeniedError
from geproxy.hostname import ascii_form, canonical, read_host
from geproxy.terms import MAX_NAME_BYTES, Address, Endpoint, Outcome, plain_address

ROOT = Path(__file__).parents[1]
LOOPBACK = "127.0.0.1"

SPELLINGS = [
    LOOPBACK,
    "127.1",
    "127.0.1",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "0177.1",
    "017700000001",
    "2130706433",
    "127.0x0.00.01",
    "127.0.0.1.",
    "::ffff:127.0.0.1",
    "::FFFF:7f00:1",
    "0:0:0:0:0:ffff:127.0.0.1",
    "[127.0.0.1]",
    "[::ffff:127.0.0.1]",
    " 127.0.0.1",
    "127.0.0.1 ",
    "\t127.1\r\n",
    "[ 127.0.0.1 ]",
    " [127.0.0.1] ",
    "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
    "127\u30020\u30020\u30021",
    "127\uff0e0\uff0e0\uff0e1",
    "127\uff610\uff610\uff611",
    "\uff10\uff587f.1",
    "\uff3b127.0.0.1\uff3d",
    "\u3000127.0.0.1",
    "\u00a0127.0.0.1",
    "127.0.0.\u00ad1",
    "\u200b127.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
    "\U0001d7cf27.0.0.1",
    "\u00b927.0.0.1",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_an_address_is_that_address(spelling: str) -> None:
    assert read_host(spelling) == IPv4Address(LOOPBACK)


@pytest.mark.parametrize(
    ("spelling", "address"),
    [
        ("0", "0.0.0.0"),
        ("4294967295", "255.255.255.255"),
        ("1.2", "1.0.0.2"),
        ("::1", "::1"),
        ("::", "::"),
        ("[::1]", "::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        (" [2001:DB8::1]", "2001:db8::1"),
        ("::127.0.0.1", "::7f00:1"),
        ("64:ff9b::7f00:1", "64:ff9b::7f00:1"),
        ("\uff1a\uff1a\uff11", "::1"),
    ],
)
def test_a_spelled_address_is_read(spelling: str, address: str) -> None:
    assert read_host(spelling) == ip_address(address)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param("example.net", "example.net", id="a name"),
        pytest.param("EXAMPLE.Net", "example.net", id="capitals"),
        pytest.param("example.net.", "example.net.", id="a last dot, which stops search lists"),
        pytest.param(" example.net\t", "example.net", id="blanks around it"),
        pytest.param("[example.net]", "example.net", id="brackets"),
        pytest.param("a", "a", id="one letter"),
        pytest.param("_dns.example.net", "_dns.example.net", id="an underscore"),
        pytest.param("-odd-.example", "-odd-.example", id="hyphens at the ends"),
        pytest.param("r3---sn.example", "r3---sn.example", id="hyphens in places 3 and 4"),
        pytest.param("cafe.de", "cafe.de", id="hexadecimal letters"),
        pytest.param("0xcafe.de", "0xcafe.de", id="what begins like a number"),
        pytest.param("web.1", "web.1", id="a number for the last label alone"),
        pytest.param("1e2", "1e2", id="a number of another kind"),
        pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="an A-label"),
        pytest.param("XN--BCHER-KVA.example", "xn--bcher-kva.example", id="an A-label in capitals"),
        pytest.param("b\u00fccher.example", "xn--bcher-kva.example", id="an umlaut"),
        pytest.param("bu\u0308cher.example", "xn--bcher-kva.example", id="an umlaut in two parts"),
        pytest.param("B\u00dcCHER.Example", "xn--bcher-kva.example", id="a capital umlaut"),
        pytest.param("\uff58n--bcher-kva.example", "xn--bcher-kva.example", id="a wide A-label"),
        pytest.param("fa\u00df.de", "xn--fa-hia.de", id="a sharp s, as browsers have it now"),
        pytest.param("\u212aelvin.example", "kelvin.example", id="the Kelvin sign"),
        pytest.param("\u65e5\u672c\u8a9e\u3002jp", "xn--wgv71a119e.jp", id="ideographs"),
        pytest.param("\u2603.net", "xn--n3h.net", id="a symbol, which browsers allow"),
        pytest.param("\u05d0.example", "xn--4db.example", id="right to left"),
        pytest.param("exam\u00adple.net", "example.net", id="a soft hyphen"),
        pytest.param("a" * 63 + ".net", "a" * 63 + ".net", id="a label of 63"),
        pytest.param("a." * 126 + "a", "a." * 126 + "a", id="253 characters"),
        pytest.param("a." * 126 + "a.", "a." * 126 + "a.", id="253 characters and a dot"),
    ],
)
def test_a_name_is_written_in_one_way(text: str, name: str) -> None:
    assert read_host(text) == name
    assert read_host(name) == name, "once more changes nothing"


NO_HOSTS = [
    pytest.param("", id="nothing"),
    pytest.param(" ", id="a blank"),
    pytest.param("[]", id="empty brackets"),
    pytest.param(".", id="the root"),
    pytest.param("a..b", id="an empty label"),
    pytest.param(".a", id="a dot in front"),
    pytest.param("a.\u3002", id="two dots at the end"),
    pytest.param("a\0b", id="a NUL"),
    pytest.param("127.0.0.1\0", id="an address and a NUL"),
    pytest.param("::1\0", id="an IPv6 address and a NUL"),
    pytest.param("a b", id="a blank inside"),
    pytest.param("127.0.0.1 example.net", id="an address, a blank and more"),
    pytest.param("a\nb", id="a line end inside"),
    pytest.param("a\x7f", id="a control character"),
    pytest.param("a/b", id="a slash"),
    pytest.param("user@example.net", id="an at sign"),
    pytest.param("example.net:80", id="a port"),
    pytest.param("[::1]:80", id="an address and a port"),
    pytest.param("[[::1]]", id="brackets twice"),
    pytest.param("[::1", id="half a pair of brackets"),
    pytest.param("::1]", id="the other half"),
    pytest.param("fe80::1%eth0", id="a zone"),
    pytest.param("::1%lo", id="the zone of loopback"),
    pytest.param("[fe80::1%25eth0]", id="a zone as in URLs"),
    pytest.param("1::2::3", id="colons that are no address"),
    pytest.param("1:2:3:4:5:6:7:8:9", id="too many groups"),
    pytest.param("%31%32%37.0.0.1", id="percent-encoding"),
    pytest.param("*.example", id="a wildcard"),
    pytest.param("256.0.0.1", id="a number too large"),
    pytest.param("127.0.0.08", id="octal that is none, 8 to other readers"),
    pytest.param("1.2.3.4.5", id="five numbers"),
    pytest.param("4294967296", id="a number beyond IPv4"),
    pytest.param("0x", id="a hexadecimal number without digits"),
    pytest.param("127.0.0.1..", id="two dots behind an address"),
    pytest.param("\udcff\udcfe", id="bytes that are no UTF-8"),
    pytest.param("a\udc00.example", id="a lone surrogate"),
    pytest.param("\u0661\u0662\u0667.0.0.1", id="Arabic digits"),
    pytest.param("\u0308a.example", id="a mark without its letter"),
    pytest.param("\u05d0a.example", id="both directions in one label"),
    pytest.param("a\u200db.example", id="a joiner between letters"),
    pytest.param("xn--b\u00fccher.example", id="half an A-label"),
    pytest.param("b\u00fc cher.example", id="a blank beside an umlaut"),
    pytest.param("b\u00fc*.example", id="a wildcard beside an umlaut"),
    pytest.param("\u2100.example", id="a character that stands for a/c"),
    pytest.param("\ufffd.example", id="what stands for no character"),
    pytest.param("\ue000.example", id="a character for private use"),
    pytest.param("a" * 64, id="a label of 64"),
    pytest.param("\u00fc" * 59, id="a label that is too long as an A-label"),
    pytest.param("\u00fc" * 127, id="a label as long as a request can hold"),
    pytest.param("a." * 126 + "aa", id="254 characters"),
    pytest.param("a." * 127 + "a", id="255 characters"),
    pytest.param("\ufdfa" * 85, id="characters that stand for words"),
    pytest.param("a" * 100_000, id="far too many characters"),
]


@pytest.mark.parametrize("text", NO_HOSTS)
def test_what_is_neither_an_address_nor_a_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_host(text)


@pytest.mark.parametrize("text", ["xn--", "xn---", "xn--a-", "xn--99999", "xn--127.example"])
def test_an_a_label_that_says_nothing_is_the_name_that_it_is(text: str) -> None:
    """DNS knows no A-labels: to every resolver these are letters, and lead to no address."""
    assert read_host(text) == text


def test_a_label_beyond_ascii_beside_a_wildcard_has_no_form() -> None:
    assert ascii_form("*.B\u00dcCHER.e?ample") == "*.xn--bcher-kva.e?ample"
    for text in ("b\u00fc*.example", "?\u00fc.example", "[b\u00fc].example"):
        with pytest.raises(ValueError):
            ascii_form(text)


def test_what_is_refused_is_told_without_its_text() -> None:
    for text in ("\udcffsecret", "secret\u0308\u200d", "se cret", "\u0308secret", "secret%"):
        with pytest.raises(DeniedError) as caught:
            canonical(Endpoint(text, 80))
        assert "secret" not in str(caught.value)
        assert (caught.value.code, caught.value.outcome) == ("denied", Outcome.DENIED)
        with pytest.raises(ValueError) as wrong:
            read_host(text)
        assert "secret" not in str(wrong.value)


def test_an_endpoint_that_is_right_is_not_made_anew() -> None:
    for host in ("example.net", ip_address("2001:db8::1"), ip_address("192.0.2.1")):
        endpoint = Endpoint(host, 443)
        assert canonical(endpoint) is endpoint
    assert canonical(Endpoint("[::1]", 443)) == Endpoint(ip_address("::1"), 443)


def test_a_mapped_address_is_ipv4_as_bytes_as_well_as_in_text() -> None:
    for host in (ip_address("::ffff:10.0.0.1"), "::ffff:10.0.0.1"):
        assert canonical(Endpoint(host, 443)) == Endpoint(ip_address("10.0.0.1"), 443)


# -- the twin: what the system takes for an address ----------------------------------------------


def numeric(text: str) -> Address | None:
    """What getaddrinfo(3) reads *text* as without asking anybody, None where it is no address."""
    try:
        rows = socket.getaddrinfo(
            text.encode("utf-8", "surrogateescape"), None, flags=socket.AI_NUMERICHOST
        )
    except (OSError, ValueError):
        return None
    return plain_address(str(rows[0][4][0]))


pieces = st.sampled_from(
    [*"0123456789abcdefxX.:%[] ", "0x", "0x7f", "127", "255", "::", "ffff", "\u3002", "\uff11"]
    + ["\udcff", "\0", "\n", "\u00ad", "1%lo"]
)
texts = st.lists(pieces, max_size=14).map("".join) | st.text(max_size=20)
addresses = st.ip_addresses().map(str)
dotted = st.lists(
    st.integers(0, 2**32).flatmap(lambda n: st.sampled_from([str(n), hex(n), f"0{n:o}"])),
    min_size=1,
    max_size=5,
).map(".".join)


@settings(max_examples=400, deadline=None)
@given(texts | addresses | dotted | addresses.map("[{}]".format))
@example("127.0.0.1%lo")
@example("::ffff:127.0.0.1%lo")
@example("0x7f.0.0.1.")
def test_what_the_system_takes_for_an_address_is_judged_as_that_address(text: str) -> None:
    expected = numeric(text)
    try:
        found = read_host(text)
    except ValueError:
        # Zones, and what C takes for the end of the text, are all that the system reads and we not.
        assert expected is None or "%" in text or "\0" in text
        return
    if expected is not None:
        assert found == expected
    if isinstance(found, str):
        check_is_clean(found)
        assert numeric(found) is None
        assert read_host(found) == found


def check_is_clean(name: str) -> None:
    """Prove that *name* is what a zone may hold, and nothing else."""
    labels = name.removesuffix(".").split(".")
    assert len(name.removesuffix(".")) <= 253
    for label in labels:
        assert 1 <= len(label) <= 63
        assert set(label) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=MAX_NAME_BYTES))
def test_of_any_bytes_a_clean_name_an_address_or_a_refusal_comes(name: bytes) -> None:
    try:
        found = canonical(Endpoint.from_name(name, 80))
    except DeniedError:
        return
    if isinstance(found.host, str):
        check_is_clean(found.host)


# -- what it costs -------------------------------------------------------------------------------


@pytest.mark.slow
def test_no_file_is_opened_once_it_is_loaded() -> None:
    code = """
import sys
from geproxy.hostname import read_host

def watch(event, arguments):
    if event in ("open", "import"):
        print(event, arguments[0])

sys.addaudithook(watch)
for text in ("b\\u00fccher.example", "\\u05d0.example", "\\u0915\\u094d\\u200d.example", "[::1]"):
    read_host(text)
for text in ("\\udcff", "a\\u200d", "\\u0308"):
    try:
        read_host(text)
    except ValueError:
        pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_what_is_remembered_is_bounded() -> None:
    kept = read_host.cache_parameters()["maxsize"]
    assert kept is not None
    for number in range(kept + 10):
        read_host(f"host{number}.example")
    assert read_host.cache_info().currsize == kept
    with pytest.raises(ValueError):
        read_host("a" * 100_000)
    assert read_host.cache_info().currsize == kept, "what is refused is not remembered"
