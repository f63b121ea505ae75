"""Giving up root: in every thread, for good, and checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
SOME_GROUPS = (NOBODY, 4242)

HEAD = f"""
import json, os, resource, sys, threading
from geproxy.config.account import Account
from geproxy.errors import StartError
from geproxy.process.privileges import drop, prepare, settle

ACCOUNT = Account("nobody", {NOBODY}, {NOBODY}, {SOME_GROUPS})

def threads():
    found = []
    for entry in sorted(os.listdir("/proc/self/task"), key=int):
        with open(f"/proc/self/task/{{entry}}/status") as file:
            rows = (line.partition(":") for line in file)
            found.append({{name: " ".join(text.split()) for name, _, text in rows}})
    return found

def idle_thread():
    started, end = threading.Event(), threading.Event()
    def idle():
        started.set()
        end.wait(20)
    threading.Thread(target=idle, daemon=True).start()
    started.wait(20)

def attempt(name, *arguments):
    try:
        getattr(os, name)(*arguments)
    except PermissionError:
        return "refused"
    return "done"
"""


def run(code: str) -> object:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


for_root = pytest.mark.skipif(os.geteuid() != 0, reason="for root")


@pytest.mark.slow
@for_root
def test_every_thread_is_nobody_and_can_nothing() -> None:
    found = run("prepare(ACCOUNT); idle_thread(); settle(ACCOUNT); print(json.dumps(threads()))")
    assert isinstance(found, list)
    assert len(found) == 2
    for rows in found:
        assert rows["Uid"] == rows["Gid"] == " ".join([str(NOBODY)] * 4)
        assert sorted(map(int, rows["Groups"].split())) == sorted(SOME_GROUPS)
        assert {rows[name] for name in CAPABILITIES} == {"0" * 16}
        assert rows["NoNewPrivs"] == "1"


@pytest.mark.slow
@for_root
def test_there_is_no_way_back() -> None:
    ways = [("setuid", 0), ("setgid", 0), ("setgroups", [0]), ("setresuid", 0, 0, 0)]
    ways += [("chroot", "/"), ("chown", "/tmp", 0, 0), ("kill", 1, 0)]
    code = f"prepare(ACCOUNT); settle(ACCOUNT); print(json.dumps([attempt(*w) for w in {ways}]))"
    assert run(code) == ["refused"] * len(ways)


@pytest.mark.slow
@for_root
def test_a_drop_that_was_not_prepared_in_every_thread_is_refused() -> None:
    code = """
idle_thread()
try:
    drop(ACCOUNT)
except StartError as error:
    print(json.dumps(str(error)))
"""
    said = run(code)
    assert isinstance(said, str)
    assert said.startswith("privileges were not dropped: CapBnd: ")


@pytest.mark.slow
def test_who_stays_is_hardened_all_the_same() -> None:
    code = """
before = threads()[0]
for account in (None, ACCOUNT) if os.geteuid() else (None,):
    prepare(account)
    settle(account)
after = threads()[0]
print(json.dumps([before["Uid"] == after["Uid"], after["NoNewPrivs"],
                  resource.getrlimit(resource.RLIMIT_CORE)]))
"""
    assert run(code) == [True, "1", [0, 0]]
