"""UDP sockets on a wildcard address answer from the address that was asked.

The kernel would choose the source of an answer by its routes. On a host with several addresses
that may be another one than the client sent to, and a client that hears one address alone, or a
firewall before it, drops the answer.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from geproxy.net.datagram import (
    BURST_BYTES,
    UDP_GRO,
    Ancillary,
    DatagramSocket,
    Place,
    Sockaddr,
)
from geproxy.terms import Endpoint

# Fixed by the system: linux/in.h, linux/ipv6.h
IP_PKTINFO = 8
PKTINFO_BYTES = 12  # struct in_pktinfo: int ipi_ifindex; in_addr ipi_spec_dst, ipi_addr
PKTINFO_6_BYTES = 20  # struct in6_pktinfo: in6_addr ipi6_addr; unsigned ipi6_ifindex
ADDRESS_6_BYTES = 16
NO_INTERFACE = bytes(4)

HOW = {
    PKTINFO_BYTES: (socket.IPPROTO_IP, IP_PKTINFO),
    PKTINFO_6_BYTES: (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO),
}

Visit = tuple[Sockaddr, bytes]  # a source, and the cmsg_data that has its answers leave as asked


def listening_socket(sock: socket.socket) -> DatagramSocket:
    """Take a bound UDP socket by which clients are answered.

    Only one that is bound to a wildcard address has to be told from where to answer.
    """
    bound = Endpoint.from_sockaddr(sock.getsockname())
    return WildcardSocket(sock) if bound.address.is_unspecified else DatagramSocket(sock)


class WildcardSocket(DatagramSocket):
    """What it gives as a source, and takes as a place, is a Visit.

    A client that asks at two addresses of ours makes two visits: to it we are two servers.
    """

    __slots__ = ()

    ancillary_bytes = BURST_BYTES + sum(map(socket.CMSG_SPACE, HOW))

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)  # of a dual-stack one's IPv4 clients

    def _unpack(
        self, data: bytes, ancillary: Sequence[Ancillary], source: Place
    ) -> tuple[bytes, Place]:
        """See DatagramSocket."""
        asked = size = b""
        for _, kind, value in ancillary:
            if kind == UDP_GRO:
                size = value
            else:  # of an IPv4 datagram to a dual-stack socket both come, its own last
                asked = value
        visit = (source, _origin(asked))
        return self._split(data, size, visit) if size else data, visit

    def _transmit(
        self, data: Sequence[bytes], ancillary: list[Ancillary], place: Place | None
    ) -> None:
        assert place is not None, "a visit is always answered by its place"
        sockaddr, origin = place
        level, kind = HOW[len(origin)]
        self._socket.sendmsg(data, [*ancillary, (level, kind, origin)], 0, sockaddr)

    def _transmit_one(self, data: bytes, place: Place | None) -> None:
        self._transmit([data], [], place)

    def client(self, place: Place) -> Endpoint:
        """See DatagramSocket."""
        return Endpoint.from_sockaddr(place[0])

    def describe(self, place: Place) -> list[object]:
        """See DatagramSocket."""
        sockaddr, origin = place
        return [*sockaddr, origin.hex()]

    def recall(self, described: list[object]) -> Place:
        """See DatagramSocket."""
        *sockaddr, origin = described
        return tuple(sockaddr), bytes.fromhex(str(origin))


def _origin(asked: bytes) -> bytes:
    """Turn what recvmsg() told of a question's way into what sendmsg() takes for its answer.

    The routes choose the interface, as they do for TCP, except for a link-local address, which
    means nothing without one. Multicast and broadcast addresses are no source: for IPv4 the kernel
    tells an address of ours besides (ipi_spec_dst), for IPv6 it chooses one itself.
    """
    if len(asked) == PKTINFO_BYTES:
        return NO_INTERFACE + asked[4:8] + bytes(4)
    if asked[0] == 0xFF:  # ff00::/8: RFC 4291 §2.7
        return bytes(PKTINFO_6_BYTES)
    if asked[0] == 0xFE and asked[1] & 0xC0 == 0x80:  # fe80::/10: RFC 4291 §2.5.6
        return asked
    return asked[:ADDRESS_6_BYTES] + NO_INTERFACE
