"""What clients from elsewhere may not reach, dialed in earnest where no way leads out."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from tests.policy.test_ranges import rows
from tests.support.peers import find, missing
from tests.support.proxy import PROGRAM

pytestmark = pytest.mark.slow

DENIED, NETWORK_UNREACHABLE = 2, 3  # RFC 1928 §6


def in_an_empty_network(tmp_path: Path, script: list[str], given: str) -> str:
    """Run *script* where there is nothing but loopback; returns what it prints."""
    inside = f'{find("ip")} link set lo up && exec "$@"'
    enter = [find("unshare"), "--map-root-user", "--net"]
    if subprocess.run([*enter, "true"], capture_output=True).returncode:
        enter = [find("unshare"), "--net"]  # no user namespaces here; as root none is needed
    if subprocess.run([*enter, "true"], capture_output=True).returncode:
        missing("a network namespace cannot be made here: run as root, or allow user namespaces")
    done = subprocess.run(
        [*enter, "sh", "-ec", inside, "sh", *script],
        cwd=tmp_path,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": str(PROGRAM.parents[1])},
        input=given,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_non_public_address_is_rep_2_however_it_is_spelled(tmp_path: Path) -> None:
    asked: list[tuple[str, str, bool]] = []  # how it is spelled, as what, whether it is public
    for row in rows():
        text, public = row.values
        if "%" in text:
            continue  # no scope fits on the wire
        address = ip_address(text)
        asked.append((text, "address", public))
        asked.append((text, "name", public))
        if isinstance(address, IPv6Address):
            asked.append((address.exploded.upper(), "name", public))
        else:
            number = int(address)
            mapped = f"::ffff:{number >> 16:x}:{number & 0xFFFF:x}"
            asked += [(mapped, kind, public) for kind in ("address", "name")]
            asked += [(form.format(number), "name", public) for form in ("{}", "{:#x}", "0{:o}")]
            first, second, third, fourth = address.packed
            asked.append((f"{first}.{second}.{third << 8 | fourth}", "name", public))
    assert len({text for text, _, _ in asked}) >= 120

    script = [sys.executable, "-m", "tests.support.deny_rows"]
    given = json.dumps([(text, kind) for text, kind, _ in asked])
    reps = json.loads(in_an_empty_network(tmp_path, script, given))

    wrong = [
        (text, kind, rep)
        for (text, kind, public), rep in zip(asked, reps, strict=True)
        if rep != (NETWORK_UNREACHABLE if public else DENIED)
    ]
    assert wrong == []
