"""Several protocols on one port, told apart by the first byte that a client sends."""

from __future__ import annotations

from collections.abc import Mapping

from geproxy.errors import ProtocolError
from geproxy.net.messages import peek
from geproxy.seams import Inbound, Request
from geproxy.streams import Stream


class MixedInbound:
    """Leaves each client to the inbound whose protocol begins as the client does."""

    def __init__(self, by_first_byte: Mapping[int, Inbound]) -> None:
        self._by_first_byte = by_first_byte

    def negotiate(self, stream: Stream) -> Request:
        """Choose the inbound, and let it negotiate. Raises what it raises.

        Raises ProtocolError for a first byte of none of them. That client hears nothing: there is
        no language to answer in.
        """
        first = peek(stream)
        inbound = self._by_first_byte.get(first)
        if inbound is None:
            raise ProtocolError(f"the first byte is {first:#04x}, with which nothing here begins")
        return inbound.negotiate(stream)
