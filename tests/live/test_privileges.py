"""Started as root with user = "nobody": what workers are, what they can, and what others can."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.daemon import (
    NOBODY,
    SOMEBODY,
    Daemon,
    daemon_configuration,
    daemon_folder,
    daemon_running,
    public_folder,
    status_rows,
    threads,
)
from tests.support.peers import find
from tests.support.proxy import PROGRAM, ROOT, command, wait_until
from tests.support.socks import LoginError, connect, reply_to
from tests.support.targets import echo, refused_port, target

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="for root"),
]

PASSWORD = "correct horse battery"
SEALED = "ss://aes-256-gcm:a-password-of-some-length@127.0.0.1"
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
NONE = "0" * 16


@pytest.fixture
def folder() -> Iterator[Path]:
    with public_folder() as path:
        yield path


def write_users(folder: Path) -> None:
    done = command("passwd", "users", "alice", folder=folder, given=PASSWORD)
    assert done.returncode == 0, done.stderr


def whole_configuration(server: dict[str, object]) -> str:
    """Every listener of this version: free, with users, sealed, and one on the way to that."""
    port = refused_port()
    listen = {
        "free": {"url": "socks5://127.0.0.1:0"},
        "members": {"url": "socks5://127.0.0.1:0", "users": "users"},
        "sealed": {"url": f"{SEALED}:{port}"},
        "away": {"url": "socks5://127.0.0.1:0", "via": "peer"},
    }
    via = {"via.peer": {"url": f"{SEALED}:{port}"}}
    return daemon_configuration(listen, server=server, **via)


def check_serves_everything(daemon: Daemon) -> None:
    """A name, a wrong and a right password, and a sealed stream, by every worker."""
    with target(echo) as there:
        for _ in range(8):
            assert reply_to(daemon.address("free"), "localhost", there.port) == 0
            with connect(daemon.address("away"), "localhost", there.port) as tunnel:
                tunnel.send(b"x")
                assert tunnel.receive(1) == b"x"
        members = daemon.address("members")
        for _ in range(2):
            with connect(members, "localhost", there.port, "alice", PASSWORD) as tunnel:
                tunnel.send(b"x")
                assert tunnel.receive(1) == b"x"
            for user, password in (("alice", "wrong"), ("bob", PASSWORD)):
                with pytest.raises(LoginError):
                    connect(members, "localhost", there.port, user, password)


def check_is_nobody(pid: int, gid: int = NOBODY, groups: str = str(NOBODY)) -> None:
    """Look at every thread: some of what is given up is each thread's own."""
    for thread in threads(pid):
        rows = status_rows(pid, thread)
        assert rows["Uid"] == " ".join([str(NOBODY)] * 4)
        assert rows["Gid"] == " ".join([str(gid)] * 4)
        assert rows["Groups"] == groups
        assert {name: rows[name] for name in CAPABILITIES} == dict.fromkeys(CAPABILITIES, NONE)
        assert rows["NoNewPrivs"] == "1"


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param([], id="started by root"),
        pytest.param(
            ["setpriv", "--groups=0,4,27", "--inh-caps=+net_raw,+chown",
             "--ambient-caps=+net_raw,+chown"],
            id="started with groups and capabilities to inherit",
        ),
    ],
)  # fmt: skip
def test_workers_are_nobody_and_serve_everything(folder: Path, prefix: list[str]) -> None:
    write_users(folder)
    with daemon_folder(folder, whole_configuration({"user": "nobody"})) as daemon:
        daemon.prefix = prefix
        daemon.start()
        check_serves_everything(daemon)
        assert len(daemon.workers()) == 2
        for pid in daemon.workers():
            check_is_nobody(pid)
            assert len(threads(pid)) > 1
        # The same for those that come later.
        os.kill(daemon.workers()[0], signal.SIGKILL)
        daemon.wait_for("worker.ready")
        assert daemon.run("reload").returncode == 0
        wait_until(lambda: len(daemon.workers()) == 2)
        for pid in daemon.workers():
            check_is_nobody(pid)
        assert not daemon.lines("session.fault")
        assert not [line for line in daemon.lines("config.warning") if "root" in line.text]


def test_a_group_takes_the_place_of_the_accounts_own(folder: Path) -> None:
    (name, gid) = next((g.gr_name, g.gr_gid) for g in grp.getgrall() if g.gr_gid not in (0, NOBODY))
    config = daemon_configuration(server={"user": "nobody", "group": name})
    with daemon_running(folder, config) as daemon:
        for pid in daemon.workers():
            check_is_nobody(pid, gid, str(gid))


def test_an_account_in_more_groups_has_them_all_and_no_other(folder: Path) -> None:
    groups = [
        (member, group.gr_gid)
        for group in grp.getgrall()
        for member in group.gr_mem
        if member != "root"
    ]
    if not groups:
        pytest.skip("no account of this machine is in a second group")
    user, _ = groups[0]
    entry = pwd.getpwnam(user)
    with daemon_running(folder, daemon_configuration(server={"user": user})) as daemon:
        wanted = sorted(os.getgrouplist(user, entry.pw_gid))
        for pid in daemon.workers():
            assert sorted(map(int, status_rows(pid)["Groups"].split())) == wanted


def test_root_without_an_account_is_warned_and_hardened_all_the_same(folder: Path) -> None:
    with daemon_running(folder) as daemon:
        (line,) = daemon.lines("config.warning")
        assert line.fields["key"] == "server.user"
        for pid in daemon.workers():
            for thread in threads(pid):
                assert status_rows(pid, thread)["NoNewPrivs"] == "1"


def attempt(program: str, *arguments: str, uid: int) -> int:
    """Have another user run a Python program; returns its exit status."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
    done = subprocess.run(
        [python, "-I", "-c", program, *arguments],
        user=uid, group=uid, extra_groups=[], capture_output=True, timeout=20,
    )  # fmt: skip
    return done.returncode


READ = "import sys; open(sys.argv[1], 'rb').read(1)"
LIST = "import os, sys; os.listdir(sys.argv[1])"
SIGNAL = "import os, sys; os.kill(int(sys.argv[1]), int(sys.argv[2]))"


def test_another_user_can_read_and_signal_nothing(folder: Path) -> None:
    write_users(folder)
    with daemon_folder(folder, whole_configuration({"user": "nobody"})) as daemon:
        daemon.start()
        assert attempt(READ, str(daemon.pidfile), uid=SOMEBODY) == 0, "what all may read"
        family = sorted(daemon.left())
        for uid in (SOMEBODY, NOBODY):
            for path in (daemon.config, folder / "users", folder / "log"):
                assert attempt(READ, str(path), uid=uid) == 1, path
            for pid in family:
                for name in ("mem", "environ", "maps"):
                    assert attempt(READ, f"/proc/{pid}/{name}", uid=uid) == 1, name
                assert attempt(LIST, f"/proc/{pid}/fd", uid=uid) == 1
        for pid in family:
            assert attempt(SIGNAL, str(pid), str(int(signal.SIGKILL)), uid=SOMEBODY) == 1
        assert attempt(SIGNAL, str(daemon.pid), "9", uid=NOBODY) == 1, "the workers' own account"
        assert sorted(daemon.left()) == family


IGNORED = shutil.ignore_patterns(
    "__pycache__", "test", "tests", "idlelib", "ensurepip", "tkinter", "turtledemo", "lib2to3",
    "config-3*", "site-packages", "dist-packages",
)  # fmt: skip
NEEDED = ("gevent", "greenlet", "docopt", "setproctitle", "Crypto", "zope", "idna")
FAST = ("cryptography", "_cffi_backend")  # with these other ciphers are in use than without
LAUNCH = "import sys; sys.path[:0] = {paths!r}; from geproxy.cli import main; sys.exit(main())"


def copy_of_python(home: Path) -> Path:
    """Copy the interpreter, its library, what we need and ourselves."""
    home.mkdir(mode=0o700)
    original = Path(os.path.realpath(sys.executable))
    (home / "bin").mkdir()
    shutil.copy(original, home / "bin")
    library = Path(sysconfig.get_path("stdlib", vars={}))
    shutil.copytree(library, home / "lib" / library.name, ignore=IGNORED)
    shutil.copytree(ROOT / "geproxy", home / "checkout" / "geproxy", ignore=IGNORED)
    for folder, names in (("packages", NEEDED), ("fast", FAST)):
        (home / folder).mkdir()
        for name in names:
            copy_of_package(name, home / folder)
    return home / "bin" / original.name


def copy_of_package(name: str, folder: Path) -> None:
    spec = find_spec(name)
    if spec is None:
        return
    if not spec.submodule_search_locations:
        assert spec.origin is not None
        shutil.copy(spec.origin, folder)
    for place in spec.submodule_search_locations or ():
        shutil.copytree(place, folder / name, ignore=IGNORED, dirs_exist_ok=True)


def test_an_interpreter_that_workers_cannot_read_is_all_they_need(folder: Path) -> None:
    home = folder / "home"
    python = copy_of_python(home)
    write_users(folder)
    for packages in (["packages"], ["packages", "fast"]):
        paths = [str(home / name) for name in ("checkout", *packages)]
        program = [str(python), "-S", "-E", "-B", "-c"]
        look = f"import sys; sys.path[:0] = {paths}; import geproxy.process.worker; "
        shown = subprocess.run(
            [*program, look + "print(*sys.path, sys.prefix, geproxy.__file__)"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        outside = [word for word in shown.stdout.split() if str(home) not in word]
        assert outside == [], "all of sys.path is in a directory of root's own"
        with daemon_folder(folder, whole_configuration({"user": "nobody"})) as daemon:
            done = daemon.run("-d", program=[*program, LAUNCH.format(paths=paths)])
            assert (done.returncode, done.stderr) == (0, "")
            check_serves_everything(daemon)
            before = daemon.workers()
            for pid in before:
                check_is_nobody(pid)
            os.kill(before[0], signal.SIGKILL)
            daemon.wait_for("worker.ready")
            check_serves_everything(daemon)
            assert len(daemon.lines("worker.lost")) == 1
            assert not daemon.lines("session.fault")
            assert daemon.run("quit").returncode == 0
            (folder / "log").unlink()


def test_a_low_port_is_served_by_workers_that_could_not_bind_it(folder: Path) -> None:
    unshare = [find("unshare"), "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    config = daemon_configuration(
        {"low": {"url": "socks5://127.0.0.1:80"}}, server={"user": "nobody"}
    )
    with daemon_folder(folder, config) as daemon:
        done = subprocess.run(
            [*unshare, str(PROGRAM), "-f", str(daemon.config), "-d"],
            capture_output=True, text=True, timeout=40,
        )  # fmt: skip
        if "unshare failed" in done.stderr:
            pytest.skip("this machine gives nobody a network of his own")
        assert done.returncode == 0, done.stderr
        ready = daemon.wait_for("listen.start")
        assert ready.fields["address"] == "127.0.0.1:80"
        for pid in daemon.workers():
            check_is_nobody(pid)
