"""NAT64: IPv4 addresses inside IPv6 ones (RFC 6052), and the prefixes behind which they stand.

A translator sends what is for such an IPv6 address to the IPv4 address in it, so the policy judges
both. One prefix is the same everywhere, 64:ff9b::/96; others are a network's own, and net.nat64
finds them (RFC 7050).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from geproxy.terms import Address

# Fixed by the specification
LENGTHS = (32, 40, 48, 56, 64, 96)  # RFC 6052 §2.2, in bits
# RFC 7050 §8.2
WELL_KNOWN_ADDRESSES = frozenset(map(IPv4Address, ("192.0.0.170", "192.0.0.171")))
# Where a prefix can be: global unicast (RFC 4291 §2.4), the well-known one (RFC 6052 §2.1), those
# for local use (RFC 8215) and unique local ones (RFC 4193). Loopback and IPv4-mapped are not there:
# an untrue answer of DNS must not turn an IPv4 address into this host.
_PLACES = tuple(map(IPv6Network, ("2000::/3", "64:ff9b::/96", "64:ff9b:1::/48", "fc00::/7")))
_IPV4 = 0xFFFF_FFFF
# Bits 64 to 71, the "u" octet, hold nothing of the IPv4 address (RFC 6052 §2.2); without them an
# address has 120 bits, of which the last 56 stand behind the octet.
_LOW_BITS = 56
_LOW = (1 << _LOW_BITS) - 1

# Chosen here
PREFIXES_MAX = 8  # of one network: each is compared with every IPv6 address that is judged


@dataclass(frozen=True, slots=True)
class Prefix:
    """One prefix that a translator serves."""

    bits: int
    top: int  # the first *bits* bits of an address, as a number

    @classmethod
    def of(cls, address: IPv6Address, bits: int) -> Prefix:
        """The prefix of *bits* bits, one of LENGTHS, that *address* begins with."""
        return cls(bits, int(address) >> 128 - bits)

    def holds(self, number: int) -> bool:
        """Tell whether the address with this *number* begins so."""
        return number >> 128 - self.bits == self.top

    def inside(self, number: int) -> IPv4Address:
        """Return what stands behind the prefix in the address with this *number*."""
        if self.bits == 96:
            return IPv4Address(number & _IPV4)
        squeezed = number >> 64 << _LOW_BITS | number & _LOW
        return IPv4Address(squeezed >> 88 - self.bits & _IPV4)

    def around(self, address: IPv4Address) -> IPv6Address:
        """Return the IPv6 address that the translator turns into *address*."""
        if self.bits == 96:
            return IPv6Address(self.top << 32 | int(address))
        squeezed = (self.top << 32 | int(address)) << 88 - self.bits
        return IPv6Address(squeezed >> _LOW_BITS << 64 | squeezed & _LOW)

    def __str__(self) -> str:
        return f"{IPv6Address(self.top << 128 - self.bits)}/{self.bits}"


WELL_KNOWN = Prefix.of(IPv6Address("64:ff9b::"), 96)  # RFC 6052 §2.1


class Nat64:
    """What one worker knows of translators; it starts with the well-known prefix alone."""

    def __init__(self) -> None:
        self.learned: tuple[Prefix, ...] = ()  # those that this network has said are served
        self._known: tuple[Prefix, ...] = (WELL_KNOWN,)

    def learn(self, prefixes: Iterable[Prefix]) -> None:
        """Take *prefixes* for those that this network has, in place of all before."""
        self.learned = tuple(prefixes)[:PREFIXES_MAX]
        self._known = tuple(dict.fromkeys((WELL_KNOWN, *self.learned)))

    def inside(self, address: Address) -> tuple[IPv4Address, ...]:
        """Return the IPv4 addresses that *address* may lead to: mostly none, hardly ever two."""
        if isinstance(address, IPv4Address):
            return ()
        number = int(address)
        found: tuple[IPv4Address, ...] = ()
        for prefix in self._known:  # a generator costs twice as much
            if prefix.holds(number):
                found = (*found, prefix.inside(number))
        return found

    def around(self, address: IPv4Address) -> list[IPv6Address]:
        """Return the IPv6 addresses that this network turns into *address*."""
        return [prefix.around(address) for prefix in self.learned]


def prefixes_of(addresses: Iterable[Address]) -> tuple[Prefix, ...]:
    """Return the prefixes behind which *addresses* hold the well-known ones of ``ipv4only.arpa``.

    An address that can be read in two ways is passed over: its prefix, which then looks like a
    well-known address itself, is none that a network would choose (RFC 7050 §3).
    """
    found: dict[Prefix, None] = {}
    for address in addresses:
        if isinstance(address, IPv6Address) and any(address in place for place in _PLACES):
            ways = [Prefix.of(address, bits) for bits in LENGTHS]
            ways = [way for way in ways if way.inside(int(address)) in WELL_KNOWN_ADDRESSES]
            if len(ways) == 1:
                found[ways[0]] = None
    return tuple(found)
