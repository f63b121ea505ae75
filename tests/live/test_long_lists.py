"""Long lists of targets and clients: read before ready, shared by the workers, reloaded in passing.

The old way took 0.5 seconds of each worker's first request for 10 000 patterns; with 250 000 the
workers were killed for their silence, and -t had called the configuration sound.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.proxy import Proxy, command, configuration, running
from tests.support.rules import with_rules
from tests.support.socks import RefusedError, connect
from tests.support.targets import Target, echo, target

pytestmark = pytest.mark.slow

LINES = 250_000
REP_DENIED = 2
REQUESTS = 2_000
# A worker that copied what it looks up would come to the whole list, which takes some 30 MB.
GROWTH_KIB = 4 << 10
RULE = {"to_file": "blocklist", "action": "deny"}
CONFIG = with_rules(configuration(server={"heartbeat_seconds": 4}), RULE)


def blocklist(domain: str) -> str:
    """Names, domains, lines of a hosts file and patterns, as many of each; and one address."""
    forms = (
        "host{0}.{1}",
        "*.host{0}.{1}",
        "0.0.0.0 ads{0}.{1} # hosts",
        "a*d?{0}.{1}",
    )
    lines = [forms[number % 4].format(number, domain) for number in range(LINES)]
    return "\n".join([*lines, "127.0.0.9", ""])


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("lists")
    (folder / "blocklist").write_text(blocklist("example"))
    with running(folder, CONFIG) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def there() -> Iterator[Target]:
    with target(echo) as there:
        yield there


def is_denied(proxy: Proxy, host: str, port: int) -> bool:
    try:
        connect(proxy.address, host, port).close()
    except RefusedError as refused:
        assert refused.rep == REP_DENIED
        return True
    return False


def private_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Private_Dirty: +(\d+) kB$", text, flags=re.M)[0])


def test_each_kind_of_line_denies_what_it_names(proxy: Proxy, there: Target) -> None:
    denied = ["host0.example", "a.host1.example", "HOST4.Example.", "ads2.example"]
    denied += ["aXXdX3.example", "127.0.0.9"]
    assert [is_denied(proxy, host, there.port) for host in denied] == [True] * len(denied)
    assert not is_denied(proxy, "localhost", there.port)
    assert not is_denied(proxy, there.host, there.port)


def test_the_workers_share_the_list_however_much_is_asked(proxy: Proxy, there: Target) -> None:
    is_denied(proxy, "host0.example", there.port)
    before = {pid: private_kib(pid) for pid in proxy.workers()}
    step = LINES // REQUESTS
    for number in range(0, LINES, step):
        number -= number % 4
        assert is_denied(proxy, f"www.host{number + 1}.example", there.port)
        assert is_denied(proxy, f"host{number}.example", there.port)
    grown = {pid: private_kib(pid) - before[pid] for pid in proxy.workers()}
    assert all(kib < GROWTH_KIB for kib in grown.values()), grown


def test_a_reload_of_a_long_list_stops_nobody(tmp_path: Path, there: Target) -> None:
    path = tmp_path / "blocklist"
    path.write_text(blocklist("example"))
    done = threading.Event()
    faults: list[Exception] = []
    with running(tmp_path, CONFIG) as proxy:

        def ask() -> None:
            try:
                while not done.is_set():
                    assert not is_denied(proxy, "localhost", there.port)
                    assert is_denied(proxy, "127.0.0.9", there.port)
            except Exception as fault:
                faults.append(fault)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            for domain in ("example.net", "example.org"):
                path.write_text(blocklist(domain))
                assert proxy.reload().event == "reload.done"
        finally:
            done.set()
            for client in clients:
                client.join()
        assert faults == []
        assert is_denied(proxy, "host0.example.org", there.port)
        assert [line.text for line in proxy.lines if line.level == "error"] == []
        assert not proxy.events("worker.lost")


def test_the_check_does_all_that_a_start_would(tmp_path: Path) -> None:
    path = tmp_path / "geproxy.conf"
    path.write_text(CONFIG)
    (tmp_path / "blocklist").write_text("".join(f"*a{number}*\n" for number in range(1001)))
    done = command("-f", str(path), "-t")
    assert done.returncode == 2
    assert "rule.1.to_file: " in done.stderr
    assert "1001 patterns begin or end alike" in done.stderr
    (tmp_path / "blocklist").write_text("a.net\n||ads.example^\n")
    done = command("-f", str(path), "-t")
    assert f"rule.1.to_file: {tmp_path}/blocklist line 2: is for ad blockers" in done.stderr
    (tmp_path / "blocklist").write_text(blocklist("example"))
    assert command("-f", str(path), "-t").returncode == 0
