"""Configurations: what they become, and every mistake in them at once, under its full key."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from geproxy.config import settings
from geproxy.config.load import from_urls, load, pidfile_of
from geproxy.config.url import parse_listen_url
from geproxy.crypto.password import PasswordHash
from geproxy.errors import ConfigError

HASH = PasswordHash(14, 8, 1, bytes(16), bytes(32))  # never verified here
SECRET = "hunter2"
SOCKS = '[listen.socks]\nurl = "socks5://127.0.0.1:1080"\n'
OPEN = "anyone who reaches this address could use the proxy"


@pytest.fixture
def conf(tmp_path):
    """Write one configuration, as private as it must be, and return its path."""

    def write(text, mode=0o600):
        path = tmp_path / "geproxy.conf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return str(path)

    return write


def problems_of(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    texts = [str(problem) for problem in caught.value.problems]
    assert all(text.isprintable() for text in texts), "one line each"
    assert SECRET not in str(caught.value) + repr(caught.value.problems)
    return texts


def test_a_listener_is_all_that_a_file_needs(conf):
    path = conf(SOCKS)
    assert load(path) == settings.Settings(
        file=path,
        server=settings.Server(),
        log=settings.Log(),
        limits=settings.Limits(),
        resolver=settings.Resolver(),
        listen=(settings.Listen("socks", parse_listen_url("socks5://127.0.0.1:1080")),),
    )


ACCEPTED = [  # lines, table, what is another than by default
    pytest.param("[server]\nworkers = 3", "server", {"workers": 3}, id="a number of workers"),
    pytest.param(
        "[server]\ndrain_seconds = 0.5", "server", {"drain_seconds": 0.5}, id="half a second"
    ),
    pytest.param("[server]\ndrain_seconds = 0", "server", {"drain_seconds": 0}, id="no drain"),
    pytest.param('[server]\npidfile = ""\nuser = ""', "server", {}, id="what is off may be said"),
    pytest.param('[log]\nlevel = "debug"', "log", {"level": "debug"}, id="a level"),
    pytest.param('[log]\ntarget = "syslog"', "log", {"target": "syslog"}, id="syslog is no file"),
    pytest.param('[log]\ntarget = "/a/b"', "log", {"target": "/a/b"}, id="an absolute path"),
    pytest.param('[log]\naccess = "off"', "log", {"access": "off"}, id="off is no file"),
    pytest.param("[limits]\nsessions = 1", "limits", {"sessions": 1}, id="one session"),
    pytest.param(
        "[limits]\nudp_idle_seconds = 9", "limits", {"udp_idle_seconds": 9}, id="idle UDP"
    ),
    pytest.param(
        "[limits]\nudp_rebind_seconds = 60", "limits", {"udp_rebind_seconds": 60}, id="a takeover"
    ),
    pytest.param("[limits]\nbind_seconds = 9", "limits", {"bind_seconds": 9}, id="a wait for BIND"),
    pytest.param("[limits]\nsessions_per_client = 0", "limits", {}, id="a fair share"),
    pytest.param(
        "[limits]\nsessions_per_client = 5", "limits", {"sessions_per_client": 5}, id="a limit"
    ),
    pytest.param(
        "[limits]\nassociations_per_client = 5",
        "limits",
        {"associations_per_client": 5},
        id="associations",
    ),
    pytest.param("[resolver]\nnameservers = []", "resolver", {}, id="the system's resolver"),
    pytest.param('[resolver]\nfamily = "ipv6"', "resolver", {"family": "ipv6"}, id="a family"),
]


@pytest.mark.parametrize(("lines", "table", "changes"), ACCEPTED)
def test_a_good_setting_is_taken_and_the_others_keep_their_defaults(lines, table, changes, conf):
    default = load(conf(SOCKS))
    expected = replace(default, **{table: replace(getattr(default, table), **changes)})
    assert load(conf(f"{SOCKS}{lines}\n")) == expected


def test_relative_paths_start_at_the_file(conf, tmp_path, monkeypatch):
    conf(f'[log]\ntarget = "a.log"\naccess = "logs/b.log"\n{SOCKS}users = "users"\n')
    (tmp_path / "users").write_text(f"alice:{HASH}\n")
    (tmp_path / "users").chmod(0o640)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = load("../geproxy.conf")
    assert found.file == "../geproxy.conf"
    assert os.path.samefile(os.path.dirname(found.log.target), tmp_path)
    assert os.path.isabs(found.log.target) and os.path.isabs(found.log.access)
    assert found.listen[0].users == {"alice": HASH}


def test_the_pidfile_is_found_whatever_else_is_wrong(conf, tmp_path, monkeypatch):
    path = conf('[server]\npidfile = "run/x.pid"\nworkers = "many"\n[nonsense]\n')
    assert pidfile_of(path) == str(tmp_path / "run" / "x.pid")
    monkeypatch.chdir("/")
    assert pidfile_of(os.path.relpath(path)) == str(tmp_path / "run" / "x.pid")
    assert pidfile_of(conf('[server]\npidfile = "/a/b"\n')) == "/a/b"
    assert load(conf(f'{SOCKS}[server]\npidfile = "x.pid"\n')).server.pidfile == str(
        tmp_path / "x.pid"
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="an empty file"),
        pytest.param("server = 1", id="no table"),
        pytest.param("[server]\npidfile = 7", id="a number"),
        pytest.param('[server]\npidfile = ""', id="none"),
        pytest.param("[server", id="no TOML"),
    ],
)
def test_a_file_that_names_no_pidfile_has_none(text, conf):
    assert pidfile_of(conf(text)) == ""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[server]\npidfile = "run/x.pid"\n[listen', id="no TOML after it"),
        pytest.param("workers = \n[server]\n  pidfile='run/x.pid' # ours\n", id="none before it"),
        pytest.param(b'# \xff\n[server]\npidfile = "run/x.pid"\n', id="no UTF-8"),
    ],
)
def test_the_pidfile_is_found_in_what_is_no_longer_toml(text, conf, tmp_path):
    assert pidfile_of(conf(text)) == str(tmp_path / "run" / "x.pid")


@pytest.mark.parametrize(
    "text", ['[server]\npidfile = "a\\u0000b"', None], ids=["what is no path", "no file"]
)
def test_a_pidfile_cannot_be_had_of_what_cannot_be_read(text, conf, tmp_path):
    path = str(tmp_path / "none") if text is None else conf(text)
    with pytest.raises(ConfigError):
        pidfile_of(path)


def test_a_user_in_the_url_is_the_only_one(conf):
    found = load(conf('[listen.a]\nurl = "socks5://al:hunter2@0.0.0.0:0"\nudp = false\n'))
    listen = found.listen[0]
    assert listen.users is not None and list(listen.users) == ["al"]
    assert listen.users["al"].verify(SECRET.encode())
    assert (listen.udp, listen.via, listen.open) == (False, "direct", False)
    assert SECRET not in repr(found)


def test_workers_are_counted():
    assert settings.Server().worker_count == len(os.sched_getaffinity(0))
    assert settings.Server(workers=7).worker_count == 7


WRONG = [  # text of the file, what each problem begins with
    pytest.param("", ["listen: no listener"], id="an empty file"),
    pytest.param("[listen]", ["listen: no listener"], id="an empty table of listeners"),
    pytest.param("listen = 3", ["listen: tables [listen.NAME]"], id="listeners that are none"),
    pytest.param("[[listen]]", ["listen: tables [listen.NAME]"], id="a list of listeners"),
    pytest.param("[listen.a]", ["listen.a.url: is missing"], id="a listener without a URL"),
    pytest.param("x = ", ["is not TOML: Invalid value (at"], id="no TOML"),
    pytest.param(b"\n# \xff", ["line 2 is not UTF-8"], id="another encoding"),
    pytest.param("x = " + "[" * 9999, ["is not usable TOML: too deeply nested"], id="a deep nest"),
    pytest.param("x = " + "1" * 9999, ["is not TOML: "], id="digits without end"),
    pytest.param(
        f"[server]\nworker = 1\n{SOCKS}",
        ["server.worker: unknown key; did you mean workers?"],
        id="a slip of the pen",
    ),
    pytest.param(
        f"[sever]\n{SOCKS}", ["sever: unknown key; did you mean server?"], id="in a table"
    ),
    pytest.param(
        f"zzz = 1\n{SOCKS}", ["zzz: unknown key; known here: server,"], id="nothing alike"
    ),
    pytest.param(f'"a\\nb" = 1\n{SOCKS}', ["'a\\nb': unknown key"], id="a newline in a key"),
    pytest.param(
        f"server = 1\n{SOCKS}", ["server: a table [server] is wanted, not a number"], id="no table"
    ),
    pytest.param(
        f"{SOCKS}[listen]\nb = 1", ["listen.b: a table [listen.b]"], id="no listener's table"
    ),
    pytest.param(
        f"[server]\nworkers = 0\n{SOCKS}", ["server.workers: 0 is not in 1.."], id="no worker"
    ),
    pytest.param(
        f"[server]\nworkers = true\n{SOCKS}",
        ["server.workers: a whole number"],
        id="a truth for a number",
    ),
    pytest.param(
        f'[server]\nworkers = "4"\n{SOCKS}',
        ['server.workers: "auto" or a number'],
        id="a number in quotes",
    ),
    pytest.param(
        f"[server]\nheartbeat_seconds = 0\n{SOCKS}",
        ["server.heartbeat_seconds: 0 is not above 0"],
        id="no time for a beat",
    ),
    pytest.param(
        f"[server]\ndrain_seconds = -1\n{SOCKS}",
        ["server.drain_seconds: -1 is not in 0.."],
        id="a time before",
    ),
    pytest.param(
        f"[server]\ndrain_seconds = nan\n{SOCKS}",
        ["server.drain_seconds: nan is not"],
        id="a time that is none",
    ),
    pytest.param(
        f"[server]\ndrain_seconds = inf\n{SOCKS}",
        ["server.drain_seconds: inf is not"],
        id="a time without end",
    ),
    pytest.param(
        f"[server]\ndrain_seconds = false\n{SOCKS}",
        ["server.drain_seconds: a number of"],
        id="a truth for a time",
    ),
    pytest.param(
        f"[server]\ndrain_seconds = 2020-01-01\n{SOCKS}",
        ["server.drain_seconds: a number of seconds is wanted, not a date"],
        id="a date",
    ),
    pytest.param(
        f"[limits]\nsessions = 0x1{'0' * 5000}\n{SOCKS}",
        ["limits.sessions: a number that long is not in 1.."],
        id="a number of 20 000 bits",
    ),
    pytest.param(
        f"[limits]\nsessions = 1.0\n{SOCKS}",
        ["limits.sessions: a whole number"],
        id="a fraction for a count",
    ),
    pytest.param(
        f"[log]\nlevel = 'loud'\n{SOCKS}", ["log.level: one of debug, info,"], id="a level"
    ),
    pytest.param(f"[log]\nformat = [1]\n{SOCKS}", ["log.format: one of text, json"], id="a format"),
    pytest.param(
        f'[log]\ntarget = "a\\u0000"\n{SOCKS}',
        ["log.target: a path holds no NUL"],
        id="a path with a NUL",
    ),
    pytest.param(f"[log]\naccess = 1\n{SOCKS}", ["log.access: a text is wanted"], id="no path"),
    pytest.param(
        f"[resolver]\nfamily = 'ipv5'\n{SOCKS}", ["resolver.family: one of"], id="a family"
    ),
    pytest.param(
        f"{SOCKS}udp = 'yes'", ["listen.socks.udp: true or false is wanted"], id="no truth"
    ),
    pytest.param(f"{SOCKS}via = 'relay'", ["listen.socks.via: no such way out"], id="no such way"),
    pytest.param(
        f"{SOCKS}users = 'none'",
        ["listen.socks.users: the file cannot be read: No such"],
        id="no users file",
    ),
    pytest.param(
        f'{SOCKS}users = "a\\u0000"',
        ["listen.socks.users: a path holds no NUL"],
        id="a users file with a NUL",
    ),
    pytest.param(
        '[listen."a b"]\nurl = "socks5://[::1]"',
        ["listen.'a b': a listener's name"],
        id="a space in a name",
    ),
    pytest.param(f'[listen.{"x" * 33}]\nurl = "socks5://[::1]"', ["listen.'xxx"], id="a long name"),
    pytest.param(
        "[listen.a]\nurl = 1", ["listen.a.url: a text is wanted"], id="a URL that is none"
    ),
    pytest.param(
        f'{SOCKS}[listen.b]\nurl = "socks5://127.0.0.1:1080"',
        ["listen.b.url: listen.socks has TCP port 1080"],
        id="the same address twice",
    ),
    pytest.param(
        f'{SOCKS}[listen.b]\nurl = "socks5://:1080"\nopen = true',
        ["listen.b.url: listen.socks has TCP port 1080"],
        id="an address and all of them",
    ),
    pytest.param(
        '[listen.a]\nurl = "socks5://:1080"', [f"listen.a.url: {OPEN}"], id="an open proxy"
    ),
    pytest.param(
        '[listen.a]\nurl = "socks5://[::ffff:10.0.0.1]"',
        [f"listen.a.url: {OPEN}"],
        id="an open proxy on a mapped address",
    ),
    pytest.param(
        f'{SOCKS}[listen.b]\nurl = "socks5://b:hunter2@[::1]:1"\nusers = "none"',
        ["listen.b.users: users stand in a file or in the URL", "listen.b.users: the file"],
        id="users in both places",
    ),
    pytest.param(
        f'[server]\nuser = "no-such-user"\n{SOCKS}',
        ["server.user: there is no such user"],
        id="an unknown user",
    ),
    pytest.param(
        f'[server]\nuser = "no-such-user"\ngroup = "no-such-group"\n{SOCKS}',
        ["server.group: there is no such group"],
        id="an unknown group",
    ),
    pytest.param(
        f'[server]\ngroup = "root"\n{SOCKS}',
        ["server.group: a group alone changes nothing; set user as well"],
        id="a group without a user",
    ),
    pytest.param(f'[server]\nuser = "a\\u0000b"\n{SOCKS}', ["server.user: "], id="a NUL in a user"),
    pytest.param(
        f"[server]\nuser = 0\ngroup = []\npidfile = 1\n{SOCKS}",
        ["server.user: ", "server.group: ", "server.pidfile: "],
        id="names that are none",
    ),
    pytest.param(
        f'[server]\npidfile = "a\\u0000b"\n{SOCKS}', ["server.pidfile: "], id="a NUL in a path"
    ),
    pytest.param(
        "[listen.a]\nurl = 'http://al:hunter2@127.0.0.1:1'",
        ["listen.a.url: scheme http:// is not in this version"],
        id="another protocol",
    ),
]


@pytest.mark.parametrize(("text", "beginnings"), WRONG)
def test_what_is_wrong_is_said_under_its_key(text, beginnings, conf):
    texts = problems_of(conf(text))
    assert len(texts) == len(beginnings), texts
    for found, beginning in zip(texts, beginnings, strict=True):
        assert found.startswith(beginning)


NOT_YET = [
    ("resolver", "nameservers", '["9.9.9.9"]'),
]


@pytest.mark.parametrize(("table", "name", "value"), NOT_YET)
def test_a_setting_of_a_later_version_is_refused_by_name(table, name, value, conf):
    texts = problems_of(conf(f"{SOCKS}[{table}]\n{name} = {value}\n"))
    assert texts == [f"{table}.{name}: not in this version; leave it out"]


def test_ten_wrong_settings_give_ten_problems(conf):
    texts = problems_of(
        conf(
            "[server]\nworkers = -1\nheartbeat = 1\n"
            "[log]\nlevel = 1\n"
            "[limits]\nsessions = 0\nconnect_seconds = true\n"
            "[resolver]\nnameservers = ['9.9.9.9']\n"
            "[listen.socks]\nurl = 'socks5://127.0.0.1:70000'\nvia = 'relay'\n"
            "[listen.b]\n"
            "[[rule]]\n"
        )
    )
    assert sorted(text.partition(": ")[0] for text in texts) == [
        "limits.connect_seconds",
        "limits.sessions",
        "listen.b.url",
        "listen.socks.url",
        "listen.socks.via",
        "log.level",
        "resolver.nameservers",
        "rule.1.action",
        "server.heartbeat",
        "server.workers",
    ]
    assert "listen.socks.url: port 70000 is not in 0..65535" in texts


@pytest.mark.parametrize(
    ("text", "mode", "wrong"),
    [
        pytest.param("al:hunter2@", 0o600, False, id="private"),
        pytest.param("al:hunter2@", 0o640, False, id="read by the group"),
        pytest.param("al:hunter2@", 0o644, True, id="read by others"),
        pytest.param("al:hunter2@", 0o620, True, id="written by the group"),
        pytest.param("", 0o644, False, id="no secret to be read"),
    ],
)
def test_a_file_with_a_password_is_kept_from_others(text, mode, wrong, conf):
    path = conf(f'[listen.a]\nurl = "socks5://{text}127.0.0.1:0"\n', mode)
    if wrong:
        wanted = f"the file holds secrets and its mode is {mode:04o}; it may be 0640 at most"
        assert problems_of(path) == [wanted]
    else:
        assert len(load(path).listen) == 1


def test_a_password_in_a_wrong_url_is_a_secret_too(conf):
    texts = problems_of(conf('[listen.a]\nurl = "socks5://al:hunter2@127.0.0.1:70000"\n', 0o644))
    assert texts[0] == "listen.a.url: port 70000 is not in 0..65535"
    assert "mode is 0644" in texts[1]


def test_a_bad_users_file_does_not_make_the_listener_open(conf, tmp_path):
    (tmp_path / "users").write_text("alice:hunter2\nbob\n")
    (tmp_path / "users").chmod(0o644)
    texts = problems_of(conf('[listen.a]\nurl = "socks5://:0"\nusers = "users"\n'))
    assert [text.partition(": ")[0] for text in texts] == ["listen.a.users"] * 3
    assert "mode is 0644" in texts[0] and "line 1" in texts[1] and "line 2" in texts[2]


SECRETS_ASTRAY = [
    pytest.param(f"[server]\nworkers = '{SECRET}'", id="as a number"),
    pytest.param(f"[log]\nlevel = '{SECRET}'", id="as a choice"),
    pytest.param(f"{SOCKS}via = 'socks5://al:{SECRET}@relay.example'", id="in a way out"),
    pytest.param(f"{SOCKS}users = 'al:{SECRET}'", id="in place of a users file"),
    pytest.param(f"{SOCKS}open = '{SECRET}'", id="as a truth"),
    pytest.param(f"{SOCKS}password = '{SECRET}'", id="under an unknown key"),
    pytest.param(f"[listen.a]\nurl = ['socks5://al:{SECRET}@127.0.0.1']", id="in a list"),
    pytest.param(f"[listen.a]\nurl = socks5://al:{SECRET}@127.0.0.1", id="without quotes"),
    pytest.param(f"[listen]\nurl = 'socks5://al:{SECRET}@127.0.0.1'", id="without a name"),
    pytest.param(f"url = 'socks5://al:{SECRET}@127.0.0.1'", id="without a table"),
]


@pytest.mark.parametrize("text", SECRETS_ASTRAY)
def test_a_secret_in_the_wrong_place_is_not_repeated(text, conf):
    assert problems_of(conf(text))


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path):
    assert problems_of(str(tmp_path / "none")) == ["cannot be read: No such file or directory"]
    assert problems_of(str(tmp_path)) == ["cannot be read: Is a directory"]


def test_urls_make_numbered_listeners():
    found = from_urls(["socks5://127.0.0.1:0", "socks5://al:hunter2@:0"])
    assert [listen.name for listen in found.listen] == ["listen1", "listen2"]
    assert found.file == "command line"
    assert found.listen[1].users is not None
    assert found.limits == settings.Limits()
    assert SECRET not in repr(found)


def test_urls_pass_the_same_checks():
    with pytest.raises(ConfigError) as caught:
        from_urls(["socks5://:1080", "socks5://al:hunter2@127.0.0.1:1080", "ss://m:hunter2@[::1]"])
    texts = [str(problem) for problem in caught.value.problems]
    assert texts[0].startswith(f"listen.listen1.url: {OPEN}")
    assert texts[1].startswith("listen.listen2.url: listen.listen1 has TCP port 1080")
    assert texts[2].startswith("listen.listen3.url: the cipher is none of aes-128-gcm")
    assert SECRET not in str(caught.value)


def test_no_url_is_no_listener():
    with pytest.raises(ConfigError):
        from_urls([])


TABLE_LINES = st.sampled_from(
    ["[server]", "[listen.a]", "[listen]", "[[rule]]", "[via.x]", "[log]"]
)
KEYS = st.sampled_from([key.rpartition(".")[2] for key in settings.catalogue()] + ["rule", '"\\n"'])
VALUES = st.sampled_from(
    ["0", "-1", "1.5", "nan", "true", "[]", "{}", "{a=1}", "''", "'x'", "'\\n'", "1979-05-27"]
    + ["'ss://aes-128-gcm@:1'", "'ss://aes-128-gcm:x@[::1]:1'"]
    + ["'socks5://127.0.0.1:0'", "'socks5://:1'", '"\\u0000"', '"\\n"', "0x" + "f" * 5000]
)
DOCUMENTS = st.lists(TABLE_LINES | st.builds("{} = {}".format, KEYS, VALUES)).map("\n".join)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary() | st.text().map(str.encode) | DOCUMENTS.map(str.encode))
def test_any_bytes_are_settings_or_problems(conf, data):
    path = conf(data)
    try:
        found = load(path)
    except ConfigError as error:
        assert error.problems
        assert all(str(problem).isprintable() for problem in error.problems)
    else:
        assert found.listen
