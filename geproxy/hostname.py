"""The one spelling of a host: an address, or a name that everybody reads alike.

Clients and the configuration spell hosts in many ways, and those who read them later disagree:
``0177.1`` is 127.0.0.1 to one resolver and a name to another, and browsers map full-width digits
where getaddrinfo() does not. So each host is converted once, where it enters: in session.serve()
and net.udp.target_of() what clients send, in config/ what the file says. Only the result is judged,
logged and sent on.

The conversion takes brackets and blanks off, maps Unicode as browsers do (UTS #46), and reads what
is left as an address, in every spelling that inet_aton(3) and inet_pton(3) take. It refuses what is
neither an address nor a host name.
"""

from __future__ import annotations

# The first use would load codec and table, when a worker may no longer be able to open a file.
import encodings.punycode  # noqa: F401
import re
import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

import idna
import idna.uts46data

from geproxy.errors import DeniedError
from geproxy.terms import MAX_NAME_BYTES, Address, Endpoint, unmapped

# Fixed by the specification
MAX_NAME_CHARS = 253  # RFC 1035 §3.1: 255 octets on the wire
MAX_LABEL_CHARS = 63  # RFC 1035 §2.3.4
ACE_PREFIX = "xn--"  # RFC 5890 §2.3.2.1
JOINERS = "\u200c\u200d"  # RFC 5892 A.1 and A.2

# Chosen here
REMEMBERED = 1024  # hosts; a key has at most 255 characters, so 1 MiB at most
BLANKS = " \t\n\v\f\r"
NAME_WANTED = (
    f"a name has labels of 1 to {MAX_LABEL_CHARS} letters, digits, - and _, "
    f"{MAX_NAME_CHARS} characters in all"
)

# RFC 1123 §2.1, and the underscore, which names of services and many hosts of Windows have.
_NAME = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_LABEL = re.compile(r"[a-z0-9_-]*")
# Numbers alone, decimal, octal or hexadecimal, are an address or nothing: no name looks like that.
_NUMBERS = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)(?:\.(?:[0-9]+|0x[0-9a-f]*))*\.?")


def canonical(endpoint: Endpoint) -> Endpoint:
    """Return *endpoint* with its host in the one spelling; an IPv4-mapped address becomes IPv4.

    Raises DeniedError for what is neither an address nor a host name.
    """
    host = endpoint.host
    if isinstance(host, IPv4Address):
        return endpoint
    if isinstance(host, IPv6Address):
        plain = unmapped(host)
        return endpoint if plain is host else Endpoint(plain, endpoint.port)
    try:
        found = read_host(host)
    except ValueError:
        # Without the text: only what was converted is logged.
        raise DeniedError("no host name and no address") from None
    return endpoint if found == host else Endpoint(found, endpoint.port)


@lru_cache(maxsize=REMEMBERED)
def read_host(text: str) -> Address | str:
    """Return the address that *text* spells, or the name, in lower case and with A-labels.

    A dot at a name's end stays: it keeps resolvers from their search lists. An IPv4-mapped address
    becomes IPv4. Raises ValueError for what is neither; a zone (RFC 4007 §11) makes it so, because
    it names an interface of whoever wrote it.
    """
    host = _bare(_mapped(text))
    if ":" in host:
        return _read_ipv6(host)
    host = _with_a_labels(host)
    if _NUMBERS.fullmatch(host):
        return _read_ipv4(host.removesuffix("."))
    if not is_name(host.removesuffix(".")):
        raise ValueError(NAME_WANTED)
    return host


def is_name(text: str) -> bool:
    """Tell whether *text*, in lower case and without a last dot, is a host name in ASCII."""
    return len(text) <= MAX_NAME_CHARS and _NAME.fullmatch(text) is not None


def ascii_form(text: str) -> str:
    """Return *text* in lower case, its labels beyond ASCII as A-labels, all others as they are.

    Raises ValueError for a label that has no such form, as one that holds a wildcard too.
    """
    return _with_a_labels(_mapped(text))


def _mapped(text: str) -> str:
    """Map as UTS #46 §4 does: case, widths, dots; what it ignores is gone. Raises ValueError."""
    if len(text) > MAX_NAME_BYTES:  # what follows must not be long work
        raise ValueError(f"a name has at most {MAX_NAME_BYTES} characters")
    if text.isascii():
        return text.lower()
    try:
        # Not STD3's rules: they refuse brackets, colons and underscores, which are looked at here.
        return idna.uts46_remap(text, std3_rules=False)
    except UnicodeError:  # its text holds ours
        raise ValueError("a character in it stands in no name") from None


def _bare(text: str) -> str:
    """Take blanks off, and the brackets that libraries of browsers put around IPv6 addresses."""
    text = text.strip(BLANKS)
    if text.startswith("[") and text.endswith("]"):
        return text[1:-1].strip(BLANKS)
    return text


def _with_a_labels(text: str) -> str:
    if text.isascii():
        return text
    return ".".join(map(_a_label, text.split(".")))


def _a_label(label: str) -> str:
    """Convert a label that was mapped (UTS #46 §4). Raises ValueError.

    The checks are those that browsers make (WHATWG URL §3.3), so that emoji pass, which IDNA2008
    would refuse: idna.alabel() is stricter.
    """
    if label.isascii():
        return label
    plain = "".join(filter(str.isascii, label))
    if len(label) > MAX_LABEL_CHARS or label.startswith(ACE_PREFIX) or not _LABEL.fullmatch(plain):
        raise ValueError("a label beyond ASCII is letters, digits, - and _, without wildcards")
    try:
        idna.check_initial_combiner(label)
        idna.check_bidi(label)
        joined = all(
            idna.valid_contextj(label, place) for place, char in enumerate(label) if char in JOINERS
        )
    except ValueError:  # its text holds ours
        joined = False
    if not joined:
        raise ValueError("a label beyond ASCII has its characters in an order that none has")
    return ACE_PREFIX + label.encode("punycode").decode("ascii")


def _read_ipv4(text: str) -> IPv4Address:
    try:
        return IPv4Address(socket.inet_aton(text))
    except OSError:
        raise ValueError("no IPv4 address") from None


def _read_ipv6(text: str) -> Address:
    try:
        return unmapped(IPv6Address(socket.inet_pton(socket.AF_INET6, text)))
    except OSError:
        raise ValueError("no IPv6 address") from None
