"""etc/geproxy.conf says of every setting what the program does without it; the examples work."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from geproxy.config import settings, userfile
from geproxy.config.load import load
from geproxy.crypto.methods import AES_256_GCM, generate_key
from geproxy.crypto.password import hash_password
from tests.support import proxy, socks, targets

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "etc" / "examples").glob("*.conf"))
FILE = Path(__file__).resolve().parents[2] / "etc" / "geproxy.conf"
TEXT = FILE.read_text(encoding="utf-8")
DOCUMENT = tomllib.loads(TEXT)
STORED = hash_password(b"correct horse")


def example(header):
    """Read the table that stands in a comment under *header*, up to the next empty line."""
    lines = TEXT[TEXT.index(f"#[{header}]") :].partition("\n\n")[0].splitlines()
    return tomllib.loads("\n".join(line.removeprefix("#") for line in lines))


# Where tables stand: there is no way out through a peer before somebody names the peer, and no rule
# before there is something to tell apart.
ELSEWHERE = {
    "listen.NAME": lambda: DOCUMENT["listen"]["socks"],
    "via.NAME": lambda: example("via.relay")["via"]["relay"],
    "rule": lambda: example("[rule]")["rule"][0],
}


def table_of(name):
    """What the file has of one of settings.TABLES."""
    return ELSEWHERE[name]() if name in ELSEWHERE else DOCUMENT[name]


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
    assert [listen.url.masked() for listen in found.listen] == ["mixed://127.0.0.1:1080"]
    assert found.listen[0].url.loopback


@pytest.mark.parametrize("key", settings.catalogue())
def test_every_setting_stands_in_it_with_its_default(key):
    table, _, name = key.rpartition(".")
    default = settings.catalogue()[key].default
    assert name in table_of(table)
    if default is not None and key != "via.NAME.key_file":  # a secret must stand somewhere
        assert table_of(table)[name] == default


def test_it_has_no_setting_but_those():
    stands = {f"{table}.{name}" for table in settings.TABLES for name in table_of(table)}
    assert stands == set(settings.catalogue())
    assert set(DOCUMENT) <= {table.partition(".")[0] for table in settings.TABLES}


@pytest.mark.parametrize("key", settings.catalogue())
def test_the_default_passes_its_own_reader_and_is_what_the_class_has(key):
    how = settings.catalogue()[key]
    if how.default is None:
        return
    table, _, name = key.rpartition(".")
    fields = {field.name: field for field in dataclasses.fields(settings.TABLES[table])}
    # In the file the users are a path.
    assert how.read(how.default) == ("" if name == "users" else fields[name].default)


def test_the_example_for_other_machines_is_sound_but_for_its_users_file():
    lan = example("listen.lan")["listen"]["lan"]
    assert set(lan) <= set(settings.settings_of(settings.Listen))
    assert not settings.read_listen_url(lan["url"]).loopback
    assert lan["users"]


def test_the_example_of_a_way_out_is_sound_but_for_its_key_file():
    url = settings.read_peer_url(table_of("via.NAME")["url"])
    assert url.masked() == "ss://aes-256-gcm@relay.example.net:8388"


def test_the_example_of_a_rule_is_sound(tmp_path):
    """With the ways out in the comments in place, there is nothing to complain or to warn of."""
    relay = f"[via.relay]\nurl = 'ss://aes-256-gcm@192.0.2.1?key={generate_key(AES_256_GCM)}'\n"
    lan = "[listen.lan]\nurl = 'mixed://192.168.1.1'\nusers = 'users'\n"
    userfile.store(str(tmp_path / "users"), "alice", STORED)
    rule = TEXT[TEXT.index("#[[rule]]") :].partition("\n\n")[0].replace("\n#", "\n")[1:]
    path = tmp_path / "geproxy.conf"
    path.touch(0o600)
    path.write_text("\n".join([TEXT, relay, lan, rule]), encoding="utf-8")
    found = load(str(path))
    assert (len(found.rule), found.warnings) == (1, ())


# -- the examples ------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "geproxy.key"
    path.touch(0o600)
    path.write_text(f"{generate_key(AES_256_GCM)}\n", encoding="utf-8")
    return path


def beside(key_file, example, *changes):
    """Copy *example* to its key and users files; *changes* are pairs of old and new."""
    text = example.read_text(encoding="utf-8")
    # The account that the example is for is still to be made; this one every machine has.
    text = text.replace('user = "geproxy"', 'user = "nobody"')
    userfile.store(str(key_file.with_name("users")), "alice", STORED)
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    copy = key_file.with_name(example.name)
    copy.write_text(text, encoding="utf-8")
    return str(copy)


def test_there_are_three_examples():
    assert [path.stem for path in EXAMPLES] == ["local", "remote", "shared-server"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_sound_and_says_nothing_needless(example, key_file):
    assert load(beside(key_file, example)).warnings == ()
    document = tomllib.loads(example.read_text(encoding="utf-8"))
    for table, entries in document.items():
        named = f"{table}.NAME" in settings.TABLES
        known = settings.settings_of(settings.TABLES[f"{table}.NAME" if named else table])
        for entry in entries.values() if named else [entries]:
            assert all(value != known[name].default for name, value in entry.items())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_holds_no_secret_and_may_be_read_by_all(example, key_file):
    copy = beside(key_file, example)
    Path(copy).chmod(0o644)
    load(copy)


def test_the_example_for_a_shared_server_is_for_root_and_safe_from_others(key_file):
    found = load(beside(key_file, EXAMPLES[-1]))
    assert 'user = "geproxy"\n' in re.sub(" +#.*", "", EXAMPLES[-1].read_text(encoding="utf-8"))
    assert found.server.pidfile.startswith("/run/geproxy/")
    assert {Path(found.log.target).parent, Path(found.log.access).parent} == {
        Path("/var/log/geproxy")
    }
    for listen in found.listen:
        assert not listen.url.loopback
        assert 0 < listen.url.port < 1024, "any user of the host could listen there"
        assert listen.users is not None
        assert not listen.open


def test_the_example_for_a_shared_server_can_log_to_syslog_as_its_comment_says(key_file):
    changes = [(f'{key} = "/var/log', f'#{key} = "/var/log') for key in ("target", "access")]
    changes.append(('#target = "syslog"', 'target = "syslog"'))
    found = load(beside(key_file, EXAMPLES[-1], *changes))
    assert found.log == settings.Log(target="syslog")


@pytest.mark.slow
def test_the_examples_carry_a_client_to_its_target(key_file, tmp_path):
    near, far, _ = EXAMPLES
    elsewhere = beside(key_file, far, ("@:8388", "@127.0.0.1:0"))
    with (
        targets.target(targets.echo) as target,
        proxy.started(tmp_path, ["-f", elsewhere]) as remote,
    ):
        here = beside(
            key_file,
            near,
            ("relay.example.net:8388", f"127.0.0.1:{remote.address[1]}"),
            ("socks5://127.0.0.1:1080", "socks5://127.0.0.1:0"),
        )
        with proxy.started(tmp_path, ["-f", here]) as local:
            with socks.connect(local.address, "localhost", target.port) as tunnel:
                tunnel.send(b"through both")
                assert tunnel.receive(12) == b"through both"
                tunnel.finish()
                assert tunnel.receive_all() == b""
            local.wait_for("session.end", via="remote", code="ok")
        remote.wait_for("session.end", target=f"localhost:{target.port}", via="direct", code="ok")
