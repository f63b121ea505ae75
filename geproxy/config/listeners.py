"""[listen.NAME]: where clients come in, who they are, and whom that lets in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from geproxy.config import userfile
from geproxy.config.keying import FILES, note_url, read_sealing
from geproxy.config.settings import BUILT_IN_VIAS, Listen
from geproxy.config.table import Entry, Reading, shown
from geproxy.config.url import LISTEN_EXAMPLE, ListenUrl
from geproxy.crypto.password import PasswordHash, hash_password


def read_listeners(reading: Reading, tables: object, vias: Collection[str]) -> tuple[Listen, ...]:
    """Read all tables [listen.NAME]; *vias* are the names of the ways out in the file.

    Listeners that are wrong are left out.
    """
    if tables == {}:
        example = f'[listen.socks] with url = "{LISTEN_EXAMPLE}"'
        reading.complain("listen", f"no listener; add {example}")
    listeners = []
    taken: dict[str, ListenUrl] = {}
    for entry in reading.entries(Listen, "listen", "a listener's", tables):
        note_url(reading, entry, LISTEN_EXAMPLE)
        _check_via(reading, entry, (*BUILT_IN_VIAS, *vias))
        _check_overlap(reading, entry, taken)
        listeners.append(_read_listener(reading, entry))
    return tuple(listener for listener in listeners if listener is not None)


def _read_listener(reading: Reading, entry: Entry) -> Listen | None:
    url: ListenUrl | None = entry.values.get("url")
    if url is None:  # nothing is known of its kind, yet all of its files are looked at
        read_sealing(reading, entry, None)
        _read_users(reading, entry, None)
        return None
    return (
        _read_open(reading, entry, url)
        if url.sealing is None
        else _read_sealed(reading, entry, url)
    )


def _read_sealed(reading: Reading, entry: Entry, url: ListenUrl) -> Listen | None:
    """Read a listener whose clients prove themselves by its key, wherever they come from."""
    if entry.names("users"):
        reading.complain(f"{entry.key}.users", "is not for ss://, where the key lets clients in")
    sealing = read_sealing(reading, entry, url.sealing)
    if sealing is None:
        return None
    values = entry.values | {"url": replace(url, sealing=sealing), "users": None}
    return Listen(name=entry.name, secret=sealing.secret, **values)


def _read_open(reading: Reading, entry: Entry, url: ListenUrl) -> Listen:
    """Read a listener that knows its clients by user and password, or not at all."""
    for name in FILES:
        if entry.names(name):
            reading.complain(f"{entry.key}.{name}", f"is for ss:// alone, not {url.scheme}://")
    users = _read_users(reading, entry, url)
    if users is None and not entry.names("users"):
        _check_closed(reading, entry, url)
    return Listen(name=entry.name, **(entry.values | {"users": users}))


def _read_users(
    reading: Reading, entry: Entry, url: ListenUrl | None
) -> Mapping[str, PasswordHash] | None:
    """Read or make the users of one listener; None where it has none."""
    path, key = entry.values.get("users", ""), f"{entry.key}.users"
    if path and url is not None and url.user is not None:
        reading.complain(key, "users stand in a file or in the URL, not in both")
    if path:
        return userfile.read(path, key, reading.problems)
    if url is None or url.user is None or url.password is None:
        return None
    return {url.user: hash_password(url.password)}


def _check_via(reading: Reading, entry: Entry, known: Collection[str]) -> None:
    if "via" in entry.values and entry.values["via"] not in known:
        names = ", ".join(map(shown, known))
        reading.complain(f"{entry.key}.via", f"no such way out; there are {names}")


def _check_overlap(reading: Reading, entry: Entry, taken: dict[str, ListenUrl]) -> None:
    """Complain of an address that a listener of *taken*, by its key, has; then add this one."""
    url: ListenUrl | None = entry.values.get("url")
    if url is None:
        return
    for key, other in taken.items():
        if url.overlaps(other):
            reading.complain(
                f"{entry.key}.url", f"{key} has port {url.port} of this address already"
            )
    taken[entry.key] = url


def _check_closed(reading: Reading, entry: Entry, url: ListenUrl) -> None:
    """Complain of a listener that would make this host an open proxy."""
    if not url.loopback and not entry.values.get("open", False):
        reading.complain(
            f"{entry.key}.url",
            "anyone who reaches this address could use the proxy; set users, "
            "or listen on a loopback address such as 127.0.0.1, or set open = true",
        )
