"""Where and of what a run was made: the commit, the machine, the versions of everything."""

from __future__ import annotations

import datetime
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from cryptography.hazmat.backends.openssl import backend

from benchmarks import reference
from benchmarks.contenders import HTTP, PLAIN, ROOT, SEALED, find
from benchmarks.plan import cores

# What figures depend on; those of an earlier run are not among it.
MEASURED = ("geproxy", "bin", "benchmarks", ":!benchmarks/results")
LIBRARIES = ("gevent", "greenlet", "cryptography")


def output(*command: str, root: Path = ROOT) -> str:
    """What *command* says in the checkout at *root*; empty if it fails."""
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=20)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit(root: Path = ROOT) -> tuple[str, bool]:
    """The short name of the checkout's commit, and whether the tree differs from it."""
    name = output("git", "rev-parse", "--short", "HEAD", root=root) or "unknown"
    differs = output("git", "status", "--porcelain", "--", *MEASURED, root=root)
    return name, bool(differs)


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return match[1] if match else platform.machine()


def _versions() -> dict[str, str]:
    versions = {"geproxy": output(str(ROOT / "bin" / "geproxy"), "--version")}
    versions["python"] = " ".join(sys.version.split())  # compiler and flags make a tenth of speed
    versions |= {name: metadata.version(name) for name in LIBRARIES}
    versions["openssl"] = backend.openssl_version_text()
    for tool in ("cc", "strace"):
        versions[tool] = output(tool, "--version").partition("\n")[0]
    for contender in (*PLAIN[1:], *SEALED[1:], *HTTP[1:]):
        if find(contender.program) is None:
            continue
        query = ("dpkg-query", "--show", "--showformat=${Version}", contender.package)
        known = output(*query) if shutil.which("dpkg-query") else ""
        versions[contender.name] = known or "of no package"
    return versions


def describe() -> dict[str, Any]:
    """Everything that a reader of the figures has to know about where they come from."""
    name, dirty = commit()
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.strftime("%Y-%m-%d"),
        "time": now.strftime("%H:%M:%SZ"),
        "commit": name,
        "dirty": dirty,
        "kernel": platform.release(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "load_average": list(os.getloadavg()),
        "nofile": list(resource.getrlimit(resource.RLIMIT_NOFILE)),
        "reference_loop": {"version": reference.VERSION, "turns": reference.TURNS},
        "versions": _versions(),
    }


def missing() -> list[str]:
    """Which contenders are not installed, and which package has them."""
    reasons = [each.missing() for each in (*PLAIN, *SEALED, *HTTP)]
    return list(dict.fromkeys(reason for reason in reasons if reason))
