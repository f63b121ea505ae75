"""Settings turned into the objects that one worker serves with: the one place that knows all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from geproxy.config.settings import Listen, Settings
from geproxy.crypto.password import dummy_hash
from geproxy.inbound.socks5 import Socks5Inbound
from geproxy.net.dialer import Dialer
from geproxy.net.offload import Offload
from geproxy.net.resolver import RES_OPTIONS, Resolver, system_look_up
from geproxy.net.route import OwnAddresses
from geproxy.observe.log import Log
from geproxy.outbound.direct import DirectOutbound
from geproxy.policy.gate import Gate
from geproxy.policy.users import Users
from geproxy.relay.stream import Relays
from geproxy.terms import Authenticator, Endpoint, Inbound, Listener

# One thread: logins, honest or not, take one core's share at most. Those that wait longer than
# 32 hashes take (about 1.5 s) would not be served before their deadline under a flood.
HASH_THREADS = 1
HASHES_WAITING = 32


class InboundMaker(Protocol):
    """Makes the inbound of one scheme."""

    def __call__(self, users: Authenticator | None) -> Inbound: ...


INBOUNDS: dict[str, InboundMaker] = {
    "socks5": Socks5Inbound,
}


class Site:
    """What one worker serves with; session.Site is what sessions see of it."""

    def __init__(self, settings: Settings, listening: Iterable[Endpoint], log: Log) -> None:
        """*listening* are the addresses of all our listening sockets."""
        limits = settings.limits
        self.log = log
        self.handshake_seconds = limits.handshake_seconds
        self.relays = Relays(limits.idle_seconds, limits.half_close_seconds)
        self._hashes: Offload[bool] = Offload("passwords to check", HASH_THREADS, HASHES_WAITING)
        os.environ["RES_OPTIONS"] = RES_OPTIONS
        self._resolver = Resolver(
            system_look_up(settings.resolver.family),
            settings.resolver.timeout_seconds,
            settings.resolver.cache_seconds,
        )
        direct = DirectOutbound(Dialer(self._resolver, limits.connect_seconds))
        self.policy = Gate({direct.name: direct}, OwnAddresses(), list(listening))
        self.listeners = {listen.name: self._listener(listen) for listen in settings.listen}

    def _listener(self, listen: Listen) -> Listener:
        users = Users(listen.users, self._hashes.run) if listen.users is not None else None
        make: Callable[[Authenticator | None], Inbound] = INBOUNDS[listen.url.scheme]
        return Listener(listen.name, make(users), listen.url.loopback, listen.via)

    def exercise(self) -> None:
        """Use once what is loaded lazily, while files can still be opened."""
        self._resolver.exercise()
        self._hashes.exercise(lambda: dummy_hash().verify(b""))
