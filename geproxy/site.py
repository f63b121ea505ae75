"""Settings turned into the objects that one worker serves with: the one place that knows all."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from geproxy.config.listeners import SOCKS_SCHEMES
from geproxy.config.settings import Listen, Settings, Via
from geproxy.crypto import aead
from geproxy.crypto.password import dummy_hash
from geproxy.inbound.mixed import MixedInbound
from geproxy.inbound.shadowsocks import ShadowsocksDatagrams, ShadowsocksInbound
from geproxy.inbound.socks4 import Socks4Inbound
from geproxy.inbound.socks5 import Socks5Inbound
from geproxy.inbound.tunnel import TunnelDatagrams, TunnelInbound
from geproxy.nat64 import Nat64
from geproxy.net.accept import Gate
from geproxy.net.announce import Announcer
from geproxy.net.buffers import BufferPool
from geproxy.net.checks import Checks
from geproxy.net.dialer import Dialer
from geproxy.net.kernelside import tcp_memory_bytes
from geproxy.net.nat64 import Discovery
from geproxy.net.owners import SocketOwners
from geproxy.net.ownways import Memory, OwnWays
from geproxy.net.places import Places
from geproxy.net.resolver import Resolver
from geproxy.net.route import OwnAddresses
from geproxy.net.systemlookup import RES_OPTIONS, SystemLookUp
from geproxy.observe.log import Log
from geproxy.outbound.direct import DirectOutbound
from geproxy.outbound.shadowsocks import ShadowsocksOutbound
from geproxy.policy.gate import Gate as PolicyGate
from geproxy.policy.users import Users
from geproxy.relay.associations import Associations
from geproxy.relay.stream import Relays
from geproxy.seams import DatagramCodec, Inbound, Listener, Outbound, Store
from geproxy.state.memory import ProcessMemory
from geproxy.terms import Endpoint, Filtering, Offer
from geproxy.wire import socks4, socks5

# Of each peer's datagrams, in each worker: a recording is worth nothing while it is young.
PEER_SALTS = 1 << 14


class Shared(Protocol):
    """What all workers know together."""

    @property
    def salts(self) -> Mapping[str, Store]:
        """What each sealed listener remembers of its streams, by its name."""
        ...

    @property
    def datagram_salts(self) -> Mapping[str, Store]:
        """The same of its datagrams."""
        ...

    @property
    def ways(self) -> Memory:
        """The memory of their OwnWays."""
        ...


class Site:
    """What one worker serves with; session.Site is what sessions see of it."""

    def __init__(
        self,
        settings: Settings,
        streams: Collection[Endpoint],
        datagrams: Collection[Endpoint],
        log: Log,
        shared: Shared,
    ) -> None:
        """*streams* and *datagrams* are where we listen on TCP and on UDP."""
        limits = settings.limits
        self.log = log
        self.handshake_seconds = limits.handshake_seconds
        self.bind_seconds = limits.bind_seconds
        self.udp_rebind_seconds = limits.udp_rebind_seconds
        self.pool = BufferPool()
        self.shared = shared
        # Three quarters of what TCP may have without being short: nobody else is hindered yet.
        stuck_bytes = tcp_memory_bytes() * 3 // 4 // settings.server.worker_count
        self.relays = Relays(self.pool, limits.idle_seconds, limits.half_close_seconds, stuck_bytes)
        self.associations = Associations(limits.udp_idle_seconds)
        self._checks = Checks(limits.handshake_seconds)
        os.environ["RES_OPTIONS"] = RES_OPTIONS
        names = settings.resolver
        look_up = SystemLookUp(names.family, names.timeout_seconds)
        self._resolver = Resolver(look_up, names.timeout_seconds, names.cache_seconds)
        self.announcer = Announcer(self._resolver.resolve, self._cannot_announce)
        nat64 = Nat64()
        self._discovery = Discovery(look_up, nat64)
        dialer = Dialer(self._resolver, limits.connect_seconds, nat64)
        outbounds: list[Outbound] = [DirectOutbound(dialer)]
        outbounds += [OUTBOUNDS[via.url.scheme](via, dialer, self.pool) for via in settings.via]
        self.outbounds = {outbound.name: outbound for outbound in outbounds}
        own = OwnAddresses()
        self.owners = SocketOwners(own)
        # Where all go straight out, and clients choose each target, policy refuses our own ports.
        led = bool(settings.via) or any(listen.target for listen in settings.listen)
        leading = [listen.name for listen in settings.listen if led]
        self.own_connections = OwnWays(shared.ways, leading, self.owners.brought_by_nat)
        self.places = Places(
            Gate(limits.sessions),
            limits.sessions_per_client,
            limits.associations_per_client,
            self.owners.share_of,
            self.relays.quiet_since,
            self._tell_of_losses,
        )
        self.policy = PolicyGate(
            self.outbounds,
            own,
            nat64,
            streams,
            datagrams,
            settings.rule,
            self._resolver.resolve,
        )
        self.listeners = {listen.name: self._listener(listen) for listen in settings.listen}
        self.policy.prepare(self.listeners.values())
        if self.owners.fault and any(map(_has_associations, settings.listen)):
            log.error("owners.fail", reason=self.owners.fault)

    def _listener(self, listen: Listen) -> Listener:
        url = listen.url
        has_sockets = "UDP" in url.transports(udp=listen.udp)
        guarded = url.loopback or listen.open or listen.users is not None
        return Listener(
            name=listen.name,
            inbound=INBOUNDS[url.scheme](listen, self),
            loopback=url.loopback,
            via=listen.via,
            target=listen.target,
            by_rule=not guarded and url.scheme in SOCKS_SCHEMES,
            udp=listen.udp,
            codec=CODECS[url.scheme](listen, self) if has_sockets else None,
            offer=Offer(listen.udp_address, listen.udp_ports),
            # Who sends to a tunnel cannot see who answers: nobody but the target may.
            filtering=Filtering.PORT if listen.target else listen.udp_filtering,
        )

    def users(self, listen: Listen) -> Users | None:
        """The users of one listener, None where it has no authentication."""
        if listen.users is None:
            return None
        return Users(listen.users, self._checks.run, listen.nobody, self.places.prove)

    def _cannot_announce(self, name: str, reason: str) -> None:
        self.log.warning("announce.fail", name=name, reason=reason)

    def _tell_of_losses(self, reason: str, count: int, client: Endpoint) -> None:
        self.log.warning("client.drop", client=client, code="limit", reason=reason, count=count)

    def discover(self) -> None:
        """Learn for ever which prefixes this network's NAT64 has."""
        self._discovery.run()

    def exercise(self) -> None:
        """Use once what is loaded lazily, while files can still be opened."""
        self._resolver.exercise()
        self._checks.exercise(lambda: dummy_hash().verify(b""))
        aead.exercise()


def _has_associations(listen: Listen) -> bool:
    return listen.udp and listen.url.scheme in ("mixed", "socks5")


def _socks5_inbound(listen: Listen, site: Site) -> Inbound:
    return Socks5Inbound(site.users(listen))


def _socks4_inbound(listen: Listen, site: Site) -> Inbound:
    return Socks4Inbound(users_wanted=listen.users is not None)


def _mixed_inbound(listen: Listen, site: Site) -> Inbound:
    return MixedInbound(
        {
            socks5.VERSION: _socks5_inbound(listen, site),
            socks4.VERSION: _socks4_inbound(listen, site),
        }
    )


def _shadowsocks_inbound(listen: Listen, site: Site) -> Inbound:
    assert listen.secret is not None, "the configuration gives every ss:// listener one"
    return ShadowsocksInbound(listen.secret, site.shared.salts[listen.name], site.pool)


def _shadowsocks_codec(listen: Listen, site: Site) -> DatagramCodec:
    assert listen.secret is not None, "the configuration gives every ss:// listener one"
    return ShadowsocksDatagrams(listen.secret, site.shared.datagram_salts[listen.name])


def _tunnel_inbound(listen: Listen, site: Site) -> Inbound:
    assert listen.target is not None, "the configuration gives every tunnel one"
    return TunnelInbound(listen.target)


def _tunnel_codec(listen: Listen, site: Site) -> DatagramCodec:
    assert listen.target is not None, "the configuration gives every tunnel one"
    return TunnelDatagrams(listen.target)


def _shadowsocks_outbound(via: Via, dialer: Dialer, pool: BufferPool) -> Outbound:
    salts = ProcessMemory(PEER_SALTS)
    return ShadowsocksOutbound(via.name, via.url.peer, via.secret, dialer, pool, salts)


# A protocol is added by one file in inbound/ or outbound/, and one line here.
INBOUNDS: dict[str, Callable[[Listen, Site], Inbound]] = {
    "mixed": _mixed_inbound,
    "socks5": _socks5_inbound,
    "socks4": _socks4_inbound,
    "ss": _shadowsocks_inbound,
    "tcp": _tunnel_inbound,
    "udp": _tunnel_inbound,  # for whoever connects: nobody, for it has no TCP socket
}
CODECS: dict[str, Callable[[Listen, Site], DatagramCodec]] = {
    "ss": _shadowsocks_codec,
    "udp": _tunnel_codec,
}
OUTBOUNDS: dict[str, Callable[[Via, Dialer, BufferPool], Outbound]] = {
    "ss": _shadowsocks_outbound,
}
