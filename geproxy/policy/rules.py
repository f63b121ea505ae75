"""The rules: whether one matches, and the walk over all of them in which the first match wins.

A target that is a name has two lives: before it is resolved, when some rules cannot say yet whether
they match, and after, with one address at a time. A Case answers for both.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from fnmatch import translate

from geproxy.config.network import Network
from geproxy.config.settings import Rule, To
from geproxy.policy.ranges import is_public
from geproxy.seams import Listener, Subject
from geproxy.terms import Address, Command, unmapped

DIRECT, DENY = "direct", "deny"  # what is neither is the name of a [via.NAME]: a peer
ANY = "*"  # the one glob that matches addresses too, and that opens nothing non-public
SMTP_PORT = 25  # server-to-server mail: what an open proxy is abused for first


class Targets:
    """A rule's `to`, ready to be asked."""

    __slots__ = ("_exact", "_networks", "_pattern", "any", "private")

    def __init__(self, to: To) -> None:
        self.any = ANY in to.names
        self.private = to.private
        self._networks = to.networks
        globs = [name for name in to.names if name != ANY and set(name) & set("*?[")]
        self._exact = frozenset(to.names) - {ANY, *globs}
        self._pattern = re.compile("|".join(map(translate, globs))) if globs else None

    @property
    def of_addresses(self) -> bool:
        """True where it takes an address to tell that a name does not match."""
        return self.private or bool(self._networks)

    def hold_name(self, name: str) -> bool:
        """Tell whether *name* is meant by a glob that does not mean just everything."""
        if name in self._exact:
            return True
        return self._pattern is not None and self._pattern.match(name) is not None

    def hold_in_network(self, address: Address) -> bool:
        """Tell whether *address* is in a network that is written down."""
        return any(address in network for network in self._networks)

    def hold_address(self, address: Address, own: Container[Address]) -> bool:
        """Tell whether *address* is in a network, or in "private"."""
        if self.hold_in_network(address):
            return True
        # To ask for our own addresses is a system call: last.
        return self.private and (not is_public(address) or address in own)


class Clause:
    """One [[rule]], ready to be asked; or, as a rule without conditions, a listener's via."""

    __slots__ = ("_clients", "_commands", "_users", "action", "label", "ports", "to")

    def __init__(self, label: str, rule: Rule) -> None:
        self.label = label
        self.action = rule.action
        self.ports = rule.port
        self.to = None if rule.to is None else Targets(rule.to)
        self._users = rule.user
        self._clients = rule.client
        self._commands = rule.command

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
        return self.ports is None or any(port in ports for ports in self.ports)

    def expects(self, name: str | None, address: Address, own: Container[Address]) -> bool:
        """Tell whether `to` matches *address*, which was asked for as *name*, or as itself."""
        if self.to is None or self.to.any:
            return True
        if name is not None and self.to.hold_name(name):
            return True
        return self.to.hold_address(address, own)

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


class Page:
    """The rules that can match on one listener, in order, and last the listener's via."""

    __slots__ = ("_clients", "clauses", "plain")

    def __init__(self, listener: Listener, rules: Sequence[Rule]) -> None:
        here = [
            (Clause(f"rule {number}", rule), rule)
            for number, rule in enumerate(rules, 1)
            if rule.listen is None or listener.name in rule.listen
        ]
        self.clauses = [clause for clause, _ in here]
        self.clauses.append(Clause("via", Rule(listener.via)))
        self.plain = not here and not listener.by_rule
        self._clients: tuple[Network, ...] | None = None
        if listener.by_rule:
            letting = [rule.client for _, rule in here if rule.client and rule.action != DENY]
            self._clients = tuple(network for networks in letting for network in networks)

    def lets_in(self, client: Address) -> bool:
        """Tell whether a listener that is open by rule alone is open to *client*."""
        return self._clients is None or holds(self._clients, client)

    def forbids_all(self, subject: Subject) -> Clause | None:
        """Return the rule that denies *subject* every target, None where some may be allowed."""
        telling = next(
            clause
            for clause in self.clauses
            if clause.is_about(subject) and (clause.action != DENY or clause.whatever_target)
        )
        return telling if telling.action == DENY else None


class Case:
    """One subject and one target before the rules.

    *name* is the target's as the globs know it, None where the target is an address.
    """

    __slots__ = ("_clauses", "_own", "_smtp", "name", "subject")

    def __init__(
        self,
        clauses: Iterable[Clause],
        subject: Subject,
        name: str | None,
        port: int,
        own: Container[Address],
    ) -> None:
        self.subject = subject
        self.name = name
        self._own = own
        is_dialed = subject.command is not Command.BIND
        self._smtp = port == SMTP_PORT and is_dialed and subject.listener.target is None
        self._clauses = [
            clause for clause in clauses if clause.has_port(port) and clause.is_about(subject)
        ]

    def find(self, address: Address) -> Clause:
        """Return the first clause that matches *address* in the place of the target."""
        return next(
            clause for clause in self._clauses if clause.expects(self.name, address, self._own)
        )

    def foresee(self, name: str) -> tuple[Clause, list[Clause]]:
        """Return the first clause that matches *name* whatever its address, and which before may.

        No clause after the first can come into play.
        """
        undecided: list[Clause] = []
        for clause in self._clauses:
            expected = clause.expects_name(name)
            if expected:
                break  # at the listener's via at the latest
            if expected is None:
                undecided.append(clause)
        return clause, undecided

    def way(self, clause: Clause) -> str:
        """Return where *clause* leads here: its action, but to port 25 only if it speaks of it."""
        return DENY if self._smtp and clause.ports is None else clause.action

    def refusal(self, clause: Clause) -> str:
        """Say why, for a clause whose way is deny."""
        return f"{clause.label} is deny" if clause.action == DENY else "port 25 is closed"


def holds(networks: Iterable[Network], client: Address) -> bool:
    """Tell whether one of *networks* holds *client*; a mapped address is the IPv4 one inside."""
    address = unmapped(client)
    return any(address in network for network in networks)
