"""Addresses, networks, names and ports as they stand in the file.

No error repeats a text that was not understood: it could be a password in the wrong place.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from geproxy.config.setting import read_list, read_number, read_text
from geproxy.hostname import NAME_WANTED, ascii_form, is_name, read_host
from geproxy.terms import Address, unmapped

Network = IPv4Network | IPv6Network

# Fixed by the specification
PORT_MAX = 65535
MAPPED_PREFIX_BITS = 96  # RFC 4291 §2.5.5.2

_PORTS = re.compile("([0-9]{1,9})(?:-([0-9]{1,9}))?")
_PREFIX_BITS = re.compile("[0-9]{1,3}")
_GLOB = re.compile(r"[a-z0-9_.*?-]+")
# In place of a top-level domain, inet_aton() reads as much as a part of an IPv4 address.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_DIGITS = re.compile(r"[0-9*?]+")


def read_udp_address(value: object) -> tuple[Address | str, ...]:
    """Read what is announced: a text, or a list of at most one address per family, and names.

    A mapped address becomes IPv4, a name loses a last dot. Raises ValueError, or a group of one
    per wrong member of a list.
    """
    if not isinstance(value, list):
        return (_read_announced(value),)
    if not value:
        raise ValueError("the list is empty; leave the setting out to announce our own addresses")
    found = read_list(value, _read_announced)
    versions = [one.version for one in found if not isinstance(one, str)]
    for version in sorted(set(versions)):
        if versions.count(version) > 1:
            count = versions.count(version)
            raise ValueError(f"{count} IPv{version} addresses; a client is told one of each family")
    return tuple(found)


def _read_announced(value: object) -> Address | str:
    text = read_text(value)
    try:
        # A zone is refused: it names an interface of this host, which means nothing to others.
        address = None if "%" in text else unmapped(ip_address(text))
    except ValueError:
        address = None
    if address is None:
        return _read_host_name(text)
    if address.is_unspecified or address.is_multicast:
        raise ValueError("clients and peers send to this address; one host's is wanted")
    return address


def _read_host_name(text: str) -> str:
    try:
        host = read_host(text)
    except ValueError:
        host = ip_address(0)
    # An address in an odd spelling, or in brackets, or blanks around either.
    if not isinstance(host, str) or text != text.strip():
        raise ValueError(
            "an IP address or a host name is wanted, without brackets, port, zone or wildcard"
        )
    return host.removesuffix(".")


def read_udp_ports(value: object) -> range:
    """Read the ports that associations and BIND take theirs from. Raises ValueError."""
    return _parse_ports(read_text(value), lowest=1)


def read_ports(value: object) -> range:
    """Read a port, or a range of them as a text. Raises ValueError.

    Port 0 is one: BIND and UDP ASSOCIATE may ask for it.
    """
    if isinstance(value, str):
        return _parse_ports(value, lowest=0)
    port = read_number(value, 0, PORT_MAX)
    return range(port, port + 1)


def read_network(value: object) -> Network:
    """Read a network, or an address as the network of itself; a mapped one becomes IPv4.

    Raises ValueError. A network with bits behind its prefix is wrong: more or less was meant.
    """
    text = read_text(value)
    address_text, slash, prefix_bits = text.partition("/")
    try:
        if "%" in text or (slash and not _PREFIX_BITS.fullmatch(prefix_bits)):
            raise ValueError("neither zones nor netmasks")
        # ip_interface() would try both families, which takes a long list seconds.
        if ":" in address_text:
            address: Address = IPv6Address(address_text)
            whole: Network = IPv6Network((address, int(prefix_bits or 128)), strict=False)
        else:
            address = IPv4Address(address_text)
            whole = IPv4Network((address, int(prefix_bits or 32)), strict=False)
    except ValueError:
        wanted = "an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32 is wanted"
        raise ValueError(wanted) from None
    network = _unmapped_network(whole)
    if address != whole.network_address:
        raise ValueError(f"the address has bits behind its prefix; that network is {network}")
    return network


def read_destination(value: object) -> Network | str:
    """Read a network or an address; or a name or glob, as clients' names are when they are judged.

    That is in lower case, with A-labels, and here without a last dot. Raises ValueError. What looks
    like an address is one or is wrong: as a name it never matches.
    """
    name = ascii_form(read_text(value)).removesuffix(".")
    if name.count(":") == 1:
        raise ValueError("a colon stands in IPv6 addresses alone; ports have a key of their own")
    if "/" in name or ":" in name or _is_numeric(name):
        return read_network(name)
    if not _GLOB.fullmatch(name):
        raise ValueError("a name consists of letters, digits, . _ - and the wildcards * and ?")
    if "" in name.split("."):
        raise ValueError("a dot stands between labels; all names in a domain are *.example.net")
    if not set(name) & set("*?") and not is_name(name):
        raise ValueError(NAME_WANTED)
    return name


def _parse_ports(text: str, lowest: int) -> range:
    parts = _PORTS.fullmatch(text)
    if parts is None:
        raise ValueError('a port or a range such as "40000-49999" is wanted')
    low, high = int(parts[1]), int(parts[2] or parts[1])
    for port in (low, high):
        if not lowest <= port <= PORT_MAX:
            raise ValueError(f"port {port} is not in {lowest}..{PORT_MAX}")
    if low > high:
        raise ValueError(f"{low}-{high} runs backwards; the lower port comes first")
    return range(low, high + 1)


def _is_numeric(name: str) -> bool:
    """Tell whether *name* is an address, or was meant as one, as 256.1.1.1 and 10.0.*."""
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return True
    return labels[0].isdigit() and all(_DIGITS.fullmatch(label) for label in labels)


def _unmapped_network(network: Network) -> Network:
    """Give the IPv4 network inside ::ffff:0:0/96, any other as it is."""
    address = unmapped(network.network_address)
    if address.version == network.version or network.prefixlen < MAPPED_PREFIX_BITS:
        return network
    return IPv4Network((int(address), network.prefixlen - MAPPED_PREFIX_BITS))
