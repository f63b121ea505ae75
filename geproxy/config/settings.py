"""The settings of this version: the one place that knows each one's name, default and range.

A field that can stand in the file carries a Setting in its metadata: the loader reads by it, and
tests hold etc/geproxy.conf and the man page to it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from geproxy.config.account import Account
from geproxy.config.destinations import To
from geproxy.config.edges import Networks, Ports
from geproxy.config.network import (
    read_destination,
    read_network,
    read_ports,
    read_udp_address,
    read_udp_ports,
)
from geproxy.config.setting import (
    Setting,
    choice,
    flag,
    members,
    number,
    optional,
    path,
    read_number,
    read_path,
    read_text,
    read_word,
    seconds,
    setting,
    text,
)
from geproxy.config.url import (
    ListenUrl,
    PeerUrl,
    parse_listen_url,
    parse_peer_url,
    parse_target,
)
from geproxy.config.userfile import check_user_name
from geproxy.crypto.password import PasswordHash
from geproxy.crypto.secret import Secret
from geproxy.errors import Problem
from geproxy.terms import Address, Command, Endpoint, Filtering

# Chosen here
STEP_SECONDS_MAX = 3600  # nobody waits longer for one step; more was meant in milliseconds
SESSIONS_MAX = 500_000  # two descriptors each, and a process has 2^20 at most (fs.nr_open)
WORKERS_MAX = 1024  # each is a process of its own: above any machine's number of cores
BUILT_IN_VIAS = ("direct", "deny")


def read_workers(value: object) -> Literal["auto"] | int:
    """Read "auto" or a number. Raises ValueError."""
    if isinstance(value, str) and value != "auto":
        raise ValueError('"auto" or a number is wanted, not another text')
    return "auto" if value == "auto" else read_number(value, 1, WORKERS_MAX)


def read_listen_url(value: object) -> ListenUrl:
    """Read the URL of a listener. Raises ValueError."""
    return parse_listen_url(read_text(value))


def read_peer_url(value: object) -> PeerUrl:
    """Read the URL of a peer. Raises ValueError."""
    return parse_peer_url(read_text(value))


def read_target(value: object) -> Endpoint:
    """Read the far end of a tunnel. Raises ValueError."""
    return parse_target(read_text(value))


def read_filtering(value: object) -> Filtering:
    """Read the value of a Filtering. Raises ValueError."""
    return read_word(value, Filtering)


def read_user(value: object) -> str:
    """Read the name of a user. Raises ValueError."""
    user = read_text(value)
    check_user_name(user)
    return user


def read_command(value: object) -> Command:
    """Read the value of a Command. Raises ValueError."""
    return read_word(value, Command)


@dataclass(frozen=True, slots=True)
class Server:
    """[server]: the processes."""

    workers: Literal["auto"] | int = field(default="auto", metadata=setting("auto", read_workers))
    user: str = text("")  # "": workers stay what the master is
    group: str = text("")  # "": the user's own groups
    pidfile: str = path("")  # "": none, or the default one for a daemon
    drain_seconds: float = seconds(30)
    reload_drain_seconds: float = seconds(0)  # 0: until their last session ends
    heartbeat_seconds: float = seconds(10, high=STEP_SECONDS_MAX, zero=False)
    sandbox: bool = flag(True)

    @property
    def worker_count(self) -> int:
        """How many workers to start: one per core that this process may run on, for "auto"."""
        return len(os.sched_getaffinity(0)) if self.workers == "auto" else self.workers


@dataclass(frozen=True, slots=True)
class Log:
    """[log]: where lines go. Paths are absolute once loaded."""

    target: str = path("stderr", "syslog")
    level: str = choice("info", "debug", "info", "warning", "error")
    format: str = choice("text", "text", "json")
    access: str = path("", "off")  # "": with the rest


@dataclass(frozen=True, slots=True)
class Limits:
    """[limits]: how much, and how long, one worker lets a client have."""

    sessions: int = number(10_000, low=1, high=SESSIONS_MAX)
    sessions_per_client: int = number(0, low=0, high=SESSIONS_MAX)  # 0: a fair share
    # More than a busy host has: a browser with QUIC or a game uses a few.
    associations_per_client: int = number(64, low=1, high=SESSIONS_MAX)
    handshake_seconds: float = seconds(10, high=STEP_SECONDS_MAX, zero=False)
    connect_seconds: float = seconds(10, high=STEP_SECONDS_MAX, zero=False)
    # At 0 each of these would end what it watches over as soon as it begins.
    idle_seconds: float = seconds(3600, zero=False)
    half_close_seconds: float = seconds(300)
    udp_idle_seconds: float = seconds(300, zero=False)  # RFC 4787 REQ-5
    bind_seconds: float = seconds(120, zero=False)
    udp_rebind_seconds: float = seconds(0)  # 0: a client's port stays what it is


@dataclass(frozen=True, slots=True)
class Resolver:
    """[resolver]: how names become addresses."""

    timeout_seconds: float = seconds(5, high=STEP_SECONDS_MAX, zero=False)
    cache_seconds: float = seconds(60)  # 0: nothing is remembered
    family: str = choice("both", "both", "ipv4", "ipv6")


@dataclass(frozen=True, slots=True)
class Listen:
    """One [listen.NAME].

    An ss:// listener has a secret, and its url holds what the secret is made of, be it from a file.
    """

    name: str
    url: ListenUrl = field(metadata=setting(None, read_listen_url))
    secret: Secret | None = field(default=None, repr=False)
    # In the file a path, here what it holds. None: no authentication; {}: nobody can log in.
    users: Mapping[str, PasswordHash] | None = field(
        default=None, repr=False, metadata={"setting": Setting("", read_path, words=("",))}
    )
    # What is verified for a user who does not exist. Workers that looked for the costliest of the
    # hashes would write to the pages of all.
    nobody: PasswordHash | None = field(default=None, repr=False)
    password_file: str = path("")
    key_file: str = path("")
    udp: bool = flag(True)
    # What UDP ASSOCIATE and BIND announce ((): our own address), and their ports (None: any).
    udp_address: tuple[Address | str, ...] = field(
        default=(), metadata=optional(read_udp_address, ())
    )
    udp_ports: range | None = field(default=None, metadata=optional(read_udp_ports))
    udp_filtering: Filtering = field(
        default=Filtering.NONE, metadata=setting(Filtering.NONE.value, read_filtering)
    )
    # Of tcp:// and udp://, and of no other.
    target: Endpoint | None = field(default=None, metadata=optional(read_target))
    via: str = text("direct")
    open: bool = flag(False)


@dataclass(frozen=True, slots=True)
class Via:
    """One [via.NAME]: the way out through a peer; its url holds what the secret is made of."""

    name: str
    url: PeerUrl = field(metadata=setting(None, read_peer_url))
    secret: Secret = field(repr=False)
    password_file: str = path("")
    key_file: str = path("")


@dataclass(frozen=True, slots=True)
class Rule:
    """One [[rule]]. A condition that is None is not there; all that are there must match.

    *client* and *to* hold what the list and the file of each hold: any of them may match. One that
    holds nothing, as an empty file does, never matches.
    """

    # "direct", "deny" or the name of a [via.NAME].
    action: str = field(metadata=setting(None, read_text))
    listen: frozenset[str] | None = field(default=None, metadata=members(read_text, frozenset))
    user: frozenset[str] | None = field(default=None, metadata=members(read_user, frozenset))
    client: tuple[Networks, ...] | None = field(
        default=None, metadata=members(read_network, lambda found: (Networks.of(found),))
    )
    client_file: str = path("")
    command: frozenset[Command] | None = field(
        default=None, metadata=members(read_command, frozenset)
    )
    to: tuple[To, ...] | None = field(
        default=None, metadata=members(read_destination, lambda found: (To.of(found),))
    )
    to_file: str = path("")
    port: Ports | None = field(default=None, metadata=members(read_ports, Ports.of))


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that one configuration says, checked."""

    file: str  # as the user named it: a label for messages and titles
    server: Server
    log: Log
    limits: Limits
    resolver: Resolver
    listen: tuple[Listen, ...]
    via: tuple[Via, ...] = ()
    rule: tuple[Rule, ...] = ()
    path: str = field(default="", compare=False)  # absolute, without links; "": a command line
    account: Account | None = None  # [server] user and group, looked up
    warnings: tuple[Problem, ...] = ()  # what works, and should not stay; no secret stands in one


Table = (
    type[Server] | type[Log] | type[Limits] | type[Resolver] | type[Listen] | type[Via] | type[Rule]
)
TABLES: dict[str, Table] = {
    "server": Server,
    "log": Log,
    "limits": Limits,
    "resolver": Resolver,
    "listen.NAME": Listen,
    "via.NAME": Via,
    "rule": Rule,
}

# Documented, but not in this version: only the value that turns each one off is accepted.
NOT_YET: dict[Table, dict[str, object]] = {
    Server: {},
    Log: {},
    Limits: {},
    Resolver: {"nameservers": []},
    Listen: {},
    Via: {},
    Rule: {},
}


def settings_of(table: Table) -> dict[str, Setting]:
    """List what can stand in one table of the file, in the order of the class."""
    return {
        declared.name: declared.metadata["setting"]
        for declared in dataclasses.fields(table)
        if "setting" in declared.metadata
    }


def catalogue() -> dict[str, Setting]:
    """List every setting of this version by its full key: server.workers … rule.port."""
    return {
        f"{key}.{name}": how
        for key, table in TABLES.items()
        for name, how in settings_of(table).items()
    }
