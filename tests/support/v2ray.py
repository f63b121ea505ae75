"""v2ray, a second implementation of Shadowsocks, and of SOCKS5's client with UDP."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.peers import find, listening
from tests.support.proxy import Address

Bound = Mapping[str, object]  # "protocol" and "settings", in v2ray's words

FREEDOM: Bound = {"protocol": "freedom"}  # straight to the target


def shadowsocks_in(method: str, password: str) -> Bound:
    """A Shadowsocks server."""
    secret = {"method": method, "password": password}
    return {"protocol": "shadowsocks", "settings": {**secret, "network": "tcp,udp"}}


def tunnel_in(target: Address) -> Bound:
    """A tunnel to *target*."""
    to = {"address": target[0], "port": target[1]}
    return {"protocol": "dokodemo-door", "settings": {**to, "network": "tcp,udp"}}


def shadowsocks_out(method: str, password: str, server: Address) -> Bound:
    """The way through a Shadowsocks server."""
    secret: dict[str, object] = {"method": method, "password": password}
    return _out("shadowsocks", {**secret, "address": server[0], "port": server[1]})


def socks_out(server: Address) -> Bound:
    """The way through a SOCKS5 server, UDP ASSOCIATE for datagrams."""
    return _out("socks", {"address": server[0], "port": server[1]})


def _out(protocol: str, server: Bound) -> Bound:
    return {"protocol": protocol, "settings": {"servers": [server]}}


@contextmanager
def v2ray(
    folder: Path, ways: Sequence[tuple[Bound, Bound]], *, host: str = "127.0.0.1"
) -> Iterator[list[Address]]:
    """Run v2ray with *ways*, each from an inbound to an outbound; gives the inbounds' addresses."""
    program = find("v2ray")
    path = folder / "v2ray.json"

    def command(ports: list[int]) -> list[str]:
        tags = [f"way-{number}" for number in range(len(ways))]
        config = {
            "log": {"loglevel": "warning"},
            "inbounds": [
                {**inbound, "tag": f"{tag}-in", "listen": host, "port": port}
                for tag, port, (inbound, _) in zip(tags, ports, ways, strict=True)
            ],
            "outbounds": [
                {**outbound, "tag": f"{tag}-out"}
                for tag, (_, outbound) in zip(tags, ways, strict=True)
            ],
            "routing": {
                "rules": [
                    {"type": "field", "inboundTag": [f"{tag}-in"], "outboundTag": f"{tag}-out"}
                    for tag in tags
                ]
            },
        }
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        return [program, "-config", str(path)]

    with listening(command, path.with_suffix(".log"), len(ways), host, udp=True) as ports:
        yield [(host, port) for port in ports]
