"""`make install` below a DESTDIR: a program that runs there, and files that do not know of it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from geproxy import VERSION
from geproxy.config.load import load
from geproxy.config.settings import Limits
from geproxy.process.limits import DESCRIPTORS_PER_SESSION, RESERVE
from tests.support import peers, proxy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
INSTALL_SECONDS = 300.0  # packages may have to be fetched

PROGRAMS = ("etc/init.d/geproxy", "usr/bin/geproxy")
FILES = (
    "etc/default/geproxy",
    "etc/geproxy/geproxy.conf",
    "etc/logrotate.d/geproxy",
    "usr/lib/systemd/system/geproxy.service",
    "usr/lib/sysusers.d/geproxy.conf",
    "usr/share/doc/geproxy/CHANGES.md",
    "usr/share/doc/geproxy/README.md",
    "usr/share/doc/geproxy/examples/geproxy.conf",
    "usr/share/doc/geproxy/examples/local.conf",
    "usr/share/doc/geproxy/examples/remote.conf",
    "usr/share/doc/geproxy/examples/shared-server.conf",
    "usr/share/man/man5/geproxy.conf.5",
    "usr/share/man/man8/geproxy.8",
)
KEPT = ("etc/default/geproxy", "etc/geproxy/geproxy.conf", "etc/logrotate.d/geproxy")


def make(target: str, destination: Path, *variables: str) -> None:
    # Not the venv that the tests run in, but the interpreter that it was made of.
    python = f"PYTHON={os.path.realpath(sys.executable)}"
    done = subprocess.run(
        ["make", "--silent", target, f"DESTDIR={destination}", "prefix=/usr", python, *variables],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    assert done.returncode == 0, done.stderr


def run(*command: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def tree(folder: Path) -> list[str]:
    """Every file of *folder* but those of the program itself."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in paths if not path.is_relative_to("usr/lib/geproxy")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole of it. Nobody changes anything there."""
    folder = tmp_path_factory.mktemp("destination")
    make("install", folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """All but the program, to be changed."""
    make("install-files", tmp_path)
    return tmp_path


# -- what is where -----------------------------------------------------------------------------


@pytest.mark.timeout(INSTALL_SECONDS)
def test_every_file_is_where_a_debian_host_looks_for_it(installed):
    assert tree(installed) == sorted(PROGRAMS + FILES)
    assert (installed / "var/log/geproxy").is_dir()
    assert not list((installed / "usr/lib").glob("geproxy.*"))


@pytest.mark.timeout(INSTALL_SECONDS)
def test_whatever_the_umask_everyone_may_run_it_and_root_alone_read_its_configuration(installed):
    for path in (*installed.rglob("usr/**/*"), installed / "usr/bin"):
        mode = path.lstat().st_mode
        assert mode & 0o444 == 0o444, path
        assert not mode & 0o022, path
    modes = {name: stat.S_IMODE((installed / name).stat().st_mode) for name in PROGRAMS + FILES}
    assert {modes[name] for name in PROGRAMS} == {0o755}
    assert modes["etc/geproxy/geproxy.conf"] == 0o640
    assert stat.S_IMODE((installed / "var/log/geproxy").stat().st_mode) == 0o750


@pytest.mark.timeout(INSTALL_SECONDS)
def test_no_file_knows_where_it_was_laid_out_or_made(installed):
    places = [str(installed).encode(), str(ROOT).encode() + b"/"]
    texts = {path: path.read_bytes() for path in installed.rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if any(place in text for place in places)] == []


def test_other_folders_are_told_to_every_file(tmp_path):
    make("install-files", tmp_path, "prefix=/opt", "sysconfdir=/opt/etc", "runstatedir=/opt/run",
         "localstatedir=/opt/var")  # fmt: skip
    text = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("etc", "lib")
        for path in (tmp_path / "opt" / folder).rglob("*")
        if path.is_file() and "sysusers.d" not in str(path)
    )
    assert "/opt/bin/geproxy" in text
    assert re.findall(r"(?<!/opt)/(?:etc|run|var)/geproxy|/usr/bin/geproxy", text) == []


def test_the_configuration_of_the_service_is_the_shipped_one_with_an_account_and_a_pidfile(files):
    shipped = (ROOT / "etc" / "geproxy.conf").read_text(encoding="utf-8").splitlines()
    service = (files / "etc/geproxy/geproxy.conf").read_text(encoding="utf-8").splitlines()
    changed = [(old, new) for old, new in zip(shipped, service, strict=True) if old != new]
    assert [new.partition(" #")[0].strip() for _, new in changed] == [
        'user = "geproxy"',
        'pidfile = "/run/geproxy/geproxy.pid"',
    ]
    assert all(old.partition("#")[2] == new.partition("#")[2] for old, new in changed)
    path = files / "etc/geproxy/geproxy.conf"
    path.write_text("\n".join(service).replace('"geproxy"', '"nobody"'), encoding="utf-8")
    assert load(str(path)).warnings == ()


def test_installing_again_changes_no_configuration(files):
    for name in KEPT:
        (files / name).write_text("# an administrator's\n", encoding="utf-8")
    (files / "etc/init.d/geproxy").write_text("# an older version's\n", encoding="utf-8")
    make("install-files", files)
    assert [(files / name).read_text() for name in KEPT] == ["# an administrator's\n"] * len(KEPT)
    assert "INIT INFO" in (files / "etc/init.d/geproxy").read_text(encoding="utf-8")


def test_uninstalling_leaves_what_an_administrator_has_written(files):
    (files / "usr/lib/geproxy").mkdir()
    (files / "etc/geproxy/users").write_text("", encoding="utf-8")
    make("uninstall", files)
    assert tree(files) == ["etc/default/geproxy", "etc/geproxy/geproxy.conf", "etc/geproxy/users"]
    assert not (files / "usr/lib/geproxy").exists()
    assert (files / "var/log/geproxy").is_dir()


# -- the program -------------------------------------------------------------------------------


@pytest.mark.timeout(INSTALL_SECONDS)
def test_the_program_runs_and_needs_nothing_else(installed, tmp_path):
    (tmp_path / "geproxy").mkdir()
    (tmp_path / "gevent.py").write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    environment = {"PATH": os.defpath, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [installed / "usr/bin/geproxy", "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"geproxy {VERSION}\n", "")


@pytest.mark.timeout(INSTALL_SECONDS)
def test_the_program_runs_by_a_link_too(installed, tmp_path):
    (tmp_path / "geproxy").symlink_to(installed / "usr/bin/geproxy")
    assert run(tmp_path / "geproxy", "--version").stdout == f"geproxy {VERSION}\n"


@pytest.mark.timeout(INSTALL_SECONDS)
def test_the_program_says_when_python_was_upgraded(installed, tmp_path):
    text = (installed / "usr/bin/geproxy").read_text(encoding="utf-8")
    other = tmp_path / "geproxy"
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert text.count(here) >= 2
    other.write_text(re.sub(rf'"{re.escape(here)}"', '"3.99"', text), encoding="utf-8")
    other.chmod(0o755)
    done = run(other, "--version")
    assert done.returncode == 1
    assert "run make install again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(INSTALL_SECONDS)
def test_the_installed_program_is_a_daemon(installed, tmp_path):
    program = installed / "usr/bin/geproxy"
    pidfile = tmp_path / "geproxy.pid"
    config = tmp_path / "geproxy.conf"
    config.write_text(
        proxy.configuration(
            server={"pidfile": str(pidfile)}, log={"target": str(tmp_path / "log")}
        ),
        encoding="utf-8",
    )
    try:
        done = subprocess.run(
            [program, "-f", config, "-d"], stdin=subprocess.DEVNULL, timeout=60, cwd="/"
        )
        assert done.returncode == 0
        assert run(program, "status", "-f", config).returncode == 0
        command = Path(f"/proc/{pidfile.read_text().strip()}/maps").read_text()
        assert f"{installed}/usr/lib/geproxy/gevent/" in command
    finally:
        stopped = run(program, "stop", "-f", config)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert run(program, "status", "-f", config).returncode == 3


# -- the manual --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "title"),
    [("man8/geproxy.8", "GEPROXY(8)"), ("man5/geproxy.conf.5", "GEPROXY.CONF(5)")],
)
def test_the_manual_is_shown(files, page, title):
    man, mandoc = shutil.which("man"), shutil.which("mandoc")
    path = files / "usr/share/man" / page
    if mandoc is not None:
        done = run(mandoc, path)
    elif man is not None:
        done = run(man, "-l", path)
    else:
        peers.missing("mandoc is missing: it is in the Debian package mandoc")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(title)


# -- systemd -----------------------------------------------------------------------------------


UNIT = (ROOT / "etc/systemd/geproxy.service").read_text(encoding="utf-8")


def unit_settings() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", UNIT, flags=re.M))


def test_systemd_finds_no_fault_with_the_unit(files):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here: this host does not run systemd")
    # It looks whether what is to be executed is there; here, anything will do.
    unit = files / "geproxy.service"
    unit.write_text(UNIT.replace("/usr/bin/geproxy", "/bin/sh"), encoding="utf-8")
    done = run(program, "verify", "--man=no", unit)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_has_room_for_the_sessions_that_are_configured():
    wanted = Limits().sessions * DESCRIPTORS_PER_SESSION + RESERVE
    assert int(unit_settings()["LimitNOFILE"]) >= wanted


def test_the_unit_waits_longer_than_a_stop_may_take():
    found = load(str(ROOT / "etc" / "geproxy.conf"))
    assert int(unit_settings()["TimeoutStopSec"]) > found.server.drain_seconds


CAPABILITIES = unit_settings()["CapabilityBoundingSet"].lower().replace("cap_", "+").split()
CONFINED = ("--no-new-privs", "--bounding-set", ",".join(["-all", *CAPABILITIES]))


@pytest.mark.skipif(os.geteuid() != 0, reason="capabilities are root's")
def test_the_capabilities_of_the_unit_are_enough(tmp_path):
    """To change the user, to listen on a low port, to end a worker that hangs, to reload."""
    config = proxy.configuration(
        {"socks": {"url": "socks5://127.0.0.1:0"}},
        server={"user": "nobody", "heartbeat_seconds": 1},
    )
    with proxy.running(tmp_path, config, prefix=(peers.find("setpriv"), *CONFINED)) as confined:
        status = Path(f"/proc/{confined.pid}/status").read_text()
        assert re.search(r"^NoNewPrivs:\s+1$", status, flags=re.M)
        worker = confined.workers()[0]
        os.kill(worker, 19)
        confined.wait_for("worker.lost", pid=worker)
        confined.wait_for("worker.ready")
        assert confined.reload().event == "reload.done"
        for pid in confined.wait_for_workers(2):
            assert "Uid:\t65534\t65534\t65534\t65534\n" in Path(f"/proc/{pid}/status").read_text()


PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # linux/prctl.h, since Linux 6.3
DENY = f"""
import ctypes, os, sys
words = [ctypes.c_ulong(word) for word in ({PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0)]
if ctypes.CDLL(None).prctl({PR_SET_MDWE}, *words):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_no_memory_has_to_be_writable_and_executable(tmp_path):
    assert unit_settings()["MemoryDenyWriteExecute"] == "yes"
    prefix = (sys.executable, "-c", DENY)
    if run(*prefix, "/bin/true").returncode == 77:
        pytest.skip("this kernel cannot deny it (PR_SET_MDWE is of Linux 6.3)")
    sealed = {}
    for method in ("aes-256-gcm", "chacha20-ietf-poly1305"):
        sealed[method] = {"url": f"ss://{method}:{'x' * 30}@127.0.0.1:0"}
    config = proxy.configuration(sealed)
    (tmp_path / "geproxy.conf").touch(0o600)
    with proxy.running(tmp_path, config, prefix=prefix) as confined:
        assert confined.reload().event == "reload.done"


# -- the log's rotation ------------------------------------------------------------------------


def test_what_logrotate_runs_is_a_command_of_the_program():
    text = (ROOT / "etc/logrotate.d/geproxy").read_text(encoding="utf-8")
    script = text.partition("postrotate\n")[2].partition("endscript")[0]
    assert run("sh", "-n", "-c", script).returncode == 0
    assert "geproxy reopen -f /etc/geproxy/geproxy.conf" in script
    program = shutil.which("logrotate", path=peers.SEARCHED)
    if program is not None:
        done = run(program, "--debug", ROOT / "etc/logrotate.d/geproxy")
        assert done.returncode == 0, done.stderr
