"""Username/Password Authentication for SOCKS V5 (RFC 1929 section 2), octet by octet."""

from __future__ import annotations

from geproxy.wire.userpass import Credentials, Status

LONGEST = bytes(range(1, 256))

CREDENTIALS = [
    ("a user and a password", Credentials(b"alice", b"secret"), b"\x01\x05alice\x06secret"),
    ("one octet each", Credentials(b"a", b"b"), b"\x01\x01a\x01b"),
    (
        "the longest of both",
        Credentials(LONGEST, LONGEST),
        (b"\x01\xff" + LONGEST + b"\xff" + LONGEST),
    ),
    ("an empty password, as clients send it", Credentials(b"alice", b""), b"\x01\x05alice\x00"),
    ("an empty user", Credentials(b"", b"secret"), b"\x01\x00\x06secret"),
    ("nothing of either", Credentials(b"", b""), b"\x01\x00\x00"),
    (
        "octets that are no text",
        Credentials(b"\xff\x00", b"\x00\x80"),
        b"\x01\x02\xff\x00\x02\x00\x80",
    ),
    ("a colon in both", Credentials(b"a:b", b"c:d"), b"\x01\x03a:b\x03c:d"),
]
STATUSES = [
    ("success", Status(0), b"\x01\x00"),
    ("failure", Status(1), b"\x01\x01"),
    ("any other octet is a failure too and is kept", Status(0xFF), b"\x01\xff"),
]

KINDS = (Credentials, Status)

# Octets that are never the first; SOCKS5's own version is what a confused client sends
NOT_ONE = [0x00, 0x02, 0x04, 0x05, 0x81, 0xFF]
