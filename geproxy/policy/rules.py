"""The rules: whether one matches, and the walk over all of them in which the first match wins.

A target that is a name has two lives: before it is resolved, when some rules cannot say yet whether
they match, and after, with one address at a time. A Case answers for both.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from geproxy.config.destinations import To
from geproxy.config.edges import Networks
from geproxy.config.settings import Rule
from geproxy.nat64 import WELL_KNOWN, Nat64
from geproxy.policy.ranges import is_public
from geproxy.seams import Listener, Subject
from geproxy.terms import Address, Command, unmapped

DIRECT, DENY = "direct", "deny"  # what is neither is the name of a [via.NAME]: a peer
SMTP_PORT = 25  # server-to-server mail: what an open proxy is abused for first


class Targets:
    """The targets of a rule: what its `to` and its `to_file` hold, as the master made it.

    It refers to them and copies nothing: a copy would be made in every worker.
    """

    __slots__ = ("_names", "_networks", "any", "of_addresses", "private")

    def __init__(self, to: Sequence[To]) -> None:
        self.any = any(one.names.any for one in to)
        self.private = any(one.private for one in to)
        self._names = [one.names for one in to]
        self._networks = [one.networks for one in to if one.networks]
        # True where it takes an address to tell that a name does not match.
        self.of_addresses = self.private or bool(self._networks)

    def hold_name(self, name: str) -> bool:
        """Tell whether *name* is meant by a glob that does not mean just everything."""
        for names in self._names:  # noqa: SIM110  # a generator costs more than the question
            if name in names:
                return True
        return False

    def hold_in_network(self, address: Address) -> bool:
        """Tell whether *address* is in a network that is written down."""
        return any(address in networks for networks in self._networks)

    def hold_address(self, address: Address, own: Container[Address]) -> bool:
        """Tell whether *address* is in a network, or in "private"."""
        if self.hold_in_network(address):
            return True
        # To ask for our own addresses is a system call: last.
        return self.private and (not is_public(address) or address in own)


class Clause:
    """One [[rule]], ready to be asked; or, as a rule without conditions, a listener's via."""

    __slots__ = (
        *("_clients", "_commands", "_users", "action", "for_all", "label", "names_alone"),
        *("ports", "to"),
    )

    def __init__(self, label: str, rule: Rule) -> None:
        self.label = label
        self.action = rule.action
        self.ports = rule.port
        self.to = None if rule.to is None else Targets(rule.to)
        self._users = rule.user
        self._clients = rule.client
        self._commands = rule.command
        # What spares a walk over many rules most of the questions.
        others = (rule.user, rule.client, rule.command, rule.port)
        self.for_all = all(condition is None for condition in others)
        self.names_alone = self.to is not None and not (self.to.any or self.to.of_addresses)

    @property
    def whatever_target(self) -> bool:
        """True where it matches every target of those it is about."""
        return self.ports is None and (self.to is None or self.to.any)

    def is_about(self, subject: Subject) -> bool:
        """Compare what is known before there is a target. Nobody's name is in a `user`."""
        if self._commands is not None and subject.command not in self._commands:
            return False
        if self._users is not None and subject.user not in self._users:
            return False
        return self._clients is None or holds(self._clients, subject.client)

    def has_port(self, port: int) -> bool:
        """Tell whether *port* is in one of the ranges, or there are none."""
        return self.ports is None or port in self.ports

    def expects(self, address: Address, own: Container[Address]) -> bool:
        """Tell whether `to` matches *address*, whatever it was asked for as."""
        return self.to is None or self.to.any or self.to.hold_address(address, own)

    def expects_name(self, name: str) -> bool | None:
        """Tell whether `to` matches *name* whatever its address; None: that depends on it."""
        if self.to is None or self.to.any or self.to.hold_name(name):
            return True
        return None if self.to.of_addresses else False

    def has_network_of(self, address: Address) -> bool:
        """Tell whether `to` has a network that holds *address*; "private" is none."""
        return self.to is not None and self.to.hold_in_network(address)

    def opens(self, name: str | None, address: Address) -> bool:
        """Tell whether `to` itself names a non-public target: "*", or no `to`, names none."""
        if self.to is None:
            return False
        if self.to.private or (name is not None and self.to.hold_name(name)):
            return True
        return self.to.hold_address(address, ())


Numbered = Sequence[tuple[Clause, Rule]]


def numbered(rules: Iterable[Rule]) -> Numbered:
    """Make each rule, with its place in the file, ready for the pages of all listeners."""
    return [(Clause(f"rule {number}", rule), rule) for number, rule in enumerate(rules, 1)]


class Page:
    """The rules that can match on one listener, in order, and last the listener's via."""

    __slots__ = ("_clients", "_telling", "clauses", "plain")

    def __init__(self, listener: Listener, rules: Numbered) -> None:
        here = [
            (clause, rule)
            for clause, rule in rules
            if rule.listen is None or listener.name in rule.listen
        ]
        self.clauses = [clause for clause, _ in here]
        self.clauses.append(Clause("via", Rule(listener.via)))
        # Those that say whether there is any target at all; a deny for some of them does not.
        self._telling = [one for one in self.clauses if one.action != DENY or one.whatever_target]
        self.plain = not here and not listener.by_rule
        self._clients: tuple[Networks, ...] | None = None
        if listener.by_rule:
            letting = [rule.client or () for _, rule in here if rule.action != DENY]
            # Rules that name the same file have the same networks.
            distinct = {id(networks): networks for clients in letting for networks in clients}
            self._clients = tuple(distinct.values())

    def lets_in(self, client: Address) -> bool:
        """Tell whether a listener that is open by rule alone is open to *client*."""
        return self._clients is None or holds(self._clients, client)

    def forbids_all(self, subject: Subject) -> Clause | None:
        """Return the rule that denies *subject* every target, None where some may be allowed."""
        telling = next(clause for clause in self._telling if clause.is_about(subject))
        return telling if telling.action == DENY else None


class Case:
    """One subject and one target before the rules.

    *name* is the target's as the globs know it, None where the target is an address. One that has
    a name must foresee() before it can find().
    """

    __slots__ = ("_certain", "_clauses", "_nat64", "_own", "_smtp", "name", "subject")

    def __init__(
        self,
        clauses: Iterable[Clause],
        subject: Subject,
        name: str | None,
        port: int,
        own: Container[Address],
        nat64: Nat64,
    ) -> None:
        self.subject = subject
        self._nat64 = nat64
        self.name = name
        self._own = own
        is_dialed = subject.command is not Command.BIND
        self._smtp = port == SMTP_PORT and is_dialed and subject.listener.target is None
        self._certain: Clause | None = None
        self._clauses = [
            clause
            for clause in clauses
            if (clause.for_all or (clause.has_port(port) and clause.is_about(subject)))
            and (name is not None or not clause.names_alone)
        ]

    def find(self, address: Address) -> Clause:
        """Return the first clause that matches *address* in the place of the target.

        It may match what NAT64 makes of the address instead: a deny rule for IPv4 networks holds,
        however IPv6 spells them.
        """
        inside = self._nat64.inside(address)
        return next(
            clause
            for clause in self._clauses
            if clause is self._certain
            or clause.expects(address, self._own)
            or (inside and any(clause.expects(one, self._own) for one in inside))
        )

    def opened_by(self, clause: Clause, address: Address) -> bool:
        """Tell whether *clause* itself names *address*, or the IPv4 address that NAT64 makes of it.

        The latter opens no prefix that is not public itself: a rule for 10.0.0.0/8 says nothing
        about unique local addresses.
        """
        if clause.to is None:
            return False
        if clause.opens(self.name, address):
            return True
        inside = self._nat64.inside(address)
        return (
            bool(inside)
            and (is_public(address) or WELL_KNOWN.holds(int(address)))
            and all(clause.opens(self.name, one) for one in inside)
        )

    def foresee(self, name: str) -> tuple[Clause, list[Clause]]:
        """Return the first clause that matches *name* whatever its address, and which before may.

        No other can come into play, and find() asks no other.
        """
        undecided: list[Clause] = []
        for clause in self._clauses:
            expected = clause.expects_name(name)
            if expected:
                break  # at the listener's via at the latest
            if expected is None:
                undecided.append(clause)
        self._certain = clause
        self._clauses = [*undecided, clause]
        return clause, undecided

    def way(self, clause: Clause) -> str:
        """Return where *clause* leads here: its action, but to port 25 only if it speaks of it."""
        return DENY if self._smtp and clause.ports is None else clause.action

    def refusal(self, clause: Clause) -> str:
        """Say why, for a clause whose way is deny."""
        return f"{clause.label} is deny" if clause.action == DENY else "port 25 is closed"


def holds(clients: Iterable[Networks], client: Address) -> bool:
    """Tell whether one of *clients* holds *client*; a mapped address is the IPv4 one inside."""
    address = unmapped(client)
    return any(address in networks for networks in clients)
