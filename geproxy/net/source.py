"""From which address of ours the kernel would reach another."""

from __future__ import annotations

import socket

from geproxy.terms import Address, Endpoint

# Chosen here
DISCARD_PORT = 9  # RFC 863; nothing is sent there


def address_towards(peer: Address) -> Address:
    """Return the address of ours from which the kernel would reach *peer*.

    Raises OSError: EADDRNOTAVAIL where we have none for it, EAGAIN where no UDP port is free to ask
    from.
    """
    family = socket.AF_INET6 if peer.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(Endpoint(peer, DISCARD_PORT).sockaddr)
        return Endpoint.from_sockaddr(sock.getsockname()).address
