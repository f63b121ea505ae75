"""SOCKS4 and 4A, octet by octet.

From "SOCKS: A protocol for TCP proxy across firewalls" (1 CONNECT, 2 BIND), and from "SOCKS 4A: A
Simple Extension to SOCKS 4 Protocol", both by Ying-Da Lee.
"""

from __future__ import annotations

from ipaddress import IPv4Address

from geproxy.terms import Endpoint
from geproxy.wire.socks4 import Reply, SocksRequest

LONGEST_NAME = b"n" * 255
LONGEST_USER_ID = bytes(range(1, 256))

# What it says, then the target, DSTPORT DSTIP, and what follows USERID and its NUL
TARGETS = [
    ("an IPv4 address", Endpoint(IPv4Address("192.0.2.7"), 80), b"\x00\x50\xc0\x00\x02\x07", b""),
    ("all zeros, which is no name", Endpoint(IPv4Address(0), 0), bytes(6), b""),
    ("0.0.1.0, which is none", Endpoint(IPv4Address(256), 1), b"\x00\x01\x00\x00\x01\x00", b""),
    ("1.0.0.1, which is none", Endpoint(IPv4Address("1.0.0.1"), 1), b"\x00\x01\x01\0\0\x01", b""),
    ("all ones", Endpoint(IPv4Address("255.255.255.255"), 65535), b"\xff" * 6, b""),
    ("a name", Endpoint("example.net", 443), b"\x01\xbb\0\0\0\x01", b"example.net\0"),
    ("a name of one letter", Endpoint("a", 256), b"\x01\x00\0\0\0\x01", b"a\0"),
    (
        "the longest name",
        Endpoint(LONGEST_NAME.decode(), 65535),
        b"\xff\xff\0\0\0\x01",
        LONGEST_NAME + b"\0",
    ),
    ("a name in UTF-8", Endpoint("b\u00fccher", 80), b"\x00\x50\0\0\0\x01", b"b\xc3\xbccher\0"),
    ("a name that is no UTF-8", Endpoint("\udcff", 80), b"\x00\x50\0\0\0\x01", b"\xff\0"),
    ("an address spelled as a name", Endpoint("127.1", 80), b"\x00\x50\0\0\0\x01", b"127.1\0"),
    ("a hidden address as a name", Endpoint("0.0.0.1", 80), b"\x00\x50\0\0\0\x01", b"0.0.0.1\0"),
]

COMMANDS = [
    ("CONNECT", 1, b"\x04\x01"),
    ("BIND", 2, b"\x04\x02"),
    ("an unknown CD is kept", 3, b"\x04\x03"),
    ("CD 0 is kept", 0, b"\x04\x00"),
    ("CD 255 is kept", 255, b"\x04\xff"),
]

USER_IDS = [
    ("nobody", b""),
    ("a user", b"alice"),
    ("octets that are no text", b"\xff\x80"),
    ("the longest USERID", LONGEST_USER_ID),
]

REQUESTS = [
    (
        f"{command}, {where}, {user}",
        SocksRequest(cd, target, user_id),
        front + middle + user_id + b"\0" + name,
    )
    for rows, users in ((COMMANDS, USER_IDS[:1]), (COMMANDS[:1], USER_IDS[1:]))
    for command, cd, front in rows
    for where, target, middle, name in TARGETS
    for user, user_id in users
]

REPLIES = [
    (
        "granted",
        Reply(90, Endpoint(IPv4Address("192.0.2.9"), 40_000)),
        b"\x00\x5a\x9c\x40\xc0\x00\x02\x09",
    ),
    (
        "granted, at the address where the client reached us",
        Reply(90, Endpoint(IPv4Address(0), 1)),
        b"\x00\x5a\x00\x01\x00\x00\x00\x00",
    ),
    ("rejected or failed", Reply(91, Endpoint(IPv4Address(0), 0)), b"\x00\x5b" + bytes(6)),
    ("no identd", Reply(92, Endpoint(IPv4Address(0), 0)), b"\x00\x5c" + bytes(6)),
    ("identd disagrees", Reply(93, Endpoint(IPv4Address(0), 0)), b"\x00\x5d" + bytes(6)),
    ("an unknown CD is kept", Reply(0, Endpoint(IPv4Address(0), 0)), bytes(8)),
    (
        "0.0.0.x in a reply is an address",
        Reply(90, Endpoint(IPv4Address(1), 0)),
        b"\0\x5a\0\0\0\0\0\x01",
    ),
]

# Up to and including the octet that cannot be
IMPOSSIBLE_REQUESTS = [
    ("a USERID of 256 octets", b"\x04\x01\x00\x50\xc0\x00\x02\x07" + b"u" * 256),
    ("a USERID of 256 octets before a name", b"\x04\x01\x00\x50\0\0\0\x01" + b"u" * 256),
    ("a name of 256 octets", b"\x04\x01\x00\x50\0\0\0\x01\0" + b"n" * 256),
    (
        "a name of 256 octets behind the longest USERID",
        b"\x04\x01\x00\x50\0\0\0\x01" + LONGEST_USER_ID + b"\0" + b"n" * 256,
    ),
]

# Octets that are never the first: SOCKS5, TLS, HTTP, and the VN of the other message
NOT_FOUR = [0x00, 0x01, 0x03, 0x05, 0x16, ord("C"), ord("G"), 0x84, 0xFF]
NOT_ZERO = [0x01, 0x04, 0x05, ord("H"), 0x5A, 0x80, 0xFF]
