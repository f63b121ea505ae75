"""Settings turned into the objects that one worker serves with: the one place that knows all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from geproxy.config.settings import Listen, Settings, Via
from geproxy.crypto import aead
from geproxy.crypto.password import dummy_hash
from geproxy.inbound.shadowsocks import ShadowsocksInbound
from geproxy.inbound.socks5 import Socks5Inbound
from geproxy.net.dialer import Dialer
from geproxy.net.forward import BufferPool
from geproxy.net.offload import Offload
from geproxy.net.resolver import RES_OPTIONS, Resolver, system_look_up
from geproxy.net.route import OwnAddresses
from geproxy.observe.log import Log
from geproxy.outbound.direct import DirectOutbound
from geproxy.outbound.shadowsocks import ShadowsocksOutbound
from geproxy.policy.gate import Gate
from geproxy.policy.users import Users
from geproxy.relay.stream import Relays
from geproxy.terms import Endpoint, Inbound, Listener, Outbound, Store

# One thread: logins, honest or not, take one core's share at most. Those that wait longer than
# 32 hashes take (about 1.5 s) would not be served before their deadline under a flood.
HASH_THREADS = 1
HASHES_WAITING = 32


class Site:
    """What one worker serves with; session.Site is what sessions see of it."""

    def __init__(
        self,
        settings: Settings,
        listening: Iterable[Endpoint],
        log: Log,
        salts: Mapping[str, Store],
    ) -> None:
        """*listening* are the addresses of all our listening sockets; *salts* what each sealed
        listener remembers, by its name.
        """
        limits = settings.limits
        self.log = log
        self.handshake_seconds = limits.handshake_seconds
        self.pool = BufferPool()
        self.salts = salts
        self.relays = Relays(self.pool, limits.idle_seconds, limits.half_close_seconds)
        self._hashes: Offload[bool] = Offload("passwords to check", HASH_THREADS, HASHES_WAITING)
        os.environ["RES_OPTIONS"] = RES_OPTIONS
        self._resolver = Resolver(
            system_look_up(settings.resolver.family),
            settings.resolver.timeout_seconds,
            settings.resolver.cache_seconds,
        )
        dialer = Dialer(self._resolver, limits.connect_seconds)
        outbounds: list[Outbound] = [DirectOutbound(dialer)]
        outbounds += [OUTBOUNDS[via.url.scheme](via, dialer, self.pool) for via in settings.via]
        by_name = {outbound.name: outbound for outbound in outbounds}
        self.policy = Gate(by_name, OwnAddresses(), list(listening))
        self.listeners = {listen.name: self._listener(listen) for listen in settings.listen}

    def _listener(self, listen: Listen) -> Listener:
        inbound = INBOUNDS[listen.url.scheme](listen, self)
        return Listener(listen.name, inbound, listen.url.loopback, listen.via)

    def users(self, listen: Listen) -> Users | None:
        """The users of one listener, None where it has no authentication."""
        return None if listen.users is None else Users(listen.users, self._hashes.run)

    def exercise(self) -> None:
        """Use once what is loaded lazily, while files can still be opened."""
        self._resolver.exercise()
        self._hashes.exercise(lambda: dummy_hash().verify(b""))
        aead.exercise()


def _socks5_inbound(listen: Listen, site: Site) -> Inbound:
    return Socks5Inbound(site.users(listen))


def _shadowsocks_inbound(listen: Listen, site: Site) -> Inbound:
    assert listen.secret is not None, "the configuration gives every ss:// listener one"
    return ShadowsocksInbound(listen.secret, site.salts[listen.name], site.pool)


def _shadowsocks_outbound(via: Via, dialer: Dialer, pool: BufferPool) -> Outbound:
    return ShadowsocksOutbound(via.name, via.url.peer, via.secret, dialer, pool)


# A protocol is added by one file in inbound/ or outbound/, and one line here.
INBOUNDS: dict[str, Callable[[Listen, Site], Inbound]] = {
    "socks5": _socks5_inbound,
    "ss": _shadowsocks_inbound,
}
OUTBOUNDS: dict[str, Callable[[Via, Dialer, BufferPool], Outbound]] = {
    "ss": _shadowsocks_outbound,
}
