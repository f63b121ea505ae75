"""Open UDP ports: towards a client, towards a peer, and towards whatever target."""

from __future__ import annotations

import errno
import os
import resource
import socket
from ipaddress import IPv4Address, IPv6Address

from geproxy.errors import ProtocolError
from geproxy.hostname import canonical
from geproxy.net.datagram import DatagramSocket
from geproxy.net.dial import dial_error, meets_itself
from geproxy.net.ports import bind_in
from geproxy.net.sockopt import prepare_datagrams
from geproxy.terms import Address, Endpoint
from geproxy.wire.address import decode_address, encode_address

# Chosen here
SPARE_DESCRIPTORS = 32  # that no UDP port takes

_ANYWHERE = Endpoint(IPv4Address(0), 0)


def target_of(head: bytes) -> Endpoint:
    """Read the block ATYP ADDR PORT; a host is in its one spelling then.

    Raises ProtocolError for a block that is none, and DeniedError for what is no host.
    """
    found = decode_address(head, 0)
    if found is None:
        raise ProtocolError("an address that is cut off")
    return canonical(found[0])


def head_of(target: Endpoint) -> bytes:
    """Write the block ATYP ADDR PORT."""
    return encode_address(target)


def adopted(descriptor: int) -> DatagramSocket:
    """Take a socket over that was duplicate()d in another process."""
    return DatagramSocket(socket.socket(fileno=descriptor))


def open_towards_clients(
    address: Address, ports: range | None, interface: int = 0
) -> DatagramSocket:
    """Bind a port of *ports* at one address of ours. Raises DialError.

    *interface* is the index of its interface, where the address is of that link alone; hosts of
    other links, where there may be another client with the same address, do not reach the port.

    Never SO_REUSEADDR: another user of this host could then bind the port too and receive what is
    sent to it.
    """
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        sock = _make(family)
    except OSError as error:
        raise dial_error(error.errno or 0, Endpoint(address, 0)) from error
    link_local = isinstance(address, IPv6Address) and address.is_link_local
    try:
        bind_in(sock, str(address), ports, interface if link_local else 0)
    except OSError as error:
        sock.close()
        raise dial_error(error.errno or 0, Endpoint(address, 0)) from error
    return DatagramSocket(sock)


def open_outwards() -> DatagramSocket:
    """Bind a port for targets of either family, as one socket where there is IPv6 at all.

    It is bound before the first send, so that it is known: a target on this host that has the same
    port is nobody but ourselves. Raises DialError.
    """
    try:
        try:
            sock = _make(socket.AF_INET6)
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            sock = _make(socket.AF_INET)
        try:
            sock.bind(("", 0))
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise dial_error(error.errno or 0, _ANYWHERE) from error
    return DatagramSocket(sock)


def open_towards(peer: Endpoint) -> DatagramSocket:
    """Bind a port that nobody but *peer*, an address, can reach. Raises DialError.

    It is never the peer's own, which is free while a peer on this host does not run.
    """
    try:
        sock = _make_towards(peer)
        if meets_itself(Endpoint.from_sockaddr(sock.getsockname()), peer):
            with sock:  # it holds that port until there is another
                sock = _make_towards(peer)
    except OSError as error:
        raise dial_error(error.errno or 0, peer) from error
    return DatagramSocket(sock)


def _make_towards(peer: Endpoint) -> socket.socket:
    sock = _make(socket.AF_INET6 if isinstance(peer.host, IPv6Address) else socket.AF_INET)
    try:
        sock.connect(peer.sockaddr)
    except OSError:
        sock.close()
        raise
    return sock


def _make(family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    # The kernel gives the lowest number that is free. A flood of datagrams shall leave some to
    # those who connect, and to the master's messages.
    if sock.fileno() >= resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS:
        sock.close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    prepare_datagrams(sock)
    return sock
