"""Which address of a name is used first (RFC 6724 §6), as getaddrinfo would order them.

A and AAAA are asked apart, so that getaddrinfo sees one family at a time and cannot order both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from pathlib import Path

from geproxy.net.source import address_towards
from geproxy.terms import Address

# Fixed by the specification
GAI_CONF = Path("/etc/gai.conf")  # gai.conf(5)
# RFC 6724 §3.1
LINK_LOCAL_SCOPE, SITE_LOCAL_SCOPE, GLOBAL_SCOPE = 0x2, 0x5, 0xE

# The tables of glibc's getaddrinfo(3), not of RFC 6724 §2.1: what stands in one family or in
# /etc/hosts is ordered by glibc itself, and shall not be ordered otherwise here.
LABELS = {"::1/128": 0, "::/0": 1, "2002::/16": 2, "::/96": 3, "::ffff:0:0/96": 4}
LABELS |= {"fec0::/10": 5, "fc00::/7": 6, "2001:0::/32": 7}
PRECEDENCES = {"::1/128": 50, "::/0": 40, "2002::/16": 30, "::/96": 20, "::ffff:0:0/96": 10}

Table = list[tuple[IPv6Network, int]]
Rank = tuple[bool, bool, bool, int, int]


class Preference:
    """The policy table of this host."""

    def __init__(self, lines: Iterable[str]) -> None:
        """Take the *lines* of gai.conf(5). Those of a kind replace all of glibc's of that kind."""
        labels: dict[str, int] = {}
        precedences: dict[str, int] = {}
        kinds = {"label": labels, "precedence": precedences}
        for line in lines:
            words = line.partition("#")[0].split()
            if len(words) == 3 and words[0] in kinds and words[2].isdecimal():
                kinds[words[0]][words[1]] = int(words[2])
        self._labels = _table(labels or LABELS)
        self._precedences = _table(precedences or PRECEDENCES)

    @classmethod
    def of_system(cls) -> Preference:
        """Read the system's gai.conf; a file that is not there, or not for us, changes nothing."""
        try:
            text = GAI_CONF.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        return cls(text.splitlines())

    def is_sound(self, address: Address) -> bool:
        """Tell whether the kernel has a source for *address*, of its scope and of its kind.

        A host with unique local IPv6 addresses alone has a source for every IPv6 address, and none
        that hears answers.
        """
        return not any(self._rank(address)[:3])

    def ordered(self, addresses: Sequence[Address]) -> tuple[Address, ...]:
        """Sort *addresses*, the most promising first; equals stay as they are.

        Asks the kernel for each of them: about 10 µs, so never for an answer that is remembered.
        """
        return tuple(sorted(addresses, key=self._rank))

    def _rank(self, address: Address) -> Rank:
        """Make a sorting key of the rules of RFC 6724 §6 that can tell the families apart.

        Rules 3, 4 and 7 (deprecated, home and native addresses) are the kernel's when it chooses
        the source; rule 9 (prefixes) is about one family alone, which glibc has sorted.
        """
        source = _source_towards(address)
        scope = _scope(address)
        return (
            source is None,  # rule 1
            source is None or _scope(source) != scope,  # rule 2
            source is None or self._label(source) != self._label(address),  # rule 5
            -_look_up(self._precedences, address),  # rule 6
            scope,  # rule 8
        )

    def _label(self, address: Address) -> int:
        return _look_up(self._labels, address)


def _source_towards(address: Address) -> Address | None:
    try:
        return address_towards(address)
    except OSError:
        return None


def _table(values: dict[str, int]) -> Table:
    """Sort a policy table so that the longest prefix comes first; what is no prefix is left out."""
    table: Table = []
    for text, value in values.items():
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            continue  # getaddrinfo skips it too
        if isinstance(network, IPv6Network):
            table.append((network, value))
    return sorted(table, key=lambda row: -row[0].prefixlen)


def _look_up(table: Table, address: Address) -> int:
    if isinstance(address, IPv4Address):
        address = IPv6Address(0xFFFF << 32 | int(address))
    return next((value for network, value in table if address in network), 0)


def _scope(address: Address) -> int:
    """RFC 6724 §3.1 and §3.2."""
    if address.is_link_local or address.is_loopback:
        return LINK_LOCAL_SCOPE
    if isinstance(address, IPv6Address) and address.is_site_local:
        return SITE_LOCAL_SCOPE
    return GLOBAL_SCOPE
