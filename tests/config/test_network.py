"""Addresses, networks, names and ports of the file: what they become, what wrong ones are told."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geproxy.config.network import (
    read_destination,
    read_network,
    read_ports,
    read_udp_address,
    read_udp_ports,
)

WANTED = "an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32 is wanted"
CHARACTERS = "a name consists of letters, digits, . _ - and the wildcards * and ?"
LABELS = "a dot stands between labels; all names in a domain are *.example.net"
SECRET = "hunter2"


def message_of(read, value):
    with pytest.raises(ValueError) as caught:
        read(value)
    assert SECRET not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


NETWORKS = [  # text, network
    pytest.param("10.0.0.0/8", "10.0.0.0/8", id="IPv4"),
    pytest.param("10.1.2.3", "10.1.2.3/32", id="one IPv4 address"),
    pytest.param("0.0.0.0/0", "0.0.0.0/0", id="all of IPv4"),
    pytest.param("2001:DB8::/32", "2001:db8::/32", id="IPv6"),
    pytest.param("::1", "::1/128", id="one IPv6 address"),
    pytest.param("::/0", "::/0", id="all of IPv6"),
    pytest.param("::/64", "::/64", id="a network around the mapped one"),
    pytest.param("::ffff:10.1.2.3", "10.1.2.3/32", id="a mapped address"),
    pytest.param("::ffff:10.0.0.0/104", "10.0.0.0/8", id="a mapped network"),
    pytest.param("::ffff:0:0/96", "0.0.0.0/0", id="all mapped addresses"),
    pytest.param("::ffff:0:0/95", None, id="bits behind the prefix of what holds the mapped ones"),
    pytest.param("::fffe:0:0/95", "::fffe:0:0/95", id="a network that holds the mapped one"),
]


@pytest.mark.parametrize(("text", "network"), NETWORKS)
def test_a_network_is_read_and_a_mapped_one_is_ipv4(text, network):
    if network is None:
        assert message_of(read_network, text).endswith("that network is ::fffe:0:0/95")
    else:
        assert read_network(text) == read_destination(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        pytest.param("10.0.0.1/8", "10.0.0.0/8", id="IPv4"),
        pytest.param("192.168.1.1/31", "192.168.1.0/31", id="the last bit"),
        pytest.param("2001:db8::1/32", "2001:db8::/32", id="IPv6"),
        pytest.param("::ffff:10.0.0.1/104", "10.0.0.0/8", id="mapped"),
        pytest.param("1.2.3.4/0", "0.0.0.0/0", id="no prefix at all"),
    ],
)
def test_bits_behind_the_prefix_are_told_with_the_right_network(text, right):
    told = f"the address has bits behind its prefix; that network is {right}"
    assert message_of(read_network, text) == told
    assert message_of(read_destination, text) == told


NO_NETWORKS = [
    pytest.param("10.0.0.0/33", id="a prefix too long"),
    pytest.param("2001:db8::/129", id="a prefix too long for IPv6"),
    pytest.param("10.0.0.0/", id="no prefix"),
    pytest.param("10.0.0.0/-1", id="a negative prefix"),
    pytest.param("10.0.0.0/" + "1" * 9999, id="a prefix without end"),
    pytest.param("10.0.0.0/255.0.0.0", id="a netmask"),
    pytest.param("10.0.0.0/8/8", id="two prefixes"),
    pytest.param("256.1.1.1", id="a number too high"),
    pytest.param("10.0.0", id="three numbers"),
    pytest.param("10.0.0.0.0", id="five numbers"),
    pytest.param("010.0.0.1", id="what might be octal"),
    pytest.param("127.1", id="a short form of inet_aton"),
    pytest.param("2130706433", id="one number"),
    pytest.param("0x7f000001", id="one hexadecimal number"),
    pytest.param("127.0.0.0x1", id="a hexadecimal number at the end"),
    pytest.param("10.0.0.*", id="a wildcard for a number"),
    pytest.param("192.168.*", id="a wildcard for the rest"),
    pytest.param("192.168.1.?", id="a wildcard for a digit"),
    pytest.param("host.1", id="a number for a top-level domain"),
    pytest.param("[::1]", id="brackets"),
    pytest.param("[::1]:53", id="brackets and a port"),
    pytest.param("fe80::1%eth0", id="a zone"),
    pytest.param("fe80::%1/64", id="a zone in a network"),
    pytest.param("2001:db8:::", id="colons too many"),
    pytest.param("example.net/24", id="a name with a prefix"),
    pytest.param(f"al:{SECRET}@10.0.0.0/8", id="a URL's authority"),
    pytest.param(f"https://{SECRET}/x", id="a URL"),
]


@pytest.mark.parametrize("text", NO_NETWORKS)
def test_what_only_looks_like_a_network_is_none(text):
    assert message_of(read_network, text) == WANTED


@pytest.mark.parametrize("text", NO_NETWORKS)
def test_what_only_looks_like_a_network_is_no_name_either(text):
    assert message_of(read_destination, text) in (
        WANTED,
        "a name has at most 255 characters",
        "a colon stands in IPv6 addresses alone; ports have a key of their own",
    )


@pytest.mark.parametrize("text", ["", "*", "example.net", SECRET, " 10.0.0.0", "10.0.0.0 ", "\n"])
def test_a_name_is_no_network(text):
    assert message_of(read_network, text) == WANTED


NAMES = [  # text, name
    pytest.param("example.net", "example.net", id="a name"),
    pytest.param("Example.NET.", "example.net", id="case and a last dot do not count"),
    pytest.param("*.corp.example", "*.corp.example", id="all names in a domain"),
    pytest.param("*", "*", id="every name"),
    pytest.param("*.", "*", id="every name, with its dot"),
    pytest.param("web?.example.net", "web?.example.net", id="one character"),
    pytest.param("_sip._udp.example.net", "_sip._udp.example.net", id="underscores"),
    pytest.param("localhost", "localhost", id="one label"),
    pytest.param("private", "private", id="the word"),
    pytest.param("PRIVATE", "private", id="the word in capitals"),
    pytest.param("xn--bcher-kva.example", "xn--bcher-kva.example", id="an A-label"),
    pytest.param("BÜCHER.example", "xn--bcher-kva.example", id="a name beyond ASCII"),
    pytest.param("*.bücher.example", "*.xn--bcher-kva.example", id="a glob beyond ASCII"),
    pytest.param("日本語。jp", "xn--wgv71a119e.jp", id="an ideographic full stop"),
    pytest.param("\u212aelvin.example", "kelvin.example", id="the Kelvin sign"),
    pytest.param("\uff11\uff12\uff17.1.2.3", ip_network("127.1.2.3"), id="full-width digits"),
    pytest.param("10.example.net", "10.example.net", id="a number for a label"),
    pytest.param("10.in-addr.arpa", "10.in-addr.arpa", id="a reverse zone"),
    pytest.param("0xyz", "0xyz", id="no hexadecimal number"),
    pytest.param("web*1", "web*1", id="a digit behind a wildcard"),
    pytest.param("*1", "*1", id="every name of one label that ends in 1"),
    pytest.param("a" * 63, "a" * 63, id="the longest label"),
    pytest.param("a." * 126 + "a", "a." * 126 + "a", id="the longest"),
    pytest.param("1.2.3.4.", ip_network("1.2.3.4"), id="an address with a last dot is one"),
]


@pytest.mark.parametrize(("text", "name"), NAMES)
def test_a_name_is_read_in_lower_case_and_without_its_last_dot(text, name):
    assert read_destination(text) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", CHARACTERS, id="nothing"),
        pytest.param(".", CHARACTERS, id="the root"),
        pytest.param("a b", CHARACTERS, id="a space"),
        pytest.param("a\n", CHARACTERS, id="a newline"),
        pytest.param("a\0", CHARACTERS, id="a NUL"),
        pytest.param("[ab].example", CHARACTERS, id="a set of characters"),
        pytest.param("!example.net", CHARACTERS, id="a negation"),
        pytest.param(f"al@{SECRET}", CHARACTERS, id="a user"),
        pytest.param(".corp.example", LABELS, id="a suffix"),
        pytest.param("a..b", LABELS, id="an empty label"),
        pytest.param("a..", LABELS, id="two dots at the end"),
        pytest.param("a" * 256, "a name has at most 255 characters", id="longer than any name"),
        pytest.param("a" * 64, "a name has labels of 1 to 63", id="a label longer than any"),
        pytest.param("a." * 126 + "aa", "a name has labels of 1 to 63", id="a little too long"),
        pytest.param("bü*.example", "a label beyond ASCII is", id="a wildcard beside an umlaut"),
        pytest.param("bü[a].example", "a label beyond ASCII is", id="a set beside an umlaut"),
        pytest.param("xn--ü.example", "a label beyond ASCII is", id="half an A-label"),
        pytest.param("\u0661.example", "a label beyond ASCII has its", id="an Arabic digit"),
        pytest.param("\ufffd.example", "a character in it stands in no name", id="no letter"),
        pytest.param("example.net:443", "a colon stands in IPv6 addresses alone", id="a port"),
        pytest.param("10.0.0.1:443", "a colon stands in IPv6 addresses alone", id="IPv4 and port"),
    ],
)
def test_a_wrong_name_says_what_would_be_right(text, message):
    assert message_of(read_destination, text).startswith(message)


@pytest.mark.parametrize("value", [1, True, 1.5, [], {}], ids=repr)
@pytest.mark.parametrize("read", [read_network, read_destination, read_udp_ports])
def test_what_is_no_text_is_refused_by_its_kind(read, value):
    assert message_of(read, value).startswith("a text is wanted, not ")


@given(st.text() | st.text("0123456789.:/*?x%af[]-"))
def test_any_text_is_a_destination_or_a_value_error(text):
    try:
        found = read_destination(text)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert read_destination(str(found)) == found


PORTS = [
    pytest.param(443, range(443, 444), id="a number"),
    pytest.param(0, range(1), id="port 0"),
    pytest.param(65535, range(65535, 65536), id="the last one"),
    pytest.param("443", range(443, 444), id="a number in quotes"),
    pytest.param("8000-8999", range(8000, 9000), id="a range"),
    pytest.param("7-7", range(7, 8), id="a range of one"),
    pytest.param("0-65535", range(65536), id="all"),
]


@pytest.mark.parametrize(("value", "ports"), PORTS)
def test_ports_are_a_range_with_both_of_its_ends(value, ports):
    assert read_ports(value) == ports


NO_PORTS = [
    pytest.param("9-3", "9-3 runs backwards; the lower port comes first", id="backwards"),
    pytest.param("65530-65536", "port 65536 is not in", id="a range that goes too far"),
    pytest.param("70000", "port 70000 is not in", id="too high"),
    pytest.param("", 'a port or a range such as "40000-49999" is wanted', id="nothing"),
    pytest.param("-1", "a port or a range", id="negative"),
    pytest.param("1-", "a port or a range", id="half a range"),
    pytest.param("1 - 2", "a port or a range", id="spaces"),
    pytest.param("1-2-3", "a port or a range", id="three numbers"),
    pytest.param("1,2", "a port or a range", id="a list in a text"),
    pytest.param("https", "a port or a range", id="a service"),
    pytest.param("\u0661", "a port or a range", id="an Arabic digit"),
    pytest.param("1" * 9999, "a port or a range", id="digits without end"),
    pytest.param(SECRET, "a port or a range", id="another text"),
]


@pytest.mark.parametrize(("text", "message"), NO_PORTS)
@pytest.mark.parametrize("read", [read_ports, read_udp_ports])
def test_wrong_ports_say_what_would_be_right(read, text, message):
    assert message_of(read, text).startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(-1, "-1 is not in 0..65535", id="negative"),
        pytest.param(65536, "65536 is not in 0..65535", id="too high"),
        pytest.param(True, "a whole number is wanted, not true or false", id="a truth"),
        pytest.param(443.0, "a whole number is wanted, not a fraction", id="a fraction"),
        pytest.param([443], "a whole number is wanted, not a list", id="a list in the list"),
    ],
)
def test_a_wrong_number_for_a_port_says_what_would_be_right(value, message):
    assert message_of(read_ports, value) == message


def test_a_socket_of_ours_is_not_at_port_0():
    assert read_udp_ports("40000-49999") == range(40000, 50000)
    assert read_udp_ports("1") == range(1, 2)
    assert message_of(read_udp_ports, "0-9") == "port 0 is not in 1..65535"


IPV4, IPV6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")


@pytest.mark.parametrize(
    ("value", "announced"),
    [
        pytest.param("192.0.2.1", (IPV4,), id="IPv4"),
        pytest.param("2001:db8::1", (IPV6,), id="IPv6"),
        pytest.param("127.0.0.1", (ip_address("127.0.0.1"),), id="loopback"),
        pytest.param("::ffff:192.0.2.1", (IPV4,), id="mapped means IPv4"),
        pytest.param(["192.0.2.1"], (IPV4,), id="a list of one"),
        pytest.param(["2001:db8::1", "192.0.2.1"], (IPV6, IPV4), id="one of each family"),
        pytest.param("proxy.example.net", ("proxy.example.net",), id="a name"),
        pytest.param("Proxy.example.net.", ("proxy.example.net",), id="a name with its last dot"),
        pytest.param("_a-b.c9", ("_a-b.c9",), id="all that a name may hold"),
        pytest.param("proxy", ("proxy",), id="a name of one label"),
        pytest.param("b\u00fccher.example", ("xn--bcher-kva.example",), id="an umlaut"),
        pytest.param(
            ".".join(["a" * 63] * 3 + ["b" * 61]),
            (f"{'.'.join(['a' * 63] * 3)}.{'b' * 61}",),
            id="the longest name",
        ),
        pytest.param(
            ["a.example", "192.0.2.1", "b.example"],
            ("a.example", IPV4, "b.example"),
            id="names beside an address",
        ),
    ],
)
def test_what_is_announced_is_an_address_of_each_family_or_names(value, announced):
    assert read_udp_address(value) == announced


SENT_TO = "clients and peers send to this address"
NO_HOST = "an IP address or a host name is wanted, without brackets, port, zone or wildcard"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param("0.0.0.0", SENT_TO, id="every address"),
        pytest.param("::", SENT_TO, id="every IPv6 address"),
        pytest.param("::ffff:0.0.0.0", SENT_TO, id="every mapped address"),
        pytest.param("224.0.0.1", SENT_TO, id="multicast"),
        pytest.param("ff02::1", SENT_TO, id="IPv6 multicast"),
        pytest.param("192.0.2.1:1080", NO_HOST, id="a port"),
        pytest.param("[2001:db8::1]", NO_HOST, id="brackets"),
        pytest.param("fe80::1%eth0", NO_HOST, id="a zone"),
        pytest.param("192.0.2.0/24", NO_HOST, id="a network"),
        pytest.param("*.example.net", NO_HOST, id="a glob"),
        pytest.param("example.net:1080", NO_HOST, id="a name with a port"),
        pytest.param(f"al:{SECRET}@example.net", NO_HOST, id="a user"),
        pytest.param(f"{SECRET} {SECRET}", NO_HOST, id="a space"),
        pytest.param("a\n", NO_HOST, id="a newline"),
        pytest.param("a..b", NO_HOST, id="an empty label"),
        pytest.param(".", NO_HOST, id="the root"),
        pytest.param("a" * 64, NO_HOST, id="a label that is too long"),
        pytest.param("256.1.1.1", NO_HOST, id="a number too high"),
        pytest.param("127.1", NO_HOST, id="an address in an odd spelling"),
        pytest.param("0x7f000001", NO_HOST, id="an address as one number"),
        pytest.param(".".join(["a" * 63] * 4), NO_HOST, id="a long name"),
        pytest.param(4, "a text is wanted, not a number", id="a number"),
        pytest.param([], "the list is empty", id="an empty list"),
        pytest.param(["192.0.2.1", "192.0.2.2"], "2 IPv4 addresses; a client", id="two of IPv4"),
        pytest.param(["::1", "::1"], "2 IPv6 addresses; a client", id="one of IPv6 twice"),
        pytest.param(["192.0.2.1", "::ffff:192.0.2.2"], "2 IPv4 addresses", id="a mapped one too"),
    ],
)
def test_what_clients_cannot_send_to_is_not_announced(value, message):
    assert message_of(read_udp_address, value).startswith(message)


def test_each_wrong_member_of_what_is_announced_is_told():
    with pytest.raises(ExceptionGroup) as caught:
        read_udp_address(["", "192.0.2.1", 7, "0.0.0.0"])
    texts = [str(error) for error in caught.value.exceptions]
    assert [text.partition(":")[0] for text in texts] == ["member 1", "member 3", "member 4"]
