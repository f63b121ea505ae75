"""Learn which prefixes this network's NAT64 serves (RFC 7050)."""

from __future__ import annotations

import socket

from geproxy.errors import LimitError, NoAnswerError, ResolveError
from geproxy.nat64 import Nat64, prefixes_of
from geproxy.net.greenlets import sleep
from geproxy.net.lookup import LookUp, Question

# Fixed by the specification
NAME = "ipv4only.arpa."  # RFC 7050 §2; it has AAAA records only where DNS64 makes them

# Chosen here
AGAIN_SECONDS = 3600.0  # networks hardly ever change their prefix; RFC 7050 §3 wants the TTL, a day
RETRY_SECONDS = 60.0  # a host that has just started may have no name server yet


class Discovery:
    """Asks, and tells *nat64*; a failure to ask changes nothing that is known."""

    def __init__(self, look_up: LookUp, nat64: Nat64) -> None:
        # Not by way of the resolver, which does not wait long for AAAA once there is an A record.
        self._look_up = look_up
        self._nat64 = nat64

    def run(self) -> None:
        """Ask now and then, for ever; not at all where IPv6 is not wanted."""
        while socket.AF_INET6 in self._look_up.families:
            sleep(self.ask())

    def ask(self) -> float:
        """Ask once. Returns after how many seconds it is time to ask again."""
        try:
            addresses = self._look_up.ask(Question(NAME, socket.AF_INET6))
        except (NoAnswerError, LimitError):
            return RETRY_SECONDS
        except ResolveError:
            addresses = ()  # no DNS64, which is an answer
        self._nat64.learn(prefixes_of(addresses))
        return AGAIN_SECONDS
