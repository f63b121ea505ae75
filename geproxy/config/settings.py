"""The settings of this version: the one place that knows each one's name, default and range.

A field that can stand in the file carries a Setting in its metadata: the loader reads by it, and
tests hold etc/geproxy.conf and the man page to it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from geproxy.config.url import ListenUrl, parse_listen_url
from geproxy.crypto.password import PasswordHash

# Fixed by the system
TIMER_SECONDS_MAX = 2_147_483  # 24 days: epoll counts milliseconds in a signed 32-bit integer

# Chosen here
STEP_SECONDS_MAX = 3600  # nobody waits longer for one step; more was meant in milliseconds
SESSIONS_MAX = 500_000  # two descriptors each, and a process has 2^20 at most (fs.nr_open)
WORKERS_MAX = 1024  # each is a process of its own: above any machine's number of cores
BUILT_IN_VIAS = ("direct", "deny")
SHOWN_NUMBER_BITS = 64  # TOML's integers; Python reads longer ones, and refuses to print some


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting stands in the file.

    *read* returns the value, or raises ValueError with what would be right: it never repeats a
    text, which could be a password in the wrong place. Where *words* is a tuple, every text that
    is not one of them is a path, relative to the file.
    """

    default: object  # None: it must be given
    read: Callable[[object], object]
    words: tuple[str, ...] | None = None


def setting(default: object, read: Callable[[object], object]) -> Mapping[str, Setting]:
    """Make the metadata of a field that can stand in the file."""
    return {"setting": Setting(default, read)}


def number(default: int, *, low: int, high: int) -> int:
    """Declare a whole number in *low*..*high*."""
    return field(default=default, metadata=setting(default, lambda v: read_number(v, low, high)))


def seconds(default: float, *, high: float = TIMER_SECONDS_MAX, zero: bool = True) -> float:
    """Declare a time of at most *high* seconds; *zero* tells whether 0 makes sense."""

    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"a number of seconds is wanted, not {kind_of(value)}")
        # In this order nan, which is unequal to all, is refused as well.
        if not 0 <= value <= high or (value == 0 and not zero):
            bounds = f"in 0..{high}" if zero else f"above 0 and at most {high}"
            raise ValueError(f"{shown_number(value)} is not {bounds} (seconds)")
        return float(value)

    return field(default=default, metadata=setting(default, read))


def choice(default: str, *words: str) -> str:
    """Declare one of *words*."""

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"one of {', '.join(words)} is wanted")
        return value

    return field(default=default, metadata=setting(default, read))


def flag(default: bool) -> bool:
    """Declare true or false."""

    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"true or false is wanted, not {kind_of(value)}")
        return value

    return field(default=default, metadata=setting(default, read))


def text(default: str) -> str:
    """Declare a text that the loader checks further."""
    return field(default=default, metadata=setting(default, read_text))


def path(default: str, *others: str) -> str:
    """Declare a file, or one of a few words in its place."""
    how = Setting(default, read_path, words=(default, *others))
    return field(default=default, metadata={"setting": how})


def read_number(value: object, low: int, high: int) -> int:
    """Read a whole number in *low*..*high*. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a whole number is wanted, not {kind_of(value)}")
    if not low <= value <= high:
        raise ValueError(f"{shown_number(value)} is not in {low}..{high}")
    return value


def read_text(value: object) -> str:
    """Read a text. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"a text is wanted, not {kind_of(value)}")
    return value


def read_path(value: object) -> str:
    """Read what may be a path. Raises ValueError."""
    name = read_text(value)
    if "\0" in name:
        raise ValueError("a path holds no NUL")
    return name


def read_workers(value: object) -> Literal["auto"] | int:
    """Read "auto" or a number. Raises ValueError."""
    if isinstance(value, str) and value != "auto":
        raise ValueError('"auto" or a number is wanted, not another text')
    return "auto" if value == "auto" else read_number(value, 1, WORKERS_MAX)


def read_listen_url(value: object) -> ListenUrl:
    """Read the URL of a listener. Raises ValueError."""
    return parse_listen_url(read_text(value))


def kind_of(value: object) -> str:
    """Say what a TOML value is, without repeating it."""
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a number",
        float: "a fraction",
        str: "a text",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


def shown_number(value: float) -> str:
    """Write a number for a message, however long it is in the file."""
    if isinstance(value, int) and value.bit_length() > SHOWN_NUMBER_BITS:
        return "a number that long"
    return str(value)


@dataclass(frozen=True, slots=True)
class Server:
    """[server]: the processes."""

    workers: Literal["auto"] | int = field(default="auto", metadata=setting("auto", read_workers))
    drain_seconds: float = seconds(30)
    reload_drain_seconds: float = seconds(0)  # 0: until their last session ends
    heartbeat_seconds: float = seconds(10, high=STEP_SECONDS_MAX, zero=False)

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
    handshake_seconds: float = seconds(10, high=STEP_SECONDS_MAX, zero=False)
    connect_seconds: float = seconds(10, high=STEP_SECONDS_MAX, zero=False)
    # At 0 each of these would end what it watches over as soon as it begins.
    idle_seconds: float = seconds(3600, zero=False)
    half_close_seconds: float = seconds(300)
    udp_idle_seconds: float = seconds(300, zero=False)  # RFC 4787 REQ-5
    bind_seconds: float = seconds(120, zero=False)


@dataclass(frozen=True, slots=True)
class Resolver:
    """[resolver]: how names become addresses."""

    timeout_seconds: float = seconds(5, high=STEP_SECONDS_MAX, zero=False)
    cache_seconds: float = seconds(60)  # 0: nothing is remembered
    family: str = choice("both", "both", "ipv4", "ipv6")


@dataclass(frozen=True, slots=True)
class Listen:
    """One [listen.NAME]."""

    name: str
    url: ListenUrl = field(metadata=setting(None, read_listen_url))
    # In the file a path, here what it holds. None: no authentication; {}: nobody can log in.
    users: Mapping[str, PasswordHash] | None = field(
        default=None, repr=False, metadata={"setting": Setting("", read_path, words=("",))}
    )
    udp: bool = flag(True)
    via: str = text("direct")
    open: bool = flag(False)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that one configuration says, checked."""

    file: str  # as the user named it: a label for messages and titles
    server: Server
    log: Log
    limits: Limits
    resolver: Resolver
    listen: tuple[Listen, ...]


Table = type[Server] | type[Log] | type[Limits] | type[Resolver] | type[Listen]
TABLES: dict[str, Table] = {
    "server": Server,
    "log": Log,
    "limits": Limits,
    "resolver": Resolver,
    "listen.NAME": Listen,
}

# Documented, but not in this version: only the value that turns each one off is accepted.
NOT_YET: dict[Table, dict[str, object]] = {
    Server: {"user": "", "group": "", "pidfile": ""},
    Log: {},
    Limits: {"sessions_per_client": 0},
    Resolver: {"nameservers": []},
    Listen: {"password_file": "", "key_file": "", "udp_address": "", "udp_ports": "", "target": ""},
}


def settings_of(table: Table) -> dict[str, Setting]:
    """List what can stand in one table of the file, in the order of the class."""
    return {
        declared.name: declared.metadata["setting"]
        for declared in dataclasses.fields(table)
        if "setting" in declared.metadata
    }


def catalogue() -> dict[str, Setting]:
    """List every setting of this version by its full key: server.workers … listen.NAME.open."""
    return {
        f"{key}.{name}": how
        for key, table in TABLES.items()
        for name, how in settings_of(table).items()
    }
