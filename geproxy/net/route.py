"""Ask the kernel whether an address is one of this host's own (rtnetlink(7)).

Its routing tables know every address of every interface at this very moment, secondary and
anycast ones included. A trial bind() would call all addresses ours where ip_nonlocal_bind is set.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from geproxy.terms import Address

# Fixed by the specification: linux/netlink.h, linux/rtnetlink.h
NETLINK_ROUTE = 0
NLM_F_REQUEST = 1
RTM_NEWROUTE = 24
RTM_GETROUTE = 26
RTA_DST = 1
RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST = 2, 3, 4
NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type
RTATTR = struct.Struct("=HH")

OWN = frozenset((RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST))


class OwnAddresses:
    """Answers from one netlink socket; the kernel answers inside the system call, so no wait."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.setblocking(False)
        self._sequence = 0

    def __contains__(self, address: object) -> bool:
        assert isinstance(address, IPv4Address | IPv6Address)
        self._sequence += 1
        self._socket.send(_query(address, self._sequence & 0xFFFFFFFF))
        while True:
            answer = self._socket.recv(8192)
            # An answer that was not fetched, for want of memory, must not pass for this one's.
            if NLMSGHDR.unpack_from(answer)[3] == self._sequence & 0xFFFFFFFF:
                return _route_type(answer) in OWN

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def _query(address: Address, sequence: int) -> bytes:
    packed = address.packed
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    attribute = RTATTR.pack(RTATTR.size + len(packed), RTA_DST) + packed
    body = RTMSG.pack(family, len(packed) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, sequence, 0) + body


def _route_type(answer: bytes) -> int | None:
    """The type of the route that the kernel would take, None where it has none (NLMSG_ERROR)."""
    kind = NLMSGHDR.unpack_from(answer)[1]
    if kind != RTM_NEWROUTE:
        return None
    route_type: int = RTMSG.unpack_from(answer, NLMSGHDR.size)[7]
    return route_type
