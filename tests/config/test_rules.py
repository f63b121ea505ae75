"""[[rule]]: what each condition becomes, and every mistake in them at once, under its full key."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from geproxy.config.destinations import To
from geproxy.config.edges import Networks, Ports
from geproxy.config.load import load
from geproxy.config.settings import Rule
from geproxy.crypto.password import PasswordHash
from geproxy.errors import ConfigError
from geproxy.terms import Command

SECRET = "hunter2"
HASH = PasswordHash(14, 8, 1, bytes(16), bytes(32))  # never verified here
LISTENERS = """
[listen.socks]
url = "mixed://127.0.0.1:1080"
users = "users"
[listen.lan]
url = "socks4://127.0.0.1:1081"
[via.relay]
url = "ss://aes-128-gcm:c2VjcmV0LW9mLTIyLWNoYXJhY3RlcnM@192.0.2.1"
"""


@pytest.fixture
def conf(tmp_path):
    """Write a configuration of two listeners, one with the users alice and bob, and *rules*."""
    (tmp_path / "users").touch(0o600)
    (tmp_path / "users").write_text(f"alice:{HASH}\nbob:{HASH}\n")

    def write(rules):
        path = tmp_path / "geproxy.conf"
        path.touch(0o600)
        path.write_text(rules + LISTENERS if rules.startswith("rule") else LISTENERS + rules)
        return str(path)

    return write


def problems_of(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    texts = [str(problem) for problem in caught.value.problems]
    assert all(text.isprintable() for text in texts), "one line each"
    assert SECRET not in str(caught.value) + repr(caught.value.problems)
    return texts


def networks(*texts):
    return Networks.of(map(ip_network, texts))


CONDITIONS = [  # line, what is another than without it
    pytest.param("", {}, id="no condition"),
    pytest.param('listen = ["socks"]', {"listen": frozenset({"socks"})}, id="a listener"),
    pytest.param(
        'listen = ["lan", "socks", "lan"]', {"listen": frozenset({"socks", "lan"})}, id="listeners"
    ),
    pytest.param('user = ["alice", "bob"]', {"user": frozenset({"alice", "bob"})}, id="users"),
    pytest.param(
        'client = ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "::ffff:10.0.0.0/104"]',
        {
            "client": (
                networks("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128", "10.0.0.0/8"),
            )
        },
        id="clients",
    ),
    pytest.param('command = ["bind"]', {"command": frozenset({Command.BIND})}, id="a command"),
    pytest.param(
        'command = ["udp", "connect", "bind"]', {"command": frozenset(Command)}, id="every command"
    ),
    pytest.param(
        'to = ["*.Corp.example.", "192.168.0.0/16", "private", "::1", "x"]',
        {
            "to": (
                To.of(
                    ("*.corp.example", ip_network("192.168.0.0/16"))
                    + ("private", ip_network("::1/128"), "x")
                ),
            )
        },
        id="names, networks and the word for what is not public",
    ),
    pytest.param('to = ["private"]', {"to": (To.of(["private"]),)}, id="what is not public"),
    pytest.param('to = ["*"]', {"to": (To.of("*"),)}, id="every name"),
    pytest.param(
        'port = [443, "8000-8999", 0]',
        {"port": Ports.of((range(443, 444), range(8000, 9000), range(1)))},
        id="ports",
    ),
]


@pytest.mark.parametrize("action", ["direct", "deny", "relay"])
@pytest.mark.parametrize(("line", "changes"), CONDITIONS)
def test_a_good_rule_is_read(line, changes, action, conf):
    found = load(conf(f"[[rule]]\n{line}\naction = '{action}'\n"))
    assert found.rule == (replace(Rule(action=action), **changes),)
    assert found.warnings == ()


def test_rules_keep_their_order_and_repeat_freely(conf):
    actions = ["deny", "direct", "relay", "deny"]
    found = load(conf("".join(f"[[rule]]\naction = '{action}'\n" for action in actions)))
    assert [rule.action for rule in found.rule] == actions


def test_no_rule_is_no_rule(conf):
    assert load(conf("")).rule == ()
    assert load(conf("rule = []\n")).rule == ()


EMPTY = "the list is empty, so nothing would ever match; leave it out"
NETWORK = "an IP address or a network such as 10.0.0.0/8 or 2001:db8::/32 is wanted"
NOT_A_NAME = "a name consists of letters, digits, . _ - and the wildcards * and ?"
WAYS = "direct, deny, relay"
FOR_AD_BLOCKERS = "is for ad blockers; a list of names, or a hosts file, is wanted"
KEYS_OF_RULES = "action, listen, user, client, client_file, command, to, to_file, port"

WRONG = [  # line, with action = "deny" where it has none; the key, and what is told under it
    pytest.param("action = 'relai'", "action", [f"no such way out; there are {WAYS}"], id="no way"),
    pytest.param("action = ''", "action", [f"no such way out; there are {WAYS}"], id="no word"),
    pytest.param(
        f"action = '{SECRET}'", "action", [f"no such way out; there are {WAYS}"], id="a secret"
    ),
    pytest.param("action = true", "action", ["a text is wanted, not true or false"], id="a truth"),
    pytest.param("action = ['deny']", "action", ["a text is wanted, not a list"], id="actions"),
    pytest.param(
        "listen = ['sock', 'lan', 'lam']",
        "listen",
        [
            "member 1: no such listener; there are socks, lan",
            "member 3: no such listener; there are socks, lan",
        ],
        id="listeners that do not exist",
    ),
    pytest.param(
        "listen = ['lan', 1]",
        "listen",
        ["member 2: a text is wanted, not a number"],
        id="a listener that is none",
    ),
    pytest.param(
        "user = ['', 'a:b', 'bob']",
        "user",
        [
            "member 1: the user is empty",
            "member 2: a user holds no colon: it ends the user in the file, and in HTTP Basic",
        ],
        id="no users",
    ),
    pytest.param(
        "client = ['10.0.0.1/8', '10.0.0.0/8', 'lan', 7]",
        "client",
        [
            "member 1: the address has bits behind its prefix; that network is 10.0.0.0/8",
            f"member 3: {NETWORK}",
            "member 4: a text is wanted, not a number",
        ],
        id="clients of three wrong kinds",
    ),
    pytest.param(
        "client = ['*.example.net']", "client", [f"member 1: {NETWORK}"], id="a client's name"
    ),
    pytest.param("client = ['private']", "client", [f"member 1: {NETWORK}"], id="a word"),
    pytest.param(
        "command = ['connect', 'associate', 'UDP']",
        "command",
        [
            "member 2: one of connect, bind, udp is wanted",
            "member 3: one of connect, bind, udp is wanted",
        ],
        id="other commands",
    ),
    pytest.param(
        f"to = ['10.0.0.0/33', '256.1.1.1', 'x.net', 'ü?.net', 'a b', '.net', 'https://{SECRET}']",
        "to",
        [
            f"member 1: {NETWORK}",
            f"member 2: {NETWORK}",
            "member 4: a label beyond ASCII is letters, digits, - and _, without wildcards",
            f"member 5: {NOT_A_NAME}",
            "member 6: a dot stands between labels; all names in a domain are *.example.net",
            "member 7: a colon stands in IPv6 addresses alone; ports have a key of their own",
        ],
        id="six targets that are none",
    ),
    pytest.param(
        "port = [65536, '9-3', 22, 'ssh', 1.0]",
        "port",
        [
            "member 1: 65536 is not in 0..65535",
            "member 2: 9-3 runs backwards; the lower port comes first",
            'member 4: a port or a range such as "40000-49999" is wanted',
            "member 5: a whole number is wanted, not a fraction",
        ],
        id="four ports that are none",
    ),
    *(
        pytest.param(f"{name} = []", name, [EMPTY], id=f"an empty list: {name}")
        for name in ("listen", "user", "client", "command", "to", "port")
    ),
    *(
        pytest.param(f"{name} = 'x'", name, ["a list is wanted, not a text"], id=f"a text: {name}")
        for name in ("listen", "user", "client", "command", "to", "port")
    ),
    pytest.param("port = 443", "port", ["a list is wanted, not a number"], id="a number: port"),
    pytest.param(
        "ports = [1]", "ports", ["unknown key; did you mean port?"], id="a slip of the pen"
    ),
    pytest.param(
        '"a b" = 1',
        "'a b'",
        [f"unknown key; known here: {KEYS_OF_RULES}"],
        id="an unknown key",
    ),
]


@pytest.mark.parametrize(("line", "key", "texts"), WRONG)
def test_what_is_wrong_is_said_under_its_key_member_by_member(line, key, texts, conf):
    action = "" if line.startswith("action") else "action = 'deny'\n"
    first = "[[rule]]\naction = 'direct'\n"
    path = conf(f"{first}[[rule]]\n{action}{line}\n")
    assert problems_of(path) == [f"rule.2.{key}: {text}" for text in texts]


def test_a_rule_without_an_action_is_told_which_there_are(conf):
    path = conf("[[rule]]\n[[rule]]\naction = 'deny'\n[[rule]]\nport = [1]\n")
    message = f"is missing; one of {WAYS} is wanted"
    assert problems_of(path) == [f"rule.1.action: {message}", f"rule.3.action: {message}"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param("rule = 1", "rule: tables [[rule]] are wanted, not a number", id="a number"),
        pytest.param(
            "rule = {action = 'deny'}",
            "rule: tables [[rule]] are wanted, not a table",
            id="one pair of brackets",
        ),
        pytest.param(
            f"rule = ['{SECRET}']",
            "rule.1: a table [[rule]] is wanted, not a text",
            id="a list of something else",
        ),
    ],
)
def test_rules_that_are_none_are_refused(line, text, conf):
    assert problems_of(conf(f"{line}\n")) == [text]


def test_a_listener_that_is_wrong_exists_for_rules_all_the_same(conf):
    path = conf(
        "[listen.b]\nurl = 'mixed://127.0.0.1:70000'\n"
        "[via.far]\nurl = 'ss://nonsense'\n"
        "[[rule]]\nlisten = ['b']\naction = 'far'\n"
    )
    keys = [text.partition(": ")[0] for text in problems_of(path)]
    assert sorted(keys) == ["listen.b.url", "via.far.url"]


# -- files


def test_a_file_adds_to_the_list_beside_it(conf, tmp_path):
    (tmp_path / "block").write_text("*.b.net\n0.0.0.0 c.net\nprivate\n")
    (tmp_path / "offices").write_text("192.0.2.0/24\n")
    (tmp_path / "none").write_text("# nobody\n")
    found = load(
        conf(
            "[[rule]]\nto = ['a.net']\nto_file = 'block'\naction = 'deny'\n"
            "[[rule]]\nto_file = './block'\nclient_file = 'offices'\naction = 'deny'\n"
            "[[rule]]\nclient = ['::1']\nclient_file = 'offices'\naction = 'deny'\n"
            f"[[rule]]\nto_file = '{tmp_path}/none'\nclient_file = 'none'\naction = 'deny'\n"
            "[[rule]]\nto_file = ''\nclient_file = ''\naction = 'deny'\n"
        )
    )
    block = To.of(["*.b.net", "c.net", "private"])
    offices = networks("192.0.2.0/24")
    assert [(rule.to, rule.client) for rule in found.rule] == [
        ((To.of(["a.net"]), block), None),
        ((block,), (offices,)),
        (None, (networks("::1"), offices)),
        ((To.of([]),), (networks(),)),
        (None, None),
    ]
    assert found.rule[1].client[0] is found.rule[2].client[1], "read once"


def test_a_wrong_file_is_told_under_each_key_and_its_lines_once(conf, tmp_path):
    (tmp_path / "block").write_text(f"a.net\n{SECRET}!\n||ads.example^\n")
    rule = "[[rule]]\nto_file = '{0}'\nclient_file = '{0}'\naction = 'deny'\n"
    texts = problems_of(conf("".join(map(rule.format, ["block", "block", "none", "none"]))))
    block = tmp_path / "block"
    assert texts == [
        *(f"rule.1.client_file: {block} line {number}: {NETWORK}" for number in (1, 2, 3)),
        f"rule.1.to_file: {block} line 2: {NOT_A_NAME}",
        f"rule.1.to_file: {block} line 3: {FOR_AD_BLOCKERS}",
        *(
            f"rule.{number}.{key}: the file cannot be read: No such file or directory"
            for number in (3, 4)
            for key in ("client_file", "to_file")
        ),
    ]


def test_a_path_that_does_not_print_stays_on_its_line(conf, tmp_path):
    (tmp_path / "a\nb").write_text("!\n")
    (text,) = problems_of(conf('[[rule]]\nto_file = "a\\nb"\naction = "deny"\n'))
    assert "a\\nb' line 1: is for ad blockers" in text


@pytest.mark.parametrize("key", ["to_file", "client_file"])
def test_a_file_is_a_text_without_nul(key, conf):
    rule = f"[[rule]]\naction = 'deny'\n{key} = "
    assert problems_of(conf(f"{rule}['x']\n")) == [f"rule.1.{key}: a text is wanted, not a list"]
    assert problems_of(conf(f'{rule}"\\u0000"\n')) == [f"rule.1.{key}: a path holds no NUL"]


OPEN = "[listen.guests]\nurl = 'socks5://192.0.2.1:1082'\n[[rule]]\naction = 'direct'\n"


@pytest.mark.parametrize("text", ["192.0.2.0/24\n", "", "# nobody\n"])
def test_a_file_of_clients_guards_a_listener_be_it_empty(text, conf, tmp_path):
    (tmp_path / "offices").write_text(text)
    found = load(conf(f"{OPEN}client_file = 'offices'\n"))
    assert found.rule[0].client is not None


def test_a_file_of_clients_that_is_wrong_is_all_that_is_told(conf, tmp_path):
    (text,) = problems_of(conf(f"{OPEN}client_file = 'offices'\n"))
    assert text.startswith("rule.1.client_file: the file cannot be read")
    (text,) = problems_of(conf(f"{OPEN}client_file = 7\n"))
    assert text == "rule.1.client_file: a text is wanted, not a number"


@pytest.mark.parametrize("line", ["", "client_file = ''", "to_file = 'block'"])
def test_no_file_of_clients_guards_nothing(line, conf, tmp_path):
    (tmp_path / "block").write_text("a.net\n")
    (text,) = problems_of(conf(f"{OPEN}{line}\n"))
    assert text.startswith("listen.guests.url: anyone who reaches this address")


STRANGERS = [  # line, the members that are warned of
    pytest.param("user = ['alice', 'bob']", [], id="users that are known"),
    pytest.param("user = ['alise', 'bob', 'rob']", [1, 3], id="users that nobody knows"),
    pytest.param("user = ['alice']\nlisten = ['socks', 'lan']", [], id="known to one listener"),
    pytest.param("user = ['alice']\nlisten = ['lan']", [1], id="known to another listener"),
    pytest.param("user = ['Alice']", [1], id="case counts"),
]


@pytest.mark.parametrize(("line", "members"), STRANGERS)
def test_a_user_that_no_listener_has_is_warned_of(line, members, conf):
    found = load(conf(f"[[rule]]\naction = 'deny'\n[[rule]]\n{line}\naction = 'deny'\n"))
    assert [str(warning) for warning in found.warnings] == [
        f"rule.2.user: member {member}: none of the rule's listeners has this user"
        for member in members
    ]


def test_users_of_the_same_file_are_read_once_and_nobody_costs_as_much_as_the_costliest(conf):
    other = "[listen.other]\nurl = 'socks5://127.0.0.1:1083'\nusers = 'users'\n"
    socks, lan, again = load(conf(other)).listen
    assert again.users is socks.users
    assert socks.nobody.work_bytes == HASH.work_bytes
    assert lan.nobody is None


VALUES = st.recursive(
    st.sampled_from(
        ["0", "443", "70000", "1.5", "true", "''", "'x'", "'*.x'", "'private'", "'10.0.0.0/8'"]
        + ["'::1'", "'8000-8999'", "'bind'", "'udp'", "'socks'", "'alice'", "'relay'", "'deny'"]
        + ['"\\n"', '"\\u0000"', "1979-05-27"]
    ),
    lambda inner: st.lists(inner, max_size=4).map(lambda values: f"[{', '.join(values)}]"),
    max_leaves=8,
)
KEYS = ["action", "listen", "user", "client", "command", "to", "port", "ports"]
KEYS += ["to_file", "client_file"]
TABLES = st.dictionaries(st.sampled_from(KEYS), VALUES).map(
    lambda table: "".join(f"{name} = {value}\n" for name, value in table.items())
)


@pytest.mark.slow
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(TABLES, max_size=4))
def test_any_rules_are_settings_or_problems_of_rules(conf, tables):
    path = conf("".join(f"[[rule]]\n{table}" for table in tables))
    try:
        found = load(path)
    except ConfigError as error:
        assert all(problem.key.startswith("rule.") for problem in error.problems)
        assert all(str(problem).isprintable() for problem in error.problems)
    else:
        assert len(found.rule) == len(tables)
