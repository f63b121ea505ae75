"""etc/geproxy.conf starts, and says of every setting just what the program does without it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from geproxy.config import settings
from geproxy.config.load import load

FILE = Path(__file__).resolve().parents[2] / "etc" / "geproxy.conf"
DOCUMENT = tomllib.loads(FILE.read_text(encoding="utf-8"))


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
    table, _, name = key.replace("listen.NAME", "listen_socks").partition(".")
    where = DOCUMENT["listen"]["socks"] if table == "listen_socks" else DOCUMENT[table]
    default = settings.catalogue()[key].default
    assert name in where
    assert default is None or where[name] == default


def test_it_has_no_setting_but_those():
    known = set(settings.catalogue())
    stands = {
        f"{table}.{name}"
        for table, content in (*DOCUMENT.items(), ("listen.NAME", DOCUMENT["listen"]["socks"]))
        if table != "listen"
        for name in content
    }
    assert stands == known


@pytest.mark.parametrize("key", settings.catalogue())
def test_the_default_passes_its_own_reader(key):
    how = settings.catalogue()[key]
    if how.default is not None:
        assert how.read(how.default) == how.default


def test_the_example_for_other_machines_is_sound_but_for_its_users_file():
    text = FILE.read_text(encoding="utf-8")
    lines = text[text.index("#[listen.lan]") :].splitlines()
    example = tomllib.loads("\n".join(line.removeprefix("#") for line in lines))["listen"]["lan"]
    assert set(example) <= set(settings.settings_of(settings.Listen))
    assert not settings.read_listen_url(example["url"]).loopback
    assert example["users"]
