"""Events become lines: the exact bytes, and that no value breaks out of its line."""

import datetime
import json
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.observe.line import MAX_LINE_BYTES, Lines
from geproxy.terms import Endpoint

NOON = datetime.datetime(2026, 11, 22, 20, 28, 7, 512000, datetime.UTC).timestamp()
TIME = "2026-11-22T20:28:07.512Z"

SESSION = {  # interface.md §5
    "listen": "socks",
    "client": "127.0.0.1:51022",
    "user": "alice",
    "command": "connect",
    "target": Endpoint("example.net", 443),
    "address": "93.184.216.34:443",
    "via": "remote",
    "up": 1841,
    "down": 90211,
    "seconds": 3.204,
    "connect_ms": 41,
    "code": "ok",
}

VALUES = [  # value, in text, in JSON
    pytest.param("alice", "alice", '"alice"', id="a plain word is bare"),
    pytest.param("a=b;c'", "a=b;c'", '"a=b;c\'"', id="other punctuation is bare"),
    pytest.param(
        "bücher.例え", "bücher.例え", r'"b\u00fccher.\u4f8b\u3048"', id="letters are bare"
    ),
    pytest.param("", '""', '""', id="nothing is quoted"),
    pytest.param("-", '"-"', '"-"', id="a dash is not None"),
    pytest.param("--", "--", '"--"', id="two dashes are a word"),
    pytest.param(None, "-", "null", id="None"),
    pytest.param("a b", '"a b"', '"a b"', id="a space is quoted"),
    pytest.param("é b", '"é b"', r'"\u00e9 b"', id="a space among letters is quoted"),
    pytest.param('a"b', r'"a\"b"', r'"a\"b"', id="a quote"),
    pytest.param('é"b', r'"é\"b"', r'"\u00e9\"b"', id="a quote among letters"),
    pytest.param("a\\b", r'"a\\b"', r'"a\\b"', id="a backslash"),
    pytest.param("\r\n\t", r'"\r\n\t"', r'"\r\n\t"', id="line ends and tab"),
    pytest.param("\0\x1b[2J", r'"\x00\x1b[2J"', r'"\u0000\u001b[2J"', id="NUL and ESC"),
    pytest.param("\x7f\x9b", r'"\x7f\x9b"', r'"\u007f\u009b"', id="DEL and CSI"),
    pytest.param("a\xa0b", r'"a\xa0b"', r'"a\u00a0b"', id="a space that does not break"),
    pytest.param("\u2028\u202e", r'"\u2028\u202e"', r'"\u2028\u202e"', id="U+2028 and bidi"),
    pytest.param("\udc80", r'"\udc80"', r'"\udc80"', id="a lone surrogate"),
    pytest.param("\U000e0001", r'"\U000e0001"', r'"\udb40\udc01"', id="a tag character"),
    pytest.param(0, "0", "0", id="zero"),
    pytest.param(-(2**70), str(-(2**70)), str(-(2**70)), id="a large number"),
    pytest.param(0.5, "0.500", "0.5", id="three decimals"),
    pytest.param(1.23456, "1.235", "1.235", id="rounded to three decimals"),
    pytest.param(float("nan"), "nan", '"nan"', id="NaN, which JSON has not"),
    pytest.param(True, "true", "true", id="true"),
    pytest.param(False, "false", "false", id="false"),
    pytest.param(Endpoint("a b", 1), '"a b:1"', '"a b:1"', id="an object is its str, quoted"),
]


def lines(form: str = "text", *, syslog: bool = False) -> Lines:
    return Lines(form, syslog=syslog, clock=lambda: NOON)


def parse(line: bytes) -> dict[str, str | None]:
    """Read a text line back the way its consumers would."""
    text = line.decode().removesuffix("\n")
    time, level, event, _, rest = re.fullmatch(r"(\S+) (\S+) (\S+)( (.*))?", text).groups()
    fields = {"time": time, "level": level, "event": event}
    pair = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)')
    while rest:
        match = pair.match(rest)
        assert match, rest
        fields[match[1]] = value_of(match[2])
        rest = rest[match.end() :]
    return fields


def value_of(text: str) -> str | None:
    if text == "-":
        return None
    if not text.startswith('"'):
        return text
    named = {"n": "\n", "r": "\r", "t": "\t"}
    escape = re.compile(r"\\(?:x(..)|u(....)|U(.{8})|(.))")

    def char(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        return chr(int(code, 16)) if code else named.get(match[4], match[4])

    return escape.sub(char, text[1:-1])


def test_a_session_is_the_line_of_the_contract() -> None:
    assert lines().encode("info", "session.end", SESSION).decode() == (
        f"{TIME} info session.end listen=socks client=127.0.0.1:51022 user=alice command=connect"
        " target=example.net:443 address=93.184.216.34:443 via=remote up=1841 down=90211"
        " seconds=3.204 connect_ms=41 code=ok\n"
    )


def test_a_session_in_json_has_the_same_fields() -> None:
    assert lines("json").encode("info", "session.end", SESSION).decode() == (
        f'{{"time":"{TIME}","level":"info","event":"session.end","listen":"socks",'
        '"client":"127.0.0.1:51022","user":"alice","command":"connect",'
        '"target":"example.net:443","address":"93.184.216.34:443","via":"remote","up":1841,'
        '"down":90211,"seconds":3.204,"connect_ms":41,"code":"ok"}\n'
    )


@pytest.mark.parametrize(("value", "text", "member"), VALUES)
def test_values(value: object, text: str, member: str) -> None:
    assert lines().encode("error", "e", {"k": value}).decode() == f"{TIME} error e k={text}\n"
    assert lines("json").encode("error", "e", {"k": value}).decode() == (
        f'{{"time":"{TIME}","level":"error","event":"e","k":{member}}}\n'
    )


def test_an_event_without_fields() -> None:
    assert lines().encode("debug", "worker.ready", {}).decode() == f"{TIME} debug worker.ready\n"


@pytest.mark.parametrize(
    ("level", "priority"), [("debug", 31), ("info", 30), ("warning", 28), ("error", 27)]
)
def test_syslog_gets_priority_and_tag_instead_of_time_and_line_end(
    level: str, priority: int
) -> None:
    tag = f"<{priority}>geproxy[{os.getpid()}]: "
    text = lines(syslog=True).encode(level, "e", {"k": 1}).decode()
    assert text == f"{tag}{level} e k=1"
    text = lines("json", syslog=True).encode(level, "e", {"k": 1}).decode()
    assert text == f'{tag}{{"level":"{level}","event":"e","k":1}}'


def test_the_time_follows_the_clock_across_seconds_and_back() -> None:
    times = iter([NOON, NOON + 0.4871, NOON + 0.4879, NOON - 0.512])
    clocked = Lines("text", clock=lambda: next(times))
    seen = [clocked.encode("info", "e", {})[17:23] for _ in range(4)]
    assert seen == [b"07.512", b"07.999", b"08.000", b"07.000"]


@pytest.mark.parametrize("form", ["text", "json"])
@given(user=st.text(), host=st.text())
def test_whatever_users_and_hosts_are_called_a_line_stays_one_line(
    form: str, user: str, host: str
) -> None:
    fields = {"user": user, "target": host, "code": "ok"}
    line = lines(form).encode("info", "session.end", fields)
    assert line.endswith(b"\n")
    assert line[:-1].decode().isprintable()
    expected = {"time": TIME, "level": "info", "event": "session.end", **fields}
    assert (json.loads(line) if form == "json" else parse(line)) == expected


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("syslog", [False, True])
@settings(max_examples=30)
@given(
    texts=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=9),
    repeat=st.integers(1, 600),
)
def test_a_line_fits_a_pipe_and_is_cut_only_where_it_must_be(
    form: str, syslog: bool, texts: list[str], repeat: int
) -> None:
    fields = {f"k{number}": text * repeat for number, text in enumerate(texts)}
    line = lines(form, syslog=syslog).encode("info", "e", fields)
    assert len(line) <= MAX_LINE_BYTES
    if not syslog:
        seen = json.loads(line) if form == "json" else parse(line)
        for key, text in fields.items():
            assert seen[key] == text or text.startswith(seen[key].removesuffix("…"))


def test_the_longest_values_are_cut_and_the_others_are_whole() -> None:
    fields = {
        "user": "u" * 255,
        "target": "t" * 5000,
        "up": 10**30,
        "why": "w" * 4990,
        "code": "ok",
    }
    line = lines().encode("info", "e", fields)
    assert MAX_LINE_BYTES - 2 <= len(line) <= MAX_LINE_BYTES
    seen = parse(line)
    assert (seen["user"], seen["up"], seen["code"]) == ("u" * 255, str(10**30), "ok")
    assert seen["target"].endswith("t…")
    assert len(seen["target"]) == len(seen["why"])


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    room = MAX_LINE_BYTES - len(lines().encode("info", "e", {"k": "x"})) + 1
    assert b"\xe2" not in lines().encode("info", "e", {"k": "x" * room})
    assert len(lines().encode("info", "e", {"k": "x" * (room + 1)})) == MAX_LINE_BYTES
