"""Ways out that lead back to their own listener are refused, and others are not."""

from __future__ import annotations

import pytest

from geproxy.config.load import from_urls, load
from geproxy.errors import ConfigError

SECRET = "aes-128-gcm:hunter2"
LOOP = "listen.b.via: leads back to itself: b -> loop -> b"


def ss(where: str) -> str:
    return f'url = "ss://{SECRET}@{where}"\n'


def listen(name: str, where: str, via: str = "direct") -> str:
    return f'[listen.{name}]\n{ss(where)}via = "{via}"\n'


def tunnel(name: str, url: str, via: str, target: str = "192.0.2.7:53") -> str:
    return f'[listen.{name}]\nurl = "{url}"\nopen = true\ntarget = "{target}"\nvia = "{via}"\n'


def way(name: str, where: str) -> str:
    return f"[via.{name}]\n{ss(where)}"


def rule(action: str, more: str = "") -> str:
    return f'[[rule]]\naction = "{action}"\n{more}\n'


B = listen("b", "127.0.0.1:8388", "loop")
TO_B = way("loop", "127.0.0.1:8388")
PLAIN_B = listen("b", "127.0.0.1:8388")


@pytest.fixture
def problems(tmp_path):
    """Return the problems of one configuration."""

    def read(text):
        path = tmp_path / "geproxy.conf"
        path.touch(0o600)
        path.write_text(text)
        try:
            load(str(path))
        except ConfigError as error:
            return [str(problem) for problem in error.problems]
        return []

    return read


REFUSED = [
    pytest.param(
        '[listen.a]\nurl = "mixed://127.0.0.1:1080"\nvia = "loop"\n' + B + TO_B, LOOP, id="itself"
    ),
    pytest.param(B + way("loop", "localhost:8388"), LOOP, id="localhost"),
    pytest.param(B + way("loop", "peer.localhost.:8388"), LOOP, id="below localhost"),
    pytest.param(B + way("loop", "0.0.0.0:8388"), LOOP, id="an unspecified peer"),
    pytest.param(B + way("loop", "[::ffff:127.0.0.1]:8388"), LOOP, id="a mapped peer"),
    pytest.param(listen("b", ":8388", "loop") + TO_B, LOOP, id="every address"),
    pytest.param(listen("b", "[::]:8388", "loop") + TO_B, LOOP, id="dual stack"),
    pytest.param(
        listen("b", "[::1]:8388", "loop") + way("loop", "[::1]:8388"), LOOP, id="IPv6 loopback"
    ),
    pytest.param(
        listen("b", "192.0.2.1:8388", "loop") + way("loop", "192.0.2.1:8388"), LOOP, id="bound to"
    ),
    pytest.param(
        tunnel("b", "tcp://127.0.0.1:8388", "loop") + TO_B, LOOP, id="a tunnel of connections"
    ),
    pytest.param(
        tunnel("b", "udp://127.0.0.1:8388", "loop") + TO_B, LOOP, id="a tunnel of datagrams"
    ),
    pytest.param(
        tunnel("t", "tcp://127.0.0.1:5000", "one")
        + way("one", "127.0.0.1:8388")
        + PLAIN_B
        + rule("two", 'listen = ["b"]')
        + way("two", "127.0.0.1:5000"),
        "rule.1.action: leads back to itself: b -> two -> t -> one -> b",
        id="over a tunnel and a rule",
    ),
    pytest.param(
        PLAIN_B + TO_B + rule("loop", 'to = ["*.corp.example"]'),
        "rule.1.action: leads back to itself: b -> loop -> b",
        id="a rule for some targets",
    ),
    pytest.param(
        PLAIN_B + TO_B + rule("loop", 'client = ["127.0.0.0/8"]'),
        "rule.1.action: leads back to itself: b -> loop -> b",
        id="a rule for clients of this host",
    ),
    pytest.param(
        PLAIN_B + TO_B + rule("loop", 'command = ["udp"]'),
        "rule.1.action: leads back to itself: b -> loop -> b",
        id="a rule for datagrams",
    ),
    pytest.param(B + TO_B + rule("deny", "port = [25]"), LOOP, id="a deny for some ports"),
]


@pytest.mark.parametrize(("text", "wanted"), REFUSED)
def test_a_way_that_leads_back_to_its_listener_is_refused_once(text, wanted, problems):
    assert problems(text) == [wanted]


ACCEPTED = [
    pytest.param(B + way("loop", "127.0.0.1:8389"), id="another program of this host"),
    pytest.param(B + way("loop", "127.0.0.2:8388"), id="another address of loopback"),
    pytest.param(B + way("loop", "192.0.2.9:8388"), id="another host"),
    pytest.param(listen("b", ":8388", "loop") + way("loop", "192.0.2.9:8388"), id="far away"),
    pytest.param(B + way("loop", "relay.example.net:8388"), id="a name that DNS knows"),
    pytest.param(
        '[listen.a]\nurl = "mixed://127.0.0.1:1080"\nvia = "loop"\n' + PLAIN_B + TO_B,
        id="a listener that goes on directly",
    ),
    pytest.param(
        '[listen.b]\nurl = "mixed://127.0.0.1:8388"\nvia = "loop"\n' + TO_B,
        id="a listener that a peer cannot speak to",
    ),
    pytest.param(B + TO_B + rule("direct"), id="a rule for all, before"),
    pytest.param(PLAIN_B + TO_B + rule("loop", 'listen = ["b"]\nuser = ["al"]'), id="users"),
    pytest.param(PLAIN_B + TO_B + rule("loop", 'client = ["192.0.2.0/24"]'), id="other clients"),
    pytest.param(
        PLAIN_B
        + TO_B
        + rule("direct", 'listen = ["b"]\nto = ["*.corp.example"]')
        + rule("loop", 'to = ["*.corp.example"]'),
        id="the same targets, straight on from there",
    ),
    pytest.param(
        tunnel("b", "tcp://127.0.0.1:8388", "direct")
        + TO_B
        + rule("loop", 'to = ["*.corp.example"]')
        + rule("loop", "port = [443]")
        + rule("loop", 'to = ["198.51.100.0/24"]'),
        id="rules for other targets than the tunnel's",
    ),
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_a_way_that_leads_on_is_accepted(text, problems):
    assert [one for one in problems(text) if "leads back" in one] == []


def test_a_command_line_that_leads_back_to_itself_is_refused():
    with pytest.raises(ConfigError, match=r"listen\.listen1\.via: leads back to itself"):
        from_urls([f"ss://{SECRET}@127.0.0.1:8388"], f"ss://{SECRET}@localhost:8388")
