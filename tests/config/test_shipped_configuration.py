"""etc/geproxy.conf starts, and says of every setting just what the program does without it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from geproxy.config import settings
from geproxy.config.load import load

FILE = Path(__file__).resolve().parents[2] / "etc" / "geproxy.conf"
TEXT = FILE.read_text(encoding="utf-8")
DOCUMENT = tomllib.loads(TEXT)


def example(header):
    """Read the table that stands in a comment under *header*, up to the next empty line."""
    lines = TEXT[TEXT.index(f"#[{header}]") :].partition("\n\n")[0].splitlines()
    return tomllib.loads("\n".join(line.removeprefix("#") for line in lines))


# Where each table stands: there is no way out through a peer before somebody names the peer.
TABLES = {
    **{name: table for name, table in DOCUMENT.items() if name != "listen"},
    "listen.NAME": DOCUMENT["listen"]["socks"],
    "via.NAME": example("via.relay")["via"]["relay"],
}


def test_it_is_a_socks_port_on_loopback_with_every_default():
    found = load(str(FILE))
    assert found == settings.Settings(
        file=str(FILE),
        server=settings.Server(),
        log=settings.Log(),
        limits=settings.Limits(),
        resolver=settings.Resolver(),
        listen=found.listen,
    )
    assert [listen.url.masked() for listen in found.listen] == ["socks5://127.0.0.1:1080"]
    assert found.listen[0].url.loopback


@pytest.mark.parametrize("key", settings.catalogue())
def test_every_setting_stands_in_it_with_its_default(key):
    table, _, name = key.rpartition(".")
    default = settings.catalogue()[key].default
    assert name in TABLES[table]
    if default is not None and key != "via.NAME.key_file":  # a secret must stand somewhere
        assert TABLES[table][name] == default


def test_it_has_no_setting_but_those():
    stands = {f"{table}.{name}" for table, content in TABLES.items() for name in content}
    assert stands == set(settings.catalogue())


@pytest.mark.parametrize("key", settings.catalogue())
def test_the_default_passes_its_own_reader(key):
    how = settings.catalogue()[key]
    if how.default is not None:
        assert how.read(how.default) == how.default


def test_the_example_for_other_machines_is_sound_but_for_its_users_file():
    lan = example("listen.lan")["listen"]["lan"]
    assert set(lan) <= set(settings.settings_of(settings.Listen))
    assert not settings.read_listen_url(lan["url"]).loopback
    assert lan["users"]


def test_the_example_of_a_way_out_is_sound_but_for_its_key_file():
    url = settings.read_peer_url(TABLES["via.NAME"]["url"])
    assert url.masked() == "ss://aes-256-gcm@relay.example.net:8388"
