"""Turn a configuration file, or the URLs of a command line, into Settings.

What is wrong is gathered rather than raised at the first find: an operator gets one list. A
message repeats keys and numbers but no text, which could be a password in the wrong place.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
from collections.abc import Iterator, Mapping

from geproxy.config import secretfile, settings
from geproxy.config.account import Account, account_of, gid_of
from geproxy.config.listeners import read_listeners
from geproxy.config.loops import refuse_loops
from geproxy.config.rules import read_rules, warn_of_strangers
from geproxy.config.settings import BUILT_IN_VIAS, Limits, Log, Resolver, Server, Settings
from geproxy.config.table import Reading, Values, shown
from geproxy.config.vias import read_vias
from geproxy.config.writers import writers_of
from geproxy.errors import ConfigError, Problem

# Chosen here
FILE_SETTINGS = ("users", "password_file", "key_file", "client_file", "to_file")
COMMAND_LINE = "command line"
COMMAND_LINE_VIA = "via1"
_PIDFILE_LINE = re.compile(r"""^\s*pidfile\s*=\s*["']([^"'\0]*)["']""", re.M)


def load(path: str, label: str | None = None) -> Settings:
    """Read the configuration file at *path*, and the users and key files that it names.

    *label* is what messages call it: *path*, where it is not given. Raises ConfigError with every
    problem there is.
    """
    try:
        reading = Reading(os.path.dirname(os.path.abspath(path)))
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read()
        document = _parse(data)
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}")]) from error
    except ValueError as error:
        raise ConfigError([Problem("", str(error))]) from error
    _check_writers(reading, path, document)
    found = _read_document(reading, label or path, document)
    if reading.holds_secret:
        try:
            secretfile.check_secret_mode(mode)
        except ValueError as error:
            reading.complain("", str(error))
    return _finish(reading, dataclasses.replace(found, path=os.path.realpath(path)))


def pidfile_of(path: str) -> str:
    """The pidfile that the file at *path* names, "" for none; whatever else is wrong with it.

    A daemon must be stoppable when its configuration has been broken since it started, be it so
    that it is no longer TOML. Raises ConfigError for a file that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}")]) from error
    try:
        server = _parse(data).get("server")
        pidfile = server.get("pidfile", "") if isinstance(server, dict) else ""
    except ValueError:
        line = _PIDFILE_LINE.search(data.decode("utf-8", "surrogateescape"))
        pidfile = line[1] if line else ""
    if not isinstance(pidfile, str) or not pidfile:
        return ""
    if "\0" in pidfile:
        raise ConfigError([Problem("server.pidfile", "a path holds no NUL")])
    return os.path.join(os.path.dirname(os.path.abspath(path)), pidfile)


def from_urls(urls: list[str], via: str | None = None) -> Settings:
    """Make the settings of a start without a file: listeners listen1, listen2, … at *urls*.

    All of them go out by the peer at *via*, called via1, or directly. Raises ConfigError with every
    problem there is.
    """
    way = "direct" if via is None else COMMAND_LINE_VIA
    document: dict[str, object] = {
        "listen": {f"listen{i}": {"url": url, "via": way} for i, url in enumerate(urls, start=1)},
        "via": {} if via is None else {COMMAND_LINE_VIA: {"url": via}},
    }
    reading = Reading(None)
    return _finish(reading, _read_document(reading, COMMAND_LINE, document))


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


def _finish(reading: Reading, found: Settings) -> Settings:
    """Return *found* if all was well. Raises ConfigError."""
    if reading.problems:
        raise ConfigError(reading.problems)
    return found


def _read_document(reading: Reading, label: str, document: Mapping[str, object]) -> Settings:
    """Read all tables. What is returned is of use only where there is no problem."""
    known = ("server", "log", "limits", "resolver", "listen", "via", "rule")
    for name in document:
        if name not in known:
            reading.unknown(shown(name), name, known)

    def top_level(name: str) -> Values:
        return reading.table(settings.TABLES[name], name, document.get(name, {}))

    server = Server(**top_level("server"))
    return Settings(
        file=label,
        server=server,
        account=_account(reading, server),
        log=Log(**top_level("log")),
        limits=Limits(**top_level("limits")),
        resolver=Resolver(**top_level("resolver")),
        **_read_named(reading, document),
        warnings=tuple(reading.warnings),  # last: by now all of them are there
    )


def _read_named(reading: Reading, document: Mapping[str, object]) -> Values:
    """Read the tables that refer to each other by name: [via.NAME], [[rule]], [listen.NAME]."""
    vias, listeners = document.get("via", {}), document.get("listen", {})
    rules = document.get("rule", [])
    ways = (*BUILT_IN_VIAS, *_names(vias))
    found_vias = read_vias(reading, vias)
    found_rules = read_rules(reading, rules, _names(listeners), ways)
    found = read_listeners(reading, listeners, ways, found_rules)
    warn_of_strangers(reading, rules, found_rules, found)
    refuse_loops(reading, found, found_vias, found_rules)
    return {"via": found_vias, "rule": found_rules, "listen": found}


def _check_writers(reading: Reading, path: str, document: Mapping[str, object]) -> None:
    """Complain of every file here that others may write, and of folders above it; each once."""
    files = [("", os.path.abspath(path)), *_files(reading, document)]
    told: set[str] = set()
    for key, file in files:
        wrong, odd = writers_of(file)
        for text in wrong:
            if text not in told:
                reading.complain(key, text)
        for text in odd:
            if text not in told:
                reading.warn(key, text)
        told.update(wrong, odd)


def _files(reading: Reading, document: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the key and the path of each file that decides, be the rest of its table wrong."""
    listeners, vias = document.get("listen"), document.get("via")
    named = [(f"listen.{shown(name)}", table) for name, table in _items(listeners)]
    named += [(f"via.{shown(name)}", table) for name, table in _items(vias)]
    rules = document.get("rule")
    named += [
        (f"rule.{number}", table)
        for number, table in enumerate(rules if isinstance(rules, list) else (), start=1)
    ]
    for key, table in named:
        for setting in FILE_SETTINGS:
            value = table.get(setting) if isinstance(table, dict) else None
            if isinstance(value, str) and value and "\0" not in value:
                yield f"{key}.{setting}", reading.absolute(value)


def _items(tables: object) -> list[tuple[str, object]]:
    return list(tables.items()) if isinstance(tables, dict) else []


def _account(reading: Reading, server: Server) -> Account | None:
    if not server.user:
        if server.group:
            reading.complain("server.group", "a group alone changes nothing; set user as well")
        return None
    try:
        if server.group:
            gid_of(server.group)
    except ValueError as error:
        reading.complain("server.group", str(error))
        return None
    try:
        return account_of(server.user, server.group)
    except ValueError as error:
        reading.complain("server.user", str(error))
        return None


def _names(tables: object) -> tuple[str, ...]:
    """List the names of tables, of those too that are wrong: they exist all the same."""
    return tuple(tables) if isinstance(tables, dict) else ()
