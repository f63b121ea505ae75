"""What users read is what the program does: README, CHANGES, the manual, the shipped file.

The manual is read as mdoc(7) source: sections begin with .Sh and .Ss, entries with .It.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from docopt import docopt

from geproxy import VERSION, cli, errors
from geproxy.commands import speech
from geproxy.commands.control import CONTROLS
from geproxy.config import listfile, names, settings, url, userfile
from geproxy.config.load import load
from geproxy.config.sealing import STRONG_BITS
from geproxy.crypto.methods import (
    AES_256_GCM,
    ALIASES,
    CHACHA20_POLY1305,
    METHODS,
    decode_key,
    generate_key,
)
from geproxy.crypto.password import hash_password
from geproxy.ending import report
from geproxy.inbound.socks4 import Socks4Request
from geproxy.net import datagram, dial, namecache, resolver, systemlookup
from geproxy.net.budget import Budget
from geproxy.net.forward import HEAD_SECONDS
from geproxy.net.turns import GREED
from geproxy.observe.log import LEVELS
from geproxy.observe.record import Record
from geproxy.policy import ranges
from geproxy.process.generation import READY_SECONDS
from geproxy.process.master import ACTIONS
from geproxy.process.pidfile import PIDFILE_MODE
from geproxy.process.remote import STOP_EXTRA_SECONDS
from geproxy.process.shared import DATAGRAM_SALTS, SALTS
from geproxy.process.start import DAEMON_PIDFILE, UMASK
from geproxy.relay.associations import FORGET_SECONDS
from geproxy.relay.datagram import WAITING_NAMES, Association
from geproxy.relay.mappings import CHANCES, MAPPINGS
from geproxy.relay.queue import WAITING_BYTES, WAITING_DATAGRAMS
from geproxy.seams import Route
from geproxy.site import PEER_SALTS
from geproxy.terms import Command, Endpoint, Filtering, plain_address
from geproxy.wire import fragments
from geproxy.wire.socks4 import ResultCode
from geproxy.wire.socks5 import Rep
from tests.support import memory, peers
from tests.support.logs import open_log

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHANGES = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROGRAM_PAGE = ROOT / "man" / "geproxy.8"
SETTINGS_PAGE = ROOT / "man" / "geproxy.conf.5"
SIGNALS = {number.name.removeprefix("SIG") for number in ACTIONS}


# -- reading the manual ------------------------------------------------------------------------


def source(page: Path) -> str:
    """The page with the escapes undone that do not matter here."""
    return page.read_text(encoding="utf-8").replace("\\&", "").replace("\\e", "\\")


def section(page: Path, title: str, macro: str = "Sh") -> str:
    """One section of *page*, or with macro "Ss" one subsection, without its title."""
    ends = r"\.Sh " if macro == "Sh" else r"\.S[hs] "
    parts = re.split(rf"^\.{macro} {re.escape(title)}$", source(page), flags=re.M)
    assert len(parts) == 2, f"{page.name} has no single section {title}"
    return re.split(f"^{ends}", parts[1], flags=re.M)[0]


def entries(text: str) -> dict[str, str]:
    """Every entry of the lists in *text*: what .It says, and the lines below it."""
    blocks = re.split(r"^\.It", text.replace("\n.El", "\n.It\n"), flags=re.M)[1:]
    pairs = [block.partition("\n") for block in blocks]
    return {head.strip(): body for head, _, body in pairs if head.strip()}


def first_list(text: str) -> str:
    """*text* up to the end of its first list."""
    return text.partition("\n.El")[0] + "\n.El\n"


def words_after(macro: str, text: str) -> set[str]:
    """The words that lines of this macro hold, without the punctuation between them."""
    lines = re.findall(rf"^\.{macro} (.*)$", text, flags=re.M)
    return {word for line in lines for word in line.split() if word not in (",", ".", ";", ":")}


def literals(text: str) -> list[str]:
    """The literal displays of *text*."""
    return re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed$", text, flags=re.M | re.S)


# -- reading the code --------------------------------------------------------------------------


def functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    for path in sorted((ROOT / "geproxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield path, node


def values_of(node: ast.expr, function: ast.FunctionDef) -> list[ast.expr]:
    """What *node* may be: itself, or all that *function* assigns to it; both arms of an if."""
    if isinstance(node, ast.IfExp):
        return values_of(node.body, function) + values_of(node.orelse, function)
    if not isinstance(node, ast.Name):
        return [node]
    return [
        value
        for statement in ast.walk(function)
        if isinstance(statement, ast.Assign)
        and any(isinstance(one, ast.Name) and one.id == node.id for one in statement.targets)
        for value in values_of(statement.value, function)
    ]


def texts_of(node: ast.expr, function: ast.FunctionDef) -> set[str]:
    values = values_of(node, function)
    return {str(ast.literal_eval(value)) for value in values if isinstance(value, ast.Constant)}


def keys_of(node: ast.expr, function: ast.FunctionDef) -> set[str]:
    dicts = [value for value in values_of(node, function) if isinstance(value, ast.Dict)]
    return {str(ast.literal_eval(key)) for one in dicts for key in one.keys if key is not None}


@lru_cache(maxsize=1)
def events_of_the_code() -> dict[str, tuple[set[str], set[str]]]:
    """Levels and fields of each event: log.info(EVENT, …), and what observe/ writes itself."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path, function in functions():
        for call in ast.walk(function):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            name, arguments = call.func.attr, call.args
            if name in LEVELS and arguments:
                levels, events = {name}, texts_of(arguments[0], function)
                fields = {keyword.arg for keyword in call.keywords if keyword.arg}
                assert events, f"{path.name}:{call.lineno}: an event without a fixed name"
            elif name in ("put", "encode") and len(arguments) == 3:
                levels, events = texts_of(arguments[0], function), texts_of(arguments[1], function)
                fields = keys_of(arguments[2], function)
            else:
                continue
            for event in events:
                known_levels, known_fields = found.setdefault(event, (set(), set()))
                known_levels |= levels
                known_fields |= fields
    return found


def setup_argument(name: str) -> object:
    """One argument of setup() in setup.py, which is not run."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    keywords = [
        one for node in ast.walk(tree) if isinstance(node, ast.Call) for one in node.keywords
    ]
    return ast.literal_eval(next(one.value for one in keywords if one.arg == name))


# -- reading README ----------------------------------------------------------------------------


def chapter(title: str) -> str:
    return re.split(r"^## ", README.split(f"\n## {title}\n")[1], flags=re.M)[0]


def first_cells(text: str) -> list[str]:
    """The first cell of every table row, heads left out."""
    rows = re.findall(r"^\| *([^|]*?) *\|.*\|$", text, flags=re.M)
    return [row for row in rows if row not in ("package", "signal", "status", "room", "---")]


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def commands_shown() -> list[str]:
    """Every command line of geproxy that README or the manual shows."""
    lines = "".join(fenced("sh")).replace("\\\n", "").splitlines()
    for page in (PROGRAM_PAGE, SETTINGS_PAGE):
        lines += re.findall(r"^\.Dl (.*)$", source(page), flags=re.M)
    return re.findall(
        r"^(?:\(umask 077; )?(?:bin/)?(geproxy [^<>)\n]*[^<>)\s])", "\n".join(lines), flags=re.M
    )


def make_files(folder: Path) -> None:
    """The users, keys, passwords and lists that README and the manual have somebody make first."""
    (folder / "blocklist").write_text("0.0.0.0 ads.example\n", encoding="utf-8")
    (folder / "offices").write_text("192.168.1.0/24\n", encoding="utf-8")
    userfile.store(str(folder / "users"), "alice", hash_password(b"correct horse battery"))
    for name, method in (("geproxy.key", AES_256_GCM), ("phones.password", CHACHA20_POLY1305)):
        (folder / name).touch(0o600)
        (folder / name).write_text(f"{generate_key(method)}\n", encoding="utf-8")


def with_an_account_of_every_machine(text: str) -> str:
    """The same configuration for workers that become nobody: geproxy is still to be made."""
    return text.replace('user = "geproxy"', 'user = "nobody"')


# -- the command line --------------------------------------------------------------------------


def rendered(form: str) -> str:
    """One form of the synopsis, as docopt would have it."""
    for pattern, plain in ((r"^\.Op (.*)$", r"[\1]"), (r"^\.Brq (.*)$", r"(\1)"), (r"^\.", "")):
        form = re.sub(pattern, plain, form, flags=re.M)
    text = re.sub(r"\b(Ar|Cm|No) ", "", form.replace("Fl Fl ", "--").replace("Fl ", "-"))
    return " ".join(f"geproxy {text}".lower().split()).replace(" ...", "...")


def test_the_synopsis_is_the_usage_text():
    usage = cli.__doc__.partition("Usage:\n")[2].partition("\n\n")[0]
    synopsis = section(PROGRAM_PAGE, "SYNOPSIS").split(".Nm\n")[1:]
    wanted = [" ".join(line.lower().split()) for line in usage.splitlines()]
    assert [rendered(form) for form in synopsis] == wanted


def test_the_manual_explains_every_option_and_no_other():
    asked = set(re.findall(r"(?<![\w-])--?[a-z]+", cli.__doc__.partition("Options:")[2]))
    heads = [head for head in entries(section(PROGRAM_PAGE, "DESCRIPTION")) if "Fl" in head]
    options = [head for head in heads if not head.startswith("Cm")]
    told = {
        "-" * match[1].count("Fl") + match[2]
        for head in options
        for match in re.finditer(r"((?:Fl )+)(\w+)", head)
    }
    assert told == asked


def test_the_manual_explains_every_subcommand_and_no_other():
    usage = cli.__doc__.partition("Usage:\n")[2].partition("\n\n")[0]
    subcommands = set(re.findall(r"^  geproxy ([a-z]+)", usage, flags=re.M)) | set(CONTROLS)
    assert f"geproxy ({' | '.join(CONTROLS)}) -f FILE\n" in usage
    heads = entries(section(PROGRAM_PAGE, "DESCRIPTION"))
    assert {head.split()[1] for head in heads if head.startswith("Cm ")} == subcommands


@pytest.mark.parametrize("line", commands_shown())
def test_every_command_shown_is_one_that_the_program_understands(line):
    docopt(cli.__doc__, shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([int(row) for row in first_cells(chapter("Exit status"))], id="README"),
        pytest.param([int(head) for head in entries(section(PROGRAM_PAGE, "EXIT STATUS"))], id="8"),
        pytest.param(
            [int(digit) for digit in re.findall(r"\d", cli.__doc__.partition("Exit status:")[2])],
            id="help",
        ),
    ],
)
def test_every_exit_status_is_told(told):
    statuses = [speech.DONE, speech.COULD_NOT_RUN, speech.WRONG, speech.STATUS_NOT_RUNNING]
    assert told == statuses


# -- settings ----------------------------------------------------------------------------------


def documented_settings() -> dict[str, tuple[str, str]]:
    """Every setting of geproxy.conf(5) by its full key: the default as TOML, and its text."""
    found = {}
    for table in settings.TABLES:
        title = f"[[{table}]]" if table == "rule" else f"[{table}]"
        for head, body in entries(section(SETTINGS_PAGE, title, "Ss")).items():
            name, _, default = head.removeprefix("Ic ").partition(" No = ")
            if default.startswith("Qq"):
                default = f'"{default[3:]}"'
            found[f"{table}.{name}"] = (default, body)
    return found


DOCUMENTED = documented_settings()


def test_the_manual_has_every_setting_in_order_and_no_other():
    assert list(DOCUMENTED) == list(settings.catalogue())


@pytest.mark.parametrize("key", settings.catalogue())
def test_the_manual_has_the_default_of(key):
    default = settings.catalogue()[key].default
    told = DOCUMENTED[key][0]
    assert told == "" if default is None else tomllib.loads(f"it = {told}")["it"] == default


def accepts(key: str, value: object) -> bool:
    try:
        settings.catalogue()[key].read(value)
    except ValueError:
        return False
    return True


NUMBERS = [
    key
    for key, how in settings.catalogue().items()
    if accepts(key, 1) and not isinstance(how.default, bool)
]


@pytest.mark.parametrize("key", NUMBERS)
def test_the_manual_has_the_range_of(key):
    text = DOCUMENTED[key][1]
    bounds = re.match(r"(Seconds|A whole number), (?:(\d+) to|more than (0), at most) (\d+)", text)
    assert bounds is not None, f"begin with the kind and the range, not: {text}"
    high = int(bounds[4])
    low = 0 if bounds[2] is None else int(bounds[2])
    assert accepts(key, high)
    assert not accepts(key, high + 1)
    assert not accepts(key, low - 1)
    assert accepts(key, low) is (bounds[3] is None)
    assert accepts(key, 1.5) is (bounds[1] == "Seconds")


@pytest.mark.parametrize(
    "key", [key for key, (_, text) in DOCUMENTED.items() if text.startswith("One of")]
)
def test_the_manual_has_every_word_for(key):
    told = words_after("Qq", DOCUMENTED[key][1])
    if key in ("listen.NAME.via", "rule.action"):  # which ways out there are, the loader checks
        assert told == set(settings.BUILT_IN_VIAS)
        return
    assert all(accepts(key, word) for word in told)
    with pytest.raises(ValueError) as caught:
        settings.catalogue()[key].read("no such word")
    assert set(re.findall(r"[\w-]+", str(caught.value))) == told | {"one", "of", "is", "wanted"}


def test_the_manual_has_every_command_that_a_rule_can_name():
    assert words_after("Qq", DOCUMENTED["rule.command"][1]) == {one.value for one in Command}


def test_every_choice_is_told_as_one():
    choices = {
        key
        for key, how in settings.catalogue().items()
        if isinstance(how.default, str) and how.words is None and not accepts(key, "no such word")
    }
    choices -= {"server.workers"}  # a word or a number
    choices -= {f"listen.NAME.{name}" for name in ("udp_address", "udp_ports", "target")}
    assert "listen.NAME.udp_filtering" in choices
    assert {k for k, (_, text) in DOCUMENTED.items() if text.startswith("One of")} >= choices


def test_the_manual_names_what_later_versions_have():
    later = {name for names in settings.NOT_YET.values() for name in names}
    assert words_after("Ql", section(SETTINGS_PAGE, "Not in this version", "Ss")) == later


def test_the_manual_has_every_range_that_is_not_public():
    text = "".join(literals(section(SETTINGS_PAGE, "WHAT CLIENTS MAY REACH")))
    rows = re.findall(r"^([0-9a-f.:]+/\d+)", text, flags=re.M)
    but_for = re.findall(r"[0-9a-f.:]+/\d+", "".join(re.findall(r"^ .*\n", text, flags=re.M)))
    assert rows == [*ranges.NON_PUBLIC_IPV4, *ranges.NON_PUBLIC_IPV6]
    assert but_for == [*ranges.PUBLIC_WITHIN_IPV4, *ranges.PUBLIC_WITHIN_IPV6]


# Where README says that its tables go; the others are whole.
INTO = {
    "lan": "etc/geproxy.conf",
    "phones": "etc/examples/remote.conf",
    "dns": "etc/examples/local.conf",
}
CONFIGURATIONS = [
    *(
        pytest.param(text, INTO.get(name), id=f"README {name}")
        for text in fenced("toml")
        for name in re.findall(r"\A\[listen\.(\w+)\]$", text, flags=re.M)
    ),
    *(
        pytest.param(text, None, id=f"geproxy.conf.5 {number}")
        for number, text in enumerate(literals(section(SETTINGS_PAGE, "EXAMPLES")), start=1)
    ),
]


def test_every_configuration_of_readme_is_tried():
    tried = [one.values[0] for one in CONFIGURATIONS if str(one.id).startswith("README")]
    assert tried == fenced("toml")
    assert all(f"`{file}`" in README for file in INTO.values())


def test_the_manual_has_the_limits_of_list_files():
    text = section(SETTINGS_PAGE, "LIST FILES")
    assert f"the first {listfile.TOLD_LINES} are named" in text
    assert f"at most {listfile.FILE_MAX_BYTES >> 20} MiB" in text
    assert f"there may be {names.ALIKE_MAX} that" in text
    assert set(re.findall(r"^\.Ql (\w\S+)", text, flags=re.M)) >= {
        name for name in listfile.OWN_NAMES if name[0].isalpha() and not name.startswith("ip6-")
    }


@pytest.mark.parametrize(("text", "into"), CONFIGURATIONS)
def test_every_configuration_shown_is_sound(text, into, tmp_path):
    if into is not None:
        text = (ROOT / into).read_text(encoding="utf-8") + text
    make_files(tmp_path)
    text = with_an_account_of_every_machine(text)
    (tmp_path / "geproxy.conf").write_text(text, encoding="utf-8")
    found = load(str(tmp_path / "geproxy.conf"))
    assert found.warnings == ()
    for listen in found.listen:
        guards = (listen.users, listen.secret, listen.target)
        letting = [rule for rule in found.rule if rule.client and rule.action != "deny"]
        assert listen.url.loopback or letting or any(guard is not None for guard in guards)
        assert not listen.open


def test_the_shipped_configuration_passes_the_check_of_the_program():
    done = subprocess.run(
        [ROOT / "bin" / "geproxy", "-f", "etc/geproxy.conf", "-t"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_shipped_configuration_says_what_has_no_effect_yet():
    text = (ROOT / "etc" / "geproxy.conf").read_text(encoding="utf-8")
    silent = set(re.findall(r"^(\w+) = .*no effect yet$", text, flags=re.M))
    told = {key for key, (_, body) in DOCUMENTED.items() if "Without effect" in body}
    assert silent == {key.rpartition(".")[2] for key in told}


# -- the sealed relay --------------------------------------------------------------------------


def test_the_manual_has_every_method_with_its_names_and_its_size():
    told = entries(section(SETTINGS_PAGE, "Shadowsocks", "Ss").partition("the methods.")[2])
    told = {head.removeprefix("Li "): body for head, body in told.items()}
    sizes = {name: int(re.findall(r"has (\d+) bytes", body)[0]) for name, body in told.items()}
    assert sizes == {method.name: method.key_bytes for method in METHODS.values()}
    others = {o.lower(): name for name, body in told.items() for o in words_after("Ql", body)}
    assert others == {alias: method.name for alias, method in ALIASES.items()}


def test_every_form_of_url_in_the_manual_is_understood():
    heads = entries(section(SETTINGS_PAGE, "Shadowsocks", "Ss").partition("the methods.")[0])
    forms = ["".join(w for w in head.split() if w not in ("Li", "Ar", "Ns")) for head in heads]
    key, password = generate_key(AES_256_GCM), "a:b"
    userinfo, where = f"{AES_256_GCM.name}:{password}", "127.0.0.1:1"
    found = []
    for form in forms:
        shown = userinfo if "@" in form else f"{userinfo}@{where}"
        for word, value in (
            ("base64", base64.urlsafe_b64encode(shown.encode()).decode()),
            ("?key=key", f"?key={key}"),
            ("method", AES_256_GCM.name),
            ("password", password),
            ("host:port", where),
        ):
            form = form.replace(word, value)
        parsed = url.parse_peer_url(f"{form}{'&' if '?' in form else '?'}other=1#tag")
        assert str(parsed.peer) == where
        found.append((parsed.sealing.method, parsed.sealing.password, parsed.sealing.key))
    with_password, nothing = (AES_256_GCM, password.encode(), None), (AES_256_GCM, None, None)
    with_key = (AES_256_GCM, None, decode_key(key, AES_256_GCM))
    assert found == [with_password] * 3 + [with_key, nothing]


def flat(text: str) -> str:
    """*text* as one line, without the macros at the lines' beginnings."""
    return " ".join(re.sub(r"^\.[A-Z][a-z] ", "", text, flags=re.M).split())


@pytest.mark.parametrize(
    ("title", "fact"),
    [
        pytest.param(
            "Hosts and ports",
            f"{url.DEFAULT_PORTS['socks5']} for mixed://, socks5:// and socks4://, and "
            f"{url.DEFAULT_PORTS['ss']} for ss://",
            id="default ports",
        ),
        pytest.param("Passwords and keys", f"fewer than {STRONG_BITS} bits", id="weak passwords"),
        pytest.param(
            "What clients are told", f"{HEAD_SECONDS * 1000:g} milliseconds", id="first bytes"
        ),
        pytest.param("Replays", f"about 2^{SALTS.bit_length() - 1} salts", id="salts"),
        pytest.param(
            "Datagrams", f"about 2^{DATAGRAM_SALTS.bit_length() - 1} of them", id="datagrams' salts"
        ),
        pytest.param(
            "Datagrams",
            f"the last 2^{PEER_SALTS.bit_length() - 1} datagrams of each peer",
            id="salts of a peer",
        ),
        pytest.param(
            "Associations",
            f"up to {fragments.POSITION} of them, in order, within "
            f"{fragments.REASSEMBLY_SECONDS:g} seconds and to {fragments.MAX_DATA_BYTES} bytes",
            id="fragments",
        ),
        pytest.param(
            "Names",
            f"up to {WAITING_DATAGRAMS} datagrams and {WAITING_BYTES // 1024} KiB wait for each "
            f"name, and up to {WAITING_NAMES} names",
            id="what waits for names",
        ),
        pytest.param("Names", f"every {FORGET_SECONDS:g} seconds", id="names anew"),
        pytest.param(
            "[resolver]",
            f"waited for {resolver.RESOLUTION_DELAY_SECONDS * 1000:g} ms more (RFC 8305)",
            id="the other family",
        ),
        pytest.param(
            "[resolver]",
            f"after {resolver.STALE_AFTER_SECONDS:g} seconds of waiting already",
            id="stale addresses",
        ),
        pytest.param(
            "[resolver]",
            f"looks up {systemlookup.THREADS // 2} names at once in both families, and no client "
            f"alone can have more than {systemlookup.THREADS // 2 * GREED // (GREED + 1)} of "
            f"them; {resolver.WAITING_LIMIT} more wait",
            id="look-ups at once",
        ),
        pytest.param(
            "[resolver]",
            f"remembered for {namecache.FAILURE_SECONDS:g} seconds",
            id="failures",
        ),
        pytest.param(
            "[resolver]",
            f"asked for again after {namecache.RECHECK_SECONDS:g} seconds",
            id="failures made up for",
        ),
        pytest.param(
            "Clients without a connection",
            f"room for {MAPPINGS} of them per listener and worker; beyond that, the one of the "
            f"{CHANCES} oldest",
            id="UDP clients",
        ),
    ],
)
def test_numbers_of_the_manual_are_those_of_the_code(title, fact):
    assert fact in flat(section(SETTINGS_PAGE, title, "Ss"))


@pytest.mark.parametrize(
    ("page", "title", "fact"),
    [
        pytest.param(
            PROGRAM_PAGE,
            "DESCRIPTION",
            f"still {STOP_EXTRA_SECONDS:g} seconds after drain_seconds",
            id="how long stop waits",
        ),
        pytest.param(
            PROGRAM_PAGE, "SIGNALS", f"ready within {READY_SECONDS:g} seconds", id="ready in time"
        ),
        pytest.param(PROGRAM_PAGE, "FILES", DAEMON_PIDFILE, id="the daemon's pidfile"),
        pytest.param(PROGRAM_PAGE, "SECURITY CONSIDERATIONS", f"(umask {UMASK:03o})", id="umask"),
        pytest.param(SETTINGS_PAGE, "DESCRIPTION", DAEMON_PIDFILE, id="the default of pidfile"),
        pytest.param(SETTINGS_PAGE, "DESCRIPTION", f"mode {PIDFILE_MODE:04o}", id="its mode"),
    ],
)
def test_numbers_about_the_daemon_are_those_of_the_code(page, title, fact):
    assert fact in flat(section(page, title))


# The flags of main.go, go-shadowsocks2 e1fe9ea.
GO_SHADOWSOCKS2 = (
    *("verbose", "cipher", "key", "keygen", "password", "s", "c", "socks", "u", "redir", "redir6"),
    *("tcptun", "udptun", "plugin", "plugin-opts", "udp", "tcp", "tcpcork", "udptimeout"),
)


def flag_table() -> list[list[str]]:
    rows = re.findall(r"^\| (.*) \|$", chapter("Coming from another Shadowsocks"), flags=re.M)
    return [[cell.strip() for cell in row.split("|")] for row in rows[1:]]


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def flags_told(column: int) -> set[str]:
    words = [word for row in flag_table() for word in spans(row[column])]
    return {word for word in words if word.startswith("-")}


def test_readme_maps_every_flag_of_go_shadowsocks2():
    assert flags_told(1) == {f"-{name}" for name in GO_SHADOWSOCKS2}


def test_readme_maps_every_flag_of_shadowsocks_libev():
    known = set()
    for program in map(peers.find, ("ss-local", "ss-server", "ss-tunnel")):
        done = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=30)
        for line in re.findall(r"^ {7}\[?(-[^<\]\n]+)", done.stdout, flags=re.M):
            known |= set(re.findall(r"(?:^|(?<=[ ,]))--?[\w-]+", line.split("  ")[0]))
    assert {"-s", "-L", "--acl", "-h", "--help", "--manager-address"} <= known
    assert flags_told(2) - {"--password"} == known  # that one its usage text does not have


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row[0]) for row in flag_table() if "`" in row[3]]
)
def test_what_readme_says_in_their_place_is_understood(row, tmp_path):
    shown = spans(row[3])
    for line in shown:
        if line.startswith("geproxy "):
            docopt(cli.__doc__, line.split()[1:], default_help=False)
    # A setting is shown behind its table, or behind another one of it.
    lines = [re.sub(r"^(\[.*?\]) ", r"\1\n", line) for line in shown if " = " in line]
    text = with_an_account_of_every_machine("\n".join(lines)).replace("FILE", "file")
    if "[via.NAME]" in text and "url" not in text:
        text += '\nurl = "ss://aes-256-gcm@relay.example.net"'
    if 'via = "NAME"' in text:
        text += '\n[via.NAME]\nurl = "ss://aes-256-gcm:PASSWORD@relay.example.net"'
    if "[listen.NAME]" in text and "url" not in text:
        text += '\nurl = "socks5://127.0.0.1:1080"'
    if "[listen.NAME]" not in text:
        text += '\n[listen.NAME]\nurl = "socks5://127.0.0.1:1080"'
    for name, content in (("geproxy.conf", text), ("file", generate_key(AES_256_GCM))):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(content, encoding="utf-8")
    load(str(tmp_path / "geproxy.conf"))


# -- signals, events, codes --------------------------------------------------------------------


def test_the_manual_has_every_signal_and_no_other():
    heads = entries(first_list(section(PROGRAM_PAGE, "SIGNALS")))
    assert {name for head in heads for name in re.findall(r"[A-Z0-9]{3,}", head)} == SIGNALS


def test_readme_has_every_signal_and_no_other():
    rows = first_cells(chapter("Signals to the master"))
    assert {name for row in rows for name in row.split(", ")} == SIGNALS


def documented_events() -> dict[str, tuple[set[str], set[str]]]:
    text = section(PROGRAM_PAGE, "LOG").partition("\n.Ss ")[0]
    found = {}
    for head, body in entries(text).items():
        event, level = head.removeprefix("Sy ").split(" Pq ")
        found[event] = ({level}, words_after("Va", body))
    return found


EVENTS = {event: fields for event, (_, fields) in documented_events().items()}


def test_the_manual_has_every_event_and_no_other():
    assert sorted(documented_events()) == sorted(events_of_the_code())


def test_events_stand_in_the_order_of_the_alphabet():
    assert list(documented_events()) == sorted(documented_events())


@pytest.mark.parametrize("event", sorted(set(events_of_the_code()) - {"session.end"}))
def test_the_manual_has_level_and_fields_of(event):
    assert documented_events()[event] == events_of_the_code()[event]


CLIENTS = [
    pytest.param("192.0.2.7", id="IPv4"),
    pytest.param("2001:db8::7", id="IPv6"),
]


def failed_login(client: str, user: str, form: str, folder: Path) -> list[str]:
    """The lines that the program writes when *user* of *client* gave a wrong password."""
    log = open_log(str(folder / "log"), "", "info", form)
    record = Record("lan", Endpoint(plain_address(client), 51022))
    report(record, errors.AuthenticationError("wrong password", user), log)
    log.close()
    return (folder / "log").read_text(encoding="utf-8").splitlines()


def association() -> Association:
    """One that has moved nothing yet."""

    def decide(target: Endpoint) -> Route:
        raise errors.DeniedError(f"{target}: nobody sends here")

    def reply(head: bytes, data: bytes) -> None:
        raise errors.DropError("early")

    def ended(error: Exception) -> None:
        raise error

    return Association(plain_address("192.0.2.7"), decide, reply, Filtering.NONE, ended, Budget(0))


def fields_of(record: Record, error: errors.GeproxyError | None, folder: Path) -> list[str]:
    """What the line of a session that *record* tells of holds, in order."""
    log = open_log(str(folder / "log"), "", "info", "json")
    record.write(log, error)
    log.close()
    written = json.loads((folder / "log").read_text(encoding="utf-8").splitlines()[-1])
    return [name for name in written if name not in ("time", "level", "event")]


def a_record() -> Record:
    return Record("lan", Endpoint(plain_address("192.0.2.7"), 51022))


def test_the_manual_has_every_field_of_a_session_in_order(tmp_path):
    record = a_record()
    record.relayed(association())
    stream, _ = memory.memory_pair()
    record.asked(Socks4Request(stream, "bob", Command.CONNECT, Endpoint("example.com", 80)))
    fields = fields_of(record, errors.DeniedError("no"), tmp_path)
    text = section(PROGRAM_PAGE, "LOG").partition("\n.It Sy session.end ")[2]
    told = re.findall(r"\w+", text.partition("Fields:\n")[2].partition(".It ")[0])
    assert [word for word in told if word != "Va"] == fields
    assert EVENTS["session.end"] >= set(fields)


def test_readme_shows_sessions_as_they_are_written(tmp_path):
    lines = [one for one in README.splitlines() if " info session.end " in one]
    tcp, udp = a_record(), a_record()
    udp.relayed(association())
    written = [fields_of(record, None, tmp_path) for record in (tcp, udp)]
    assert [re.findall(r" (\w+)=", line) for line in lines] == written


def test_the_manual_has_every_reason_for_which_datagrams_are_dropped():
    codes = set(datagram._DROP_CODES.values())
    for _, function in functions():
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "DropError":
                codes |= texts_of(call.args[0], function)
    # What policy, the resolver, a peer's seal and the opening of a port have to say.
    codes |= {kind.code for kind in (errors.DeniedError, errors.LimitError, errors.ProtocolError)}
    codes |= {errors.AuthenticationError.code, errors.ReplayError.code}
    codes |= {errors.ResolveError("").code, errors.GeproxyError.code, "unreachable"}
    told = [
        head.removeprefix("Sy ")
        for head in entries(section(PROGRAM_PAGE, "Dropped datagrams", "Ss"))
    ]
    assert told == sorted(codes)
    shown = re.findall(r"dropped=(\S+)", README)
    assert {pair.partition(":")[0] for one in shown for pair in one.split(",")} <= codes


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "user",
    [
        pytest.param("alice", id="a plain name"),
        pytest.param("x client=8.8.8.8:1 ", id="a name that plays a field"),
        pytest.param("x\n2026-11-22T00:00:00.000Z warning auth.fail", id="a name of two lines"),
    ],
)
def test_the_filter_for_fail2ban_finds_the_client_and_nothing_else(client, user, tmp_path):
    shown = next(line for block in fenced("ini") for line in block.splitlines() if "<ADDR>" in line)
    assert shown in "".join(literals(section(PROGRAM_PAGE, "EXAMPLES"))).splitlines()
    # What fail2ban makes of it: the address is a group, the line comes without its time.
    pattern = shown.partition("= ")[2].replace("<ADDR>", r"(?P<address>[0-9A-Fa-f.:]+?)")
    lines = failed_login(client, user, "text", tmp_path)
    hits = [re.search(pattern, line.partition("Z")[2]) for line in lines]
    assert [hit["address"] for hit in hits if hit] == [client]


def kinds_of(kind: type[errors.GeproxyError]) -> Iterator[type[errors.GeproxyError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from kinds_of(narrower)


def test_the_manual_has_every_code_of_a_session_and_no_other():
    # These two end a start, never a session; a DialError has the code of its row in the table.
    ours = {kind for kind in kinds_of(errors.GeproxyError) if kind.__module__ == errors.__name__}
    codes = {kind.code for kind in ours - {errors.ConfigError, errors.StartError}}
    codes |= {code for code, _ in dial.ERRNO_OUTCOMES.values()}
    codes |= {"ok", errors.ResolveError("").code}
    told = entries(section(PROGRAM_PAGE, "Codes", "Ss"))
    assert sorted(head.removeprefix("Sy ") for head in told) == sorted(codes)


def test_the_manual_has_every_reply():
    told = entries(section(PROGRAM_PAGE, "Replies", "Ss"))
    assert [int(head) for head in told] == [rep.value for rep in Rep]
    both = f"told {ResultCode.GRANTED} where that is 0, and {ResultCode.REJECTED} for all else"
    assert both in flat(section(PROGRAM_PAGE, "Replies", "Ss"))


# -- README and the project --------------------------------------------------------------------


def test_every_make_target_shown_exists():
    lines = [line for code in re.findall(r"`+([^`]+)`+", README) for line in code.splitlines()]
    shown = {
        word
        for line in lines
        if line.startswith("make ")
        for word in line.partition("#")[0].split()[1:]
        if "=" not in word
    }
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.M))
    assert {"run", "test"} <= shown <= targets


@pytest.mark.parametrize(
    ("which", "required"),
    [
        pytest.param(0, setup_argument("install_requires"), id="to run"),
        pytest.param(1, setup_argument("extras_require")["test"], id="to develop"),
    ],
)
def test_readme_has_every_dependency_and_no_other(which, required):
    tables = chapter("Dependencies").split("For development")
    told = [name for row in first_cells(tables[which]) for name in re.findall(r"`([^`]+)`", row)]
    assert told == required


def test_every_dependency_has_a_reason():
    rows = re.findall(r"^\|(.*)\|$", chapter("Dependencies"), flags=re.M)
    assert all(cell.strip() for row in rows for cell in row.split("|"))


def test_readme_has_every_room_and_no_other():
    told = {
        name
        for row in first_cells(chapter("Where the code is"))
        for name in re.findall("`([^`]+)`", row)
    }
    package = ROOT / "geproxy"
    rooms = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert told == rooms | modules


def test_the_picture_has_every_room():
    picture = chapter("The path of one connection")
    assert [
        f for f in (ROOT / "geproxy").glob("*/__init__.py") if f.parent.name not in picture
    ] == []


# -- the version -------------------------------------------------------------------------------


def test_the_newest_heading_of_changes_is_this_version():
    assert re.findall(r"^## (\S+) ", CHANGES, flags=re.M)[0] == VERSION


@pytest.mark.parametrize("page", [PROGRAM_PAGE, SETTINGS_PAGE], ids=lambda page: page.name)
def test_the_manual_is_of_this_version(page):
    assert f"\n.Os geproxy {VERSION}\n" in page.read_text(encoding="utf-8")


# -- the form of the manual --------------------------------------------------------------------


@pytest.mark.parametrize("page", [PROGRAM_PAGE, SETTINGS_PAGE], ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say(page, tmp_path):
    program = shutil.which("mandoc")
    if program is None:
        peers.missing("mandoc is missing: it is in the Debian package mandoc")
    for each in (PROGRAM_PAGE, SETTINGS_PAGE):  # references are looked for where MANPATH leads
        folder = tmp_path / f"man{each.suffix[1:]}"
        folder.mkdir()
        shutil.copy(each, folder)
    done = subprocess.run(
        [program, "-T", "lint", "-W", "style", page],
        env={**os.environ, "MANPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "")
