"""Ways out that lead back to the listener they start from, as far as the configuration tells.

One client of such a listener makes it connect to itself again and again, until every place is
taken. A peer whose name only DNS knows is not followed, nor is NAT: a worker ends such sessions.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from geproxy.config.settings import BUILT_IN_VIAS, Listen, Rule, Via
from geproxy.config.table import Reading, shown
from geproxy.config.url import ANY_IPV4, ANY_IPV6, TUNNELS
from geproxy.terms import Address, Command, Endpoint

# Fixed by the specification
LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
LOCALHOST = "localhost"  # RFC 6761 §6.3: with all names below it
DISCARD_PORT = 9  # RFC 863; nothing is sent there

# Chosen here
# What a peer's client can speak to. SOCKS listeners refuse the first byte of a sealed stream.
REACHED_SCHEMES = ("ss", *TUNNELS)
TRANSPORTS = {Command.CONNECT: "TCP", Command.UDP_ASSOCIATE: "UDP"}


@dataclass(frozen=True, slots=True)
class _Step:
    """What a client of *listener* takes: the way out *via*, for the setting *key* says so."""

    listener: str
    key: str
    via: str


def refuse_loops(
    reading: Reading, listeners: Collection[Listen], vias: Collection[Via], rules: Sequence[Rule]
) -> None:
    """Complain of each way out that leads back to itself, once, with all listeners on its path."""
    told: set[frozenset[_Step]] = set()
    for command in TRANSPORTS:
        steps = {via.name: list(_steps(via, command, listeners, rules)) for via in vias}
        for via in steps:
            path = _way_back(via, steps)
            if path and frozenset(path) not in told:
                told.add(frozenset(path))
                names = [shown(name) for step in path for name in (step.listener, step.via)]
                text = " -> ".join([*names, names[0]])
                reading.complain(path[0].key, f"leads back to itself: {text}")


def _way_back(start: str, steps: dict[str, list[_Step]]) -> list[_Step]:
    """Return the fewest steps from the way out *start* to itself; none where there is no path."""
    paths: list[list[_Step]] = [[step] for step in steps[start]]
    seen: set[str] = set()
    for path in paths:  # it grows meanwhile: the nearest come first
        via = path[-1].via
        if via == start:
            return path
        if via not in seen:
            seen.add(via)
            paths += ([*path, step] for step in steps.get(via, ()))
    return []


def _steps(
    via: Via, command: Command, listeners: Collection[Listen], rules: Sequence[Rule]
) -> Iterator[_Step]:
    """Yield what follows on *via*, where its peer is a listener of ours."""
    for address in _addresses(via.url.peer):
        for listener in listeners:
            if _reaches(Endpoint(address, via.url.peer.port), listener, command):
                yield from _ways(listener, address, command, rules)


def _addresses(peer: Endpoint) -> tuple[Address, ...]:
    """Return the addresses of *peer* that are known without DNS."""
    if isinstance(peer.host, str):
        name = peer.host.removesuffix(".").lower()
        return LOOPBACK if name == LOCALHOST or name.endswith(f".{LOCALHOST}") else ()
    if peer.host in (ANY_IPV4, ANY_IPV6):  # connect() takes them for loopback
        return LOOPBACK[:1] if peer.host == ANY_IPV4 else LOOPBACK[1:]
    return (peer.host,)


def _reaches(peer: Endpoint, listener: Listen, command: Command) -> bool:
    url, address = listener.url, peer.address
    if url.scheme not in REACHED_SCHEMES or url.port != peer.port:
        return False
    if TRANSPORTS[command] not in url.transports(udp=listener.udp):
        return False
    if address in url.addresses:
        return True
    return any(one.version == address.version for one in url.wildcards) and _is_ours(address)


def _is_ours(address: Address) -> bool:
    """Tell whether the kernel would reach *address* from itself. Nothing is sent."""
    if address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((str(address), DISCARD_PORT))
            return str(sock.getsockname()[0]) == str(address)
    except OSError:  # no way there, or a kernel without IPv6
        return False


def _ways(
    listener: Listen, client: Address, command: Command, rules: Sequence[Rule]
) -> Iterator[_Step]:
    """Yield every way out through a peer that a client at *client* of *listener* may take."""
    before: list[Rule] = []
    for number, rule in enumerate(rules, start=1):
        if not _may_match(rule, listener, client, command):
            continue
        if any(_covers(earlier, rule) for earlier in before):
            continue
        before.append(rule)
        if rule.action not in BUILT_IN_VIAS:
            yield _Step(listener.name, f"rule.{number}.action", rule.action)
    if listener.via not in BUILT_IN_VIAS and not any(_covers(rule, None) for rule in before):
        yield _Step(listener.name, f"listen.{shown(listener.name)}.via", listener.via)


def _may_match(rule: Rule, listener: Listen, client: Address, command: Command) -> bool:
    """Tell whether *rule* can be about a client at *client*, who reached *listener* by a peer."""
    if rule.listen is not None and listener.name not in rule.listen:
        return False
    if rule.user is not None:  # nobody logs in to such a listener
        return False
    if rule.command is not None and command not in rule.command:
        return False
    if rule.client is not None and not any(client in networks for networks in rule.client):
        return False
    return listener.target is None or _may_lead_to(rule, listener.target)


def _may_lead_to(rule: Rule, target: Endpoint) -> bool:
    """Tell whether *rule* can be about *target*; of a name only DNS knows the address."""
    if rule.port is not None and target.port not in rule.port:
        return False
    if rule.to is None:
        return True
    host = target.host
    if isinstance(host, str):
        name = host.removesuffix(".")
        return any(
            to.names.any or name in to.names or to.private or bool(to.networks) for to in rule.to
        )
    return any(to.names.any or to.private or host in to.networks for to in rule.to)


def _covers(rule: Rule, other: Rule | None) -> bool:
    """Tell whether *rule* takes all targets of *other*, a later one; None: every target.

    Both are known to be about the client.
    """
    has_ports = rule.port is None or (other is not None and rule.port == other.port)
    if rule.to is None or any(to.names.any for to in rule.to):
        return has_ports
    return has_ports and other is not None and rule.to == other.to
