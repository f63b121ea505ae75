"""One event as one line of text or JSON that nothing inside a value can break out of."""

from __future__ import annotations

import json
import math
import os
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping

Clock = Callable[[], float]  # seconds since the epoch
Fields = Mapping[str, object]

# Fixed by the specification
SYSLOG_PRIORITIES = {  # RFC 5424 §6.2.1: facility 3 (daemon) times 8, plus the severity
    "debug": 3 * 8 + 7,
    "info": 3 * 8 + 6,
    "warning": 3 * 8 + 4,
    "error": 3 * 8 + 3,
}

# Chosen here
MAX_LINE_BYTES = 4096  # PIPE_BUF (pipe(7)): a longer write to a pipe may mix with another worker's

_BARE_ASCII = re.compile(r"(?!-\Z)[!#-\[\]-~]+").fullmatch
_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Lines:
    """The form of one sink's lines: text or JSON, for a stream or for syslog."""

    def __init__(self, form: str, *, syslog: bool = False, clock: Clock = time.time) -> None:
        self._render = {"text": text_line, "json": json_line}[form]
        self._syslog = syslog
        self._clock = clock
        self._second = -1
        self._second_text = ""

    def encode(self, level: str, event: str, fields: Fields) -> bytes:
        """Return the bytes of one write: a line with its end, or a datagram for syslog.

        *event* and the keys are our own words and stand as they are. A line of more than
        MAX_LINE_BYTES gets its longest values cut.
        """
        when = "" if self._syslog else self._time()  # syslog's daemon stamps the time itself
        line = self._frame(when, level, event, fields)
        if len(line) <= MAX_LINE_BYTES:
            return line

        def cut_to(chars: int) -> bytes:
            return self._frame(when, level, event, _cut(fields, chars))

        lengths = range(1, MAX_LINE_BYTES)
        fitting = bisect_left(lengths, True, key=lambda n: len(cut_to(n)) > MAX_LINE_BYTES)
        return cut_to(lengths[max(fitting - 1, 0)])

    def _frame(self, when: str, level: str, event: str, fields: Fields) -> bytes:
        line = self._render(when, level, event, fields)
        if self._syslog:
            return f"<{SYSLOG_PRIORITIES[level]}>geproxy[{os.getpid()}]: {line}".encode()
        return f"{line}\n".encode()

    def _time(self) -> str:
        second, milliseconds = divmod(round(self._clock() * 1000), 1000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{milliseconds:03d}Z"


def text_line(when: str, level: str, event: str, fields: Fields) -> str:
    """Render `time level event key=value…`; without the time where *when* is ""."""
    words = [when, level, event] if when else [level, event]
    for key, value in fields.items():
        words.append(f"{key}={text_value(value)}")
    return " ".join(words)


def json_line(when: str, level: str, event: str, fields: Fields) -> str:
    """Render the same fields as an object in ASCII; without the time where *when* is ""."""
    members: dict[str, object] = {"time": when} if when else {}
    members |= {"level": level, "event": event}
    for key, value in fields.items():
        members[key] = _json_value(value)
    # DEL is the one control character that JSON lets through.
    return _to_json(members).replace("\x7f", "\\u007f")


def text_value(value: object) -> str:
    """Render one value: bare where that is unmistakable, else quoted and escaped."""
    if type(value) is str:
        text = value
    elif type(value) is int:
        return str(value)
    elif value is None:
        return "-"
    elif isinstance(value, float):
        return f"{value:.3f}"
    elif isinstance(value, bool):
        return "true" if value else "false"
    else:
        text = str(value)
    return text if _BARE_ASCII(text) or _is_bare(text) else _quote(text)


def _is_bare(text: str) -> bool:
    return not text.isascii() and text.isprintable() and not any(char in text for char in ' "\\')


def _quote(text: str) -> str:
    return '"' + "".join(map(_escape, text)) + '"'


def _escape(char: str) -> str:
    short = _SHORT_ESCAPES.get(char)
    if short is not None:
        return short
    if char.isprintable():
        return char
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _json_value(value: object) -> object:
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float) and math.isfinite(value):  # JSON knows no other floats
        return round(value, 3)
    return str(value)


def _cut(fields: Fields, chars: int) -> Fields:
    """Return *fields* with no text longer than *chars*; numbers keep all their digits."""
    return {
        key: value if value is None or isinstance(value, (int, float)) else _cut_text(value, chars)
        for key, value in fields.items()
    }


def _cut_text(value: object, chars: int) -> str:
    text = str(value)
    return text if len(text) <= chars else text[: chars - 1] + "…"
