"""[[rule]]: who reaches what, and by which way out; the first that matches decides."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from geproxy.config.setting import kind_of
from geproxy.config.settings import Listen, Rule
from geproxy.config.table import Reading, shown


def read_rules(
    reading: Reading, tables: object, listeners: Collection[str], ways: Collection[str]
) -> tuple[Rule, ...]:
    """Read all tables [[rule]]; *listeners* and *ways* out are the names that they may give.

    A rule that is wrong is not left out, so that the number of each stays what it is in the file.
    """
    if not isinstance(tables, list):
        reading.complain("rule", f"tables [[rule]] are wanted, not {kind_of(tables)}")
        return ()
    return tuple(
        _read_rule(reading, _key(number), table, listeners, ways)
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
        known = {
            user
            for listener in listeners
            if rule.listen is None or listener.name in rule.listen
            for user in listener.users or ()
        }
        for place, user in enumerate(tables[index]["user"], start=1):
            if user not in known:
                text = f"member {place}: none of the rule's listeners has this user"
                reading.warn(f"{_key(index + 1)}.user", text)


def _key(number: int) -> str:
    return f"rule.{number}"


def _read_rule(
    reading: Reading,
    key: str,
    table: object,
    listeners: Collection[str],
    ways: Collection[str],
) -> Rule:
    if not isinstance(table, dict):
        reading.complain(key, f"a table [[rule]] is wanted, not {kind_of(table)}")
        return Rule(action="deny")
    values = reading.table(Rule, key, table)
    _check_action(reading, key, table, ways)
    for place, name in enumerate(table["listen"] if "listen" in values else (), start=1):
        if name not in listeners:
            text = f"member {place}: no such listener; there are {_told(listeners)}"
            reading.complain(f"{key}.listen", text)
    values.setdefault("action", "deny")
    if "client" in table:  # be it wrong: its listeners are not called open on top of that
        values.setdefault("client", ())
    return Rule(**values)


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
