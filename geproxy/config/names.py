"""Names and their patterns, made once to be asked often: * is any characters, ? is any one.

Patterns are matched as fnmatch does it, so that * crosses dots. Nothing is compiled: a pattern is
found by the letters at one of its ends, and only those that are found are compared with the name.

To look a name up writes to no text that the master made (CPython compares texts without counting
references), so that the pages with the names stay shared between all workers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

ANY = "*"  # the one pattern that matches addresses too, and that opens nothing non-public

# Chosen here
# Patterns that no end tells apart are tried one by one, in some 60 ns each: 60 µs of a decision.
ALIKE_MAX = 1000
# As many letters of an end as tell patterns apart. A name is looked up once for each length.
END_CHARACTERS = 24
_WILDCARD = re.compile("[*?]")

_Pattern = tuple[str, str]  # a part of it that every name that matches contains, and all of it
_Index = dict[str, tuple[_Pattern, ...]]


@dataclass(frozen=True, slots=True)
class Names:
    """A set of names, given as names and patterns in lower case."""

    any: bool  # ANY is among them; a name is looked up without it all the same
    _exact: frozenset[str]
    _suffixes: frozenset[str]  # of *.example.net: .example.net
    _suffix_dots: int  # of the suffix that has most
    _heads: _Index
    _tails: _Index
    _head_lengths: tuple[int, ...]
    _tail_lengths: tuple[int, ...]

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Make the set of *names*. Raises ValueError where too many patterns are alike."""
        exact, suffixes, patterns = set(), set(), set()
        for name in names:
            if "*" not in name and "?" not in name:
                exact.add(name)
            elif name.startswith("*.") and not _WILDCARD.search(name, 1):
                suffixes.add(name[1:])
            elif name != ANY:
                patterns.add(name)
            else:
                exact.add(ANY)
        is_any = ANY in exact
        exact.discard(ANY)
        heads, tails = _indexed(patterns)
        return cls(
            is_any,
            frozenset(exact),
            frozenset(suffixes),
            max((suffix.count(".") for suffix in suffixes), default=0),
            heads,
            tails,
            tuple(sorted(set(map(len, heads)))),
            tuple(sorted(set(map(len, tails)))),
        )

    def __contains__(self, name: str) -> bool:
        """Tell whether *name* is one of them, or matches a pattern other than ANY."""
        if name in self._exact:
            return True
        at = len(name)
        for _ in range(self._suffix_dots):
            at = name.rfind(".", 0, at)
            if at < 0:
                break
            if name[at:] in self._suffixes:
                return True
        return bool(self._heads or self._tails) and self._matches_pattern(name)

    def _matches_pattern(self, name: str) -> bool:
        for length in self._head_lengths:
            alike = self._heads.get(name[:length])
            if alike and any(part in name and _matches(pattern, name) for part, pattern in alike):
                return True
        for length in self._tail_lengths:
            alike = self._tails.get(name[max(len(name) - length, 0) :])
            if alike and any(part in name and _matches(pattern, name) for part, pattern in alike):
                return True
        return False


def _indexed(patterns: Collection[str]) -> tuple[_Index, _Index]:
    """Sort *patterns* by the rarer of their ends: what stands before and after all wildcards."""
    parted = {pattern: _WILDCARD.split(pattern) for pattern in patterns}
    heads = Counter(_head(parts) for parts in parted.values())
    tails = Counter(_tail(parts) for parts in parted.values())
    heads[""] = tails[""] = len(parted) + 1  # every name has these: they tell nothing apart
    by_head: dict[str, list[_Pattern]] = {}
    by_tail: dict[str, list[_Pattern]] = {}
    for pattern, parts in parted.items():
        head, tail = _head(parts), _tail(parts)
        if heads[head] < tails[tail]:
            alike, others = by_head.setdefault(head, []), parts[1:]
        else:
            alike, others = by_tail.setdefault(tail, []), parts[:-1]
        alike.append((max(others, key=len), pattern))
    for alike in (*by_head.values(), *by_tail.values()):
        if len(alike) > ALIKE_MAX:
            raise ValueError(
                f"{len(alike)} patterns begin or end alike, as *word1* and *word2* do, and each "
                f"would be tried on every name; {ALIKE_MAX} are the most"
            )
    return (
        {head: tuple(alike) for head, alike in by_head.items()},
        {tail: tuple(alike) for tail, alike in by_tail.items()},
    )


def _head(parts: list[str]) -> str:
    return parts[0][:END_CHARACTERS]


def _tail(parts: list[str]) -> str:
    return parts[-1][-END_CHARACTERS:]


def _matches(pattern: str, name: str) -> bool:
    """Match one pattern. After a mismatch the last * takes one character more: no regular
    expression, because to compile one takes 50 µs, and a list may hold any number.
    """
    at, star, mark, place = 0, -1, 0, 0
    while place < len(name):
        letter = pattern[at] if at < len(pattern) else ""
        if letter == "*":
            star, mark = at, place
            at += 1
        elif letter in ("?", name[place]):
            at += 1
            place += 1
        elif star >= 0:
            mark += 1
            at, place = star + 1, mark
        else:
            return False
    return not pattern[at:].strip("*")
