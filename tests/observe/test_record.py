"""What the line of a session tells: every field that is known, and what an association moved."""

import json
from collections import Counter
from ipaddress import IPv4Address
from typing import Any

import pytest

from geproxy.errors import DeniedError
from geproxy.observe.line import Lines
from geproxy.observe.log import Log
from geproxy.observe.record import Record, by_reason
from geproxy.observe.sink import Sink
from geproxy.terms import Command, Endpoint

CLIENT = Endpoint(IPv4Address("192.0.2.1"), 50001)
TARGET = Endpoint("target.example", 53)


class Written:
    """A log's channel that keeps everything."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes, /) -> int:
        self.data += data
        return len(data)

    def close(self) -> None:
        pass


class Moved:
    """What an association has moved."""

    up_bytes, down_bytes = 10, 20
    up_datagrams, down_datagrams = 1, 2
    via: str | None = "direct,relay"

    def __init__(self, **dropped: int) -> None:
        self.dropped = Counter(dropped)


def told(record: Record, error: DeniedError | None = None) -> dict[str, Any]:
    """The fields of its line."""
    written = Written()
    sink = Sink("memory", written, Lines("json"))
    record.write(Log(sink, sink, level="info"), error)
    (line,) = written.data.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_an_association_is_told_with_its_datagrams_and_its_ways() -> None:
    record = Record("dns", CLIENT)
    record.command, record.target = Command.UDP_ASSOCIATE, TARGET
    record.relayed(Moved(size=1))
    line = told(record)
    assert list(line)[-4:] == ["code", "up_datagrams", "down_datagrams", "dropped"]
    names = ("listen", "client", "user", "command", "target", "address", "via", "up", "down")
    assert [line[name] for name in names] == [
        "dns", "192.0.2.1:50001", None, "udp", "target.example:53", None, "direct,relay", 10, 20,
    ]  # fmt: skip
    assert (line["up_datagrams"], line["down_datagrams"], line["dropped"]) == (1, 2, "size:1")


def test_nothing_dropped_is_nothing_to_tell() -> None:
    record = Record("dns", CLIENT)
    record.relayed(Moved())
    assert told(record)["dropped"] is None


def test_a_connection_has_no_datagrams() -> None:
    line = told(Record("socks", CLIENT))
    assert not {"up_datagrams", "down_datagrams", "dropped", "claimed"} & set(line)


def test_the_reason_of_an_early_end_is_told_last() -> None:
    record = Record("dns", CLIENT)
    record.relayed(Moved(denied=3))
    line = told(record, DeniedError("no rule lets this client in"))
    assert list(line)[-1] == "reason"
    assert (line["code"], line["dropped"]) == ("denied", "denied:3")


@pytest.mark.parametrize(
    ("dropped", "text"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"size": 1}, "size:1", id="one"),
        pytest.param({"size": 1, "denied": 20}, "denied:20,size:1", id="by the alphabet"),
    ],
)
def test_drops_are_told_by_their_reason(dropped: dict[str, int], text: str | None) -> None:
    assert by_reason(dropped) == text
