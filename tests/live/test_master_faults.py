"""The kernel refuses what the master asks for; the service stands, and recovers when it can.

strace(1) has a system call of the running master fail, and of nobody else.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.peers import find, missing
from tests.support.proxy import Proxy, configuration, running, ss_url, wait_until
from tests.support.socks import connect
from tests.support.targets import Target, echo, target

pytestmark = pytest.mark.slow

METHOD = "aes-128-gcm"
HUP, USR1, TTIN, TTOU = signal.SIGHUP, signal.SIGUSR1, signal.SIGTTIN, signal.SIGTTOU

# What the master is asked to do, the call that fails meanwhile, and how
FAULTS = [
    (HUP, "openat", "EMFILE"),  # the configuration, the log
    (HUP, "read", "EIO"),
    (HUP, "socket", "ENFILE"),  # a listener that is new
    (HUP, "bind", "EACCES"),
    (HUP, "listen", "ENOBUFS"),
    (HUP, "setsockopt", "ENOMEM"),
    (HUP, "memfd_create", "EMFILE"),  # the salts of a listener that is new
    (HUP, "ftruncate", "ENOSPC"),
    (HUP, "mmap", "ENOMEM"),
    (HUP, "socketpair", "ENFILE"),  # lines to workers, and between them for UDP clients
    (HUP, "socketpair", "ENFILE:when=3+"),  # the workers stand, their lines to each other do not
    (HUP, "clone", "EAGAIN"),
    (HUP, "clone", "ENOMEM:when=2+"),
    (HUP, "sendmsg", "ENOBUFS"),  # what workers are told
    (HUP, "write", "ENOSPC"),  # the log
    (HUP, "close", "EIO"),
    (HUP, "poll", "ENOMEM"),
    (HUP, "prlimit64", "EPERM"),
    (USR1, "socketpair", "ENFILE"),  # the line to a new writer of the log
    (USR1, "clone", "EAGAIN"),
    (USR1, "close", "EIO"),
    (USR1, "write", "ENOSPC"),
    (USR1, "recvfrom", "ENOMEM"),  # what a writer says
    (USR1, "sendto", "ENOBUFS"),  # what it is told, and lines
    (TTIN, "socketpair", "EMFILE"),
    (TTIN, "clone", "EAGAIN"),
    (TTOU, "socketpair", "ENFILE"),
    (TTOU, "sendmsg", "EAGAIN"),
]


@contextmanager
def failing(proxy: Proxy, call: str, error: str) -> Iterator[Path]:
    """Have *call* of the master fail as *error*; gives the file where strace writes that it did."""
    strace = find("strace")
    if strace is None:
        missing("strace")
    said = proxy.folder / "strace"
    said.unlink(missing_ok=True)
    inject = f"inject={call}:error={error}"
    command = [strace, "-p", str(proxy.pid), "-e", f"trace={call}", "-e", inject, "-o", str(said)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        try:
            line = tracer.stderr.readline()
            assert "attached" in line, line
            yield said
        finally:
            tracer.terminate()


@pytest.fixture(scope="module")
def there() -> Iterator[Target]:
    with target(echo) as there:
        yield there


def config(folder: Path, **more: dict[str, object]) -> str:
    """A log in a file, UDP clients to hand over; and *more* listeners."""
    tunnel = {"url": "udp://127.0.0.1:0", "target": "127.0.0.1:9"}
    listen = {"socks": {"url": "socks5://127.0.0.1:0"}, "tunnel": tunnel, **more}
    return configuration(listen, log={"access": str(folder / "access.log")})


@pytest.mark.parametrize(
    ("asked", "call", "error"),
    [pytest.param(*row, id=f"{row[0].name}-{row[1]}-{row[2]}") for row in FAULTS],
)
def test_whatever_fails_in_an_action_of_the_master_the_service_stands(
    tmp_path: Path, there: Target, asked: signal.Signals, call: str, error: str
) -> None:
    more: dict[str, object] = {"url": ss_url(METHOD, ("127.0.0.1", 0))}
    with running(tmp_path, config(tmp_path)) as proxy:
        proxy.rewrite(config(tmp_path, more=more))
        with failing(proxy, call, error) as said:
            proxy.signal(asked)
            wait_until(lambda: "INJECTED" in said.read_text())
            check_service(proxy, there)
        check_service(proxy, there)
        wait_until(lambda: proxy.reload().event == "reload.done")
        check_service(proxy, there)
        assert proxy.addresses("more"), "what was new is there in the end"
        assert "Traceback" not in proxy.log
        assert proxy.process.poll() is None


def check_service(proxy: Proxy, there: Target) -> None:
    with connect(proxy.addresses("socks")[0], "127.0.0.1", there.port) as client:
        client.socket.sendall(b"still there")
        assert client.socket.recv(100) == b"still there"
