"""[listen.NAME]: where clients come in, who they are, and whom that lets in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from geproxy.config import userfile
from geproxy.config.keying import FILES, note_url, read_sealing
from geproxy.config.rules import guards
from geproxy.config.settings import Listen, Rule, settings_of
from geproxy.config.table import Entry, Reading, shown
from geproxy.config.url import LISTEN_EXAMPLE, LOGIN_SCHEMES, TUNNELS, ListenUrl
from geproxy.crypto.password import PasswordHash, dummy_hash, hash_password

SOCKS_SCHEMES = ("mixed", "socks5", "socks4")

# What means something in some schemes alone.
SCHEMES_OF: dict[str, tuple[str, ...]] = {
    "users": LOGIN_SCHEMES,
    **dict.fromkeys(FILES, ("ss",)),
    "udp_address": SOCKS_SCHEMES,  # in socks4 for BIND
    "udp_ports": SOCKS_SCHEMES,
    "udp_filtering": ("mixed", "socks5", "ss"),
    "target": TUNNELS,
}
REASONS = {
    ("users", "ss"): "is not for ss://, where the key lets clients in",
    ("users", "socks4"): "is not for socks4://, which cannot authenticate; "
    "socks5:// and mixed:// can",
}


@dataclass(frozen=True, slots=True)
class _Taken:
    """The URL of a listener further up, and what its sockets are."""

    url: ListenUrl
    transports: tuple[str, ...]


def read_listeners(
    reading: Reading, tables: object, vias: Collection[str], rules: Collection[Rule]
) -> tuple[Listen, ...]:
    """Read all tables [listen.NAME]; *vias* are the names of the ways out.

    Listeners that are wrong are left out.
    """
    if tables == {}:
        example = f'[listen.socks] with url = "{LISTEN_EXAMPLE}"'
        reading.complain("listen", f"no listener; add {example}")
    listeners = []
    taken: dict[str, _Taken] = {}
    for entry in reading.entries(Listen, "listen", "a listener's", tables):
        note_url(reading, entry, LISTEN_EXAMPLE)
        _check_via(reading, entry, vias)
        _check_overlap(reading, entry, taken)
        listeners.append(_read_listener(reading, entry, guarded=guards(rules, entry.name)))
    return tuple(listener for listener in listeners if listener is not None)


def _read_listener(reading: Reading, entry: Entry, *, guarded: bool) -> Listen | None:
    url: ListenUrl | None = entry.values.get("url")
    if url is None:  # nothing is known of its kind, yet all of its files are looked at
        read_sealing(reading, entry, None)
        _read_users(reading, entry, None)
        return None
    _check_scheme(reading, entry, url)
    if url.sealing is not None:
        return _read_sealed(reading, entry, url)
    users = _read_users(reading, entry, url) if url.scheme in LOGIN_SCHEMES else None
    if url.scheme in SOCKS_SCHEMES and users is None and not guarded:
        _check_closed(reading, entry, url)
    if url.scheme in TUNNELS:
        _check_tunnel(reading, entry, url, guarded=guarded)
    nobody = None if users is None else dummy_hash(users.values())
    return Listen(name=entry.name, nobody=nobody, **(entry.values | {"users": users}))


def _read_sealed(reading: Reading, entry: Entry, url: ListenUrl) -> Listen | None:
    """Read a listener whose clients prove themselves by its key, wherever they come from."""
    sealing = read_sealing(reading, entry, url.sealing)
    if sealing is None:
        return None
    values = entry.values | {"url": replace(url, sealing=sealing), "users": None}
    return Listen(name=entry.name, secret=sealing.secret, **values)


def _check_scheme(reading: Reading, entry: Entry, url: ListenUrl) -> None:
    """Complain of settings that mean nothing in this scheme; their defaults may stand there."""
    known = settings_of(Listen)
    for name, schemes in SCHEMES_OF.items():
        default = known[name].default
        if url.scheme not in schemes and entry.table.get(name, default) != default:
            *others, last = (f"{scheme}://" for scheme in schemes)
            those = f"{', '.join(others)} and {last}" if others else last
            text = f"is for {those} alone, not {url.scheme}://"
            reading.complain(f"{entry.key}.{name}", REASONS.get((name, url.scheme), text))


def _check_tunnel(reading: Reading, entry: Entry, url: ListenUrl, *, guarded: bool) -> None:
    if not entry.names("target"):
        example = 'target = "example.net:443"'
        how = f"for example {example}" if reading.of_file else f"it takes a file, with {example}"
        reading.complain(f"{entry.key}.target", f"is missing; {how}")
    if url.scheme == "udp" and not entry.values.get("udp", True):
        reading.complain(f"{entry.key}.udp", "is false, and udp:// has nothing else")
    if not (url.loopback or guarded or entry.values.get("open", False)):
        reading.warn(
            f"{entry.key}.url",
            "anyone who reaches this address can use the tunnel; add a rule with client, listen "
            "on a loopback address such as 127.0.0.1, or set open = true",
        )


def _read_users(
    reading: Reading, entry: Entry, url: ListenUrl | None
) -> Mapping[str, PasswordHash] | None:
    """Read or make the users of one listener; None where it has none."""
    path, key = entry.values.get("users", ""), f"{entry.key}.users"
    if path and url is not None and url.user is not None:
        reading.complain(key, "users stand in a file or in the URL, not in both")
    if path:
        if path not in reading.users_files:
            reading.users_files[path] = userfile.read(path, key, reading.problems)
        return reading.users_files[path]
    if url is None or url.user is None or url.password is None:
        return None
    return {url.user: hash_password(url.password)}


def _check_via(reading: Reading, entry: Entry, known: Collection[str]) -> None:
    if "via" in entry.values and entry.values["via"] not in known:
        names = ", ".join(map(shown, known))
        reading.complain(f"{entry.key}.via", f"no such way out; there are {names}")


def _check_overlap(reading: Reading, entry: Entry, taken: dict[str, _Taken]) -> None:
    """Complain of an address that a listener of *taken*, by its key, has; then add this one."""
    url: ListenUrl | None = entry.values.get("url")
    if url is None:
        return
    transports = url.transports(udp=entry.values.get("udp", True))
    for key, other in taken.items():
        both = [transport for transport in transports if transport in other.transports]
        if both and url.overlaps(other.url):
            port = f"{' and '.join(both)} port {url.port}"
            reading.complain(f"{entry.key}.url", f"{key} has {port} of this address already")
    taken[entry.key] = _Taken(url, transports)


def _check_closed(reading: Reading, entry: Entry, url: ListenUrl) -> None:
    """Complain of a listener that would make this host an open proxy."""
    if url.loopback or entry.names("users") or entry.values.get("open", False):
        return
    users = "set users, " if url.scheme in LOGIN_SCHEMES else ""
    reading.complain(
        f"{entry.key}.url",
        f"anyone who reaches this address could use the proxy; {users}add a rule with client, "
        "listen on a loopback address such as 127.0.0.1, or set open = true",
    )
