"""How one setting stands in the file: its default, its reader, and what a wrong value is told."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

# Fixed by the system
TIMER_SECONDS_MAX = 2_147_483  # 24 days: epoll counts milliseconds in a signed 32-bit integer

# Chosen here
SHOWN_NUMBER_BITS = 64  # TOML's integers; Python reads longer ones, and refuses to print some

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting stands in the file.

    *read* returns the value, or raises ValueError with what would be right, or a group of them: it
    never repeats a text, which could be a password in the wrong place. Where *words* is a tuple,
    every text that is not one of them is a path, relative to the file.
    """

    default: object  # None: it must be given, or a rule's condition is not there
    read: Callable[[object], object]
    words: tuple[str, ...] | None = None


def setting(default: object, read: Callable[[object], object]) -> Mapping[str, Setting]:
    """Make the metadata of a field that can stand in the file."""
    return {"setting": Setting(default, read)}


def optional(read: Callable[[object], object], off: object = None) -> Mapping[str, Setting]:
    """Make the metadata of a text that *read* reads, and that is *off* where it is empty."""
    return setting("", lambda value: off if value == "" else read(value))


def members(
    read: Callable[[object], T], gather: Callable[[list[T]], object]
) -> Mapping[str, Setting]:
    """Make the metadata of a list: *read* reads each member, *gather* makes the value of all."""
    return setting(None, lambda value: gather(read_list(value, read)))


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


def read_word(value: object, kind: type[E]) -> E:
    """Read one of the values, all of them texts, of an enumeration. Raises ValueError."""
    words = [one.value for one in kind]
    if value not in words:
        raise ValueError(f"one of {', '.join(words)} is wanted")
    return kind(value)


def read_list(value: object, read: Callable[[object], T]) -> list[T]:
    """Read each member of a list. Raises ValueError, or a group of one per wrong member."""
    if not isinstance(value, list):
        raise ValueError(f"a list is wanted, not {kind_of(value)}")
    if not value:
        raise ValueError("the list is empty, so nothing would ever match; leave it out")
    found, errors = [], []
    for place, one in enumerate(value, start=1):
        try:
            found.append(read(one))
        except ValueError as error:
            errors.append(ValueError(f"member {place}: {error}"))
    if errors:
        raise ExceptionGroup("members", errors)
    return found


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
