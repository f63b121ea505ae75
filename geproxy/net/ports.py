"""Ports out of a range that the configuration names, for associations and BINDs."""

from __future__ import annotations

import errno
import secrets
import socket


def bind_in(sock: socket.socket, host: str, ports: range | None, interface: int = 0) -> None:
    """Bind *sock* to *host*, at a free port of *ports* (None: of the kernel's own choice).

    *interface* is the index of the one that a link-local *host* is an address of. The search begins
    anywhere in the range, for workers do not know of each other's ports. Raises OSError, EADDRINUSE
    when none is free.
    """
    scope = (0, interface) if interface else ()  # IPv6: flow information, interface
    if ports is None:
        sock.bind((host, 0, *scope))
        return
    first = secrets.randbelow(len(ports))
    for step in range(len(ports)):
        try:
            sock.bind((host, ports[(first + step) % len(ports)], *scope))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "every port of udp_ports is taken")
