"""The system's resolver, asked for A and AAAA apart: in hosts that have name servers of ours."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from geproxy.errors import ResolveError
from geproxy.net.lookup import ADDRESSES
from geproxy.net.systemlookup import get_addresses
from geproxy.terms import Address
from tests.support.hosts import ROOT, OtherHost, other_host, with_files
from tests.support.nameserver import AAAA, RESOLV_CONF, A, NameServer, name_server

RECORDS = {
    "both.example": ["192.0.2.7", "2001:db8::7"],
    "four.example": ["192.0.2.4"],
    "six.example": ["2001:db8::6"],
    "db.internal": ["192.0.2.66", "2001:db8::66"],
    "printer.local": ["192.0.2.67", "2001:db8::67"],
    "ula.example": ["192.0.2.8", "fd00:1::8"],
    "local.example": ["192.0.2.9", "2001:db8::9", "fd00:9::9"],
    "loop.example": ["127.0.0.1", "::1"],
    "tunnel.example": ["192.0.2.10", "2002:c000:20a::1", "2001::10", "2001:db8::10"],
    "many.example": [f"192.0.2.{number}" for number in range(60)],
}
HOSTS = (
    "127.0.0.1 localhost\n10.0.0.5 db.internal # 2001:db8::5 four.example\n0.0.0.0\tAds.Example x\n"
)

# Asks as a worker does, and prints for each name: what, and in how many seconds.
PROGRAM = """
import json, os, sys, time
from ipaddress import IPv4Address
from geproxy.errors import GeproxyError
from geproxy.net.resolver import Resolver
from geproxy.net.systemlookup import RES_OPTIONS, SystemLookUp

os.environ["RES_OPTIONS"] = RES_OPTIONS
family, timeout_seconds, names = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
resolver = Resolver(SystemLookUp(family, timeout_seconds), timeout_seconds, 60.0)
resolver.exercise()
for name in names:
    begun = time.monotonic()
    try:
        found = [str(one) for one in resolver.resolve(name, IPv4Address("127.0.0.1"))]
    except GeproxyError as error:
        found = [type(error).__name__]
    print(json.dumps([found, time.monotonic() - begun]), flush=True)
"""


def run(program: str, *arguments: str, prefix: list[str]) -> list[str]:
    """Run *program* behind *prefix*; returns the lines that it prints."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


class World:
    """A host, its name server, and what it answers there."""

    def __init__(self, folder: Path, host: OtherHost, server: NameServer) -> None:
        self.server = server
        self._folder = folder
        self._host = host

    def prefix(self, files: Mapping[str, str]) -> list[str]:
        """A command that runs another on the host, where *files* stand besides."""
        return with_files(
            self._folder, {**RESOLV_CONF, "/etc/hosts": HOSTS, **files}, self._host.enter
        )

    def connect(self, *kinds: str) -> None:
        """Give the host a network: addresses of these kinds, and routes to everywhere."""
        lines = "link add far type veth peer name away\nlink set far up\nlink set away up\n"
        lines += "".join(FAR[kind] for kind in kinds)
        lines += "".join(dict.fromkeys(ROUTES[kind] for kind in kinds))
        self._host.configure(lines)

    def resolve(
        self,
        *names: str,
        family: str = "both",
        timeout_seconds: float = 5.0,
        files: Mapping[str, str] | None = None,
    ) -> list[tuple[list[str], float]]:
        """Resolve *names* one after another; gives addresses or an error's name, and seconds."""
        prefix = self.prefix(files or {})
        lines = run(PROGRAM, family, str(timeout_seconds), *names, prefix=prefix)
        return [(found, seconds) for found, seconds in map(json.loads, lines)]

    def answer(self, name: str, **options: object) -> list[str]:
        """Resolve one name."""
        return self.resolve(name, **options)[0][0]  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with (
        other_host() as host,
        name_server(host.udp("127.0.0.1", 53), RECORDS) as server,
    ):
        yield World(tmp_path, host, server)


# -- what the system says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("a" * 64, id="a label of 64"),
        pytest.param("a" * 253, id="a label of 253"),
        pytest.param("www." + "b" * 64 + ".example", id="a long label in the middle"),
        pytest.param("a..b", id="an empty label"),
        pytest.param("..", id="nothing but dots"),
        pytest.param("." * 255, id="as many dots as a request can hold"),
    ],
)
def test_a_name_that_no_zone_can_hold_is_a_resolve_error_for_the_system_too(host: str) -> None:
    with pytest.raises(ResolveError):
        get_addresses(host, socket.AF_UNSPEC)


@pytest.mark.parametrize(
    ("family", "kinds"),
    [(socket.AF_INET, {IPv4Address}), (socket.AF_UNSPEC, {IPv4Address, IPv6Address})],
)
def test_the_system_knows_localhost(family: int, kinds: set[type[Address]]) -> None:
    found = get_addresses("localhost", family)
    assert found
    assert len(set(found)) == len(found)
    assert {type(address) for address in found} <= kinds
    assert all(address.is_loopback for address in found)


@pytest.mark.slow
def test_answers_and_their_absence_are_told_apart(world: World) -> None:
    found = world.resolve("both.example", "four.example", "six.example", "none.example")
    answers = [set(one) for one, _ in found]
    assert answers == [
        {"192.0.2.7", "2001:db8::7"},
        {"192.0.2.4"},
        {"2001:db8::6"},
        {"ResolveError"},
    ]
    world.server.failing = True
    assert world.answer("both.example") == ["NoAnswerError"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "expected", "kind"),
    [("ipv4", ["192.0.2.7"], A), ("ipv6", ["2001:db8::7"], AAAA)],
)
def test_a_family_alone_is_asked_for_alone(
    world: World, family: str, expected: list[str], kind: int
) -> None:
    assert world.answer("both.example", family=family) == expected
    assert {one for name, one in world.server.asked if name == "both.example"} == {kind}


@pytest.mark.slow
def test_addresses_without_end_are_cut(world: World) -> None:
    assert len(world.answer("many.example", family="ipv4")) == ADDRESSES


# -- a network that loses packets -----------------------------------------------------------------


@pytest.mark.slow
def test_a_lost_packet_costs_one_retry_and_not_the_look_up(world: World) -> None:
    world.server.losses = 1
    (found, seconds), *_ = world.resolve("both.example")
    assert set(found) == {"192.0.2.7", "2001:db8::7"}
    assert 0.9 < seconds < 1.9


@pytest.mark.slow
def test_retries_fill_the_time_that_there_is(world: World) -> None:
    world.server.losses = 3
    (found, seconds), *_ = world.resolve("both.example")
    assert found != ["NoAnswerError"]
    assert 2.9 < seconds < 4.5


@pytest.mark.slow
@pytest.mark.parametrize("timeout_seconds", [1.0, 3.0])
def test_silence_ends_after_timeout_seconds(world: World, timeout_seconds: float) -> None:
    world.server.silent = {A, AAAA}
    (found, seconds), *_ = world.resolve("both.example", timeout_seconds=timeout_seconds)
    assert found == ["NoAnswerError"]
    assert abs(seconds - timeout_seconds) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("silent", "found"), [(AAAA, ["192.0.2.7"]), (A, ["2001:db8::7"])], ids=["AAAA", "A"]
)
def test_a_family_that_is_never_answered_costs_50_ms(
    world: World, silent: int, found: list[str]
) -> None:
    world.connect("v4", "v6")
    world.server.silent = {silent}
    (answer, seconds), *_ = world.resolve("both.example")
    assert answer == found
    assert seconds < 0.5


@pytest.mark.slow
def test_an_answer_that_takes_longer_than_a_try_is_heard(world: World) -> None:
    world.server.late_seconds = {A: 1.4, AAAA: 1.4}
    (found, seconds), *_ = world.resolve("both.example")
    assert len(found) == 2
    assert seconds < 1.95


# -- sources other than name servers --------------------------------------------------------------


@pytest.mark.slow
def test_a_name_in_the_hosts_file_is_that_and_nothing_more(world: World) -> None:
    found = world.resolve("db.internal", "ads.example", "x", "four.example")
    answers = [one for one, _ in found]
    assert answers == [["10.0.0.5"], ["0.0.0.0"], ["0.0.0.0"], ["192.0.2.4"]]
    assert not {"db.internal", "ads.example", "x"} & {name for name, _ in world.server.asked}


@pytest.mark.slow
def test_a_name_for_the_source_of_others_is_asked_for_as_a_whole(world: World) -> None:
    """Which module answers does not matter here: it is not there, and glibc goes on."""
    mdns = {"/etc/nsswitch.conf": "hosts: files mdns4_minimal dns\n"}
    found = world.answer("printer.local", files=mdns)
    assert set(found) == {"192.0.2.67", "2001:db8::67"}
    world.server.silent = {AAAA}
    assert world.answer("printer.local", files=mdns, timeout_seconds=1.0) == ["NoAnswerError"]


# -- this host's own failures ---------------------------------------------------------------------

EXHAUSTED = """
import os, resource, sys
from ipaddress import IPv4Address
from geproxy.errors import GeproxyError
from geproxy.net.namecache import NameCache
from geproxy.net.resolver import Resolver
from geproxy.net.systemlookup import RES_OPTIONS, SystemLookUp

os.environ["RES_OPTIONS"] = RES_OPTIONS
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
resolver = Resolver(SystemLookUp("both", 5.0), 5.0, 60.0)
resolver.exercise()

def ask(name):
    try:
        return sorted(str(one) for one in resolver.resolve(name, IPv4Address("127.0.0.1")))
    except GeproxyError as error:
        return type(error).__name__, error.code

known = ask("four.example")
resolver.cache.get("four.example").expires = 0.0
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for name in ("both.example", "db.internal", "none.example", "four.example"):
    print(ask(name))
for descriptor in held:
    os.close(descriptor)
for name in ("both.example", "db.internal", "none.example"):
    print(ask(name))
"""


@pytest.mark.slow
def test_a_lack_of_descriptors_is_a_limit_that_is_forgotten_with_its_cause(
    tmp_path: Path,
) -> None:
    with (
        other_host() as host,
        name_server(host.udp("127.0.0.1", 53), RECORDS),
    ):
        files = {**RESOLV_CONF, "/etc/hosts": HOSTS}
        lines = run(EXHAUSTED, prefix=with_files(tmp_path, files, host.enter))
    assert lines == [
        *["('LimitError', 'limit')"] * 3,
        "['192.0.2.4']",
        "['192.0.2.7', '2001:db8::7']",
        "['10.0.0.5']",
        "('ResolveError', 'resolve')",
    ]


# -- which family comes first ---------------------------------------------------------------------

TWIN = """
import json, os, socket, sys
os.environ["RES_OPTIONS"] = "timeout:5 attempts:2"
for name in sys.argv[1:]:
    rows = socket.getaddrinfo(name, None, socket.AF_UNSPEC, socket.SOCK_STREAM)
    print(json.dumps(list(dict.fromkeys(row[4][0] for row in rows))))
"""

FAR = {
    "v4": "addr add 198.51.100.1/24 dev far\n",
    "v6": "addr add 2001:db8:1::1/64 dev far nodad\n",
    "ula": "addr add fd00:1::1/64 dev far nodad\n",
    "link": "addr add fe80::1/64 dev far nodad\n",
}
ROUTES = {"v4": "route add default dev far\n", "v6": "route add ::/0 dev far\n"}
ROUTES["ula"] = ROUTES["link"] = ROUTES["v6"]
FAMILY_NAMES = ("both.example", "ula.example", "local.example", "loop.example", "tunnel.example")


@pytest.mark.slow
@pytest.mark.parametrize(
    "gai",
    [
        pytest.param("", id="as glibc does"),
        pytest.param("precedence ::ffff:0:0/96 100 # IPv4 first\n", id="gai.conf"),
    ],
)
@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param((), id="no network"),
        pytest.param(("v4",), id="IPv4"),
        pytest.param(("v6",), id="IPv6"),
        pytest.param(("v4", "v6"), id="both"),
        pytest.param(("ula",), id="ULA"),
        pytest.param(("v4", "ula"), id="IPv4 and ULA"),
        pytest.param(("v4", "link"), id="IPv4 and link-local"),
        pytest.param(("v4", "v6", "ula"), id="all"),
    ],
)
def test_addresses_asked_for_apart_stand_as_getaddrinfo_would_order_both(
    world: World, kinds: tuple[str, ...], gai: str
) -> None:
    world.connect(*kinds)
    names = FAMILY_NAMES
    files = {"/etc/gai.conf": gai}
    ours = [found for found, _ in world.resolve(*names, files=files)]
    theirs = [json.loads(line) for line in run(TWIN, *names, prefix=world.prefix(files))]
    assert ours == theirs


@pytest.mark.slow
def test_a_host_whose_ipv6_leads_nowhere_gets_ipv4_first(world: World) -> None:
    world.connect("v4", "ula")
    assert world.answer("both.example") == ["192.0.2.7", "2001:db8::7"]
