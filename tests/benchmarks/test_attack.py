"""The whole run: from another host, one row, both ends of the promise in its table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import attack_report, report
from benchmarks.contenders import ROOT
from tests.support.peers import missing


@pytest.mark.slow
def test_a_flood_of_other_hosts_is_measured(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("an attack needs a network of its own: run as root")
    command = [sys.executable, "-m", "benchmarks", "--attack", "--only", "unread-downloads"]
    done = subprocess.run(
        [*command, "--seconds", "0.5", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    found_files = list(tmp_path.glob("*-attack*.json"))
    assert len(found_files) == 1, done.stderr
    results = report.read(found_files[0])
    found = results["attack"]["unread-downloads"]["after"]
    assert found["idle"]["asked"] == 10
    assert found["flood"]["rate"] > 0
    assert done.returncode == int(attack_report.failed(results))
    assert attack_report.text(results) in done.stdout
