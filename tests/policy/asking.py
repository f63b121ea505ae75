"""Who asks, for what, and by which rules, in few words."""

from collections.abc import Collection, Container, Mapping, Sequence
from ipaddress import IPv6Network, ip_address, ip_network

from geproxy.config.destinations import To
from geproxy.config.edges import Networks, Ports
from geproxy.config.settings import Rule
from geproxy.errors import DeniedError, ResolveError
from geproxy.hostname import canonical
from geproxy.nat64 import Nat64, Prefix
from geproxy.policy.gate import Gate
from geproxy.seams import (
    Datagrams,
    Listener,
    Outbound,
    Permit,
    Request,
    Route,
    Stream,
    Subject,
    Waiting,
)
from geproxy.terms import Address, Command, Endpoint, Filtering, Offer

OWN_PUBLIC = ip_address("93.184.216.34")
OWN_PUBLIC_6 = ip_address("2606:2800:220:1::1")
OWN = frozenset(
    ip_address(text)
    for text in ("127.0.0.1", "::1", "192.168.7.7", str(OWN_PUBLIC), str(OWN_PUBLIC_6))
)


class Way:
    """A way out that nobody takes here."""

    def __init__(self, name: str) -> None:
        self.name = name

    def connect(self, target: Endpoint, permit: Permit, client: Address) -> Stream:
        raise NotImplementedError

    def bind(self, request: Request, permit: Permit, offer: Offer) -> Waiting:
        raise NotImplementedError

    def associate(self, client: Address, filtering: Filtering) -> Datagrams:
        raise NotImplementedError


WAYS: dict[str, Outbound] = {name: Way(name) for name in ("direct", "near", "far")}


class Names:
    """A resolver of few names, which remembers what it was asked, and for whom."""

    def __init__(self, addresses: Mapping[str, Collection[str]]) -> None:
        self._addresses = addresses
        self.asked: list[tuple[str, str]] = []

    def resolve(self, name: str, client: Address) -> tuple[Address, ...]:
        self.asked.append((name, str(client)))
        if name not in self._addresses:
            raise ResolveError(f"{name}: no address")
        return tuple(ip_address(text) for text in self._addresses[name])


def gate(
    *listening: str,
    rules: Sequence[Rule] = (),
    names: Names | None = None,
    own: Container[Address] = OWN,
    datagrams: Collection[str] | None = None,
    prefixes: Sequence[str] = (),
) -> Gate:
    """A gate of a proxy that listens at *listening*; on UDP too, if *datagrams* says no other.

    *prefixes* are those of the network's NAT64.
    """
    streams = [endpoint(text) for text in listening]
    on_udp = streams if datagrams is None else [endpoint(text) for text in datagrams]
    nat64 = Nat64()
    nat64.learn(
        Prefix.of(network.network_address, network.prefixlen)
        for network in map(IPv6Network, prefixes)
    )
    return Gate(WAYS, own, nat64, streams, on_udp, rules, (names or Names({})).resolve)


def rule(
    action: str,
    *,
    listen: Collection[str] | None = None,
    user: Collection[str] | None = None,
    client: Collection[str] | None = None,
    command: Collection[str] | None = None,
    to: Collection[str] | None = None,
    port: Collection[int | range] | None = None,
    client_file: Collection[str] | None = None,
    to_file: Collection[str] | None = None,
) -> Rule:
    """Make the Rule that a [[rule]] with these texts is, those of files included."""
    clients = [texts for texts in (client, client_file) if texts is not None]
    targets = [texts for texts in (to, to_file) if texts is not None]
    return Rule(
        action,
        listen=None if listen is None else frozenset(listen),
        user=None if user is None else frozenset(user),
        client=tuple(Networks.of(map(ip_network, texts)) for texts in clients) or None,
        command=None if command is None else frozenset(map(Command, command)),
        to=tuple(map(destinations, targets)) or None,
        port=None if port is None else Ports.of(map(_ports, port)),
    )


def destinations(texts: Collection[str]) -> To:
    """Make the To that a list of names, networks (those with a slash) and "private" is."""
    return To.of(ip_network(text) if "/" in text else text for text in texts)


def _ports(ports: int | range) -> range:
    return range(ports, ports + 1) if isinstance(ports, int) else ports


def listener(
    name: str = "a",
    *,
    loopback: bool = False,
    via: str = "direct",
    target: Endpoint | None = None,
    by_rule: bool = False,
) -> Listener:
    """A listener, open to the network unless *loopback* says otherwise."""
    return Listener(name, None, loopback, via, target=target, by_rule=by_rule)


def subject(
    listener: Listener, command: str = "connect", client: str = "1.2.3.4", user: str | None = None
) -> Subject:
    """One who asks at *listener*."""
    return Subject(listener, ip_address(client), user, Command(command))


def endpoint(text: str) -> Endpoint:
    """Read NAME:PORT, ADDRESS:PORT or [ADDRESS]:PORT, as a session does; [::ffff:...] stays."""
    host, _, port = text.rpartition(":")
    try:
        return Endpoint(ip_address(host.strip("[]")), int(port))
    except ValueError:
        return canonical(Endpoint(host, int(port)))


def passes(permit: Permit, target: Endpoint) -> bool:
    """Tell whether an address may be dialed."""
    try:
        permit(target)
    except DeniedError:
        return False
    return True


def answer(gate: Gate, who: Subject, target: str) -> tuple[str, str]:
    """The way out and what is asked for there; for what is refused "deny" and the reason."""
    try:
        route: Route = gate.decide(who, endpoint(target))
    except DeniedError as error:
        return "deny", str(error)
    return route.outbound.name, str(route.target)
