"""What may be reached, and by which way: before a name is resolved, and for every address it gave.

The first rule that matches a target chooses its way; where none does, the listener's `via` does.

- An address is matched by networks, "private" and "*". What matches an IPv4 address matches the
  IPv6 addresses that NAT64 turns into it, too.
- A name is matched by globs at once. A rule that has none for it, but has networks or "private", is
  undecided until there is an address. Let F be the first rule that matches without one.
  - F leads to a peer: the name goes there unresolved. Undecided rules before F do not apply: what
    the name's addresses are, only the far end will know.
  - F is direct, and the undecided rules before it are direct or deny: nothing is resolved yet. Each
    address is matched when it is about to be dialed.
  - F is deny, and the undecided rules before it are too: denied.
  - Otherwise the name is resolved, and each address matched. If any is for direct, that is the way,
    for those addresses alone; else the first address that is for a peer goes there, as an address;
    else it is denied.
- Port 25 is closed: every rule without a `port` is deny there, and so is `via`. It is open to a
  tunnel, whose target the operator has named, and to BIND, whose port is not dialed.

What a rule allows is still refused where it is a port of this proxy; and, to clients of a listener
that is not on loopback, where it is not public or an address of this host. These last two a rule
opens by a `to` that speaks of them: by a network, "private", or a glob other than "*".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from functools import partial

from geproxy.config.settings import Rule
from geproxy.errors import DeniedError
from geproxy.nat64 import Nat64
from geproxy.policy.bounds import UNSPECIFIED, Bounds
from geproxy.policy.rules import DENY, DIRECT, SMTP_PORT, Case, Page, numbered
from geproxy.seams import Listener, Outbound, Route, Subject
from geproxy.terms import Address, Command, Endpoint, unmapped

Resolve = Callable[[str, Address], tuple[Address, ...]]


class Gate:
    """The policy of one worker.

    *outbounds* are the ways out by name; *own* holds every address of this host; *nat64* knows
    which IPv6 addresses lead to IPv4 ones; *streams* and *datagrams* are where we listen on TCP and
    on UDP. *rules* need *resolve*, which gives a name's addresses at the expense of a client.
    """

    def __init__(
        self,
        outbounds: Mapping[str, Outbound],
        own: Container[Address],
        nat64: Nat64,
        streams: Collection[Endpoint],
        datagrams: Collection[Endpoint] = (),
        rules: Sequence[Rule] = (),
        resolve: Resolve | None = None,
    ) -> None:
        assert not rules or resolve, "rules are about addresses too"
        self._outbounds = outbounds
        self._own = own
        self._nat64 = nat64
        self._rules = numbered(rules)
        self._resolve = resolve
        self._pages: dict[str, Page] = {}
        self._streams = Bounds(own, streams, nat64)
        self._datagrams = Bounds(own, datagrams, nat64)

    def prepare(self, listeners: Iterable[Listener]) -> None:
        """Make now what *listeners* need, or the first client of each would wait for it."""
        for listener in listeners:
            self._page(listener)

    def admit(self, subject: Subject) -> None:
        """Raises DeniedError for a client that is not let in, or that may reach no target at all.

        UDP ASSOCIATE is not to be had where the listener's `udp` is off. A listener that is open
        by rule alone lets in who is in the `client` of some rule for it that is not deny. What
        that rule says besides is for the targets.
        """
        page = self._page(subject.listener)
        self._let_in(subject, page)
        if subject.command is Command.UDP_ASSOCIATE and not subject.listener.udp:
            raise DeniedError("udp is false")
        clause = page.forbids_all(subject)
        if clause is not None:
            raise DeniedError(f"{clause.label} is deny")

    def decide(self, subject: Subject, target: Endpoint) -> Route:
        """Choose the way out, as told above. Only the permit judges the addresses themselves.

        The host of *target* is in its one spelling (hostname.canonical): what looks like a name is
        none of an address.
        Waits where a name must be resolved first. Raises DeniedError, ResolveError and LimitError.
        """
        if target.port == 0 and subject.command is not Command.BIND:
            raise DeniedError("port 0")
        page = self._page(subject.listener)
        if page.plain and subject.command is not Command.BIND:
            return self._decide_plain(subject, target)
        self._let_in(subject, page)
        if not isinstance(target.host, str):
            case = Case(page.clauses, subject, None, target.port, self._own, self._nat64)
            return self._decide_addresses(case, (unmapped(target.host),), target)
        name = target.host.removesuffix(".")
        case = Case(page.clauses, subject, name, target.port, self._own, self._nat64)
        return self._decide_name(case, name, target)

    def _decide_plain(self, subject: Subject, target: Endpoint) -> Route:
        """Decide where there are no rules, at the least cost: most installations have none."""
        listener = subject.listener
        if target.port == SMTP_PORT and listener.target is None:
            raise DeniedError("port 25 is closed")
        if listener.via == DENY:
            raise DeniedError("via is deny")
        bounds = self._bounds(subject.command)
        permit = bounds.permit_local if _is_trusted(listener) else bounds.permit_public
        return Route(self._outbounds[listener.via], target, permit)

    def _decide_name(self, case: Case, name: str, target: Endpoint) -> Route:
        certain, undecided = case.foresee(name)
        way = case.way(certain)
        others = {case.way(clause) for clause in undecided}
        if way not in (DIRECT, DENY) or (way == DIRECT and others <= {DIRECT, DENY}):
            return self._route(case, way, target)
        if way == DENY and others <= {DENY}:
            raise DeniedError(case.refusal(certain))
        assert self._resolve is not None, "rules come with a resolver"
        addresses = self._resolve(str(target.host), case.subject.client)
        return self._decide_addresses(case, [unmapped(one) for one in addresses], target)

    def _decide_addresses(
        self, case: Case, addresses: Sequence[Address], target: Endpoint
    ) -> Route:
        clauses = [case.find(address) for address in addresses]
        ways = [case.way(clause) for clause in clauses]
        if DIRECT in ways:
            return self._route(case, DIRECT, target)
        for address, way in zip(addresses, ways, strict=True):
            if way != DENY:
                there = target if case.name is None else Endpoint(address, target.port)
                return self._route(case, way, there)
        raise DeniedError(f"{Endpoint(addresses[0], target.port)}: {case.refusal(clauses[0])}")

    def _route(self, case: Case, way: str, target: Endpoint) -> Route:
        return Route(self._outbounds[way], target, partial(self._permit, case, way))

    def _permit(self, case: Case, way: str, endpoint: Endpoint) -> None:
        """Judge an address for *way*. Rules on `port` go by the one asked for."""
        address = unmapped(endpoint.address)
        bounds = self._bounds(case.subject.command)
        clause = case.find(address)
        found = case.way(clause)
        if found == DENY:
            raise DeniedError(f"{endpoint}: {case.refusal(clause)}")
        if found != way:
            raise DeniedError(f"{endpoint}: {clause.label} is {found}, not {way}")
        if case.subject.command is not Command.BIND:
            bounds.permit_local(endpoint)
        elif address in UNSPECIFIED and not clause.has_network_of(address):
            raise DeniedError(f"{endpoint}: no rule lets anybody connect")
        if not _is_trusted(case.subject.listener) and not case.opened_by(clause, address):
            bounds.refuse_inside(endpoint, address)

    def _bounds(self, command: Command) -> Bounds:
        return self._datagrams if command is Command.UDP_ASSOCIATE else self._streams

    def _let_in(self, subject: Subject, page: Page) -> None:
        if not page.lets_in(subject.client):
            raise DeniedError("no rule lets this client in")

    def _page(self, listener: Listener) -> Page:
        page = self._pages.get(listener.name)
        if page is None:
            page = self._pages[listener.name] = Page(listener, self._rules)
        return page


def _is_trusted(listener: Listener) -> bool:
    """Tell whether what is not public is open to its clients, on this host or without a choice."""
    return listener.loopback or listener.target is not None
