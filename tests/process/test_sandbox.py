"""The sandbox of a worker, each in a process of its own: there is no way out again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from geproxy.process.sandbox import Sandbox, describe, readable

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

HEAD = """
import ctypes, json, os, platform, resource, signal, socket, subprocess, sys, threading, traceback
from pathlib import Path
from geproxy.process import landlock, sandbox, seccomp, syscalls
from geproxy.process.privileges import prepare
from geproxy.process.sandbox import Sandbox, describe

def attempt(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except OSError as error:
        return error.errno
    return 0

def enter():
    prepare(None)
    walls = Sandbox()
    walls.confine_files()
    walls.confine_calls()
    return walls

def in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(20)
    return found[0]

def rows(thread):
    text = Path(f"/proc/self/task/{thread}/status").read_text()
    return {row.split(":")[0]: row.split(":")[1].strip() for row in text.splitlines()}
"""


def run(code: str, folder: Path = ROOT) -> object:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code],
        env={"PYTHONPATH": str(ROOT)}, cwd=folder, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def walls() -> dict[str, object]:
    """What this kernel has."""
    code = "walls = enter(); print(json.dumps([walls.landlock_abi, walls.seccomp, walls.faults]))"
    found = run(code)
    assert isinstance(found, list)
    return dict(zip(("landlock", "seccomp", "faults"), found, strict=True))


@pytest.fixture
def both(walls: dict[str, object]) -> None:
    if walls["faults"]:
        pytest.skip(f"this kernel lacks {walls['faults']}")


@pytest.mark.usefixtures("both")
def test_files_are_neither_written_nor_changed_and_few_are_read(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("x")
    found = run(
        f"""
mine = {str(mine)!r}
enter()
print(json.dumps({{
    "write": attempt(open, mine, "w"), "append": attempt(open, mine, "a"),
    "create": attempt(open, mine + "2", "x"), "read": attempt(open, mine),
    "list": attempt(os.listdir, os.path.dirname(mine)), "remove": attempt(os.unlink, mine),
    "rename": attempt(os.rename, mine, mine + "2"), "mkdir": attempt(os.mkdir, mine + "2"),
    "chmod": attempt(os.chmod, mine, 0o777), "times": attempt(os.utime, mine),
    "truncate": attempt(os.truncate, mine, 0), "fifo": attempt(os.mkfifo, mine + "2"),
    "null": attempt(open, "/dev/null", "w"),
}}))
"""
    )
    assert isinstance(found, dict)
    assert set(found.values()) <= {1, 13}, found
    assert mine.read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.usefixtures("both")
def test_landlock_alone_refuses_files_as_well(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    found = run(
        f"""
mine = {str(tmp_path / "mine")!r}
prepare(None)
Sandbox().confine_files()
print(json.dumps([attempt(open, mine), attempt(open, mine, "w"), attempt(os.unlink, mine),
                  attempt(os.execv, "/bin/true", ["true"]), attempt(open, "/dev/null", "w")]))
"""
    )
    assert found == [13] * 5


@pytest.mark.usefixtures("both")
def test_no_program_process_namespace_mount_or_raw_socket_is_had() -> None:
    found = run(
        """
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    ctypes.set_errno(0)
    getattr(libc, name)(*arguments)
    return ctypes.get_errno()
enter()
print(json.dumps({
    "exec": attempt(os.execv, "/bin/true", ["true"]), "fork": attempt(os.fork),
    "spawn": attempt(subprocess.run, ["/bin/true"]), "ptrace": call("ptrace", 16, 1, 0, 0),
    "mount": call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
    "chroot": attempt(os.chroot, "/"), "unshare": call("unshare", 0x10000000),
    "setns": call("setns", 0, 0), "setuid": attempt(os.setuid, os.getuid()),
    "packet": attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW),
    "raw": attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1),
    "alg": attempt(socket.socket, socket.AF_ALG, socket.SOCK_SEQPACKET),
    "parent": attempt(os.kill, os.getppid(), 0),
    "memory": attempt(os.ftruncate, os.memfd_create("x"), 1),
    "limits": attempt(resource.prlimit, os.getppid(), resource.RLIMIT_NOFILE),
}))
"""
    )
    assert isinstance(found, dict)
    assert set(found.values()) == {1}, found


@pytest.mark.usefixtures("both")
def test_what_a_worker_needs_works() -> None:
    found = run(
        """
enter()
import fcntl, hashlib, statistics, zoneinfo  # loaded only here
from geproxy.net.systemlookup import get_addresses
def boom():
    raise ValueError("seen")
try:
    statistics.mean([])
except statistics.StatisticsError as error:
    shown = traceback.format_exc()
memory = os.memfd_create("x")
fcntl.lockf(memory, fcntl.LOCK_EX)
os.write(memory, b"x")
left, right = socket.socketpair()
left.send(b"y")
signal.signal(signal.SIGUSR2, lambda *_: None)
signal.raise_signal(signal.SIGUSR2)
os.kill(os.getpid(), signal.SIGUSR2)
resource.getrlimit(resource.RLIMIT_NOFILE)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    socket.socket(family, socket.SOCK_DGRAM)
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
print(json.dumps({
    "source": "raise StatisticsError" in shown, "random": len(os.urandom(16)),
    "hash": len(hashlib.scrypt(b"x", salt=b"y", n=16, r=1, p=1)),
    "name": bool(socket.getaddrinfo("localhost", 1)), "moved": right.recv(1) == b"y",
    "hosts": attempt(open, "/etc/hosts"), "null": attempt(open, "/dev/null"),
    "thread": in_thread(lambda: "ran"),
}))
"""
    )
    assert found == {
        "source": True, "random": 16, "hash": 64, "name": True, "moved": True,
        "hosts": 0, "null": 0, "thread": "ran",
    }  # fmt: skip


@pytest.mark.usefixtures("both")
def test_every_thread_is_in_the_sandbox_also_one_begun_between_the_walls() -> None:
    found = run(
        """
prepare(None)
walls = Sandbox()
walls.confine_files()
go = threading.Event()
found = []
thread = threading.Thread(
    target=lambda: (go.wait(20), found.extend([attempt(os.fork), attempt(os.listdir, "/root")])))
thread.start()
walls.confine_calls()
seen = [rows(one)["Seccomp"] for one in os.listdir("/proc/self/task")]
go.set()
thread.join(20)
print(json.dumps([seen, found]))
"""
    )
    assert found == [["2", "2"], [1, 13]]


@pytest.mark.usefixtures("both")
def test_a_file_that_is_replaced_stays_readable_where_its_folder_is(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("old")
    found = run(
        f"""
folder = Path({str(tmp_path)!r})
prepare(None)
confined, replaced = threading.Event(), threading.Event()
def look():  # landlock is each thread's own, so that the other can go on writing
    landlock.confine([str(folder)])
    confined.set()
    replaced.wait(20)
    return [(folder / "resolv.conf").read_text(), attempt(os.unlink, folder / "resolv.conf")]
def replace():
    confined.wait(20)
    (folder / "new").write_text("new")
    os.rename(folder / "new", folder / "resolv.conf")
    replaced.set()
threading.Thread(target=replace).start()
print(json.dumps(in_thread(look)))
"""
    )
    assert found == ["new", 13]


def test_a_kernel_without_either_is_no_reason_not_to_serve() -> None:
    found = run(
        """
landlock.CREATE_RULESET = 9999
syscalls.SECCOMP = syscalls.Numbers(9999, 9999)
walls = enter()
print(json.dumps([walls.word, describe(walls.word), walls.faults, attempt(os.listdir, "/")]))
"""
    )
    reason = "Function not implemented"
    assert found == [0, "off", {"landlock": reason, "seccomp": reason}, 0]


def test_a_machine_without_a_table_has_no_seccomp_and_says_so() -> None:
    found = run(
        """
platform.machine = lambda: "riscv64"
walls = enter()
print(json.dumps([walls.seccomp, walls.faults["seccomp"]]))
"""
    )
    assert found == [False, "no table of system calls for riscv64"]


def test_paths_that_are_missing_are_passed_over_and_the_root_is_never_readable() -> None:
    paths = readable()
    assert "/etc" in paths
    assert sys.prefix in paths
    assert "/" not in paths
    assert all(path.startswith("/") for path in paths)


@pytest.mark.parametrize(
    ("abi", "seccomp", "text"),
    [
        (7, True, "landlock 7, seccomp"),
        (1, False, "landlock 1"),
        (0, True, "seccomp"),
        (0, False, "off"),
        (999, True, "landlock 255, seccomp"),
    ],
)
def test_a_word_tells_the_walls(abi: int, seccomp: bool, text: str) -> None:
    assert describe(Sandbox(abi, seccomp).word) == text


@pytest.mark.usefixtures("both")
def test_what_proc_says_once_is_remembered_in_the_sandbox_and_missed_without_harm() -> None:
    code = """
from geproxy.net import sockopt
sockopt.NOTSENT_LOWAT = "/proc/self/comm" if {early} else "/proc/sys/net/ipv4/tcp_notsent_lowat"
Path("/proc/self/comm").write_text("16384")
if {early}:
    sockopt.exercise()
enter()
print(json.dumps([sockopt._limits_unsent(), attempt(open, "/proc/sys/net/ipv4/tcp_notsent_lowat")]))
"""
    assert run(code.format(early=True)) == [True, 13]
    assert run(code.format(early=False)) == [False, 13]
