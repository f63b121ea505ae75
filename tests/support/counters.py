"""What a running geproxy has counted, as its operator reads it."""

from __future__ import annotations

import json
from collections import Counter

from tests.support.proxy import Proxy, command

PIDFILE = {"pidfile": "geproxy.pid"}  # for [server]: who is asked is found by it


def counters(proxy: Proxy) -> dict[str, int]:
    """The numbers that status --json gives, summed over the workers."""
    done = command("status", "-f", str(proxy.folder / "geproxy.conf"), "--json")
    assert done.returncode == 0, done.stderr
    workers: list[dict[str, int | str]] = json.loads(done.stdout)["workers"]
    counted: Counter[str] = Counter()
    for worker in workers:
        for name, value in worker.items():
            if isinstance(value, int):
                counted[name] += value
    return dict(counted)
