"""Addresses where nobody takes a call: one that refuses, one that does not answer."""

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from geproxy.terms import Endpoint


@contextmanager
def refusing(host: str = "127.0.0.1") -> Iterator[Endpoint]:
    """An address that refuses: bound, so that nobody else gets the port, and not listening."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        yield Endpoint.from_sockaddr(sock.getsockname())


@contextmanager
def black_hole() -> Iterator[Endpoint]:
    """An address that does not answer: its queue is full, and Linux drops what comes then."""
    with ExitStack() as held:
        sock = held.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        while True:
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(sock.getsockname())
            if not select.select([], [client], [], 0.05)[1]:
                break
        yield Endpoint.from_sockaddr(sock.getsockname())
