"""What may be reached, from where: before a name is resolved and for every address it gave."""

import pytest

from geproxy.config.settings import Rule
from geproxy.errors import DeniedError, LimitError, ResolveError
from geproxy.nat64 import Nat64
from geproxy.policy.gate import Gate
from geproxy.seams import Listener, Permit
from geproxy.terms import Address, Endpoint
from tests.policy.asking import (
    OWN_PUBLIC,
    WAYS,
    Names,
    answer,
    endpoint,
    gate,
    listener,
    passes,
    rule,
    subject,
)

LOCAL = listener("local", loopback=True)
OPEN = listener("open")
TUNNEL = listener("tunnel", target=Endpoint("example.net", 80))
# A rule that never matches: with it the way through the rules must not differ from that without.
IDLE_RULE = rule("deny", user=["nobody"])
WITH_AND_WITHOUT_RULES = pytest.mark.parametrize(
    "rules", [pytest.param((), id="no rules"), pytest.param((IDLE_RULE,), id="an idle rule")]
)


def permit_of(judge: Gate, at: object = OPEN, port: int = 80, command: str = "connect") -> Permit:
    """The judge of what a name will turn out to be."""
    return judge.decide(subject(at, command), Endpoint("example.net", port)).permit


def refusal(permit: Permit, text: str) -> str:
    with pytest.raises(DeniedError) as caught:
        permit(endpoint(text))
    return str(caught.value)


# -- as shipped


@WITH_AND_WITHOUT_RULES
@pytest.mark.parametrize("at", [LOCAL, OPEN], ids=["loopback listener", "public listener"])
@pytest.mark.parametrize(
    ("command", "port", "reason"),
    [
        pytest.param("connect", 0, "port 0", id="CONNECT to port 0"),
        pytest.param("connect", 25, "port 25 is closed", id="CONNECT to port 25"),
        pytest.param("connect", 80, None, id="CONNECT to port 80"),
        pytest.param("connect", 24, None, id="CONNECT to port 24"),
        pytest.param("connect", 65535, None, id="CONNECT to the last port"),
        pytest.param("bind", 0, None, id="BIND for port 0"),
        pytest.param("bind", 25, None, id="BIND for port 25"),
        pytest.param("udp", 0, "port 0", id="a datagram to port 0"),
        pytest.param("udp", 25, "port 25 is closed", id="a datagram to port 25"),
        pytest.param("udp", 53, None, id="a datagram to port 53"),
    ],
)
def test_ports_are_judged_before_anything_is_resolved(
    command: str, port: int, reason: str | None, at: object, rules: tuple[Rule, ...]
) -> None:
    names, target = Names({}), f"example.net:{port}"
    expected = ("direct", target) if reason is None else ("deny", reason)
    assert answer(gate(rules=rules, names=names), subject(at, command), target) == expected
    assert names.asked == []


@WITH_AND_WITHOUT_RULES
def test_a_tunnel_goes_where_its_operator_sent_it(rules: tuple[Rule, ...]) -> None:
    judge = gate("127.0.0.1:1080", rules=rules)
    assert answer(judge, subject(TUNNEL), "10.0.0.1:25") == ("direct", "10.0.0.1:25")
    assert passes(permit_of(judge, TUNNEL, 25), endpoint("10.0.0.1:25"))
    assert not passes(permit_of(judge, TUNNEL, 1080), endpoint("127.0.0.1:1080"))
    assert answer(judge, subject(TUNNEL), "example.net:0") == ("deny", "port 0")


@WITH_AND_WITHOUT_RULES
@pytest.mark.parametrize("target", ["example.net:443", "1.1.1.1:443"])
def test_a_listener_whose_way_out_is_deny_lets_nobody_out(
    target: str, rules: tuple[Rule, ...]
) -> None:
    who = subject(listener(via="deny"))
    way, reason = answer(gate(rules=rules), who, target)
    assert way == "deny"
    assert reason.endswith("via is deny")
    with pytest.raises(DeniedError, match=r"^via is deny$"):
        gate(rules=rules).admit(who)


@WITH_AND_WITHOUT_RULES
def test_a_listener_whose_way_out_is_a_peer_sends_everything_there(
    rules: tuple[Rule, ...],
) -> None:
    judge, who = gate(rules=rules), subject(listener(via="far"))
    judge.admit(who)
    for target in ("example.net:443", "1.1.1.1:443", "127.0.0.1:443"):
        assert answer(judge, who, target) == ("far", target)


@WITH_AND_WITHOUT_RULES
@pytest.mark.parametrize(
    ("at", "target", "expected"),
    [
        pytest.param(LOCAL, "127.0.0.1:80", True, id="local to loopback"),
        pytest.param(LOCAL, "[::1]:80", True, id="local to IPv6 loopback"),
        pytest.param(LOCAL, "10.0.0.1:80", True, id="local to a private network"),
        pytest.param(LOCAL, "93.184.216.34:80", True, id="local to an address of this host"),
        pytest.param(LOCAL, "1.1.1.1:80", True, id="local to a public address"),
        pytest.param(OPEN, "127.0.0.1:80", False, id="foreign to loopback"),
        pytest.param(OPEN, "0.0.0.0:80", False, id="foreign to 0.0.0.0"),
        pytest.param(OPEN, "[::]:80", False, id="foreign to ::"),
        pytest.param(OPEN, "[::1]:80", False, id="foreign to IPv6 loopback"),
        pytest.param(OPEN, "10.0.0.1:80", False, id="foreign to a private network"),
        pytest.param(OPEN, "169.254.169.254:80", False, id="foreign to a cloud's metadata"),
        pytest.param(OPEN, "[::ffff:10.0.0.1]:80", False, id="foreign to a mapped private one"),
        pytest.param(OPEN, "93.184.216.34:80", False, id="foreign to our public address"),
        pytest.param(OPEN, "[2606:2800:220:1::1]:80", False, id="foreign to our public IPv6 one"),
        pytest.param(OPEN, "1.1.1.1:80", True, id="foreign to a public address"),
        pytest.param(OPEN, "[2606:4700::1111]:80", True, id="foreign to a public IPv6 address"),
    ],
)
@pytest.mark.parametrize("command", ["connect", "bind", "udp"])
def test_who_reaches_what(
    at: object, target: str, expected: bool, command: str, rules: tuple[Rule, ...]
) -> None:
    permit = permit_of(gate(rules=rules), at, command=command)
    assert passes(permit, endpoint(target)) is expected


@WITH_AND_WITHOUT_RULES
@pytest.mark.parametrize("at", [LOCAL, OPEN, TUNNEL], ids=["local", "foreign", "tunnel"])
@pytest.mark.parametrize(
    ("bound", "target"),
    [
        pytest.param("127.0.0.1:1080", "127.0.0.1:1080", id="the address itself"),
        pytest.param("127.0.0.1:1080", "0.0.0.0:1080", id="0.0.0.0 means this host"),
        pytest.param("127.0.0.1:1080", "[::]:1080", id=":: means this host"),
        pytest.param("127.0.0.1:1080", "[::ffff:127.0.0.1]:1080", id="the address, mapped"),
        pytest.param("127.0.0.1:1080", "[::ffff:0.0.0.0]:1080", id="0.0.0.0, mapped"),
        pytest.param("[::1]:1080", "[::1]:1080", id="IPv6 loopback itself"),
        pytest.param("[::1]:1080", "[::]:1080", id=":: for IPv6 loopback"),
        pytest.param("0.0.0.0:1080", "127.0.0.1:1080", id="loopback of a wildcard"),
        pytest.param("0.0.0.0:1080", "127.9.9.9:1080", id="another loopback of a wildcard"),
        pytest.param("0.0.0.0:1080", "0.0.0.0:1080", id="a wildcard itself"),
        pytest.param("0.0.0.0:1080", "192.168.7.7:1080", id="a private address of ours"),
        pytest.param("0.0.0.0:1080", "93.184.216.34:1080", id="a public address of ours"),
        pytest.param("0.0.0.0:1080", "[::ffff:93.184.216.34]:1080", id="ours, mapped"),
        pytest.param("[::]:1080", "127.0.0.1:1080", id="IPv4 loopback of a dual-stack one"),
        pytest.param("[::]:1080", "[::1]:1080", id="IPv6 loopback of a dual-stack one"),
        pytest.param("[::]:1080", "93.184.216.34:1080", id="our IPv4 address, dual stack"),
        pytest.param("[::]:1080", "[2606:2800:220:1::1]:1080", id="our IPv6 address"),
        pytest.param("93.184.216.34:1080", "93.184.216.34:1080", id="bound to our public one"),
    ],
)
def test_our_own_port_is_refused_in_every_spelling_to_everybody(
    bound: str, target: str, at: object, rules: tuple[Rule, ...]
) -> None:
    judge = gate("10.9.9.9:9999", bound, rules=rules)
    assert not passes(permit_of(judge, at, 1080), endpoint(target))


@pytest.mark.parametrize(
    ("bound", "target"),
    [
        pytest.param("127.0.0.1:1080", "127.0.0.2:1080", id="another loopback address"),
        pytest.param("127.0.0.1:1080", "127.0.0.1:1081", id="another port"),
        pytest.param("127.0.0.1:1080", "0.0.0.0:1081", id="0.0.0.0 with another port"),
        pytest.param("127.0.0.1:1080", "93.184.216.34:1080", id="another address of this host"),
        pytest.param("192.168.7.7:1080", "127.0.0.1:1080", id="bound to the network alone"),
        pytest.param("0.0.0.0:1080", "1.1.1.1:1080", id="the same port of another host"),
        pytest.param("0.0.0.0:1080", "127.0.0.1:80", id="another port of this host"),
    ],
)
def test_what_is_not_our_own_port_is_open_to_local_clients(bound: str, target: str) -> None:
    assert passes(permit_of(gate(bound), LOCAL), endpoint(target))


def test_a_port_with_several_sockets_is_ours_on_each() -> None:
    permit = permit_of(gate("127.0.0.1:1080", "127.0.0.5:1080", "127.0.0.1:1081"), LOCAL)
    assert not passes(permit, endpoint("127.0.0.1:1080"))
    assert not passes(permit, endpoint("127.0.0.5:1080"))
    assert not passes(permit, endpoint("127.0.0.1:1081"))
    assert passes(permit, endpoint("127.0.0.5:1081"))


@WITH_AND_WITHOUT_RULES
def test_an_address_that_comes_to_this_host_later_is_found(rules: tuple[Rule, ...]) -> None:
    own: set[Address] = set()
    permit = permit_of(gate(own=own, rules=rules))
    target = endpoint("1.1.1.1:80")
    assert passes(permit, target)
    assert not isinstance(target.host, str)
    own.add(target.host)
    assert not passes(permit, target)


@WITH_AND_WITHOUT_RULES
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        pytest.param("127.0.0.1:1080", "127.0.0.1:1080: a port of this proxy", id="own port"),
        pytest.param("10.0.0.1:80", "10.0.0.1:80: not a public address", id="not public"),
        pytest.param(
            "93.184.216.34:80", "93.184.216.34:80: an address of this host", id="own address"
        ),
    ],
)
def test_a_refusal_names_the_address_and_the_reason(
    target: str, reason: str, rules: tuple[Rule, ...]
) -> None:
    assert refusal(permit_of(gate("127.0.0.1:1080", rules=rules)), target) == reason


@WITH_AND_WITHOUT_RULES
@pytest.mark.parametrize(
    ("command", "refused"), [("connect", "127.0.0.1:1080"), ("udp", "127.0.0.1:53")]
)
def test_a_port_of_ours_is_refused_on_the_transport_that_has_it(
    command: str, refused: str, rules: tuple[Rule, ...]
) -> None:
    judge = gate("127.0.0.1:1080", rules=rules, datagrams=["127.0.0.1:53"])
    for target in ("127.0.0.1:1080", "127.0.0.1:53"):
        permit = permit_of(judge, LOCAL, int(target.rpartition(":")[2]), command)
        assert passes(permit, endpoint(target)) is (target != refused)


# -- BIND


@WITH_AND_WITHOUT_RULES
def test_the_port_of_an_expected_peer_is_not_judged(rules: tuple[Rule, ...]) -> None:
    permit = permit_of(gate("127.0.0.1:1080", rules=rules), LOCAL, 1080, "bind")
    assert passes(permit, endpoint("127.0.0.1:1080"))


@pytest.mark.parametrize("at", [LOCAL, OPEN], ids=["local", "foreign"])
@pytest.mark.parametrize("anybody", ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0"])
@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param([], False, id="no rule"),
        pytest.param([rule("direct")], False, id="a rule without to"),
        pytest.param([rule("direct", to=["*"])], False, id="any name"),
        pytest.param([rule("direct", to=["10.0.0.0/8"])], False, id="another network"),
        pytest.param([rule("direct", to=["0.0.0.0/32", "::/128"])], True, id="itself"),
        pytest.param([rule("direct", to=["0.0.0.0/0", "::/0"])], True, id="all networks"),
        pytest.param([rule("direct", to=["private"])], False, id="private is no network"),
        pytest.param(
            [rule("direct", command=["connect"], to=["0.0.0.0/0"])], False, id="another command"
        ),
    ],
)
def test_anybody_may_connect_only_where_a_rule_says_so(
    rules: list[Rule], expected: bool, anybody: str, at: object
) -> None:
    judge = gate(rules=rules)
    route = judge.decide(subject(at, "bind"), endpoint(anybody))
    assert passes(route.permit, endpoint(anybody)) is expected


def test_a_name_for_anybody_is_nobodys() -> None:
    permit = permit_of(gate(rules=[rule("direct", to=["*.net"])]), OPEN, 0, "bind")
    assert refusal(permit, "0.0.0.0:0") == "0.0.0.0:0: no rule lets anybody connect"


def test_rules_on_ports_go_by_the_one_that_bind_asks_for() -> None:
    judge = gate(rules=[rule("far", port=[21])])
    assert answer(judge, subject(OPEN, "bind"), "1.1.1.1:21")[0] == "far"
    permit = judge.decide(subject(OPEN, "bind"), endpoint("1.1.1.1:21")).permit
    assert passes(permit, endpoint("1.1.1.1:20"))


# -- what rules open


@pytest.mark.parametrize(
    ("to", "name", "address", "expected"),
    [
        pytest.param(None, "printer.corp", "10.0.0.1", False, id="no to"),
        pytest.param(["*"], "printer.corp", "10.0.0.1", False, id="any name"),
        pytest.param(["*.corp"], "printer.corp", "10.0.0.1", True, id="its name"),
        pytest.param(["*.corp"], "printer.corp.", "10.0.0.1", True, id="its name, with its dot"),
        pytest.param(["*", "*.corp"], "printer.corp", "10.0.0.1", True, id="any, and its name"),
        pytest.param(["*", "*.corp"], "www.example", "10.0.0.1", False, id="any, or another"),
        pytest.param(["*"], "*", "10.0.0.1", False, id="any name, for one that is a star"),
        pytest.param(["10.0.0.0/8"], "printer.corp", "10.0.0.1", True, id="its network"),
        pytest.param(["10.0.0.0/8"], "printer.corp", "::ffff:10.0.0.1", True, id="mapped"),
        pytest.param(["private"], "printer.corp", "10.0.0.1", True, id="private"),
        pytest.param(["*", "10.1.0.0/16"], "printer.corp", "10.0.0.1", False, id="any, or a net"),
        pytest.param(["*", "private"], "printer.corp", "10.0.0.1", True, id="any, and private"),
        pytest.param(["*.corp"], "printer.corp", "93.184.216.34", True, id="this host's name"),
        pytest.param(["private"], "printer.corp", "93.184.216.34", True, id="this host's address"),
        pytest.param(["*"], "printer.corp", "93.184.216.34", False, id="this host's, for any"),
        pytest.param(["*.corp"], "printer.corp", "127.0.0.1", True, id="its name for loopback"),
    ],
)
def test_a_rule_opens_the_inside_only_by_naming_it(
    to: list[str] | None, name: str, address: str, expected: bool
) -> None:
    judge = gate(rules=[rule("direct", to=to)])
    route = judge.decide(subject(OPEN), Endpoint(name, 80))
    assert passes(route.permit, endpoint(f"[{address}]:80")) is expected


@pytest.mark.parametrize("to", [["*"], ["127.0.0.0/8"], ["private"], ["*.net"]], ids=str)
def test_no_rule_opens_our_own_ports(to: list[str]) -> None:
    permit = permit_of(gate("127.0.0.1:1080", rules=[rule("direct", to=to)]), OPEN, 1080)
    assert refusal(permit, "127.0.0.1:1080") == "127.0.0.1:1080: a port of this proxy"


@pytest.mark.parametrize(
    ("rules", "target", "expected"),
    [
        pytest.param([rule("direct")], "a.net:25", "port 25 is closed", id="no port"),
        pytest.param([rule("far")], "a.net:25", "port 25 is closed", id="no port, to a peer"),
        pytest.param([rule("direct", to=["*.net"])], "a.net:25", "port 25 is closed", id="by to"),
        pytest.param([rule("direct", port=[25])], "a.net:25", None, id="its port"),
        pytest.param([rule("far", port=[range(1, 100)])], "a.net:25", None, id="in a range"),
        pytest.param([rule("direct", port=[80])], "a.net:25", "port 25 is closed", id="another"),
        pytest.param([rule("deny", port=[25])], "a.net:25", "rule 1 is deny", id="denied anyway"),
        pytest.param(
            [rule("direct", to=["*.net"]), rule("direct", port=[25])],
            "a.net:25",
            "port 25 is closed",
            id="a rule without port comes first",
        ),
    ],
)
def test_port_25_is_opened_by_a_rule_that_speaks_of_it(
    rules: list[Rule], target: str, expected: str | None
) -> None:
    way, reason = answer(gate(rules=rules), subject(OPEN), target)
    assert (reason if way == "deny" else None) == expected


# -- names and addresses

NETWORK_DENY = rule("deny", to=["9.9.9.0/24"])
NETWORK_DIRECT = rule("direct", to=["9.9.9.0/24"])
NETWORK_FAR = rule("far", to=["9.9.9.0/24"])
NETWORK_NEAR = rule("near", to=["8.8.8.0/24"])
HOSTS = {"nine": ["9.9.9.9"], "one": ["1.1.1.1"], "both": ["1.1.1.1", "9.9.9.9"]}
HOSTS |= {"eight-and-nine": ["8.8.8.8", "9.9.9.9"], "inside": ["10.0.0.1"]}
HOSTS |= {"mapped": ["::ffff:9.9.9.9"]}


@pytest.mark.parametrize(
    ("rules", "via", "name", "expected", "asked"),
    [
        pytest.param(
            [NETWORK_DENY], "far", "nine", ("far", "nine:80"), 0, id="a peer's names are its own"
        ),
        pytest.param(
            [NETWORK_NEAR, rule("far", to=["n*"])],
            "deny",
            "nine",
            ("far", "nine:80"),
            0,
            id="a peer's by rule too, whatever undecided rule comes before",
        ),
        pytest.param(
            [NETWORK_DENY], "direct", "nine", ("direct", "nine:80"), 0, id="judged when dialed"
        ),
        pytest.param(
            [NETWORK_DENY], "deny", "nine", ("deny", "via is deny"), 0, id="nothing to be gained"
        ),
        pytest.param(
            [NETWORK_DIRECT], "deny", "nine", ("direct", "nine:80"), 1, id="an address is let out"
        ),
        pytest.param(
            [NETWORK_DIRECT],
            "deny",
            "one",
            ("deny", "1.1.1.1:80: via is deny"),
            1,
            id="another is not",
        ),
        pytest.param(
            [NETWORK_DIRECT], "deny", "both", ("direct", "both:80"), 1, id="one of two is let out"
        ),
        pytest.param(
            [rule("far", to=["private"])],
            "direct",
            "inside",
            ("far", "10.0.0.1:80"),
            1,
            id="what is private goes to a peer",
        ),
        pytest.param(
            [NETWORK_FAR], "direct", "nine", ("far", "9.9.9.9:80"), 1, id="as an address to a peer"
        ),
        pytest.param(
            [NETWORK_FAR], "direct", "mapped", ("far", "9.9.9.9:80"), 1, id="a mapped one as IPv4"
        ),
        pytest.param(
            [NETWORK_FAR], "direct", "both", ("direct", "both:80"), 1, id="direct before a peer"
        ),
        pytest.param(
            [NETWORK_FAR, NETWORK_NEAR],
            "deny",
            "eight-and-nine",
            ("near", "8.8.8.8:80"),
            1,
            id="the peer of the first address",
        ),
        pytest.param(
            [NETWORK_FAR], "deny", "both", ("far", "9.9.9.9:80"), 1, id="the first for a peer"
        ),
        pytest.param(
            [rule("direct", to=["n*"]), NETWORK_FAR],
            "deny",
            "nine",
            ("direct", "nine:80"),
            0,
            id="a rule for the name comes first",
        ),
    ],
)
def test_names_are_resolved_only_where_it_can_change_the_way(
    rules: list[Rule], via: str, name: str, expected: tuple[str, str], asked: int
) -> None:
    names = Names(HOSTS)
    judge = gate(rules=rules, names=names)
    assert answer(judge, subject(listener(via=via)), f"{name}:80") == expected
    assert names.asked == [(name, "1.2.3.4")] * asked


@pytest.mark.parametrize(
    ("rules", "via", "address", "reason"),
    [
        pytest.param([NETWORK_DENY], "direct", "9.9.9.9", "rule 1 is deny", id="denied"),
        pytest.param([NETWORK_DENY], "direct", "1.1.1.1", None, id="left to via"),
        pytest.param([NETWORK_FAR], "direct", "9.9.9.9", "rule 1 is far, not direct", id="a peer"),
        pytest.param([NETWORK_DIRECT], "deny", "9.9.9.9", None, id="let out"),
        pytest.param([NETWORK_DIRECT], "deny", "1.1.1.1", "via is deny", id="left to a via"),
    ],
)
def test_each_address_is_judged_again_when_it_is_dialed(
    rules: list[Rule], via: str, address: str, reason: str | None
) -> None:
    judge = gate(rules=rules, names=Names(HOSTS))
    permit = judge.decide(subject(listener(via=via)), Endpoint("both", 80)).permit
    if reason is None:
        permit(endpoint(f"{address}:80"))
    else:
        assert refusal(permit, f"{address}:80") == f"{address}:80: {reason}"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("127.0.0.1", "deny", id="as an address"),
        pytest.param("127.1", "deny", id="in short"),
        pytest.param("0x7f000001", "deny", id="in hexadecimal"),
        pytest.param("2130706433", "deny", id="as a number"),
        pytest.param("[::ffff:127.0.0.1]", "deny", id="mapped"),
        pytest.param("::ffff:127.0.0.1", "deny", id="mapped, as a name"),
        pytest.param("127.example", "far", id="a name that looks like one"),
    ],
)
def test_an_address_is_one_in_every_spelling(host: str, expected: str) -> None:
    judge = gate(rules=[rule("deny", to=["127.0.0.0/8"])])
    way, _ = answer(judge, subject(listener(via="far", loopback=True)), f"{host}:80")
    assert way == expected


def test_a_name_without_addresses_is_not_found() -> None:
    with pytest.raises(ResolveError):
        gate(rules=[NETWORK_FAR]).decide(subject(OPEN), endpoint("none:80"))


def test_a_resolver_that_is_busy_is_no_verdict() -> None:
    def busy(name: str, client: Address) -> tuple[Address, ...]:
        raise LimitError("too many look-ups")

    judge = Gate(WAYS, (), Nat64(), (), (), [NETWORK_FAR], busy)
    with pytest.raises(LimitError):
        judge.decide(subject(OPEN), endpoint("one:80"))


def test_our_own_addresses_are_asked_for_last() -> None:
    class Counting:
        asked = 0

        def __contains__(self, address: object) -> bool:
            self.asked += 1
            return address == OWN_PUBLIC

    own = Counting()
    judge = gate(own=own, rules=[rule("direct", to=["10.0.0.0/8", "*.net", "private"])])
    for target in ("10.0.0.1:80", "a.net:80", "192.168.0.1:80"):
        judge.decide(subject(OPEN), endpoint(target))
    assert own.asked == 0
    judge.decide(subject(OPEN), endpoint("1.1.1.1:80"))
    assert own.asked == 1


# -- NAT64 -----------------------------------------------------------------------------------------

OURS = "2620:4f:8000:64::/96"  # this network's prefix, among public ones

DETOURS = [
    pytest.param("[64:ff9b::8.8.8.8]:443", True, id="public, by the well-known prefix"),
    pytest.param("[64:ff9b::10.0.0.1]:443", False, id="private"),
    pytest.param("[64:ff9b::127.0.0.1]:443", False, id="loopback"),
    pytest.param(f"[64:ff9b::{OWN_PUBLIC}]:443", False, id="this host's own"),
    pytest.param("[64:ff9b:1::8.8.8.8]:443", False, id="a prefix for local use"),
    pytest.param("[fd00:64::8.8.8.8]:443", False, id="a prefix of unique local addresses"),
    pytest.param("[2620:4f:8000:64::8.8.8.8]:443", True, id="public, by this network's prefix"),
    pytest.param("[2620:4f:8000:64::10.0.0.1]:443", False, id="private, by this network's prefix"),
    pytest.param("[2620:4f:8000:65::10.0.0.1]:443", True, id="what looks so, behind no prefix"),
]


@WITH_AND_WITHOUT_RULES
@pytest.mark.parametrize(("target", "expected"), DETOURS)
def test_what_nat64_makes_of_an_address_is_judged_too(
    target: str, expected: bool, rules: tuple[Rule, ...]
) -> None:
    judge = gate(rules=rules, prefixes=[OURS, "64:ff9b:1::/96", "fd00:64::/96"])
    route = judge.decide(subject(OPEN), endpoint(target))
    assert passes(route.permit, endpoint(target)) is expected


@pytest.mark.parametrize("prefix", ["64:ff9b::", "2620:4f:8000:64::", "fd00:64::"])
@pytest.mark.parametrize("to", ["9.9.9.0/24", "0.0.0.0/0"])
def test_a_rule_that_denies_an_ipv4_network_is_not_walked_around_by_nat64(
    to: str, prefix: str
) -> None:
    judge = gate(rules=[rule("deny", to=[to])], prefixes=[OURS, "fd00:64::/96"])
    target = f"[{prefix}9.9.9.1]:443"
    assert answer(judge, subject(LOCAL), target)[0] == "deny"
    assert not passes(permit_of(judge, LOCAL, 443), endpoint(target))


@pytest.mark.parametrize("who", [LOCAL, OPEN], ids=["on loopback", "open"])
@pytest.mark.parametrize("prefix", ["64:ff9b::", "2620:4f:8000:64::"])
def test_a_port_of_ours_is_refused_behind_nat64_too(who: Listener, prefix: str) -> None:
    judge = gate(f"{OWN_PUBLIC}:1080", prefixes=[OURS])
    target = endpoint(f"[{prefix}{OWN_PUBLIC}]:1080")
    assert not passes(judge.decide(subject(who), target).permit, target)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        pytest.param("[64:ff9b::10.0.0.1]:443", True, id="the well-known prefix"),
        pytest.param("[2620:4f:8000:64::10.0.0.1]:443", True, id="a public prefix"),
        pytest.param("[fd00:64::10.0.0.1]:443", False, id="a prefix that is private itself"),
        pytest.param("[64:ff9b::10.1.0.1]:443", False, id="another network inside"),
    ],
)
def test_a_rule_that_opens_an_ipv4_network_opens_it_behind_nat64_and_no_more(
    target: str, expected: bool
) -> None:
    judge = gate(rules=[rule("direct", to=["10.0.0.0/24"])], prefixes=[OURS, "fd00:64::/96"])
    route = judge.decide(subject(OPEN), endpoint(target))
    assert passes(route.permit, endpoint(target)) is expected
