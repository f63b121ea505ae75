"""A real DNS server, dnsmasq, and a real client, dig."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.peers import find, listening
from tests.support.proxy import Address


@contextmanager
def dnsmasq(folder: Path, *records: str) -> Iterator[Address]:
    """Run a DNS server that knows *records*, lines of dnsmasq.conf, and asks nobody else."""
    program = find("dnsmasq")
    path = folder / "dnsmasq.conf"

    def command(ports: list[int]) -> list[str]:
        alone = ["no-resolv", "no-hosts", "bind-interfaces", "listen-address=127.0.0.1,::1"]
        path.write_text("\n".join([f"port={ports[0]}", "pid-file=", *alone, *records]) + "\n")
        return [program, "--no-daemon", f"--conf-file={path}"]

    # It binds the UDP port before the TCP port.
    with listening(command, path.with_suffix(".log")) as (port,):
        yield "127.0.0.1", port


def dig(server: Address, *arguments: str) -> list[str]:
    """Ask *server* once, without a second try; the answers, a line each."""
    host, port = server
    done = subprocess.run(
        [find("dig"), "-r", f"@{host}", "-p", str(port), "+short", "+tries=1", "+time=15"]
        + ["+ignore", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()
