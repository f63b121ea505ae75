"""Ports and networks as sorted edges: a question costs a bisection, however many there are.

The edges are machine numbers in arrays. A worker that looks something up writes to no object that
the master made, so that the pages with the arrays stay shared between all workers.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from geproxy.config.network import Network
from geproxy.terms import Address

Span = tuple[int, int]  # the first number, and the one after the last

# Fixed by the specification
_HALF_BITS = 64  # an IPv6 address has two halves: RFC 4291 §2.5; an array holds no longer numbers
_HALF_MASK = (1 << _HALF_BITS) - 1
_IPV6_END = 1 << 128


@dataclass(frozen=True, slots=True)
class Ports:
    """A set of ports."""

    _edges: array[int]

    @classmethod
    def of(cls, ranges: Iterable[range]) -> Self:
        """Make the union of *ranges*."""
        return cls(array("Q", _edges((one.start, one.stop) for one in ranges)))

    def __contains__(self, port: int) -> bool:
        return bisect_right(self._edges, port) & 1 == 1


@dataclass(frozen=True, slots=True)
class Networks:
    """A set of addresses; networks that touch or overlap are one."""

    _ipv4: array[int]
    # The edges of IPv6 by their halves: those with the same upper half ascend in the lower one.
    _upper: array[int]
    _lower: array[int]

    @classmethod
    def of(
        cls,
        networks: Iterable[Network],
        ipv4_spans: Iterable[Span] = (),
        ipv6_spans: Iterable[Span] = (),
    ) -> Self:
        """Make the union of *networks*, and of spans of addresses as numbers."""
        ipv4, ipv6 = list(ipv4_spans), list(ipv6_spans)
        for network in networks:
            first = int(network.network_address)
            span = (first, first + network.num_addresses)
            (ipv4 if network.version == 4 else ipv6).append(span)
        edges = _edges(ipv6)
        if edges and edges[-1] == _IPV6_END:  # no half holds it, and no address lies behind it
            edges.pop()
        return cls(
            array("Q", _edges(ipv4)),
            array("Q", [edge >> _HALF_BITS for edge in edges]),
            array("Q", [edge & _HALF_MASK for edge in edges]),
        )

    def __bool__(self) -> bool:
        """Tell whether it holds any address."""
        return bool(self._ipv4 or self._upper)

    def __contains__(self, address: Address) -> bool:
        number = int(address)
        if isinstance(address, IPv4Address):
            return bisect_right(self._ipv4, number) & 1 == 1
        upper = number >> _HALF_BITS
        first = bisect_left(self._upper, upper)
        last = bisect_right(self._upper, upper, first)
        return bisect_right(self._lower, number & _HALF_MASK, first, last) & 1 == 1


def _edges(spans: Iterable[Span]) -> list[int]:
    """Return, ascending, each number at which membership turns. Before the first there is none."""
    edges: list[int] = []
    for start, stop in sorted(spans):
        if not edges or start > edges[-1]:
            edges += (start, stop)
        elif stop > edges[-1]:
            edges[-1] = stop
    return edges
