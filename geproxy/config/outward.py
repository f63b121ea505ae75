"""The address of this host that clients elsewhere may reach it by."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address

from geproxy.terms import Address

# Chosen here
DISCARD_PORT = 9  # RFC 863; nothing is ever sent to it

# Somewhere outside, by IP version: documentation addresses (RFC 5737, RFC 3849), which are routed
# as any other and belong to nobody.
OUTSIDE = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}


def outward_address(versions: Iterable[int]) -> Address | None:
    """Find the address from which this host would talk to the Internet, a public one if it can.

    Sends nothing: to connect a UDP socket is to ask for the route. *versions* are of IP.
    """
    found = []
    for version in versions:
        family, outside = OUTSIDE[version]
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, DISCARD_PORT))
                address: Address = ip_address(probe.getsockname()[0])
        except OSError:  # no route, or no such family here
            continue
        if not address.is_link_local:
            found.append(address)
    return max(found, key=lambda address: address.is_global, default=None)  # the first of equals
