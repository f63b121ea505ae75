"""Which address a client is told for a port of ours, where there is NAT before us."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv6Address

from geproxy.errors import LimitError, ResolveError
from geproxy.terms import Address, Offer

# Chosen here
COMPLAINT_SECONDS = 60.0  # a name without an address is complained of once a minute

Resolve = Callable[[str, Address], tuple[Address, ...]]


class Announcer:
    """One worker's: it resolves a name each time that it is told, for it may be a dynamic one.

    The resolver's cache makes that cheap. *complain* hears of a name that has no address now, and
    of the reason.
    """

    def __init__(self, resolve: Resolve, complain: Callable[[str, str], None]) -> None:
        """*resolve* gives a name's addresses at the expense of a client."""
        self._resolve = resolve
        self._complain = complain
        self._complained: dict[str, float] = {}  # monotonic, by name

    def address_for(self, own: Address, offer: Offer, client: Address) -> Address:
        """Return what *client* is told for a port at *own*: an address of the same family.

        That is the one which *offer* announces, else the first that one of its names has, else
        *own*. May wait for a look-up, as long as the resolver lets it; raises nothing.
        """
        # A port at a link-local address hears that link alone, which has no NAT (RFC 4291 §2.5.6).
        if isinstance(own, IPv6Address) and own.is_link_local:
            return own
        for one in offer.announced:
            if not isinstance(one, str) and one.version == own.version:
                return one
        for one in offer.announced:
            for address in self._addresses(one, client) if isinstance(one, str) else ():
                # A name server that blocks a name gives 0.0.0.0, where nobody can send to.
                if address.version == own.version and not address.is_unspecified:
                    return address
        return own

    def _addresses(self, name: str, client: Address) -> tuple[Address, ...]:
        try:
            return self._resolve(name, client)
        except (ResolveError, LimitError) as error:
            now_seconds = time.monotonic()
            if now_seconds >= self._complained.get(name, 0.0):
                self._complained[name] = now_seconds + COMPLAINT_SECONDS
                self._complain(name, str(error))
            return ()
