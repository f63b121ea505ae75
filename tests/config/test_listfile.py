"""Files of targets and of clients: the lines of lists as they are published, and wrong ones."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geproxy.config import listfile
from geproxy.config.destinations import To
from geproxy.config.edges import Networks
from geproxy.config.listfile import TOLD_LINES, ListFiles, parse_destinations, parse_networks
from geproxy.config.network import read_destination, read_network

SECRET = "hunter2"
NETWORK = "an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32 is wanted"
NOT_A_NAME = "a name consists of letters, digits, . _ - and the wildcards * and ?"


def to(*texts: str) -> To:
    """What `to` would be with these members."""
    return To.of("private" if text == "private" else read_destination(text) for text in texts)


LINES = [  # a file, and what its rule's `to` would list
    pytest.param("", [], id="nothing"),
    pytest.param("\n \n\t\n# a.net\n  # b.net\n#\n", [], id="blank lines and comments"),
    pytest.param("a.net\nB.Net\nc.net.\n", ["a.net", "b.net", "c.net"], id="names"),
    pytest.param("a.net\nb.net", ["a.net", "b.net"], id="no end of the last line"),
    pytest.param("a.net\r\n\r\nb.net\r\n", ["a.net", "b.net"], id="lines of DOS"),
    pytest.param("\ufeffa.net\nb.net\n", ["a.net", "b.net"], id="a byte order mark"),
    pytest.param(" a.net \n\tb.net\t\n", ["a.net", "b.net"], id="blanks around"),
    pytest.param("a.net # x\nb.net#y\nc.net\t#z # z\n", ["a.net", "b.net", "c.net"], id="comments"),
    pytest.param("# Größe\nA.net # Größe\nb.net\n", ["a.net", "b.net"], id="comments in UTF-8"),
    pytest.param("*.a.net\na*b?.net\n*\n", ["*.a.net", "a*b?.net", "*"], id="patterns"),
    pytest.param("10.0.0.0/8\n10.1.2.3\n::1\n", ["10.0.0.0/8", "10.1.2.3", "::1"], id="networks"),
    pytest.param(
        "2001:DB8::/32\n::ffff:1.2.3.4\n::ffff:a00:0/104\n0::/0\n",
        ["2001:db8::/32", "1.2.3.4", "10.0.0.0/8", "::/0"],
        id="networks of IPv6",
    ),
    pytest.param("private\nPRIVATE\n", ["private"], id="the word for what is not public"),
    pytest.param(".a.net\n.B\n", ["a.net", "*.a.net", "b", "*.b"], id="a domain and all in it"),
    pytest.param("localhost\nlocal\n", ["localhost", "local"], id="own names, not of a hosts file"),
    pytest.param("xn--bcher-kva.example\n", ["xn--bcher-kva.example"], id="an A-label"),
    pytest.param("a_b.1net\n0xa.b0\nx\n", ["a_b.1net", "0xa.b0", "x"], id="labels of all kinds"),
    pytest.param(
        "0.0.0.0 a.net b.net\n127.0.0.1\tC.net.  # d.net\n:: d.net\n::1 e.net\n",
        ["a.net", "b.net", "c.net", "d.net", "e.net"],
        id="lines of a hosts file",
    ),
    pytest.param("192.0.2.1 a.net\n2001:db8::1 b.net b\n", ["a.net", "b.net", "b"], id="any host"),
]
OWN_LINES = """\
127.0.0.1 localhost
127.0.0.1 localhost.localdomain
127.0.0.1 LOCAL
255.255.255.255 broadcasthost
::1 localhost
::1 ip6-localhost ip6-loopback
fe80::1%lo0 localhost
ff00::0 ip6-localnet
ff00::0 ip6-mcastprefix
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
ff02::3 ip6-allhosts
0.0.0.0 0.0.0.0
127.0.0.1 localhost a.net
0.0.0.0 b.net
"""


@pytest.mark.parametrize(("text", "members"), LINES)
def test_a_line_is_what_a_member_of_the_list_is(text: str, members: list[str]) -> None:
    assert parse_destinations(text.encode()) == (to(*members), [])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_hosts_file_does_not_list_the_host_itself(end: str) -> None:
    found, problems = parse_destinations(OWN_LINES.replace("\n", end).encode())
    assert (found, problems) == (to("a.net", "b.net"), [])


def test_a_name_of_a_hosts_file_is_never_the_word_for_what_is_not_public() -> None:
    for text in ("0.0.0.0 private", "0.0.0.0 a.net private", ".private"):
        found, _ = parse_destinations(text.encode())
        assert "private" in found.names
        assert not found.private


def test_what_lists_nothing_holds_nothing() -> None:
    found, problems = parse_destinations(b"# nothing\n")
    assert problems == []
    assert not (found.names.any or found.private or found.networks)
    assert "" not in found.names
    clients, problems = parse_networks(b"\n")
    assert problems == []
    assert not clients
    assert ip_address("0.0.0.0") not in clients


WRONG = [
    pytest.param("||ads.example^", "is for ad blockers; a list", id="a filter"),
    pytest.param("@@||ads.example^", "is for ad blockers; a list", id="an exception of filters"),
    pytest.param("[Adblock Plus 2.0]", "is for ad blockers; a list", id="the head of filters"),
    pytest.param("! Title: x", "is for ad blockers; a list", id="a comment of filters"),
    pytest.param(f"{SECRET}!", NOT_A_NAME, id="no name"),
    pytest.param(f"a.net {SECRET}", "one name, pattern or network a line", id="two names"),
    pytest.param("10.0.0.0/8 office", "one name, pattern or network a line", id="a comment"),
    pytest.param(
        "10.0.0.1/8", "the address has bits behind its prefix", id="bits behind the prefix"
    ),
    pytest.param(
        "2001:db8::1/32", "the address has bits behind its prefix", id="the same, of IPv6"
    ),
    pytest.param("256.1.1.1", NETWORK, id="no address"),
    pytest.param("01.2.3.4", NETWORK, id="an octal address"),
    pytest.param("1::2::3", NETWORK, id="no address of IPv6"),
    pytest.param("10.0.0.0/33", NETWORK, id="no prefix"),
    pytest.param("0.0.0.0 10.0.0.1", "a name is wanted there, not an address", id="two addresses"),
    pytest.param("..a.net", "a dot stands between labels", id="two dots"),
    pytest.param(".", NOT_A_NAME, id="a dot"),
    pytest.param("a..net", "a dot stands between labels", id="an empty label"),
    pytest.param("a" * 256, "a name has at most 255 characters", id="a long name"),
    pytest.param("a." * 200_000 + "!", "a name has at most 255 characters", id="a long line"),
    pytest.param("a\0.net", NOT_A_NAME, id="a NUL"),
    pytest.param("a\rb", "one name, pattern or network a line", id="lines of an old Mac"),
    pytest.param("http://a.net/", "a colon stands in IPv6 addresses alone", id="a URL"),
]


@pytest.mark.parametrize(("line", "text"), WRONG)
def test_a_wrong_line_is_told_by_its_number(line: str, text: str) -> None:
    found, (problem,) = parse_destinations(f"a.net\n\n{line}\n10.0.0.0/8\n".encode())
    assert problem.startswith(f"line 3: {text}")
    assert SECRET not in problem
    assert found == to("a.net", "10.0.0.0/8")


def test_what_is_not_utf_8_is_wrong_but_in_comments() -> None:
    data = "# Größe\na.net # Größe\nböse.net\n".encode("latin-1")
    assert parse_destinations(data) == (to("a.net"), ["line 3: is not UTF-8"])
    assert parse_networks("10.0.0.0/8 # Größe\n\xff\n".encode("latin-1"))[1] == [
        "line 2: is not UTF-8"
    ]


@pytest.mark.parametrize("parse", [parse_destinations, parse_networks])
def test_of_many_wrong_lines_the_first_are_told_and_the_others_counted(parse) -> None:
    _, problems = parse(b"!\n" * (TOLD_LINES + 7))
    assert [text.partition(":")[0] for text in problems] == [
        *(f"line {number}" for number in range(1, TOLD_LINES + 1)),
        "7 more lines are wrong",
    ]


def test_patterns_that_are_too_many_are_told() -> None:
    _, (problem,) = parse_destinations("\n".join(f"*a{n}*" for n in range(2000)).encode())
    assert problem.startswith("2000 patterns begin or end alike")


ENTRIES = st.text("ab01x.:/*-_ \t#", max_size=12) | st.ip_addresses().map(str)


@given(ENTRIES)
@example("1:2:3:4:5:6:7::8")
@example("::ffff:0:0/96")
@example("::/0")
@example("0.0.0.0/0")
@example("0x1")
@example("a.0")
@example("a-.net")
@example("1.2.3.4/08")
def test_a_usual_line_is_read_as_any_other_would_be(line: str) -> None:
    """Those that are read in a hurry give what the careful reader gives."""
    text = line.partition("#")[0].strip()
    if text.startswith(".") or len(text.split()) != 1:
        return
    try:
        expected, wrong = to(text), ""
    except ValueError as error:
        expected, wrong = to(), f"line 1: {error}"
    assert parse_destinations(line.encode()) == (expected, [wrong] if wrong else [])


# -- clients


def test_clients_are_networks_and_addresses() -> None:
    data = b"\xef\xbb\xbf10.0.0.0/8 # x\r\n\r\n192.0.2.1\r\n#\r\n2001:DB8::/32\r\n::ffff:1.2.3.4"
    expected = map(ip_network, ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "1.2.3.4"])
    assert parse_networks(data) == (Networks.of(expected), [])


@pytest.mark.parametrize(
    "line", ["a.net", "private", "*", ".a.net", "0.0.0.0 a.net", "10.0.0.0/8 x", SECRET]
)
def test_clients_are_nothing_else(line: str) -> None:
    assert parse_networks(f"{line}\n".encode()) == (Networks.of(()), [f"line 1: {NETWORK}"])


@given(ENTRIES)
def test_any_line_is_a_network_or_a_problem(line: str) -> None:
    text = line.partition("#")[0].strip()
    try:
        expected, wrong = [read_network(text)] if text else [], []
    except ValueError as error:
        expected, wrong = [], [f"line 1: {error}"]
    assert parse_networks(line.encode()) == (Networks.of(expected), wrong)


# -- files


def test_a_file_is_read_once(tmp_path) -> None:
    path = tmp_path / "list"
    path.write_text("a.net\n!\n")
    files = ListFiles(parse_destinations)
    first, problems = files.read(str(path))
    path.unlink()
    again, repeated = files.read(str(path))
    assert again is first
    assert (len(problems), repeated) == (1, [])


def test_a_file_that_cannot_be_read_is_an_error(tmp_path, monkeypatch) -> None:
    files = ListFiles(parse_networks)
    for path, text in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(ValueError, match=f"the file cannot be read: {text}"):
            files.read(str(path))
    monkeypatch.setattr(listfile, "FILE_MAX_BYTES", 1 << 20)
    path = tmp_path / "large"
    path.write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ValueError, match="the file has more than 1 MiB"):
        files.read(str(path))
