"""SOCKS Protocol Version 5 (RFC 1928), octet by octet."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from geproxy.terms import Endpoint, Outcome
from geproxy.wire.socks5 import Greeting, MethodSelection, Reply, SocksRequest

LONGEST_NAME = b"n" * 255

# Section 5 with the port of section 4: what it says, then ATYP ADDR PORT
ADDRESSES = [
    ("an IPv4 address", Endpoint(IPv4Address("192.0.2.7"), 80), b"\x01\xc0\x00\x02\x07\x00\x50"),
    ("IPv4 all zeros", Endpoint(IPv4Address(0), 0), b"\x01\x00\x00\x00\x00\x00\x00"),
    (
        "IPv4 all ones",
        Endpoint(IPv4Address("255.255.255.255"), 65535),
        b"\x01\xff\xff\xff\xff\xff\xff",
    ),
    (
        "an IPv6 address",
        Endpoint(IPv6Address("2001:db8::1"), 443),
        b"\x04\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\xbb",
    ),
    ("IPv6 all zeros", Endpoint(IPv6Address(0), 0), b"\x04" + bytes(18)),
    (
        "an IPv4-mapped address stays as it was sent",
        Endpoint(IPv6Address("::ffff:192.0.2.1"), 1),
        b"\x04" + bytes(10) + b"\xff\xff\xc0\x00\x02\x01\x00\x01",
    ),
    ("a name", Endpoint("example.net", 443), b"\x03\x0bexample.net\x01\xbb"),
    ("a name of one letter", Endpoint("a", 256), b"\x03\x01a\x01\x00"),
    (
        "the longest name",
        Endpoint(LONGEST_NAME.decode(), 65535),
        b"\x03\xff" + LONGEST_NAME + b"\xff\xff",
    ),
    ("a name in UTF-8", Endpoint("b\u00fccher", 80), b"\x03\x07b\xc3\xbccher\x00\x50"),
    ("a name that is no UTF-8", Endpoint("\udcff\udcfe", 80), b"\x03\x02\xff\xfe\x00\x50"),
    ("an address spelled as a name", Endpoint("127.0.0.1", 80), b"\x03\x09127.0.0.1\x00\x50"),
    ("a name of no octets", Endpoint("", 80), b"\x03\x00\x00\x50"),
    ("a name with a NUL", Endpoint("a\0b", 80), b"\x03\x03a\x00b\x00\x50"),
    ("a name with a blank", Endpoint("a b", 80), b"\x03\x03a b\x00\x50"),
]

# Up to and including the octet that cannot be
IMPOSSIBLE_ADDRESSES = [
    ("ATYP 0", b"\x00", Outcome.ADDRESS_UNSUPPORTED),
    ("ATYP 2", b"\x02", Outcome.ADDRESS_UNSUPPORTED),
    ("ATYP 5", b"\x05", Outcome.ADDRESS_UNSUPPORTED),
    ("ATYP 255", b"\xff", Outcome.ADDRESS_UNSUPPORTED),
]

# Section 3
GREETINGS = [
    ("only no-authentication", Greeting(b"\x00"), b"\x05\x01\x00"),
    ("no-authentication and password", Greeting(b"\x00\x02"), b"\x05\x02\x00\x02"),
    ("GSSAPI alone is a greeting", Greeting(b"\x01"), b"\x05\x01\x01"),
    ("a private method is kept", Greeting(b"\x00\x02\x80"), b"\x05\x03\x00\x02\x80"),
    ("a method twice is kept twice", Greeting(b"\x00\x00"), b"\x05\x02\x00\x00"),
    ("the order offered is kept", Greeting(b"\x02\x00"), b"\x05\x02\x02\x00"),
    ("method 255 offered", Greeting(b"\xff"), b"\x05\x01\xff"),
    ("every method there is", Greeting(bytes(range(255))), b"\x05\xff" + bytes(range(255))),
]
SELECTIONS = [
    ("no authentication", MethodSelection(0x00), b"\x05\x00"),
    ("GSSAPI", MethodSelection(0x01), b"\x05\x01"),
    ("username and password", MethodSelection(0x02), b"\x05\x02"),
    ("a private method", MethodSelection(0x80), b"\x05\x80"),
    ("no acceptable methods", MethodSelection(0xFF), b"\x05\xff"),
]

# Section 4: CMD, and the octets in front of ATYP
COMMANDS = [
    ("CONNECT", 1, b"\x05\x01\x00"),
    ("BIND", 2, b"\x05\x02\x00"),
    ("UDP ASSOCIATE", 3, b"\x05\x03\x00"),
    ("an unknown CMD is kept", 0xF0, b"\x05\xf0\x00"),
    ("CMD 0 is kept", 0, b"\x05\x00\x00"),
]

# Section 6: REP, and the octets in front of ATYP
REPLIES = [
    ("succeeded", 0, b"\x05\x00\x00"),
    ("general failure", 1, b"\x05\x01\x00"),
    ("not allowed by ruleset", 2, b"\x05\x02\x00"),
    ("network unreachable", 3, b"\x05\x03\x00"),
    ("host unreachable", 4, b"\x05\x04\x00"),
    ("connection refused", 5, b"\x05\x05\x00"),
    ("TTL expired", 6, b"\x05\x06\x00"),
    ("command not supported", 7, b"\x05\x07\x00"),
    ("address type not supported", 8, b"\x05\x08\x00"),
    ("an unassigned REP is kept", 9, b"\x05\x09\x00"),
]

KINDS = (Greeting, MethodSelection, SocksRequest, Reply)

# Octets that are never the first: SOCKS4, RFC 1929's VER, TLS, HTTP
NOT_FIVE = [0x00, 0x01, 0x04, 0x06, 0x16, ord("C"), ord("G"), 0x85, 0xFF]
