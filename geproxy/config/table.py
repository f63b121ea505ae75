"""Tables of the file, read by the settings that they may hold; what is wrong is gathered."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from geproxy.config import settings
from geproxy.config.setting import Setting, kind_of
from geproxy.config.settings import Table
from geproxy.crypto.password import PasswordHash
from geproxy.errors import Problem

# Chosen here
SHOWN_KEY_CHARACTERS = 64  # of a key that is not ours: enough to find it by
NOT_IN_THIS_VERSION = "not in this version; leave it out"
_NAME = re.compile("[A-Za-z0-9_-]{1,32}")

Values = dict[str, Any]  # each one came out of its setting's own reader


@dataclass(frozen=True, slots=True)
class Entry:
    """One table [listen.NAME] or [via.NAME]: what stands there, and those values that are right."""

    name: str
    key: str  # the full one, as messages show it
    table: Mapping[str, object] = field(repr=False)
    values: Values = field(repr=False)

    def names(self, setting: str) -> bool:
        """Whether *setting* stands there, right or wrong, and is not off."""
        return self.table.get(setting, "") != ""


class Reading:
    """One configuration being read: what is wrong with it so far, and where its paths start."""

    def __init__(self, folder: str | None) -> None:
        """*folder* is where relative paths start; None: a command line, which names no files."""
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.holds_secret = False
        self.users_files: dict[str, Mapping[str, PasswordHash]] = {}  # each is read once
        self._folder = folder

    @property
    def of_file(self) -> bool:
        """Whether there is a file in which all settings can stand."""
        return self._folder is not None

    def complain(self, key: str, text: str) -> None:
        """Note what is wrong, and what would be right."""
        self.problems.append(Problem(key, text))

    def warn(self, key: str, text: str) -> None:
        """Note what works and should not stay."""
        self.warnings.append(Problem(key, text))

    def unknown(self, key: str, name: str, known: tuple[str, ...]) -> None:
        """Complain of a *name* that is none of the *known* ones."""
        near = difflib.get_close_matches(name[:SHOWN_KEY_CHARACTERS], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        self.complain(key, f"unknown key; {hint}")

    def table(self, kind: Table, key: str, table: object) -> Values:
        """Read the settings of one table; those that are wrong are left out."""
        if not isinstance(table, dict):
            self.complain(key, f"a table [{key}] is wanted, not {kind_of(table)}")
            return {}
        values: Values = {}
        known = settings.settings_of(kind)
        off = settings.NOT_YET[kind]
        for name, value in table.items():
            full_key = f"{key}.{shown(name)}"
            if name in known:
                try:
                    values[name] = self._read(known[name], value)
                except* ValueError as group:
                    for error in group.exceptions:
                        self.complain(full_key, str(error))
            elif name not in off:
                self.unknown(full_key, name, tuple(known))
            elif type(value) is not type(off[name]) or value != off[name]:
                self.complain(full_key, NOT_IN_THIS_VERSION)
        return values

    def entries(self, kind: Table, key: str, whose: str, tables: object) -> Iterator[Entry]:
        """Read each table [key.NAME]; *whose* says in messages what a name belongs to."""
        if not isinstance(tables, dict):
            self.complain(key, f"tables [{key}.NAME] are wanted, not {kind_of(tables)}")
            return
        for name, table in tables.items():
            full_key = f"{key}.{shown(name)}"
            if not _NAME.fullmatch(name):
                self.complain(full_key, f"{whose} name has 1 to 32 characters of A-Z a-z 0-9 _ -")
            values = self.table(kind, full_key, table)
            if isinstance(table, dict):
                yield Entry(name, full_key, table, values)

    def _read(self, setting: Setting, value: object) -> object:
        """Read one value; a path becomes absolute. Raises ValueError."""
        result = setting.read(value)
        if setting.words is None or result in setting.words:
            return result
        return self.absolute(str(result))

    def absolute(self, path: str) -> str:
        """Give *path* as it counts from the folder where relative ones start."""
        return os.path.join(self._folder or "/", path)


def shown(name: str) -> str:
    """Write one part of a key so that it stays on its line."""
    if _NAME.fullmatch(name):
        return name
    return repr(name if len(name) <= SHOWN_KEY_CHARACTERS else name[:SHOWN_KEY_CHARACTERS] + "…")


def shown_path(path: str) -> str:
    """Write a path, which stands before other words, so that it stays on its line."""
    return path if path.isprintable() else repr(path)
