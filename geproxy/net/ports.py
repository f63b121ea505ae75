"""Ports out of a range that the configuration names, for associations and BINDs."""

from __future__ import annotations

import errno
import secrets
import socket


def bind_in(sock: socket.socket, host: str, ports: range | None) -> None:
    """Bind *sock* to *host*, at a free port of *ports* (None: of the kernel's own choice).

    The search begins anywhere in the range, for workers do not know of each other's ports. Raises
    OSError, EADDRINUSE when none is free.
    """
    if ports is None:
        sock.bind((host, 0))
        return
    first = secrets.randbelow(len(ports))
    for step in range(len(ports)):
        try:
            sock.bind((host, ports[(first + step) % len(ports)]))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "every port of udp_ports is taken")
