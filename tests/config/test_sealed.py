"""ss:// listeners and ways out in a configuration: their one secret, and where it may stand."""

from __future__ import annotations

import string
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geproxy.config.load import from_urls, load
from geproxy.config.sealing import ALPHABETS, Sealing, guess_bits
from geproxy.crypto.kdf import key_from_password
from geproxy.crypto.methods import AES_128_GCM, AES_256_GCM, decode_key, generate_key
from geproxy.crypto.secret import Secret
from geproxy.errors import ConfigError
from geproxy.terms import Endpoint

PASSWORD = "hunter2hunter2"
KEY_TEXT = generate_key(AES_128_GCM)
KEY = decode_key(KEY_TEXT, AES_128_GCM)
STRONG = "Zm9vYmFyQmF6UXV4MTIzNA"  # 22 letters and digits
SOCKS = '[listen.socks]\nurl = "socks5://127.0.0.1:1080"\n'
SEALED = "[listen.a]\nurl = 'ss://aes-128-gcm@:8388'\n"
RELAY = "[via.relay]\nurl = 'ss://aes-128-gcm@relay.example.net:8388'\n"


@pytest.fixture
def conf(tmp_path):
    """Write a configuration that others may read, and private files beside it."""

    def write(text, mode=0o644, **files):
        for name, content in files.items():
            (tmp_path / name).write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
            (tmp_path / name).chmod(0o640)
        path = tmp_path / "geproxy.conf"
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


def problems_of(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    told = str(caught.value) + repr(caught.value.problems)
    assert PASSWORD not in told and KEY_TEXT.rstrip("=") not in told
    return [str(problem) for problem in caught.value.problems]


def from_password(password, method=AES_128_GCM):
    return Secret(method, key_from_password(password, method.key_bytes))


SECRETS = [  # lines, the files beside, what is sealed with
    pytest.param(
        "key_file = 'k'", {"k": KEY_TEXT + "\n"}, Secret(AES_128_GCM, KEY), id="a key file"
    ),
    pytest.param(
        "key_file = 'k'", {"k": KEY_TEXT.rstrip("=")}, Secret(AES_128_GCM, KEY), id="no padding"
    ),
    pytest.param(
        "password_file = 'p'",
        {"p": "pass word\n"},
        from_password(b"pass word"),
        id="a password file",
    ),
    pytest.param(
        "password_file = 'p'", {"p": "pw\r\n"}, from_password(b"pw"), id="a line end of Windows"
    ),
    pytest.param(
        "password_file = 'p'",
        {"p": b"\xff\0:@ "},
        from_password(b"\xff\0:@ "),
        id="any bytes, no end",
    ),
    pytest.param(
        "password_file = ''\nkey_file = 'k'",
        {"k": KEY_TEXT},
        Secret(AES_128_GCM, KEY),
        id="what is off may be said",
    ),
]


@pytest.mark.parametrize(("lines", "files", "secret"), SECRETS)
def test_a_secret_may_stand_in_a_file(lines, files, secret, conf):
    found = load(conf(f"{SEALED}{lines}\nvia = 'relay'\n{RELAY}{lines}\n", **files))
    assert found.listen[0].secret == found.listen[0].url.sealing.secret == secret
    assert (found.listen[0].via, found.listen[0].users) == ("relay", None)
    relay = found.via[0]
    assert relay.secret == relay.url.sealing.secret == secret
    assert (relay.name, relay.url.peer) == ("relay", Endpoint("relay.example.net", 8388))


def test_a_secret_may_stand_in_the_url(conf):
    path = conf(
        f"[listen.a]\nurl = 'ss://AEAD_AES_256_GCM:{PASSWORD}@0.0.0.0'\n"
        f"[via.b]\nurl = 'ss://aes-128-gcm@192.0.2.7?key={KEY_TEXT}'\n",
        0o640,
    )
    found = load(path)
    assert found.listen[0].secret == from_password(PASSWORD.encode(), AES_256_GCM)
    assert found.via[0].secret == Secret(AES_128_GCM, KEY)
    assert found.via[0].url.peer == Endpoint(ip_address("192.0.2.7"), 8388)
    for hidden in (PASSWORD, KEY_TEXT, repr(KEY), repr(found.listen[0].secret.key)):
        assert hidden not in repr(found) + repr(found.warnings)


def test_key_files_start_at_the_configuration(conf, tmp_path, monkeypatch):
    path = conf(f"{SEALED}key_file = 'k'\n", k=KEY_TEXT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load(path).listen[0].key_file == str(tmp_path / "k")


MISSING = "the secret is missing: METHOD:PASSWORD@ in the URL, password_file or key_file"
FILES = {"k": KEY_TEXT, "p": PASSWORD, "empty": "\n", "lines": f"{PASSWORD}\nx\n", "open": KEY_TEXT}
WITH_PASSWORD = f"url = 'ss://aes-128-gcm:{PASSWORD}@127.0.0.1:1'\n"
WRONG = [  # text of the file, its problems
    pytest.param(SEALED, [f"listen.a.url: {MISSING}"], id="a listener without a secret"),
    pytest.param(f"{SOCKS}{RELAY}", [f"via.relay.url: {MISSING}"], id="a way without a secret"),
    pytest.param(
        f"[listen.a]\n{WITH_PASSWORD}key_file = 'k'",
        ["listen.a.key_file: url has the secret; one of them must go"],
        id="a password and a key file",
    ),
    pytest.param(
        f"[listen.a]\n{WITH_PASSWORD}password_file = 'p'\nkey_file = 'k'",
        [
            "listen.a.password_file: url has the secret; one of them must go",
            "listen.a.key_file: url has the secret; one of them must go",
        ],
        id="a secret in all three places",
    ),
    pytest.param(
        f"{SOCKS}{RELAY}key_file = 'k'\npassword_file = 'p'",
        ["via.relay.key_file: password_file has the secret; one of them must go"],
        id="both files",
    ),
    pytest.param(
        f"{SEALED}key_file = 'none'",
        ["listen.a.key_file: the file cannot be read: No such file or directory"],
        id="no key file",
    ),
    pytest.param(
        f"{SEALED}key_file = '.'",
        ["listen.a.key_file: the file cannot be read: Is a directory"],
        id="a folder",
    ),
    pytest.param(
        f"{SEALED}key_file = 3", ["listen.a.key_file: a text is wanted, not a number"], id="no path"
    ),
    pytest.param(
        f"{SEALED}password_file = 'empty'",
        ["listen.a.password_file: the password is empty"],
        id="an empty file",
    ),
    pytest.param(
        f"{SEALED}password_file = 'lines'",
        ["listen.a.password_file: the file holds more than one line; the password alone is wanted"],
        id="a file of lines",
    ),
    pytest.param(
        f"{SEALED}key_file = 'p'",
        ["listen.a.key_file: the key has 10 bytes; aes-128-gcm needs 16"],
        id="a password for a key",
    ),
    pytest.param(
        f"{SOCKS}[via.b]\nurl = 'ss://aes-256-gcm@h'\nkey_file = 'k'",
        ["via.b.key_file: the key has 16 bytes; aes-256-gcm needs 32"],
        id="a key of another cipher",
    ),
    pytest.param(
        f"{SEALED}key_file = 'lines'",
        ["listen.a.key_file: the key is not base64url"],
        id="a key file that holds none",
    ),
    pytest.param(
        f"{SEALED}key_file = 'open'",
        ["listen.a.key_file: the file holds secrets and its mode is 0644; it may be 0640 at most"],
        id="a key that others can read",
    ),
    pytest.param(
        f"{SEALED}key_file = 'k'\nusers = 'none'",
        ["listen.a.users: is not for ss://, where the key lets clients in"],
        id="users where the key is the proof",
    ),
    pytest.param(
        f"{SOCKS}key_file = 'k'\npassword_file = 'p'",
        [
            "listen.socks.password_file: is for ss:// alone, not socks5://",
            "listen.socks.key_file: is for ss:// alone, not socks5://",
        ],
        id="a key where users are the proof",
    ),
    pytest.param(
        "[listen.a]\nurl = 'ss://aes-128-gcm@:70000'\nkey_file = 'none'\nusers = 'none'",
        [
            "listen.a.url: port 70000 is not in 0..65535",
            "listen.a.key_file: the file cannot be read: No such file or directory",
            "listen.a.users: the file cannot be read: No such file or directory",
        ],
        id="a wrong URL and its files",
    ),
    pytest.param(
        f"{SOCKS}[listen.b]\nurl = 'ss://aes-128-gcm@:1080'\nkey_file = 'k'",
        ["listen.b.url: listen.socks has TCP port 1080 of this address already"],
        id="a port of another scheme",
    ),
    pytest.param(
        f"via = 3\n{SOCKS}", ["via: tables [via.NAME] are wanted, not a number"], id="no way"
    ),
    pytest.param(
        f"{SOCKS}[via]\nb = 1", ["via.b: a table [via.b] is wanted, not a number"], id="no table"
    ),
    pytest.param(
        f"{SOCKS}[via.b]",
        ['via.b.url: is missing; for example url = "ss://METHOD:PASSWORD@relay.example.net:8388"'],
        id="a way without a URL",
    ),
    pytest.param(
        f"{SOCKS}[via.direct]\nurl = 'ss://aes-128-gcm@h'\nkey_file = 'k'",
        ["via.direct: direct is built in; take another name"],
        id="the name of a way that exists",
    ),
    pytest.param(
        f"{SOCKS}[via.'a b']\nurl = 'ss://aes-128-gcm@h'\nkey_file = 'k'",
        ["via.'a b': a way out's name has 1 to 32 characters of A-Z a-z 0-9 _ -"],
        id="a space in a name",
    ),
    pytest.param(
        f"{SOCKS}[via.b]\nurl = 'socks5://h'",
        ["via.b.url: scheme socks5:// is not in this version"],
        id="a way of a later version",
    ),
    pytest.param(
        f"{SOCKS}[via.b]\nurl = 'ss://aes-128-gcm@h'\nkey_file = 'k'\nusers = 'u'\nudp = true",
        [
            "via.b.users: unknown key; known here: url, password_file, key_file",
            "via.b.udp: unknown key; known here: url, password_file, key_file",
        ],
        id="what is a listener's",
    ),
    pytest.param(
        f"{SOCKS}via = 'rely'\n{RELAY}key_file = 'k'",
        ["listen.socks.via: no such way out; there are direct, deny, relay"],
        id="a slip in the name of a way",
    ),
    pytest.param(
        f"{SOCKS}via = 'b'\n[via.b]\nurl = 'ss://aes-128-gcm@h:0'\nkey_file = 'k'",
        ["via.b.url: port 0 is not in 1..65535"],
        id="a wrong way has its name all the same",
    ),
]


@pytest.mark.parametrize(("text", "problems"), WRONG)
def test_what_is_wrong_is_said_under_its_key(text, problems, conf, tmp_path):
    path = conf(text, 0o600, **FILES)
    (tmp_path / "open").chmod(0o644)
    assert problems_of(path) == problems


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        pytest.param(f"[listen.a]\n{WITH_PASSWORD}", True, id="a password"),
        pytest.param(f"{SOCKS}[via.a]\n{WITH_PASSWORD}", True, id="a password of a way out"),
        pytest.param(
            f"[listen.a]\nurl = 'ss://aes-128-gcm@:1?key={KEY_TEXT}'", True, id="a raw key"
        ),
        pytest.param(f"{SEALED}key_file = 'k'\n", False, id="a key in its own file"),
    ],
)
def test_only_a_file_with_a_secret_is_kept_from_others(text, wrong, conf):
    path = conf(text, 0o644, k=KEY_TEXT)
    if wrong:
        (told,) = problems_of(path)
        assert told == "the file holds secrets and its mode is 0644; it may be 0640 at most"
    else:
        assert load(path).listen


def warning(key, method="aes-128-gcm"):
    return (
        f"{key}: a password of fewer than 128 bits may be guessed from one recorded connection; "
        f"a random key may not: geproxy keygen {method}"
    )


WARNINGS = [  # text of the file, its warnings
    pytest.param(
        f"[listen.a]\n{WITH_PASSWORD}[via.b]\nurl = 'ss://aes-256-gcm:x@h'\n",
        [warning("via.b.url", "aes-256-gcm"), warning("listen.a.url")],
        id="once for each key",
    ),
    pytest.param(
        f"{SEALED}password_file = 'p'", [warning("listen.a.password_file")], id="in a file"
    ),
    pytest.param(f"{SEALED}password_file = 'strong'", [], id="not of a strong password"),
    pytest.param(f"{SEALED}key_file = 'k'", [], id="not of a key"),
]


@pytest.mark.parametrize(("text", "warnings"), WARNINGS)
def test_a_password_of_little_entropy_is_taken_with_a_warning(text, warnings, conf):
    found = load(conf(text, 0o600, **FILES, strong=STRONG))
    assert [str(one) for one in found.warnings] == warnings
    assert PASSWORD not in repr(found.warnings)


@pytest.mark.parametrize(
    ("password", "strong"),
    [
        pytest.param(STRONG, True, id="22 letters and digits"),
        pytest.param(STRONG[:-1], False, id="21 of them"),
        pytest.param(KEY_TEXT, True, id="a key that was printed by keygen"),
        pytest.param("0123456789" * 9, False, id="ten digits over and over"),
        pytest.param("31415926535897932384626433832795028841", False, id="38 digits"),
        pytest.param("314159265358979323846264338327950288419", True, id="39 digits"),
        pytest.param("é" * 100, False, id="one letter of two bytes"),
    ],
)
def test_strength_is_length_times_alphabet(password, strong):
    assert Sealing(AES_128_GCM, password.encode()).guessable is not strong


def test_the_alphabets_are_all_bytes_once():
    assert [len(alphabet) for alphabet in ALPHABETS] == [26, 26, 10, 33, 161]
    assert sorted(byte for alphabet in ALPHABETS for byte in alphabet) == list(range(256))


@given(st.binary() | st.text(string.printable).map(str.encode))
def test_an_estimate_is_never_above_eight_bits_a_byte(password):
    assert 0 <= guess_bits(password) <= 8 * len(password)


def test_urls_of_a_command_line_go_by_its_way_out():
    found = from_urls(
        ["socks5://127.0.0.1:0", "ss://aes-128-gcm:hunter2@:0"], "ss://aes-128-gcm:hunter2@h"
    )
    assert [listen.via for listen in found.listen] == ["via1", "via1"]
    assert [(via.name, via.url.masked()) for via in found.via] == [
        ("via1", "ss://aes-128-gcm:***@h:8388")
    ]
    assert [one.key for one in found.warnings] == ["via.via1.url", "listen.listen2.url"]
    assert "hunter2" not in repr(found)


def test_without_a_way_out_they_go_directly():
    found = from_urls(["socks5://127.0.0.1:0"])
    assert (found.listen[0].via, found.via, found.warnings) == ("direct", (), ())


def test_a_wrong_way_out_of_a_command_line_is_told():
    with pytest.raises(ConfigError) as caught:
        from_urls(["socks5://127.0.0.1:0"], "ss://aes-128-gcm:hunter2@h:0")
    assert [str(one) for one in caught.value.problems] == [
        "via.via1.url: port 0 is not in 1..65535"
    ]
