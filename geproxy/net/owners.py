"""Ask the kernel which account a socket of this host belongs to (sock_diag(7)).

Where a client is on this very host, its address is no identity: every account has that address.
What tells one client from another there is the uid of its sockets.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Container, Hashable
from functools import partial
from ipaddress import IPv6Address
from typing import NamedTuple

from geproxy.errors import DeniedError
from geproxy.net.datagram import Sockaddr
from geproxy.net.turns import share_of
from geproxy.terms import Address, Endpoint, plain_address

# Fixed by the specification: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
NETLINK_SOCK_DIAG = 4
NLM_F_REQUEST = 1
SOCK_DIAG_BY_FAMILY = 20
TCP_LISTEN = 10
EVERY_STATE = NO_COOKIE = 0xFFFFFFFF
ADDRESS_BYTES = 16  # IPv4 takes the first four
NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states; a sockid follows
PORTS = struct.Struct("!HH")  # of a sockid: source, destination
INTERFACE_COOKIE = struct.Struct("=III")  # of a sockid: interface, cookie twice
STATE = struct.Struct("=xB")  # family, state: the front of inet_diag_msg
UID_INODE = struct.Struct("=II")
UID_OFFSET = 64  # in inet_diag_msg
FULL_UID_MAP = ["0", "0", "4294967295"]  # user_namespaces(7): that of the first namespace

# Chosen here
ANSWER_BYTES = 8192

Owns = Callable[[Sockaddr, Endpoint], bool]


class Identity(NamedTuple):
    """What tells one client's datagrams from those of all others."""

    address: Address
    interface: int = 0  # its index, where the address is of that link alone (RFC 4007)
    # On this host: whether the source of a datagram to a port of ours is a socket of the client's
    # account. None: the client is on another host, and its address tells.
    owns: Owns | None = None
    share: Hashable = None  # the key of its source's share, as SocketOwners.share_of() gives it


class SocketOwners:
    """Answers from one netlink socket; the kernel answers inside the system call, so no wait.

    An answer takes 5 µs, however many sockets there are, and no privilege. *fault* says why the
    kernel can tell nothing at all; None: it can.
    """

    def __init__(self, own: Container[Address]) -> None:
        """*own* holds every address of this host."""
        self._own = own
        self._sequence = 0
        self._overflow_uid = _overflow_uid()
        self._socket: socket.socket | None = None
        self.fault: str | None = None
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_SOCK_DIAG
            )
            self.fault = self._try_out()
        except OSError as error:  # no sock_diag in this kernel, or seccomp forbids it
            self.fault = f"sock_diag: {error.strerror}"

    def _try_out(self) -> str | None:
        """Ask for sockets that are there: without its module the kernel says that none is."""
        for kind, protocol, module in (
            (socket.SOCK_STREAM, socket.IPPROTO_TCP, "tcp_diag"),
            (socket.SOCK_DGRAM, socket.IPPROTO_UDP, "udp_diag"),
        ):
            with socket.socket(socket.AF_INET, kind) as ours:
                ours.bind(("127.0.0.1", 0))
                if kind == socket.SOCK_STREAM:
                    ours.listen(1)
                place = Endpoint.from_sockaddr(ours.getsockname())
                if self._find(protocol, place, place) is None:
                    return f"this kernel has no {module}"
        return None

    def identify(self, client: Endpoint, reached: Endpoint) -> Identity:
        """Tell who the client of a TCP connection is; these are its two ends.

        Raises DeniedError where the kernel does not know. A connection that its client has closed
        reports uid 0, and would be root's.
        """
        interface = self._interface_of(client, reached)
        if client.address not in self._own:
            return Identity(client.address, interface, share=share_of(client.address))
        uid = self._uid_of_connection(client, reached, interface)
        if uid is None:
            raise DeniedError(self.fault or "no account of this host has the client's connection")
        return Identity(client.address, interface, partial(self._is_of, uid), ("uid", uid))

    def share_of(self, client: Endpoint, reached: Endpoint) -> Hashable:
        """Return the key of a connection's share: the account's on this host, else turns.share_of.

        What this host's clients have closed is no account's any more, and one share.
        """
        if client.address not in self._own:
            return share_of(client.address)
        return "uid", self._uid_of_connection(client, reached, 0)

    def brought_by_nat(self, client: Endpoint, reached: Endpoint) -> bool:
        """Tell whether *client* is of this host, and no socket here is connected to *reached* from
        there: that one knows another far end. False where the kernel does not tell.
        """
        if self.fault is not None or client.address not in self._own:
            return False
        found = self._find(socket.IPPROTO_TCP, client, reached)
        return found is None or _is_listener(found)

    def _interface_of(self, client: Endpoint, reached: Endpoint) -> int:
        """Find our end of the connection on one interface after the other. Raises DeniedError."""
        if not (_is_of_one_link(client.address) or _is_of_one_link(reached.address)):
            return 0
        for interface, _ in socket.if_nameindex():
            found = self._find(socket.IPPROTO_TCP, reached, client, interface)
            if found is not None and not _is_listener(found):
                return interface
        raise DeniedError(self.fault or "no interface has the client's connection")

    def _uid_of_connection(self, client: Endpoint, reached: Endpoint, interface: int) -> int | None:
        found = self._find(socket.IPPROTO_TCP, client, reached, interface)
        return None if found is None or _is_listener(found) else self._uid(found)

    def _is_of(self, uid: int, source: Sockaddr, port: Endpoint) -> bool:
        """Tell whether *uid* has the socket that a datagram from *port* to *source* would reach."""
        interface = source[3] if len(source) == 4 else 0
        there = Endpoint(plain_address(source[0]), source[1])
        # udp_diag looks a socket up as for a datagram that comes in: its source first.
        found = self._find(socket.IPPROTO_UDP, port, there, interface)
        return found is not None and self._uid(found) == uid

    def _uid(self, found: bytes) -> int | None:
        uid, inode = UID_INODE.unpack_from(found, UID_OFFSET)
        # Without an inode no process has it open, and 0 stands in the place of the uid.
        return uid if inode and uid != self._overflow_uid else None

    def _find(
        self, protocol: int, source: Endpoint, destination: Endpoint, interface: int = 0
    ) -> bytes | None:
        """Return the inet_diag_msg of one socket, None where the kernel finds or tells none."""
        if self._socket is None:
            return None
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        try:
            self._socket.send(_query(protocol, source, destination, interface, self._sequence))
            while True:
                answer = self._socket.recv(ANSWER_BYTES)
                _, kind, _, sequence, _ = NLMSGHDR.unpack_from(answer)
                # One that was not fetched, for want of memory, must not pass for this one's.
                if sequence == self._sequence:
                    return answer[NLMSGHDR.size :] if kind == SOCK_DIAG_BY_FAMILY else None
        except OSError:
            return None  # no memory for the answer: it is not known whose it is

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()


def _is_of_one_link(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.is_link_local


def _is_listener(found: bytes) -> bool:
    """Tell a connection from the listener that the kernel gives where there is none."""
    state: int = STATE.unpack_from(found)[0]
    return state == TCP_LISTEN


def _query(
    protocol: int, source: Endpoint, destination: Endpoint, interface: int, sequence: int
) -> bytes:
    family = socket.AF_INET6 if source.address.version == 6 else socket.AF_INET
    body = (
        REQUEST.pack(family, protocol, 0, EVERY_STATE)
        + PORTS.pack(source.port, destination.port)
        + source.address.packed.ljust(ADDRESS_BYTES, b"\0")
        + destination.address.packed.ljust(ADDRESS_BYTES, b"\0")
        + INTERFACE_COOKIE.pack(interface, NO_COOKIE, NO_COOKIE)
    )
    head = (NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence, 0)
    return NLMSGHDR.pack(*head) + body


def _overflow_uid() -> int | None:
    """Return the uid that all accounts share which our user namespace does not know, if any."""
    try:
        with open("/proc/self/uid_map") as uid_map:
            if uid_map.read().split() == FULL_UID_MAP:
                return None
        with open("/proc/sys/kernel/overflowuid") as overflow:
            return int(overflow.read())
    except OSError:
        return None  # no user namespaces in this kernel, or no /proc: it is one that knows all
