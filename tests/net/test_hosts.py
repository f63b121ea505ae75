"""What the system knows without name servers: /etc/hosts, and names of other sources."""

import os
import random
import socket
import threading
import time
from pathlib import Path

import pytest

from geproxy.net.hosts import READ_BYTES, HostsFile, OtherSources, sources
from tests.support.conformance import HARD_SECONDS

TEXT = """\
# comment.example 192.0.2.1 commented.example
127.0.0.1\tlocalhost localhost.localdomain
10.0.0.5 db.internal   DB # behind.example
  0.0.0.0 Ads.Example\r
192.0.2.9
::1 six.example no-end"""


def written(path: Path, text: str) -> HostsFile:
    path.write_text(text)
    return HostsFile(path)


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("localhost", True),
        ("localhost.localdomain", True),
        ("db.internal", True),
        ("db", True),
        ("ads.example", True),
        ("six.example", True),
        ("no-end", True),
        ("internal", False),
        ("b.internal", False),
        ("db.internal.", False),
        ("10.0.0.5", False),
        ("192.0.2.9", False),
        ("comment.example", False),
        ("commented.example", False),
        ("behind.example", False),
        ("#", False),
    ],
)
def test_a_name_has_a_line_or_not(tmp_path: Path, name: str, there: bool) -> None:
    assert (name in written(tmp_path / "hosts", TEXT)) is there


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = written(path, "10.0.0.1 one.example\n")
    assert "one.example" in hosts
    path.write_text("10.0.0.1 two.example three.example\n")
    assert "one.example" not in hosts
    assert "three.example" in hosts
    other = tmp_path / "new"
    other.write_text("10.0.0.1 six.example\n")
    other.replace(path)
    assert "six.example" in hosts


def test_a_file_that_does_not_change_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = written(path, "10.0.0.1 one.example\n")
    assert "one.example" in hosts
    buckets = hosts._buckets
    assert "one.example" in hosts
    assert hosts._buckets is buckets


def test_a_file_that_is_not_there_knows_nobody_and_may_come(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(path)
    assert "one.example" not in hosts
    path.write_text("10.0.0.1 one.example\n")
    assert "one.example" in hosts
    path.unlink()
    assert "one.example" not in hosts


def test_a_file_that_cannot_be_opened_now_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hosts"
    hosts = written(path, "10.0.0.1 one.example\n")
    assert "one.example" in hosts
    path.unlink()
    path.mkdir()  # open(2): EISDIR
    assert "one.example" in hosts


def test_a_list_of_blocked_names_is_searched_whole(tmp_path: Path) -> None:
    count = READ_BYTES // 10
    text = "".join(f"0.0.0.0 n{number}.ads.example\n" for number in range(count))
    hosts = written(tmp_path / "hosts", text)
    dice = random.Random(1)
    for number in [0, count - 1, *(dice.randrange(count) for _ in range(50))]:
        assert f"n{number}.ads.example" in hosts
    assert f"n{count}.ads.example" not in hosts
    assert max(map(len, hosts._buckets)) < READ_BYTES // 10, "no search is long"


def test_other_threads_go_on_while_a_list_of_blocked_names_is_read(tmp_path: Path) -> None:
    text = "".join(f"0.0.0.0 n{number}.ads.example\n" for number in range(100_000))
    hosts = written(tmp_path / "hosts", text)
    reading = threading.Thread(target=hosts.__contains__, args=("n5.ads.example",))
    turns = 0
    reading.start()
    while reading.is_alive():
        time.sleep(0.0001)
        turns += 1
    reading.join(HARD_SECONDS)
    assert turns > 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hosts: files dns\n", ("files", "dns")),
        ("passwd: files\n  hosts :\tfiles  dns # hosts: ldap\n", ("files", "dns")),
        (
            "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n",
            ("mymachines", "resolve", "files", "myhostname", "dns"),
        ),
        ("#hosts: ldap\n", ("files", "dns")),
        ("", ("files", "dns")),
    ],
)
def test_the_sources_are_those_of_nsswitch(
    tmp_path: Path, text: str, found: tuple[str, ...]
) -> None:
    path = tmp_path / "nsswitch.conf"
    path.write_text(text)
    assert sources(path) == found


def test_without_nsswitch_the_sources_are_glibcs(tmp_path: Path) -> None:
    assert sources(tmp_path / "none") == ("files", "dns")


@pytest.mark.parametrize(
    ("known", "name", "there"),
    [
        ("files dns", "example.net", False),
        ("files dns", "plain", False),
        ("files dns", "printer.local", False),
        ("files mdns4_minimal dns", "printer.local", True),
        ("files mdns4_minimal dns", "printer.local.", True),
        ("files mdns4_minimal dns", "example.net", False),
        ("files mdns4_minimal dns", "local.example", False),
        ("files myhostname resolve dns", "example.net", False),
        ("files myhostname dns", "plain", True),
        ("files myhostname dns", "_gateway", True),
        ("files myhostname dns", "localhost", True),
        ("files myhostname dns", "tenant.localhost", True),
        ("files myhostname dns", "localhost.localdomain", True),
        ("files dns mymachines", "container", True),
        ("files mdns4 dns", "example.net", True),
        ("files sss dns", "example.net", True),
        ("files wins dns", "plain", True),
    ],
)
def test_a_name_may_be_known_to_another_source_or_not(known: str, name: str, there: bool) -> None:
    assert (name in OtherSources(known.split())) is there


def test_the_hosts_own_name_is_known_to_myhostname(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.Example.Net")
    assert "box.example.net" in OtherSources(["files", "myhostname", "dns"])
    assert "box.example.net" not in OtherSources(["files", "dns"])


def test_the_real_files_can_be_read() -> None:
    assert sources()
    assert ("localhost" in HostsFile()) == os.path.exists("/etc/hosts")
