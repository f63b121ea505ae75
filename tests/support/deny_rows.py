"""Ask a geproxy that is open to all for many targets: a program of its own, for a namespace.

Standard input is a JSON list of [text, "address" or "name"], standard output the list of REPs.
"""

from __future__ import annotations

import json
import sys
from ipaddress import ip_address
from pathlib import Path

from tests.support.proxy import configuration, running
from tests.support.socks import reply_to

CONFIG = configuration({"all": {"url": "socks5://0.0.0.0:0", "open": True}})
PORT = 443


def main() -> None:
    """Read the targets, ask for each, print the answers."""
    targets = json.load(sys.stdin)
    with running(Path.cwd(), CONFIG) as proxy:
        address = ("127.0.0.1", proxy.address[1])
        hosts = [ip_address(text) if kind == "address" else text for text, kind in targets]
        json.dump([reply_to(address, host, PORT) for host in hosts], sys.stdout)


if __name__ == "__main__":
    main()
