"""A whole run of floods against this checkout, and against another before it."""

from __future__ import annotations

import json
import os
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import attack_client, attack_network, attack_plan, checkouts, machine
from benchmarks.attack_plan import Row
from benchmarks.checkouts import Checkout
from benchmarks.contenders import ROOT
from benchmarks.load import LoadError
from benchmarks.report import Json
from benchmarks.running import StartError
from geproxy.crypto.password import hash_password

WORKERS = 2  # the promise is made for two
LEAD_SECONDS = 2.0  # from the flood's begin to the first probe: by then it holds what it can
START_SECONDS, END_SECONDS = 20.0, 10.0
PROBE_SECONDS = 60.0  # beyond the phase: more than every probe's own deadline
DESCRIPTORS = 30_000  # of a flood, and of a worker with all its places
BEFORE, AFTER = "before", "after"
MODULE = (sys.executable, "-m")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Site:
    """What all rows of a run have in common."""

    folder: Path
    enter: list[str]  # a command that runs another on the clients' host
    seconds: float  # of a phase


def measure(base: Path | None, rows: list[Row], seconds: float, say: Say) -> Json:
    """Measure *rows* here, and in the checkout at *base* if there is one.

    Raises LoadError and StartError. This process is in a network of its own from here on.
    """
    if not rows:
        raise LoadError("no row has such a name")
    contenders = {BEFORE: checkouts.at(base)} if base else {}
    contenders[AFTER] = checkouts.THIS
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
    results: Json = {**machine.describe(), "seconds": seconds, "workers": WORKERS, "attack": {}}
    results["checkouts"] = {name: each.describe() for name, each in contenders.items()}
    with tempfile.TemporaryDirectory() as name, attack_network.clients() as enter:
        site = Site(Path(name), enter, seconds)
        _write_users(site, rows)
        with _target(site):
            for row in rows:
                found = results["attack"].setdefault(row.name, {})
                for label, checkout in contenders.items():
                    found[label] = _row(row, checkout, site)
                    said = "; ".join([found[label]["verdict"], *found[label]["broken"]])
                    say(f"{row.name}, {label}: {said}")
    return results


def _write_users(site: Site, rows: list[Row]) -> None:
    """As many users as probes log in, each with a hash of its own, so that each is a first one."""
    most = max((row.probe_rate for row in rows if row.probe == "login"), default=0)
    numbers = range(max(1, 2 * int(most * site.seconds)))
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(lambda number: hash_password(f"right{number}".encode()), numbers))
    path = site.folder / "users"
    lines = (f"user{n}:{stored}\n" for n, stored in zip(numbers, hashes, strict=True))
    path.write_text("".join(lines))
    path.chmod(0o600)


@contextmanager
def _target(site: Site) -> Iterator[None]:
    command = [*site.enter, *MODULE, "benchmarks.attack_target"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            if not ready or not process.stdout.readline():
                raise LoadError("the targets of the attack do not start")
            yield
        finally:
            process.kill()


def _configuration(row: Row) -> str:
    host, secret = attack_client.PROXY, attack_client.SECRET
    return f"""
[server]
workers = {WORKERS}
drain_seconds = 0
[log]
target = "log"
[limits]
sessions = {row.places}
[listen.socks]
url = "socks5://{host}:{attack_client.SOCKS_PORT}"
open = true
[listen.users]
url = "socks5://{host}:{attack_client.USERS_PORT}"
users = "users"
[listen.sealed]
url = "ss://aes-256-gcm:{secret}@{host}:{attack_client.SEALED_PORT}"
[[rule]]
to = ["{attack_client.TARGET}"]
action = "direct"
"""


@contextmanager
def _proxy(row: Row, checkout: Checkout, site: Site) -> Iterator[None]:
    path = site.folder / f"{secrets.token_hex(4)}.conf"
    path.write_text(_configuration(row))
    path.chmod(0o600)
    errors = path.with_suffix(".err")
    command = [str(checkout.root / "bin" / "geproxy"), "-f", str(path)]
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            command, stderr=stream, env=checkouts.environment(), start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise StartError(f"geproxy does not start: {errors.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # what is left is ended now
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing is left, not even a worker of a master that died
        process.wait()
        (site.folder / "log").unlink(missing_ok=True)


def _answers() -> bool:
    try:
        socket.create_connection((attack_client.PROXY, attack_client.SOCKS_PORT), 1).close()
    except OSError:
        return False
    return True


def _row(row: Row, checkout: Checkout, site: Site) -> Json:
    attack_network.give_udp_ports(row.udp_ports)
    found: Json = {}
    with _proxy(row, checkout, site):
        _probe(row, site, 1.0, 5_000, warming=True)
        found["idle"] = _probe(row, site, site.seconds, 0)
        with _flood(row, site) as flood:
            time.sleep(LEAD_SECONDS)
            first = int(row.probe_rate * site.seconds)
            found["beside"] = _probe(row, site, site.seconds, first)
            found["flood"] = _ended(row, flood)
    return {**found, **attack_plan.verdict(row, found)}


def _ended(row: Row, flood: subprocess.Popen[bytes]) -> Json:
    """What the flood did; LoadError if it died, for what was measured is no service beside it."""
    try:
        said, _ = flood.communicate(timeout=END_SECONDS)
        done: Json = json.loads(said)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise LoadError(f"the flood of {row.name} came to nothing") from error
    return done


@contextmanager
def _flood(row: Row, site: Site) -> Iterator[subprocess.Popen[bytes]]:
    given = [str(value) for value in (row.rate, row.most, row.sources)]
    command = [*site.enter, *MODULE, "benchmarks.attack_flood", row.flood, *given]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _probe(row: Row, site: Site, seconds: float, first: int, *, warming: bool = False) -> Json:
    """One phase of probes. *warming* are in no figure: a log-in by nobody would be in the cache."""
    kind = "socks" if warming and row.probe == "login" else row.probe
    given = [kind, str(row.probe_rate), str(seconds), str(first)]
    command = [*site.enter, *MODULE, "benchmarks.attack_probe", *given]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, timeout=seconds + PROBE_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"probes of {row.name} do not end") from error
    if done.returncode:
        raise LoadError(f"probes of {row.name}: {done.stderr.decode()}")
    said = json.loads(done.stdout)
    return said if kind == "fast" else attack_plan.figures(said["times"], said["failed"])


def name(results: Json) -> str:
    """The name of its file."""
    parts = [results["date"], results["commit"], "attack"]
    return "-".join([*parts, *(["dirty"] if results["dirty"] else [])])
