"""The forms of the log, and where it goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.proxy import (
    configuration,
    running,
    wait_until,
)
from tests.support.socks import connect, reply_to
from tests.support.targets import echo, target

pytestmark = pytest.mark.slow


def test_a_json_log_is_one_object_a_line(tmp_path: Path) -> None:
    with (
        running(tmp_path, configuration(log={"format": "json"})) as proxy,
        target(echo) as there,
        connect(proxy.address, there.host, there.port) as tunnel,
    ):
        tunnel.send(b"hello")
        tunnel.receive(5)
        assert reply_to(proxy.address, "na\nme.invalid", 80) == 2
        host, port = tunnel.address
        tunnel.finish()
        line = proxy.wait_for("session.end", client=f"{host}:{port}")
    values = json.loads(line.text)
    assert values["time"].endswith("Z")
    assert (values["level"], values["event"], values["code"]) == ("info", "session.end", "ok")
    assert (values["up"], values["down"], values["user"]) == (5, 5, None)
    assert (values["via"], values["command"], values["listen"]) == ("direct", "connect", "socks")
    for line in proxy.lines:
        assert {"time", "level", "event"} <= json.loads(line.text).keys()


def test_sessions_may_have_a_log_of_their_own(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    with (
        running(tmp_path, configuration(log={"access": "access.log"})) as proxy,
        target(echo) as there,
    ):
        for _ in range(10):
            assert reply_to(proxy.address, there.host, there.port) == 0
        wait_until(lambda: len(access.read_text().splitlines()) == 10)
        assert all(" info session.end " in line for line in access.read_text().splitlines())
        assert not proxy.events("session.end")
        assert access.stat().st_mode & 0o777 == 0o640


def test_the_log_may_be_a_file(tmp_path: Path) -> None:
    log = tmp_path / "geproxy.log"
    config = configuration(log={"target": "geproxy.log"})
    with running(tmp_path, config, wait=False) as proxy:
        wait_until(lambda: log.exists() and " info ready " in log.read_text())
        assert proxy.lines == []
        assert log.stat().st_mode & 0o777 == 0o640
