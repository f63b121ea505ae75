"""The command line of sealed streams: keygen, url, warnings, and examples that fit together."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

import pytest
import segno

from geproxy import cli
from geproxy.commands import sharing
from geproxy.config import outward
from geproxy.config.load import load
from geproxy.config.url import parse_peer_url
from geproxy.crypto.methods import ALIASES, METHODS, decode_key, generate_key
from geproxy.terms import Endpoint

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "etc" / "examples"
SECRET = "hunter2"
SOCKS = '[listen.socks]\nurl = "socks5://127.0.0.1:1080"\n'
OURS = ip_address("203.0.113.9")


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """Write geproxy.conf, private, into the current directory."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        path = tmp_path / "geproxy.conf"
        path.write_text(text)
        path.chmod(0o600)

    return write


@pytest.fixture
def run(capsys):
    """Run a command line; returns its status and the lines of its two outputs."""

    def run(*arguments):
        status = cli.main(list(arguments))
        out, err = capsys.readouterr()
        assert SECRET not in err
        return status, out.splitlines(), err.splitlines()

    return run


@pytest.mark.parametrize("name", [*METHODS, *map(str.upper, ALIASES)])
def test_keygen_prints_a_new_key(name, run):
    method = METHODS.get(name) or ALIASES[name.lower()]
    (status, (first,), err), (_, (second,), _) = run("keygen", name), run("keygen", name)
    assert (status, err) == (0, [])
    assert len(decode_key(first, method)) == method.key_bytes
    assert first != second


def test_keygen_knows_no_other_cipher(run):
    known = ", ".join(METHODS)
    assert run("keygen", "rc4-md5") == (2, [], [f"geproxy: the cipher is none of {known}"])


URLS = [  # the listener's URL, what is printed
    pytest.param(
        "ss://aes-128-gcm:test@192.168.100.1:8888#x",
        "ss://YWVzLTEyOC1nY206dGVzdA@192.168.100.1:8888#a",  # SIP002's own example
        id="a password",
    ),
    pytest.param(
        "ss://AEAD_AES_128_GCM@[::1]?key=AAECAwQFBgcICQoLDA0ODw",
        "ss://aes-128-gcm@[::1]:8388?key=AAECAwQFBgcICQoLDA0ODw==#a",
        id="a raw key",
    ),
]


@pytest.mark.parametrize(("listen", "printed"), URLS)
def test_url_prints_what_clients_are_given(listen, printed, conf, run):
    conf(f'{SOCKS}[listen.a]\nurl = "{listen}"\n')
    assert run("url", "-f", "geproxy.conf", "a") == (0, [printed], [])


def test_url_holds_the_password_of_a_file(conf, run, tmp_path):
    conf('[listen.a]\nurl = "ss://aes-128-gcm@127.0.0.1:1"\npassword_file = "p"\n')
    (tmp_path / "p").write_text(f"{SECRET}\n")
    (tmp_path / "p").chmod(0o600)
    _, (uri,), _ = run("url", "-f", "geproxy.conf", "a")
    assert parse_peer_url(uri).sealing == load("geproxy.conf").listen[0].url.sealing


@pytest.mark.parametrize(
    ("host", "versions"),
    [
        pytest.param("", [4, 6], id="both families on two sockets"),
        pytest.param("[::]", [4, 6], id="both families on one"),
        pytest.param("0.0.0.0", [4], id="IPv4 alone"),
    ],
)
def test_url_of_every_address_has_ours_and_says_so(host, versions, conf, run, monkeypatch):
    asked = []
    monkeypatch.setattr(sharing, "outward_address", lambda wanted: asked.extend(wanted) or OURS)
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@{host}:1"\n')
    status, (uri,), (hint,) = run("url", "-f", "geproxy.conf", "a")
    assert (status, asked) == (0, versions)
    assert parse_peer_url(uri).peer == Endpoint(OURS, 1)
    assert hint == (
        f"geproxy: geproxy.conf: listen.a.url: names no host; {OURS} is ours towards the outside, "
        "clients may need another"
    )


class FakeSocket:
    """A UDP socket of a host whose routes are known; it has nothing to send with."""

    ours: ClassVar[dict[str, str]] = {}

    def __init__(self, family, kind):
        assert kind == outward.socket.SOCK_DGRAM

    def connect(self, address):
        if address[0] not in self.ours:
            raise OSError("no route")
        self.name = self.ours[address[0]]

    def getsockname(self):
        return (self.name, 1)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        pytest.param({"192.0.2.1": "10.0.0.5"}, "10.0.0.5", id="the family that has a route"),
        pytest.param({"2001:db8::1": "2a00::5"}, "2a00::5", id="or the other"),
        pytest.param(
            {"192.0.2.1": "8.8.8.8", "2001:db8::1": "2a00::5"}, "8.8.8.8", id="IPv4 of both"
        ),
        pytest.param(
            {"192.0.2.1": "10.0.0.5", "2001:db8::1": "2a00::5"}, "2a00::5", id="the public"
        ),
        pytest.param({"2001:db8::1": "fe80::1%eth0"}, None, id="a link's own is of no use"),
        pytest.param({}, None, id="no route at all"),
    ],
)
def test_our_address_is_where_routes_to_the_outside_start(ours, expected, monkeypatch):
    monkeypatch.setattr(FakeSocket, "ours", ours)
    monkeypatch.setattr(outward.socket, "socket", FakeSocket)
    found = outward.outward_address([4, 6])
    assert found == (expected and ip_address(expected))


def test_without_any_address_url_gives_up(conf, run, monkeypatch):
    monkeypatch.setattr(sharing, "outward_address", lambda versions: None)
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@:1"\n')
    status, out, (told,) = run("url", "-f", "geproxy.conf", "a")
    assert (status, out) == (1, [])
    assert told.endswith("listen.a.url: this host has no address towards the outside")


SEALED = f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@127.0.0.1:0"\n'
NO_URLS = [
    pytest.param("socks", "listen.socks.url: only an ss:// listener has a URI", id="no ss"),
    pytest.param("a", "listen.a.url: port 0 is another one at every start", id="no fixed port"),
    pytest.param("b", "no such listener; there are socks, a", id="no such name"),
]


@pytest.mark.parametrize(("name", "message"), NO_URLS)
def test_some_listeners_have_no_uri(name, message, conf, run):
    conf(SOCKS + SEALED)
    status, out, (told,) = run("url", "-f", "geproxy.conf", name)
    assert (status, out) == (2, [])
    assert told.startswith(f"geproxy: geproxy.conf: {message}")


def test_url_tells_what_is_wrong_with_the_file(conf, run):
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@h:1"\nudp = 3\n')
    status, out, told = run("url", "-f", "geproxy.conf", "a")
    assert (status, out, len(told)) == (2, [], 2)


def test_qr_draws_the_uri_and_nothing_else(conf, run):
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@127.0.0.1:1"\n')
    _, (uri,), _ = run("url", "-f", "geproxy.conf", "a")
    expected = io.StringIO()
    segno.make_qr(uri).terminal(expected, compact=True)
    status, out, err = run("url", "-f", "geproxy.conf", "a", "--qr")
    assert (status, err) == (0, [])
    assert out == expected.getvalue().splitlines()


def test_qr_on_a_terminal_is_bright_on_black(conf, run, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@127.0.0.1:1"\n')
    _, out, _ = run("url", "-f", "geproxy.conf", "a", "--qr")
    assert out and all(re.fullmatch(r"\033\[97;40m[ █▀▄]+\033\[0m", line) for line in out)


def test_a_uri_may_be_too_long_to_draw(conf, run):
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{"x" * 3000}@127.0.0.1:1"\n')
    status, out, (told,) = run("url", "-f", "geproxy.conf", "a", "--qr")
    assert (status, out) == (1, [])
    assert told == "geproxy: the URI is too long for a QR code; print it without --qr"


def test_without_segno_qr_says_what_to_install(conf, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "segno", None)
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@127.0.0.1:1"\n')
    told = ["geproxy: --qr needs segno; run: pip install segno"]
    assert run("url", "-f", "geproxy.conf", "a", "--qr") == (1, [], told)


def test_a_check_prints_warnings_and_is_content(conf, run):
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@127.0.0.1:1"\n')
    status, out, (warning,) = run("-f", "geproxy.conf", "-t")
    assert (status, out) == (0, ["geproxy: geproxy.conf: the configuration is sound"])
    assert warning.startswith("geproxy: geproxy.conf: warning: listen.a.url: a password of fewer")
    assert warning.endswith("geproxy keygen aes-128-gcm")


def test_a_start_without_a_file_takes_one_way_out(monkeypatch):
    started = []
    monkeypatch.setattr(cli, "hide_arguments", lambda: started.append("hidden"))
    monkeypatch.setattr(cli, "run", lambda read, label: started.append(read()) or 0)
    way = f"ss://aes-128-gcm:{SECRET}@h"
    listen = ("--listen", "socks5://127.0.0.1:0", "--listen", "socks5://[::1]:0")
    assert cli.main([*listen, "--via", way]) == 0
    assert cli.main(["--via", way, *listen]) == 0
    assert started[0] == started[2] == "hidden"
    for found in (started[1], started[3]):
        assert [listen.via for listen in found.listen] == ["via1", "via1"]
        assert found.via[0].url == parse_peer_url(way)


MISUSES = [
    pytest.param(["--via", f"ss://aes-128-gcm:{SECRET}@h"], id="a way out and no way in"),
    pytest.param(["-f", "x", "--via", f"ss://aes-128-gcm:{SECRET}@h"], id="a way out and a file"),
    pytest.param(["keygen"], id="no cipher"),
    pytest.param(["url", "a"], id="no file"),
    pytest.param(["url", "-f", "x"], id="no name"),
]


@pytest.mark.parametrize("arguments", MISUSES)
def test_a_command_line_that_makes_no_sense_is_refused(arguments, run):
    told = ["geproxy: this command line is not understood; see geproxy --help"]
    assert run(*arguments) == (2, [], told)


def test_the_examples_are_two_ends_of_one_stream(tmp_path, run):
    for name in ("local.conf", "remote.conf"):
        shutil.copy(EXAMPLES / name, tmp_path)
    key_file = tmp_path / "geproxy.key"
    key_file.touch(0o600)
    _, (key,), _ = run("keygen", "aes-256-gcm")
    key_file.write_text(f"{key}\n")
    for name in ("local.conf", "remote.conf"):
        assert run("-f", str(tmp_path / name), "-t")[::2] == (0, [])
    local, remote = load(str(tmp_path / "local.conf")), load(str(tmp_path / "remote.conf"))
    assert local.listen[0].via == local.via[0].name
    assert local.via[0].url.peer.port == remote.listen[0].url.port
    assert local.via[0].secret == remote.listen[0].secret
    assert remote.listen[0].via == "direct"


CODE = """
import sys
from geproxy.cli import main

status = main(sys.argv[1:])
heavy = [name for name in sys.modules if name.split(".")[0] in ("gevent", "greenlet")]
sys.exit(f"{status} {heavy}" if status or heavy else 0)
"""


def fresh(*arguments, **options):
    """Run a command line in an interpreter of its own."""
    command = [sys.executable, "-c", CODE, *arguments]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
def test_no_subcommand_loads_gevent(conf, tmp_path):
    conf(f'[listen.a]\nurl = "ss://aes-128-gcm:{SECRET}@127.0.0.1:1"\n')
    path = str(tmp_path / "geproxy.conf")
    for arguments in (
        ["keygen", "aes-128-gcm"],
        ["url", "-f", path, "a", "--qr"],
        ["-f", path, "-t"],
    ):
        done = fresh(*arguments, stdout=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = fresh("keygen", "aes-128-gcm", stdout=full)
    assert done.stderr.splitlines()[0] == "geproxy: cannot write: No space left on device"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_key_that_keygen_printed_is_no_weak_password():
    for method in METHODS.values():
        url = parse_peer_url(f"ss://{method.name}:{generate_key(method)}@h")
        assert not url.sealing.guessable
