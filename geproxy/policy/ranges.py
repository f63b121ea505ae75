"""Tell public addresses from all others, by a table of our own.

``ipaddress.is_global`` is no judge of targets: in Python 3.11 it is True for ``::127.0.0.1``,
``64:ff9b::7f00:1``, ``2002:7f00:1::``, ``224.0.0.1`` and ``fec0::1``, all of which can lead inside.
This table knows no network's own NAT64 prefix: bounds asks Nat64 what is inside an address, and
judges that as well.
"""

from __future__ import annotations

from bisect import bisect_right
from ipaddress import IPv4Address, ip_network

from geproxy.nat64 import WELL_KNOWN
from geproxy.terms import Address

# The IANA IPv4 and IPv6 Special-Purpose Address Registries, as of 2025-10: the blocks whose
# "Globally Reachable" is False, then others that lead inside; each with the RFC that made it.
# A block that another row contains has none of its own. A block that is True and in no other, as
# AS112's 192.31.196.0/24 and 2620:4f:8000::/48, is as public as any.
NON_PUBLIC_IPV4 = (
    "0.0.0.0/8",  # this host on this network: RFC 791 §3.2. Linux connects 0.0.0.0 to itself
    "10.0.0.0/8",  # private use: RFC 1918 §3
    "100.64.0.0/10",  # shared address space of carrier-grade NAT: RFC 6598 §7
    "127.0.0.0/8",  # loopback: RFC 1122 §3.2.1.3
    "169.254.0.0/16",  # link-local, and the clouds' metadata: RFC 3927 §2.1
    "172.16.0.0/12",  # private use: RFC 1918 §3
    "192.0.0.0/24",  # IETF protocol assignments: RFC 6890 §2.1
    "192.0.2.0/24",  # documentation (TEST-NET-1): RFC 5737 §3
    "192.88.99.0/24",  # 6to4 relay anycast, withdrawn: RFC 7526; 6a44 relay: RFC 6751
    "192.168.0.0/16",  # private use: RFC 1918 §3
    "198.18.0.0/15",  # benchmarking: RFC 2544 C.2.2
    "198.51.100.0/24",  # documentation (TEST-NET-2): RFC 5737 §3
    "203.0.113.0/24",  # documentation (TEST-NET-3): RFC 5737 §3
    "224.0.0.0/4",  # multicast: RFC 5771
    "240.0.0.0/4",  # reserved: RFC 1112 §4; limited broadcast: RFC 919 §7
)
PUBLIC_WITHIN_IPV4 = (  # more specific, and Globally Reachable
    "192.0.0.9/32",  # PCP anycast: RFC 7723
    "192.0.0.10/32",  # TURN anycast: RFC 8155
)
NON_PUBLIC_IPV6 = (
    # Global unicast is 2000::/3 and nothing else so far (IANA IPv6 Address Space; RFC 4291 §2.4).
    # The first row holds :: and ::1, IPv4-compatible ::/96 (RFC 4291 §2.5.5.1), IPv4-translated
    # ::ffff:0:0:0/96 (RFC 2765 §2.1), local-use NAT64 64:ff9b:1::/48 (RFC 8215), discard-only
    # 100::/64 (RFC 6666) and dummy 100:0:0:1::/64 (RFC 9780). It holds NAT64's 64:ff9b::/96 too
    # (RFC 6052), which is Globally Reachable: is_public() looks at the address inside instead.
    "::/3",
    "4000::/2",  # SRv6 5f00::/16: RFC 9602
    "8000::/1",  # fc00::/7: RFC 4193; fe80::/10: RFC 4291; fec0::/10: RFC 3879; ff00::/8: RFC 4291
    "2001::/23",  # IETF protocol assignments: RFC 2928; among them Teredo 2001::/32: RFC 4380,
    #               benchmarking 2001:2::/48: RFC 5180, and the former ORCHID 2001:10::/28: RFC 4843
    "2001:db8::/32",  # documentation: RFC 3849
    "2002::/16",  # 6to4, an IPv4 address in bits 16 to 47: RFC 3056 §2
    "3fff::/20",  # documentation: RFC 9637
)
PUBLIC_WITHIN_IPV6 = (  # more specific, and Globally Reachable
    "2001:1::1/128",  # PCP anycast: RFC 7723
    "2001:1::2/128",  # TURN anycast: RFC 8155
    "2001:1::3/128",  # DNS-SD service registration anycast: RFC 9665
    "2001:3::/32",  # AMT: RFC 7450
    "2001:4:112::/48",  # AS112-v6: RFC 7535
    "2001:20::/28",  # ORCHIDv2: RFC 7343
    "2001:30::/28",  # drone remote ID: RFC 9374
)

# Fixed by the specification
_MAPPED = 0xFFFF  # the upper 96 bits of ::ffff:0:0/96: RFC 4291 §2.5.5.2
_TRANSLATED = WELL_KNOWN.top  # those of 64:ff9b::/96
# The upper half of an ISATAP interface identifier is 0000:5efe or, for an IPv4 address that is
# unique in the world, 0200:5efe, behind any prefix: RFC 5214 §6.1.
_ISATAP = 0x0000_5EFE
_ISATAP_MASK = 0xFDFF_FFFF


def is_public(address: Address) -> bool:
    """Tell whether *address* is one that everybody on the Internet reaches alike.

    An IPv4-mapped address is judged as the IPv4 address that the kernel dials for it, and one in
    64:ff9b::/96 as that which NAT64 makes of it (RFC 6052 §2.1). Every other embedding of IPv4 is
    not public, whatever is inside: who unpacks it, and where, we cannot know.
    """
    number = int(address)
    if isinstance(address, IPv4Address):
        return _is_public_at(_TURNS_IPV4, number)
    upper = number >> 32
    if upper in (_MAPPED, _TRANSLATED):
        return _is_public_at(_TURNS_IPV4, number & 0xFFFF_FFFF)
    if upper & _ISATAP_MASK == _ISATAP:
        return False
    return _is_public_at(_TURNS_IPV6, number)


def is_loopback(address: Address) -> bool:
    """Tell whether *address* is 127.0.0.0/8, ::1, or the former mapped into IPv6."""
    number = int(address)
    if isinstance(address, IPv4Address):
        return number >> 24 == 127
    return number == 1 or number >> 24 == _MAPPED << 8 | 127


def _turns(non_public: tuple[str, ...], public_within: tuple[str, ...]) -> list[int]:
    """Return, ascending, each number at which the verdict turns. Before the first it is public."""
    outer = [_range(text) for text in non_public]
    inner = [_range(text) for text in public_within]
    turns: list[int] = []
    public = True
    for edge in sorted({edge for block in outer + inner for edge in (block.start, block.stop)}):
        verdict = any(edge in block for block in inner) or all(edge not in block for block in outer)
        if verdict is not public:
            turns.append(edge)
            public = verdict
    return turns


def _range(text: str) -> range:
    network = ip_network(text)
    return range(int(network.network_address), int(network.broadcast_address) + 1)


_TURNS_IPV4 = _turns(NON_PUBLIC_IPV4, PUBLIC_WITHIN_IPV4)
_TURNS_IPV6 = _turns(NON_PUBLIC_IPV6, PUBLIC_WITHIN_IPV6)


def _is_public_at(turns: list[int], number: int) -> bool:
    # Public comes first, so it is public again after every second turn.
    return bisect_right(turns, number) % 2 == 0
