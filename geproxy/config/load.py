"""Turn a configuration file, or the URLs of a command line, into Settings.

What is wrong is gathered rather than raised at the first find: an operator gets one list. A
message repeats keys and numbers but no text, which could be a password in the wrong place.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from geproxy.config import settings, userfile
from geproxy.config.settings import (
    Limits,
    Listen,
    Log,
    Resolver,
    Server,
    Settings,
    Table,
    kind_of,
)
from geproxy.config.url import EXAMPLE, ListenUrl
from geproxy.crypto.password import PasswordHash, hash_password
from geproxy.errors import ConfigError, Problem

# Chosen here
COMMAND_LINE = "command line"
SHOWN_KEY_CHARACTERS = 64  # of a key that is not ours: enough to find it by
NOT_IN_THIS_VERSION = "not in this version; leave it out"
_NAME = re.compile("[A-Za-z0-9_-]{1,32}")

Values = dict[str, Any]  # each one came out of its setting's own reader


def load(path: str) -> Settings:
    """Read the configuration file at *path*, and the users files that it names.

    Raises ConfigError with every problem there is.
    """
    try:
        reading = _Reading(os.path.dirname(os.path.abspath(path)))
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
        document = _parse(data)
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}")]) from error
    except ValueError as error:
        raise ConfigError([Problem("", str(error))]) from error
    found = reading.document(path, document)
    if reading.holds_secret:
        try:
            userfile.check_secret_mode(mode)
        except ValueError as error:
            reading.complain("", str(error))
    return reading.finish(found)


def from_urls(urls: list[str]) -> Settings:
    """Make the settings of a start without a file: listeners listen1, listen2, … at *urls*.

    Raises ConfigError with every problem there is.
    """
    listen = {f"listen{number}": {"url": url} for number, url in enumerate(urls, start=1)}
    reading = _Reading("/")  # a URL names no file
    return reading.finish(reading.document(COMMAND_LINE, {"listen": listen}))


def _parse(data: bytes) -> dict[str, object]:
    """Read TOML. Raises ValueError."""
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8") from error
    except RecursionError as error:  # tomllib descends once for each bracket
        raise ValueError("is not usable TOML: too deeply nested") from error
    except ValueError as error:  # TOMLDecodeError, and what int() says of too many digits
        raise ValueError(f"is not TOML: {error}") from error


def _shown(name: str) -> str:
    """Write one part of a key so that it stays on its line."""
    if _NAME.fullmatch(name):
        return name
    return repr(name if len(name) <= SHOWN_KEY_CHARACTERS else name[:SHOWN_KEY_CHARACTERS] + "…")


class _Reading:
    """One configuration being read: what is wrong with it so far, and what the parts share."""

    def __init__(self, folder: str) -> None:
        self.problems: list[Problem] = []
        self.holds_secret = False
        self._folder = folder  # relative paths start here
        self._urls: dict[str, ListenUrl] = {}  # the good ones, by their listener's key

    def complain(self, key: str, text: str) -> None:
        self.problems.append(Problem(key, text))

    def finish(self, found: Settings) -> Settings:
        """Return *found* if all was well. Raises ConfigError."""
        if self.problems:
            raise ConfigError(self.problems)
        return found

    def document(self, label: str, document: Mapping[str, object]) -> Settings:
        """Read all tables. What is returned is of use only where there is no problem."""
        known = ("server", "log", "limits", "resolver", "listen")
        for name, table in document.items():
            if name in ("rule", "via"):
                self._refuse_tables(name, table)
            elif name not in known:
                self._unknown(_shown(name), name, known)
        vias = document.get("via")
        return Settings(
            file=label,
            server=Server(**self._top_level(document, "server")),
            log=Log(**self._top_level(document, "log")),
            limits=Limits(**self._top_level(document, "limits")),
            resolver=Resolver(**self._top_level(document, "resolver")),
            listen=self._listeners(
                document.get("listen", {}),
                (*settings.BUILT_IN_VIAS, *(vias if isinstance(vias, dict) else ())),
            ),
        )

    def _refuse_tables(self, key: str, tables: object) -> None:
        names: list[str] = []
        if isinstance(tables, dict):
            names = [_shown(name) for name in tables]
        elif isinstance(tables, list):
            names = [str(number) for number in range(1, len(tables) + 1)]
        for full_key in [f"{key}.{name}" for name in names] or [key]:
            self.complain(full_key, NOT_IN_THIS_VERSION)

    def _unknown(self, key: str, name: str, known: tuple[str, ...]) -> None:
        near = difflib.get_close_matches(name[:SHOWN_KEY_CHARACTERS], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        self.complain(key, f"unknown key; {hint}")

    def _top_level(self, document: Mapping[str, object], name: str) -> Values:
        return self._table(settings.TABLES[name], name, document.get(name, {}))

    def _table(self, kind: Table, key: str, table: object) -> Values:
        """Read the settings of one table; those that are wrong are left out."""
        if not isinstance(table, dict):
            self.complain(key, f"a table [{key}] is wanted, not {kind_of(table)}")
            return {}
        values: Values = {}
        known = settings.settings_of(kind)
        off = settings.NOT_YET[kind]
        for name, value in table.items():
            full_key = f"{key}.{_shown(name)}"
            if name in known:
                try:
                    values[name] = self._read(known[name], value)
                except ValueError as error:
                    self.complain(full_key, str(error))
            elif name not in off:
                self._unknown(full_key, name, tuple(known))
            elif type(value) is not type(off[name]) or value != off[name]:
                self.complain(full_key, NOT_IN_THIS_VERSION)
        return values

    def _read(self, setting: settings.Setting, value: object) -> object:
        """Read one value; a path becomes absolute. Raises ValueError."""
        result = setting.read(value)
        if setting.words is None or result in setting.words:
            return result
        return os.path.join(self._folder, str(result))

    def _listeners(self, tables: object, vias: tuple[str, ...]) -> tuple[Listen, ...]:
        if not isinstance(tables, dict):
            self.complain("listen", f"tables [listen.NAME] are wanted, not {kind_of(tables)}")
            return ()
        if not tables:
            self.complain("listen", f'no listener; add [listen.socks] with url = "{EXAMPLE}"')
        listeners = [self._listener(name, table, vias) for name, table in tables.items()]
        return tuple(listener for listener in listeners if listener is not None)

    def _listener(self, name: str, table: object, vias: tuple[str, ...]) -> Listen | None:
        key = f"listen.{_shown(name)}"
        if not _NAME.fullmatch(name):
            self.complain(key, "a listener's name has 1 to 32 characters of A-Z a-z 0-9 _ -")
        values = self._table(Listen, key, table)
        if not isinstance(table, dict):
            return None
        if "url" not in table:
            self.complain(f"{key}.url", f'is missing; for example url = "{EXAMPLE}"')
        if "via" in values and values["via"] not in vias:
            self.complain(f"{key}.via", "no such way out; there are direct and deny")
        # Before the URL is understood: a file with a wrong URL holds the password as well.
        raw_url = table.get("url")
        self.holds_secret |= isinstance(raw_url, str) and "@" in raw_url
        url: ListenUrl | None = values.pop("url", None)
        users = self._users(key, url, values.pop("users", ""))
        if url is None:
            return None
        self._check_overlap(key, url)
        if users is None and table.get("users", "") == "":
            self._check_closed(key, url, open_to_all=values.get("open", False))
        return Listen(name=name, url=url, users=users, **values)

    def _users(
        self, key: str, url: ListenUrl | None, path: str
    ) -> Mapping[str, PasswordHash] | None:
        """Read or make the users of one listener; None where it has none."""
        in_url = url is not None and url.user is not None
        if path and in_url:
            self.complain(f"{key}.users", "users stand in a file or in the URL, not in both")
        if path:
            return userfile.read(path, f"{key}.users", self.problems)
        if url is None or url.user is None or url.password is None:
            return None
        return {url.user: hash_password(url.password)}

    def _check_overlap(self, key: str, url: ListenUrl) -> None:
        for other_key, other in self._urls.items():
            if url.overlaps(other):
                self.complain(
                    f"{key}.url", f"{other_key} has port {url.port} of this address already"
                )
        self._urls[key] = url

    def _check_closed(self, key: str, url: ListenUrl, *, open_to_all: bool) -> None:
        """Complain of a listener that would make this host an open proxy."""
        if not url.loopback and not open_to_all:
            self.complain(
                f"{key}.url",
                "anyone who reaches this address could use the proxy; set users, "
                "or listen on a loopback address such as 127.0.0.1, or set open = true",
            )
