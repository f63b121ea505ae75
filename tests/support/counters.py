"""What a running geproxy has counted, as its operator reads it."""

from __future__ import annotations

import json

from tests.support.proxy import Proxy, command

PIDFILE = {"pidfile": "geproxy.pid"}  # for [server]: who is asked is found by it


def counters(proxy: Proxy) -> dict[str, int]:
    """The numbers that status --json gives, summed over the workers."""
    done = command("status", "-f", str(proxy.folder / "geproxy.conf"), "--json")
    assert done.returncode == 0, done.stderr
    workers: list[dict[str, int]] = json.loads(done.stdout)["workers"]
    return {name: sum(worker[name] for worker in workers) for name in workers[0]}
