"""Which rule matches, who is let in at all, and a slow obvious twin of the whole decision."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.config.settings import Rule
from geproxy.errors import DeniedError
from geproxy.policy.gate import Gate
from geproxy.policy.ranges import is_public
from geproxy.seams import Subject
from geproxy.terms import Address, Command, Endpoint, unmapped
from tests.policy.asking import (
    OWN,
    OWN_PUBLIC,
    Names,
    answer,
    gate,
    listener,
    passes,
    rule,
    subject,
)

LOCAL = listener("local", loopback=True)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param({}, True, id="no condition"),
        pytest.param({"listen": ["a", "local"]}, True, id="its listener"),
        pytest.param({"listen": ["a"]}, False, id="another listener"),
        pytest.param({"listen": []}, False, id="no listener at all"),
        pytest.param({"user": ["bob", "alice"]}, True, id="its user"),
        pytest.param({"user": ["bob"]}, False, id="another user"),
        pytest.param({"user": ["Alice"]}, False, id="another user, by a letter's case"),
        pytest.param({"client": ["::/0", "1.2.3.0/24"]}, True, id="its network"),
        pytest.param({"client": ["1.2.4.0/24"]}, False, id="another network"),
        pytest.param({"client": ["::/0"]}, False, id="all of IPv6"),
        pytest.param({"command": ["udp", "connect"]}, True, id="its command"),
        pytest.param({"command": ["udp", "bind"]}, False, id="other commands"),
        pytest.param({"port": [443]}, True, id="its port"),
        pytest.param({"port": [80, range(440, 444)]}, True, id="a range that ends with it"),
        pytest.param({"port": [range(443, 500)]}, True, id="a range that begins with it"),
        pytest.param({"port": [range(440, 443), range(444, 500)]}, False, id="ranges around it"),
        pytest.param({"to": ["www.example.net"]}, True, id="its name"),
        pytest.param({"to": ["www.example.com", "*.net"]}, True, id="a glob across dots"),
        pytest.param({"to": ["*.example.net"]}, True, id="a glob for a domain"),
        pytest.param({"to": ["www*"]}, True, id="a glob at the end"),
        pytest.param({"to": ["w?w.example.net"]}, True, id="one unknown letter"),
        pytest.param({"to": ["*"]}, True, id="any name"),
        pytest.param({"to": ["*.www.example.net"]}, False, id="what is below it"),
        pytest.param({"to": ["example.net"]}, False, id="the domain it is in"),
        pytest.param({"to": ["www.example"]}, False, id="its beginning"),
        pytest.param({"to": []}, False, id="nowhere"),
        pytest.param({"to_file": []}, False, id="an empty file of targets"),
        pytest.param({"client_file": []}, False, id="an empty file of clients"),
        pytest.param({"to": ["a.net"], "to_file": ["*.net"]}, True, id="its file's pattern"),
        pytest.param({"to": ["*.net"], "to_file": []}, True, id="its name, beside an empty file"),
        pytest.param({"client": ["::/0"], "client_file": ["1.0.0.0/8"]}, True, id="its file"),
        pytest.param({"user": ["alice"], "port": [443], "to": ["*.net"]}, True, id="all of them"),
        pytest.param({"user": ["alice"], "port": [80], "to": ["*.net"]}, False, id="all but one"),
    ],
)
@pytest.mark.parametrize("host", ["www.example.net", "WWW.Example.NET", "www.example.net."])
def test_a_rule_matches_where_every_condition_does(
    conditions: dict[str, Sequence[str]], expected: bool, host: str
) -> None:
    who = subject(LOCAL, client="::ffff:1.2.3.4", user="alice")
    way, _ = answer(gate(rules=[rule("far", **conditions)]), who, f"{host}:443")
    assert way == ("far" if expected else "direct")


@pytest.mark.parametrize(
    ("to", "target", "expected"),
    [
        pytest.param(["10.0.0.0/8"], "10.9.9.9:1", True, id="a network"),
        pytest.param(["10.0.0.0/8"], "[::ffff:10.9.9.9]:1", True, id="a network, mapped"),
        pytest.param(["10.0.0.0/8"], "11.0.0.0:1", False, id="beside a network"),
        pytest.param(["0.0.0.0/0"], "[2606:4700::1]:1", False, id="all of IPv4, for IPv6"),
        pytest.param(["2606:4700::/32"], "[2606:4700::1]:1", True, id="a network of IPv6"),
        pytest.param(["private"], "192.168.0.1:1", True, id="private"),
        pytest.param(["private"], "[64:ff9b:1::101:101]:1", True, id="IPv4 embedded in IPv6"),
        pytest.param(["private"], "[64:ff9b::101:101]:1", False, id="public IPv4 in NAT64"),
        pytest.param(["private"], "[64:ff9b::10.9.9.9]:1", True, id="private IPv4 in NAT64"),
        pytest.param(["10.0.0.0/8"], "[64:ff9b::10.9.9.9]:1", True, id="a network, in NAT64"),
        pytest.param(["10.0.0.0/8"], "[64:ff9b::11.9.9.9]:1", False, id="beside it, in NAT64"),
        pytest.param(["64:ff9b::/96"], "[64:ff9b::1.1.1.1]:1", True, id="the prefix of NAT64"),
        pytest.param(["private"], "93.184.216.34:1", True, id="private: this host's own"),
        pytest.param(["private"], "1.1.1.1:1", False, id="private: a public one"),
        pytest.param(["*"], "1.1.1.1:1", True, id="anything"),
        pytest.param(["1.1.1.1", "1.*", "?*"], "1.1.1.1:1", False, id="names that look alike"),
    ],
)
def test_an_address_is_matched_by_networks_and_by_no_name(
    to: list[str], target: str, expected: bool
) -> None:
    way, _ = answer(gate(rules=[rule("far", to=to)]), subject(LOCAL), target)
    assert way == ("far" if expected else "direct")


def test_the_first_match_wins() -> None:
    rules = [
        rule("near", to=["a.net"]),
        rule("deny", to=["*.net"], user=["alice"]),
        rule("far", to=["*.net"]),
        rule("deny", to=["b.net"]),
    ]
    judge = gate(rules=rules)
    alice, anyone = subject(LOCAL, user="alice"), subject(LOCAL)
    assert answer(judge, alice, "a.net:80")[0] == "near"
    assert answer(judge, alice, "b.net:80") == ("deny", "rule 2 is deny")
    assert answer(judge, anyone, "b.net:80")[0] == "far"
    assert answer(judge, anyone, "b.org:80")[0] == "direct"


def test_a_rule_keeps_its_number_where_those_before_it_are_for_other_listeners() -> None:
    judge = gate(rules=[rule("deny", listen=["a"]), rule("deny", listen=["local"])])
    assert answer(judge, subject(LOCAL), "a.net:80") == ("deny", "rule 2 is deny")


# -- who is let in at all

LETS_TEN_IN = rule("direct", client=["10.0.0.0/8"])


@pytest.mark.parametrize(
    ("rules", "client", "expected"),
    [
        pytest.param([], "10.0.0.1", False, id="no rule"),
        pytest.param([rule("direct")], "10.0.0.1", False, id="a rule for everybody"),
        pytest.param([LETS_TEN_IN], "10.0.0.1", True, id="its rule"),
        pytest.param([LETS_TEN_IN], "::ffff:10.0.0.1", True, id="its rule, mapped"),
        pytest.param([LETS_TEN_IN], "11.0.0.1", False, id="another's rule"),
        pytest.param([rule("direct", client_file=[])], "10.0.0.1", False, id="an empty file"),
        pytest.param(
            [rule("direct", client_file=["10.0.0.0/8"], client=["11.0.0.0/8"])],
            "10.0.0.1",
            True,
            id="the file of a rule",
        ),
        pytest.param(
            [rule("far", client=["10.0.0.0/8"], to=["a.net"], command=["udp"])],
            "10.0.0.1",
            True,
            id="a rule for few targets",
        ),
        pytest.param(
            [rule("direct", client=["10.0.0.0/8"], listen=["b"])],
            "10.0.0.1",
            False,
            id="a rule of another listener",
        ),
        pytest.param(
            [rule("deny", client=["10.0.0.0/8"])], "10.0.0.1", False, id="a rule that denies"
        ),
        pytest.param(
            [rule("deny", client=["10.0.0.0/8"], to=["a.net"])],
            "10.0.0.1",
            False,
            id="a rule that denies a few targets",
        ),
        pytest.param(
            [rule("deny", client=["10.0.0.1/32"]), LETS_TEN_IN],
            "10.0.0.1",
            False,
            id="denied before",
        ),
        pytest.param(
            [LETS_TEN_IN, rule("deny", client=["10.0.0.1/32"])],
            "10.0.0.1",
            True,
            id="denied too late",
        ),
    ],
)
def test_a_listener_that_is_open_by_rule_lets_in_whom_a_rule_names(
    rules: list[Rule], client: str, expected: bool
) -> None:
    judge, who = gate(rules=rules), subject(listener(by_rule=True), client=client)
    assert admitted(judge, who) is expected
    assert (answer(judge, who, "example.net:80")[0] == "direct") is expected
    assert (answer(judge, who, "1.1.1.1:80")[0] == "direct") is expected


@pytest.mark.parametrize(
    ("rules", "via", "expected"),
    [
        pytest.param([rule("deny")], "direct", False, id="a rule denies everything"),
        pytest.param([rule("deny", to=["*"])], "direct", False, id="every name and address"),
        pytest.param([rule("deny", to=["*.net"])], "direct", True, id="some targets"),
        pytest.param([rule("deny", port=[80])], "direct", True, id="some ports"),
        pytest.param([rule("deny", command=["udp"])], "direct", True, id="another command"),
        pytest.param([rule("deny", user=["alice"])], "direct", True, id="another user"),
        pytest.param([rule("far", to=["a.net"]), rule("deny")], "direct", True, id="but a few"),
        pytest.param([rule("deny"), rule("far")], "direct", False, id="before it is allowed"),
        pytest.param([rule("far", port=[80])], "deny", True, id="via denies all but a few"),
        pytest.param([rule("deny", port=[80])], "deny", False, id="via denies the rest"),
        pytest.param([rule("far", user=["alice"])], "deny", False, id="via denies all others"),
    ],
)
def test_who_may_reach_nothing_is_not_admitted(rules: list[Rule], via: str, expected: bool) -> None:
    assert admitted(gate(rules=rules), subject(listener(via=via))) is expected


def admitted(judge: Gate, who: Subject) -> bool:
    try:
        judge.admit(who)
    except DeniedError:
        return False
    return True


# -- the twin

HOSTS = {
    "a.corp.example": ["10.0.0.1"],
    "a.corp.example.": ["10.0.0.1", "1.1.1.1"],
    "corp.example": ["1.1.1.1", "2606:4700::1111"],
    "www.example.net": ["9.9.9.9", "1.1.1.1", "127.0.0.1"],
    "db": ["0.0.0.0", "93.184.216.34", "::"],
}
ADDRESSES = [
    *("0.0.0.0", "1.1.1.1", "9.9.9.9", "10.0.0.1", "127.0.0.1", str(OWN_PUBLIC)),
    *("::", "::1", "2606:4700::1111", "fd00::1", "::ffff:10.0.0.1", "::ffff:1.1.1.1"),
]
DESTINATIONS = [
    *("*", "*.example", "*.corp.example", "corp.example", "d?", "*.net", "*a*", "private"),
    *("a.*", "?.c*p.example", "*corp.example", "**.example", "w*e?ample.n*", "*.*.*", "??"),
    *("0.0.0.0/0", "::/0", "0.0.0.0/32", "1.0.0.0/8", "10.0.0.0/8", "127.0.0.0/8"),
    *("2606:4700::/32", f"{OWN_PUBLIC}/32", "9.9.9.9/32"),
]
CLIENTS = ["10.0.0.7", "::ffff:10.0.0.7", "1.2.3.4", "2001:db8::7"]
PORT = 1080  # ours, on 127.0.0.1
PORTS = [0, 25, 80, PORT]
LISTENERS = [
    LOCAL,
    listener("a"),
    listener("b", via="far"),
    listener("c", via="deny"),
    listener("d", by_rule=True),
    listener("e", target=Endpoint("db", 80)),
]


def sometimes(members: Sequence[object]) -> st.SearchStrategy[object]:
    """A condition: mostly there is none, or a rule would hardly ever match."""
    lists = st.lists(st.sampled_from(members), max_size=3, unique=True)
    return st.none() | st.none() | st.none() | lists


@dataclass(frozen=True)
class Said:
    """A [[rule]] as the file has it: what the twin walks, in place of what is made of it."""

    action: str
    listen: list[str] | None
    user: list[str] | None
    client: list[str] | None
    client_file: list[str] | None
    command: list[str] | None
    to: list[str] | None
    to_file: list[str] | None
    port: list[int | range] | None

    @property
    def made(self) -> Rule:
        return rule(**{each.name: getattr(self, each.name) for each in fields(self)})

    @property
    def targets(self) -> list[str] | None:
        return either(self.to, self.to_file)

    @property
    def clients(self) -> list[str] | None:
        return either(self.client, self.client_file)


def either(listed: list[str] | None, filed: list[str] | None) -> list[str] | None:
    return None if listed is filed is None else [*(listed or ()), *(filed or ())]


ACTIONS = st.sampled_from(["direct", "deny", "near", "far"])
NETWORKS = ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32"]
RULES = st.lists(
    st.builds(
        Said,
        ACTIONS,
        listen=sometimes([one.name for one in LISTENERS]),
        user=sometimes(["alice", "bob"]),
        client=sometimes(NETWORKS),
        client_file=sometimes(NETWORKS),
        command=sometimes([command.value for command in Command]),
        to=st.lists(st.sampled_from(DESTINATIONS), max_size=3) | st.none(),
        to_file=sometimes(DESTINATIONS),
        port=sometimes([0, 25, 80, range(1, 81), range(65536)]),
    ),
    max_size=5,
)
SUBJECTS = st.builds(
    Subject,
    st.sampled_from(LISTENERS),
    st.sampled_from(CLIENTS).map(ip_address),
    st.sampled_from([None, "alice", "bob"]),
    st.sampled_from(Command),
)
TARGETS = st.builds(
    Endpoint,
    st.sampled_from([*HOSTS, *map(ip_address, ADDRESSES)]),
    st.sampled_from(PORTS),
)

Fate = set[tuple[str, Address | str]]  # by which way, and what: all that can come of a request


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(RULES, SUBJECTS, st.lists(TARGETS, min_size=1, max_size=12))
def test_agrees_with_a_slow_obvious_twin(
    rules: list[Said], who: Subject, targets: list[Endpoint]
) -> None:
    made = [one.made for one in rules]
    judge = gate(f"127.0.0.1:{PORT}", rules=made, names=Names(HOSTS))
    is_admitted = admitted(judge, who)
    assert is_admitted is admitted_by_the_twin(rules, who)
    for target in targets:
        fate = fate_by_the_twin(rules, who, target)
        assert fate_of(judge, who, target) == fate, target
        assert is_admitted or not fate


def fate_of(judge: Gate, who: Subject, target: Endpoint) -> Fate:
    try:
        route = judge.decide(who, target)
    except DeniedError:
        return set()
    host, way = route.target.host, route.outbound.name
    if isinstance(host, str) and way != "direct":
        return {(way, host)}
    return {
        (way, address)
        for address in addresses_of(host)
        if passes(route.permit, Endpoint(address, target.port))
    }


def addresses_of(host: Address | str) -> list[Address]:
    if not isinstance(host, str):
        return [unmapped(host)]
    return [ip_address(text) for text in HOSTS[host]]


def inside(address: Address, texts: Sequence[str] | None) -> bool:
    networks = [ip_network(text) for text in texts or () if "/" in text]
    return any(unmapped(address) in network for network in networks)


def has_port(one: Said, port: int) -> bool:
    return one.port is None or any(
        port in ports if isinstance(ports, range) else port == ports for ports in one.port
    )


def admitted_by_the_twin(rules: list[Said], who: Subject) -> bool:
    if who.listener.by_rule and not let_in(rules, who):
        return False
    for one in rules:
        if is_about(one, who):
            if one.action != "deny":
                return True
            if one.port is None and (one.targets is None or "*" in one.targets):
                return False
    return who.listener.via != "deny"


def let_in(rules: list[Said], who: Subject) -> bool:
    return any(
        inside(who.client, one.clients)
        and (one.listen is None or who.listener.name in one.listen)
        and one.action != "deny"
        for one in rules
    )


def is_about(one: Said, who: Subject) -> bool:
    return (
        (one.listen is None or who.listener.name in one.listen)
        and (one.user is None or who.user in one.user)
        and (one.clients is None or inside(who.client, one.clients))
        and (one.command is None or who.command.value in one.command)
    )


def named(one: Said, name: str | None) -> bool:
    """Whether a glob other than "*" matches the name that was asked for."""
    if one.targets is None or name is None:
        return False
    plain = name.removesuffix(".")
    globs = [text for text in one.targets if "/" not in text and text not in ("*", "private")]
    return any(fnmatchcase(plain, glob) for glob in globs)


def numbered(one: Said, address: Address | None) -> bool:
    """Whether a network or "private" holds the address."""
    if one.targets is None or address is None:
        return False
    is_inside = not is_public(address) or address in OWN
    return inside(address, one.targets) or ("private" in one.targets and is_inside)


def walk(
    rules: list[Said], who: Subject, port: int, name: str | None, address: Address | None
) -> tuple[str, Said | None]:
    """The way of the first match, and the rule; without *address*, of the first certain match."""
    found = None
    for one in rules:
        to_matches = one.targets is None or "*" in one.targets
        if (
            is_about(one, who)
            and has_port(one, port)
            and (to_matches or named(one, name) or numbered(one, address))
        ):
            found = one
            break
    way = found.action if found else who.listener.via
    mail = port == 25 and who.command is not Command.BIND and not who.listener.target
    if mail and (found is None or found.port is None):
        way = "deny"
    return way, found


def dialable(
    rules: list[Said], who: Subject, port: int, name: str | None, address: Address
) -> bool:
    """Whether an address may be dialed by its own way."""
    way, found = walk(rules, who, port, name, address)
    this_host = (ip_address("0.0.0.0"), ip_address("::"))
    if way == "deny":
        return False
    if who.command is Command.BIND:
        written_down = found and inside(address, found.targets)
        if address in this_host and not written_down:
            return False
    elif port == PORT and address in (ip_address("127.0.0.1"), *this_host):
        return False
    if who.listener.loopback or who.listener.target:
        return True
    if is_public(address) and address not in OWN:
        return True
    return found is not None and (named(found, name) or numbered(found, address))


def fate_by_the_twin(rules: list[Said], who: Subject, target: Endpoint) -> Fate:
    port, host = target.port, target.host
    if port == 0 and who.command is not Command.BIND:
        return set()
    if who.listener.by_rule and not let_in(rules, who):
        return set()
    name = host if isinstance(host, str) else None
    if name is not None:
        way, _ = walk(rules, who, port, name, None)
        if way not in ("direct", "deny"):
            return {(way, name)}
    ways = [(walk(rules, who, port, name, one)[0], one) for one in addresses_of(host)]
    direct = [(way, address) for way, address in ways if way == "direct"]
    by_peers = [(way, address) for way, address in ways if way not in ("direct", "deny")]
    taken = direct or by_peers[:1]
    return {(way, one) for way, one in taken if dialable(rules, who, port, name, one)}
