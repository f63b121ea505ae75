"""Who is measured: how each contender is configured and which commands it is made of.

Each runs as its package ships it; what is set here is where it listens, that it logs no single
session, and that it serves UDP where it can.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from geproxy.crypto.password import hash_password

ROOT = Path(__file__).parent.parent
GEPROXY = str(ROOT / "bin" / "geproxy")
SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
NO_LIMIT_SESSIONS = 40_000


@dataclass(frozen=True)
class Setting:
    """What one start of a contender is given."""

    program: str  # the contender's own
    folder: Path
    front_port: int  # where clients come
    peer_port: int  # a sealed pair: where its far end listens
    workers: int
    method: str
    password: str  # a sealed pair's, or that of all users


@dataclass(frozen=True)
class Command:
    """A process to start, and the port by which it shows that it is there."""

    arguments: list[str]
    port: int


@dataclass(frozen=True)
class Contender:
    """One product in one use; *prepare* writes its configuration and gives its commands."""

    name: str
    program: str
    package: str
    prepare: Callable[[Setting], list[Command]] | None
    user: str = ""  # who logs in; empty: nobody has to

    def missing(self) -> str:
        """Why it cannot take part; empty if it can."""
        if self.prepare is None or find(self.program):
            return ""
        if not self.package:
            return f"{self.program} is not on PATH"
        return f"{self.program} is not installed (Debian package {self.package})"


def find(program: str) -> str | None:
    """The path of *program*; daemons are found for ordinary users as well."""
    return shutil.which(program) or shutil.which(program, path=SEARCH_PATH)


def _found(program: str) -> str:
    path = find(program)
    assert path is not None, f"{program} was there a moment ago"
    return path


def _write(setting: Setting, name: str, text: str) -> str:
    path = setting.folder / name
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


# -- geproxy -----------------------------------------------------------------------------------


def _geproxy(setting: Setting, name: str, port: int, tables: str) -> Command:
    text = f"""
[server]
workers = {setting.workers}
[log]
level = "warning"
[limits]
sessions = {NO_LIMIT_SESSIONS}
{tables}
"""
    return Command([setting.program, "-f", _write(setting, f"{name}.conf", text)], port)


def _front(setting: Setting, scheme: str = "socks5") -> str:
    return f'[listen.front]\nurl = "{scheme}://127.0.0.1:{setting.front_port}"'


def _geproxy_socks5(setting: Setting) -> list[Command]:
    return [_geproxy(setting, "plain", setting.front_port, _front(setting))]


def _geproxy_http(setting: Setting) -> list[Command]:
    # CONNECT reaches the ports of TLS alone, unless a rule says more.
    rule = '[[rule]]\nlisten = ["front"]\nport = ["1-65535"]\naction = "direct"'
    tables = f"{_front(setting, 'http')}\n{rule}"
    return [_geproxy(setting, "http", setting.front_port, tables)]


def _geproxy_pair(setting: Setting) -> list[Command]:
    url = f'"ss://{setting.method}:{setting.password}@127.0.0.1:{setting.peer_port}"'
    front = f'{_front(setting)}\nvia = "remote"'
    return [
        _geproxy(setting, "remote", setting.peer_port, f"[listen.sealed]\nurl = {url}"),
        _geproxy(setting, "local", setting.front_port, f"{front}\n[via.remote]\nurl = {url}"),
    ]


def with_users(count: int) -> Contender:
    """One geproxy that lets so many users in; clients log in as the last of them."""

    def prepare(setting: Setting) -> list[Command]:
        # Each user has the same password, or to hash them all would take minutes.
        stored = hash_password(setting.password.encode())
        lines = (f"user{number}:{stored}\n" for number in range(1, count + 1))
        _write(setting, "users", "".join(lines))
        front = f'{_front(setting)}\nusers = "users"'
        return [_geproxy(setting, "plain", setting.front_port, front)]

    return Contender("geproxy", GEPROXY, "", prepare, user=f"user{count}")


def with_listeners(count: int) -> Contender:
    """One geproxy that listens on so many ports; clients come to the first of them."""

    def prepare(setting: Setting) -> list[Command]:
        others = (
            f'[listen.other-{number}]\nurl = "socks5://127.0.0.1:0"' for number in range(1, count)
        )
        tables = "\n".join([_front(setting), *others])
        return [_geproxy(setting, "plain", setting.front_port, tables)]

    return Contender("geproxy", GEPROXY, "", prepare)


# -- its peers ---------------------------------------------------------------------------------


def _microsocks(setting: Setting) -> list[Command]:
    port = setting.front_port
    return [Command([_found("microsocks"), "-i", "127.0.0.1", "-p", str(port)], port)]


def _danted(setting: Setting) -> list[Command]:
    port = setting.front_port
    text = f"""
errorlog: stderr
internal: 127.0.0.1 port = {port}
external: 127.0.0.1
clientmethod: none
socksmethod: none
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: connect bind udpassociate }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 command: bindreply udpreply }}
"""
    config = _write(setting, "danted.conf", text)
    pidfile = str(setting.folder / "danted.pid")
    arguments = [_found("danted"), "-N", str(setting.workers), "-f", config, "-p", pidfile]
    return [Command(arguments, port)]


def _v2ray(setting: Setting, inbound: dict[str, object]) -> list[Command]:
    where = {"listen": "127.0.0.1", "port": setting.front_port}
    values = {
        "log": {"loglevel": "none"},
        "inbounds": [{**where, **inbound}],
        "outbounds": [{"protocol": "freedom"}],
    }
    config = _write(setting, "v2ray.json", json.dumps(values))
    return [Command([_found("v2ray"), "-config", config], setting.front_port)]


def _v2ray_socks5(setting: Setting) -> list[Command]:
    settings = {"auth": "noauth", "udp": True, "ip": "127.0.0.1"}
    return _v2ray(setting, {"protocol": "socks", "settings": settings})


def _v2ray_http(setting: Setting) -> list[Command]:
    return _v2ray(setting, {"protocol": "http"})


def _tinyproxy(setting: Setting) -> list[Command]:
    port = setting.front_port
    text = f"Port {port}\nListen 127.0.0.1\nMaxClients 1000\nTimeout 600\nLogLevel Critical\n"
    config = _write(setting, "tinyproxy.conf", text)
    return [Command([_found("tinyproxy"), "-d", "-c", config], port)]


def _libev(setting: Setting, program: str, **values: object) -> list[str]:
    common = {
        "server": "127.0.0.1",
        "server_port": setting.peer_port,
        "method": setting.method,
        "password": setting.password,
        "timeout": 600,
        "mode": "tcp_and_udp",
    }
    config = _write(setting, f"{program}.json", json.dumps({**common, **values}))
    return [_found(program), "-c", config]


def _libev_pair(setting: Setting) -> list[Command]:
    front = {"local_address": "127.0.0.1", "local_port": setting.front_port}
    return [
        Command(_libev(setting, "ss-server"), setting.peer_port),
        Command(_libev(setting, "ss-local", **front), setting.front_port),
    ]


def _go_pair(setting: Setting) -> list[Command]:
    method = {
        "aes-256-gcm": "AEAD_AES_256_GCM",
        "chacha20-ietf-poly1305": "AEAD_CHACHA20_POLY1305",
    }[setting.method]
    url = f"ss://{method}:{setting.password}@127.0.0.1:{setting.peer_port}"
    program = _found("go-shadowsocks2")
    front = ["-socks", f"127.0.0.1:{setting.front_port}", "-u"]
    return [
        Command([program, "-s", url, "-udp"], setting.peer_port),
        Command([program, "-c", url, *front], setting.front_port),
    ]


DIRECT = Contender("direct", "", "", None)
PLAIN = (
    Contender("geproxy", GEPROXY, "", _geproxy_socks5),
    Contender("microsocks", "microsocks", "microsocks", _microsocks),
    Contender("danted", "danted", "dante-server", _danted),
    Contender("v2ray", "v2ray", "v2ray", _v2ray_socks5),
)
SEALED = (
    Contender("geproxy", GEPROXY, "", _geproxy_pair),
    Contender("ss-libev", "ss-server", "shadowsocks-libev", _libev_pair),
    Contender("go-shadowsocks2", "go-shadowsocks2", "", _go_pair),
)
HTTP = (
    Contender("geproxy", GEPROXY, "", _geproxy_http),
    Contender("tinyproxy", "tinyproxy", "tinyproxy-bin", _tinyproxy),
    Contender("v2ray", "v2ray", "v2ray", _v2ray_http),
)
