"""Listeners: what may stand in which, who is let in, and which two cannot be bound together."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from geproxy.config.load import from_urls, load
from geproxy.config.settings import Listen
from geproxy.config.url import parse_listen_url
from geproxy.crypto.methods import AES_128_GCM, generate_key
from geproxy.crypto.password import PasswordHash
from geproxy.errors import ConfigError
from geproxy.terms import Endpoint, Filtering

SECRET = "hunter2"
USERS = f"alice:{PasswordHash(14, 8, 1, bytes(16), bytes(32))}\n"  # never verified here
OPEN = (
    "anyone who reaches this address could use the proxy; {users}add a rule with client, "
    "listen on a loopback address such as 127.0.0.1, or set open = true"
)
SOCKS_ALONE = "is for mixed://, socks5:// and socks4:// alone, not {}://"
LOGIN_ALONE = "is for socks5:// and mixed:// alone, not {}://"
TUNNELS_ALONE = "is for tcp:// and udp:// alone, not {}://"
SEALED_ALONE = "is for ss:// alone, not {}://"
URLS = {  # all that a listener of this scheme needs
    "mixed": 'url = "mixed://127.0.0.1"',
    "socks5": 'url = "socks5://127.0.0.1"',
    "socks4": 'url = "socks4://127.0.0.1"',
    "ss": 'url = "ss://aes-128-gcm@127.0.0.1"\nkey_file = "key"',
    "tcp": 'url = "tcp://127.0.0.1:53"\ntarget = "example.net:53"',
    "udp": 'url = "udp://127.0.0.1:53"\ntarget = "example.net:53"',
}


@pytest.fixture
def conf(tmp_path):
    """Write a configuration, and beside it a users file and a key."""

    def write(text):
        for name, content in (("users", USERS), ("key", generate_key(AES_128_GCM)), ("c", text)):
            (tmp_path / name).touch(0o600)
            (tmp_path / name).write_text(content)
        return str(tmp_path / "c")

    return write


def problems_of(path):
    with pytest.raises(ConfigError) as caught:
        load(path)
    texts = [str(problem) for problem in caught.value.problems]
    assert all(text.isprintable() for text in texts), "one line each"
    assert SECRET not in str(caught.value)
    return texts


# -- what may stand where ----------------------------------------------------------------------

TAKEN = [  # scheme, lines, what is another than by default
    pytest.param(
        "mixed",
        'udp_address = "192.0.2.1"\nudp_ports = "40000-49999"',
        {"udp_address": (ip_address("192.0.2.1"),), "udp_ports": range(40000, 50000)},
        id="an address and ports behind NAT",
    ),
    pytest.param(
        "socks5",
        'udp_address = "2001:db8::1"\nudp_ports = "40000"',
        {"udp_address": (ip_address("2001:db8::1"),), "udp_ports": range(40000, 40001)},
        id="an IPv6 address and one port",
    ),
    pytest.param(
        "socks4",
        'udp_address = "192.0.2.1"',
        {"udp_address": (ip_address("192.0.2.1"),)},
        id="an address for BIND",
    ),
    pytest.param(
        "mixed",
        'udp_address = ["192.0.2.1", "2001:db8::1", "proxy.example.net"]',
        {
            "udp_address": (
                ip_address("192.0.2.1"),
                ip_address("2001:db8::1"),
                "proxy.example.net",
            )
        },
        id="an address of each family, and a name",
    ),
    pytest.param("socks4", 'udp_ports = "9"', {"udp_ports": range(9, 10)}, id="a port for BIND"),
    pytest.param(
        "mixed",
        'udp_filtering = "address-dependent"',
        {"udp_filtering": Filtering.ADDRESS},
        id="filtering by address",
    ),
    pytest.param(
        "socks5",
        'udp_filtering = "address-and-port-dependent"',
        {"udp_filtering": Filtering.PORT},
        id="filtering by address and port",
    ),
    pytest.param(
        "tcp",
        'udp_address = ""\nudp_ports = ""\nudp_filtering = "endpoint-independent"',
        {},
        id="what is as by default may stand in any listener",
    ),
    pytest.param("ss", 'users = ""\ntarget = ""', {}, id="what is off may be said"),
    pytest.param("socks4", "udp = false", {"udp": False}, id="no UDP where there is none"),
    pytest.param("tcp", "udp = false", {"udp": False}, id="no UDP in a TCP tunnel"),
]


@pytest.mark.parametrize(("scheme", "lines", "changes"), TAKEN)
def test_a_listener_takes_what_means_something_to_it(scheme, lines, changes, conf):
    (default,) = load(conf(f"[listen.a]\n{URLS[scheme]}\n")).listen
    (found,) = load(conf(f"[listen.a]\n{URLS[scheme]}\n{lines}\n")).listen
    # Another key is written each time.
    assert replace(found, secret=default.secret, url=default.url) == replace(default, **changes)


def test_a_sealed_listener_has_filtering_too(conf):
    (found,) = load(conf(f'[listen.a]\n{URLS["ss"]}\nudp_filtering = "address-dependent"\n')).listen
    assert found.udp_filtering is Filtering.ADDRESS


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("text", "target"),
    [
        pytest.param("example.net:80", Endpoint("example.net", 80), id="a name"),
        pytest.param("[2001:db8::1]:53", Endpoint(ip_address("2001:db8::1"), 53), id="IPv6"),
    ],
)
def test_a_tunnel_has_a_target(scheme, text, target, conf):
    (found,) = load(conf(f'[listen.a]\nurl = "{scheme}://127.0.0.1:0"\ntarget = "{text}"\n')).listen
    url = parse_listen_url(f"{scheme}://127.0.0.1:0")
    assert found == Listen("a", url, target=target)


MISPLACED = [  # scheme, line, key, message
    *(
        pytest.param(scheme, 'users = "users"', "users", text, id=f"users for {scheme}")
        for scheme, text in (
            ("ss", "is not for ss://, where the key lets clients in"),
            (
                "socks4",
                "is not for socks4://, which cannot authenticate; socks5:// and mixed:// can",
            ),
            ("tcp", LOGIN_ALONE.format("tcp")),
            ("udp", LOGIN_ALONE.format("udp")),
        )
    ),
    *(
        pytest.param(scheme, line, line.split()[0], text.format(scheme), id=f"{line} for {scheme}")
        for line, text, schemes in (
            ('password_file = "key"', SEALED_ALONE, ("mixed", "socks4", "tcp", "udp")),
            ('key_file = "key"', SEALED_ALONE, ("mixed", "socks5", "tcp", "udp")),
            ('udp_address = "192.0.2.1"', SOCKS_ALONE, ("ss", "tcp", "udp")),
            ('udp_address = ["192.0.2.1"]', SOCKS_ALONE, ("ss", "tcp", "udp")),
            ('udp_ports = "40000"', SOCKS_ALONE, ("ss", "tcp", "udp")),
            (
                'udp_filtering = "address-dependent"',
                "is for mixed://, socks5:// and ss:// alone, not {}://",
                ("socks4", "tcp", "udp"),
            ),
            ('target = "example.net:80"', TUNNELS_ALONE, ("mixed", "socks5", "socks4", "ss")),
        )
        for scheme in schemes
    ),
    pytest.param("udp", "udp = false", "udp", "is false, and udp:// has nothing else", id="no UDP"),
]


@pytest.mark.parametrize(("scheme", "line", "key", "message"), MISPLACED)
def test_a_listener_refuses_what_means_nothing_to_it(scheme, line, key, message, conf):
    path = conf(f"[listen.a]\n{URLS[scheme]}\n{line}\n")
    assert problems_of(path) == [f"listen.a.{key}: {message}"]


def test_all_that_is_misplaced_is_told_at_once(conf):
    path = conf(
        '[listen.a]\nurl = "socks4://127.0.0.1"\nusers = "none"\nkey_file = "none"\n'
        'udp_address = "0.0.0.0"\nudp_filtering = "none"\ntarget = "x"\n'
    )
    assert sorted(text.partition(": ")[0] for text in problems_of(path)) == [
        "listen.a.key_file",
        "listen.a.target",
        "listen.a.target",
        "listen.a.udp_address",
        "listen.a.udp_filtering",
        "listen.a.udp_filtering",
        "listen.a.users",
    ]


WRONG = [  # scheme, line, what the problem begins with
    pytest.param("mixed", 'udp_address = "0.0.0.0"', "udp_address: clients", id="any address"),
    pytest.param("mixed", "udp_address = 1", "udp_address: a text is", id="a number"),
    pytest.param("mixed", f'udp_address = "{SECRET}!"', "udp_address: an IP", id="another text"),
    pytest.param("mixed", "udp_address = []", "udp_address: the list is empty", id="an empty list"),
    pytest.param(
        "mixed",
        'udp_address = ["192.0.2.1", "192.0.2.2"]',
        "udp_address: 2 IPv4 addresses",
        id="two addresses of one family",
    ),
    pytest.param(
        "mixed",
        'udp_address = ["192.0.2.1", ""]',
        "udp_address: member 2: an IP address or a host name",
        id="an empty member",
    ),
    pytest.param("mixed", 'udp_ports = "9-3"', "udp_ports: 9-3 runs backwards", id="backwards"),
    pytest.param("mixed", 'udp_ports = "0"', "udp_ports: port 0 is not in 1..", id="port 0"),
    pytest.param("mixed", "udp_ports = 40000", "udp_ports: a text is wanted", id="a bare number"),
    pytest.param("mixed", "udp_ports = []", "udp_ports: a text is wanted", id="a list"),
    pytest.param(
        "mixed",
        'udp_filtering = "full-cone"',
        "udp_filtering: one of endpoint-independent, address-dependent, "
        "address-and-port-dependent is wanted",
        id="another word",
    ),
    pytest.param("mixed", 'udp_filtering = ""', "udp_filtering: one of", id="no filtering"),
    pytest.param("mixed", "udp_filtering = [1]", "udp_filtering: one of", id="a list of it"),
]


@pytest.mark.parametrize(("scheme", "line", "beginning"), WRONG)
def test_a_wrong_setting_is_told_under_its_key(scheme, line, beginning, conf):
    (text,) = problems_of(conf(f"[listen.a]\n{URLS[scheme]}\n{line}\n"))
    assert text.startswith(f"listen.a.{beginning}")


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("", 'is missing; for example target = "example.net:443"', id="none"),
        pytest.param("target = ''", "is missing; for example", id="an empty one"),
        pytest.param("target = 'example.net'", "a port is wanted: HOST:PORT", id="no port"),
        pytest.param("target = 53", "a text is wanted, not a number", id="a number"),
        pytest.param(f"target = '{SECRET}@x:1'", "the host of a target", id="a user"),
    ],
)
def test_a_tunnel_without_a_sound_target_is_refused(scheme, line, message, conf):
    (text,) = problems_of(conf(f"[listen.a]\nurl = '{scheme}://127.0.0.1:0'\n{line}\n"))
    assert text.startswith(f"listen.a.target: {message}")


def test_a_tunnel_of_the_command_line_lacks_a_target_and_is_told_of_files():
    with pytest.raises(ConfigError) as caught:
        from_urls(["tcp://127.0.0.1:0", "mixed://127.0.0.1:0", "udp://127.0.0.1:0"])
    message = 'is missing; it takes a file, with target = "example.net:443"'
    assert [str(problem) for problem in caught.value.problems] == [
        f"listen.listen1.target: {message}",
        f"listen.listen3.target: {message}",
    ]


# -- safe as shipped ---------------------------------------------------------------------------

CLOSED = [
    pytest.param('url = "socks4://127.0.0.1"', "", id="loopback"),
    pytest.param('url = "mixed://al:hunter2@:1080"', "", id="a user"),
    pytest.param('url = "mixed://:1080"\nusers = "users"', "", id="users"),
    pytest.param('url = "socks4://:1080"\nopen = true', "", id="SOCKS4, open on purpose"),
    pytest.param(
        'url = "socks4://:1080"', 'client = ["10.0.0.0/8"]', id="a rule for every listener"
    ),
    pytest.param(
        'url = "mixed://:1080"',
        'listen = ["b", "a"]\nclient = ["10.0.0.0/8"]',
        id="a rule that names it",
    ),
    pytest.param('url = "tcp://:53"\ntarget = "example.net:53"', "", id="a TCP tunnel"),
    pytest.param('url = "udp://:53"\ntarget = "example.net:53"', "", id="a UDP tunnel"),
    pytest.param('url = "ss://aes-128-gcm@"\nkey_file = "key"', "", id="a sealed one"),
]
OTHER = '[listen.b]\nurl = "mixed://127.0.0.1:0"\n'


@pytest.mark.parametrize(("lines", "rule"), CLOSED)
def test_a_listener_that_knows_its_clients_starts(lines, rule, conf):
    rules = f'[[rule]]\naction = "direct"\n{rule}\n' if rule else ""
    assert len(load(conf(f"[listen.a]\n{lines}\n{OTHER}{rules}")).listen) == 2


@pytest.mark.parametrize("scheme", ["mixed", "socks5", "socks4"])
@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("", id="no rule"),
        pytest.param('action = "deny"\nport = [25]', id="a rule without client"),
        pytest.param('action = "deny"\nuser = ["alice"]', id="a rule for a user"),
        pytest.param(
            'action = "direct"\nlisten = ["b"]\nclient = ["10.0.0.0/8"]',
            id="a rule for the clients of another listener",
        ),
    ],
)
def test_a_listener_that_would_be_open_does_not_start(scheme, rule, conf):
    rules = f"[[rule]]\n{rule}\n" if rule else ""
    path = conf(f'[listen.a]\nurl = "{scheme}://:1080"\n{OTHER}{rules}')
    users = "" if scheme == "socks4" else "set users, "
    assert problems_of(path) == [f"listen.a.url: {OPEN.format(users=users)}"]


def test_a_rule_with_wrong_clients_does_not_make_its_listeners_open_as_well(conf):
    path = conf('[listen.a]\nurl = "mixed://:1"\n[[rule]]\naction = "direct"\nclient = ["lan"]\n')
    assert [text.partition(": ")[0] for text in problems_of(path)] == ["rule.1.client"]


def test_users_that_mean_nothing_do_not_close_a_listener_and_are_told_once(conf):
    path = conf('[listen.a]\nurl = "socks4://:1080"\nusers = "users"\n')
    assert [text.partition(": ")[0] for text in problems_of(path)] == ["listen.a.users"]


# -- ports -------------------------------------------------------------------------------------

TUNNEL = 'target = "example.net:1"'
SEALED = 'key_file = "key"'
PAIRS = [  # the lines of one, those of the other, what they share
    pytest.param(
        f'url = "tcp://:53"\n{TUNNEL}', f'url = "udp://:53"\n{TUNNEL}', None, id="TCP and UDP"
    ),
    pytest.param(
        f'url = "tcp://:53"\n{TUNNEL}',
        f'url = "tcp://127.0.0.1:53"\n{TUNNEL}',
        "TCP port 53",
        id="TCP twice",
    ),
    pytest.param(
        f'url = "udp://:53"\n{TUNNEL}',
        f'url = "udp://[::1]:53"\n{TUNNEL}',
        "UDP port 53",
        id="UDP twice",
    ),
    pytest.param(
        'url = "mixed://127.0.0.1"',
        f'url = "udp://127.0.0.1:1080"\n{TUNNEL}',
        None,
        id="an association's port is another one",
    ),
    pytest.param(
        'url = "mixed://127.0.0.1"',
        'url = "socks4://127.0.0.1"',
        "TCP port 1080",
        id="two kinds of SOCKS",
    ),
    pytest.param(
        f'url = "ss://aes-128-gcm@"\n{SEALED}',
        f'url = "udp://127.0.0.1:8388"\n{TUNNEL}',
        "UDP port 8388",
        id="a sealed listener and a UDP tunnel",
    ),
    pytest.param(
        f'url = "ss://aes-128-gcm@"\n{SEALED}\nudp = false',
        f'url = "udp://127.0.0.1:8388"\n{TUNNEL}',
        None,
        id="a sealed listener without UDP",
    ),
    pytest.param(
        f'url = "ss://aes-128-gcm@"\n{SEALED}\nudp = false',
        f'url = "tcp://127.0.0.1:8388"\n{TUNNEL}',
        "TCP port 8388",
        id="a sealed listener and a TCP tunnel",
    ),
    pytest.param(
        f'url = "ss://aes-128-gcm@"\n{SEALED}',
        f'url = "ss://aes-128-gcm@127.0.0.1"\n{SEALED}',
        "TCP and UDP port 8388",
        id="two sealed listeners",
    ),
    pytest.param(
        f'url = "ss://aes-128-gcm@"\n{SEALED}',
        f'url = "ss://aes-128-gcm@127.0.0.1"\n{SEALED}\nudp = false',
        "TCP port 8388",
        id="two sealed listeners, one without UDP",
    ),
    pytest.param(
        f'url = "udp://127.0.0.1:0"\n{TUNNEL}',
        f'url = "udp://127.0.0.1:0"\n{TUNNEL}',
        None,
        id="the kernel chooses twice",
    ),
]


@pytest.mark.parametrize("turned", [False, True], ids=["", "the other way round"])
@pytest.mark.parametrize(("one", "other", "shared"), PAIRS)
def test_two_listeners_share_no_port_of_one_transport(one, other, shared, turned, conf):
    first, second = (other, one) if turned else (one, other)
    path = conf(f"[listen.a]\n{first}\n[listen.b]\n{second}\n")
    if shared is None:
        assert len(load(path).listen) == 2
    else:
        assert problems_of(path) == [f"listen.b.url: listen.a has {shared} of this address already"]


# -- tunnels that other machines reach ---------------------------------------------------------

OPEN_TUNNEL = (
    "listen.a.url: anyone who reaches this address can use the tunnel; add a rule with client, "
    "listen on a loopback address such as 127.0.0.1, or set open = true"
)
GUARD = '[[rule]]\nclient = ["192.0.2.0/24"]\naction = "direct"\n'


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("host", "more", "warned"),
    [
        pytest.param("192.0.2.1", "", True, id="one address"),
        pytest.param("", "", True, id="every address"),
        pytest.param("0.0.0.0", "open = false\n", True, id="said to be closed"),
        pytest.param("192.0.2.1", f'{GUARD}listen = ["b"]\n', True, id="a rule for another"),
        pytest.param("192.0.2.1", '[[rule]]\naction = "deny"\nport = [7]\n', True, id="no client"),
        pytest.param("127.0.0.1", "", False, id="loopback"),
        pytest.param("[::1]", "", False, id="loopback of IPv6"),
        pytest.param("192.0.2.1", "open = true\n", False, id="open on purpose"),
        pytest.param("192.0.2.1", GUARD, False, id="a rule for all"),
        pytest.param("192.0.2.1", f'{GUARD}listen = ["a"]\n', False, id="a rule for it"),
    ],
)
def test_a_tunnel_that_other_machines_reach_is_warned_of(scheme, host, more, warned, conf):
    tunnel = f'url = "{scheme}://{host}:53"\ntarget = "example.net:53"\n'
    other = '[listen.b]\nurl = "socks5://127.0.0.1:0"\n'
    found = load(conf(f"{other}[listen.a]\n{tunnel}{more}"))
    assert [str(one) for one in found.warnings] == [OPEN_TUNNEL] * warned
