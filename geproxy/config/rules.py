"""[[rule]]: who reaches what, and by which way out; the first that matches decides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from geproxy.config.destinations import To
from geproxy.config.edges import Networks
from geproxy.config.listfile import ListFiles, parse_destinations, parse_networks
from geproxy.config.setting import kind_of
from geproxy.config.settings import Listen, Rule
from geproxy.config.table import Reading, Values, shown, shown_path

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Known:
    """What rules may name: listeners, ways out, and files."""

    listeners: Collection[str]
    ways: Collection[str]
    destinations: ListFiles[To] = field(default_factory=lambda: ListFiles(parse_destinations))
    networks: ListFiles[Networks] = field(default_factory=lambda: ListFiles(parse_networks))


def read_rules(
    reading: Reading, tables: object, listeners: Collection[str], ways: Collection[str]
) -> tuple[Rule, ...]:
    """Read all tables [[rule]]; *listeners* and *ways* out are the names that they may give.

    A rule that is wrong is not left out, so that the number of each stays what it is in the file.
    """
    if not isinstance(tables, list):
        reading.complain("rule", f"tables [[rule]] are wanted, not {kind_of(tables)}")
        return ()
    known = _Known(listeners, ways)
    return tuple(
        _read_rule(reading, _key(number), table, known)
        for number, table in enumerate(tables, start=1)
    )


def guards(rules: Iterable[Rule], listener: str) -> bool:
    """Tell whether one of *rules* asks where the clients of *listener* come from."""
    return any(
        rule.client is not None and (rule.listen is None or listener in rule.listen)
        for rule in rules
    )


def warn_of_strangers(
    reading: Reading, tables: object, rules: Iterable[Rule], listeners: Collection[Listen]
) -> None:
    """Warn of users whom no listener of their rule has: mistyped, most likely.

    *rules* are what was read in *tables*.
    """
    for index, rule in enumerate(rules):
        if rule.user is None:
            continue
        assert isinstance(tables, list), "it gave rules"
        known = [
            listener.users
            for listener in listeners
            if listener.users and (rule.listen is None or listener.name in rule.listen)
        ]
        for place, user in enumerate(tables[index]["user"], start=1):
            if not any(user in users for users in known):
                text = f"member {place}: none of the rule's listeners has this user"
                reading.warn(f"{_key(index + 1)}.user", text)


def _key(number: int) -> str:
    return f"rule.{number}"


def _read_rule(reading: Reading, key: str, table: object, known: _Known) -> Rule:
    if not isinstance(table, dict):
        reading.complain(key, f"a table [[rule]] is wanted, not {kind_of(table)}")
        return Rule(action="deny")
    values = reading.table(Rule, key, table)
    _check_action(reading, key, table, known.ways)
    for place, name in enumerate(table["listen"] if "listen" in values else (), start=1):
        if name not in known.listeners:
            text = f"member {place}: no such listener; there are {_told(known.listeners)}"
            reading.complain(f"{key}.listen", text)
    values.setdefault("action", "deny")
    client_file = _read_file(reading, f"{key}.client_file", values, known.networks)
    to_file = _read_file(reading, f"{key}.to_file", values, known.destinations)
    if "client" in table or table.get("client_file", "") != "":
        # Be it wrong: its listeners are not called open on top of that.
        values["client"] = (*values.get("client", ()), *(client_file or ()))
    if to_file is not None:
        values["to"] = (*values.get("to", ()), *to_file)
    return Rule(**values)


def _read_file(
    reading: Reading, key: str, values: Values, files: ListFiles[T]
) -> tuple[T, ...] | None:
    """Return what the file lists that setting *key* names; nothing if it cannot be read.

    None: it names no file.
    """
    path = values.get(key.rpartition(".")[2], "")
    if not path:
        return None
    try:
        found, problems = files.read(path)
    except ValueError as error:
        reading.complain(key, str(error))
        return ()
    for text in problems:
        reading.complain(key, f"{shown_path(path)} {text}")
    return (found,)


def _check_action(
    reading: Reading, key: str, table: Mapping[str, object], ways: Collection[str]
) -> None:
    action = table.get("action")
    if action is None:
        reading.complain(f"{key}.action", f"is missing; one of {_told(ways)} is wanted")
    elif isinstance(action, str) and action not in ways:
        reading.complain(f"{key}.action", f"no such way out; there are {_told(ways)}")


def _told(names: Iterable[str]) -> str:
    return ", ".join(map(shown, names))
