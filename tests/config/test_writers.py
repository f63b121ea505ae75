"""Files that root obeys are written by nobody else, nor replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from geproxy.config.load import load
from geproxy.config.writers import writers_of
from geproxy.errors import ConfigError
from tests.support.accounts import AS_ROOT, account

NOBODY = 65534
ROOT_FOLDER = Path(__file__).parents[2]
CONF = '[listen.a]\nurl = "mixed://127.0.0.1:0"\n[[rule]]\naction = "deny"\nto_file = "list"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Make a file that root alone may write, in a folder of the same kind."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    (folder / "file").touch(0o600)
    return folder / "file"


def wrong(path: Path) -> list[str]:
    return writers_of(str(path))[0]


def told(place: Path, bits: str) -> list[str]:
    return [f"others may write {str(place)!r}, and root obeys it: chmod {bits} {place}"]


@AS_ROOT
@pytest.mark.parametrize(
    ("mode", "group", "bits"),
    [
        pytest.param(0o666, 0, "o-w", id="others"),
        pytest.param(0o660, NOBODY, "g-w", id="a group"),
        pytest.param(0o666, NOBODY, "go-w", id="both"),
        pytest.param(0o660, 0, "", id="root's group"),
        pytest.param(0o644, NOBODY, "", id="nobody"),
    ],
)
@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_others_may_write_is_refused_with_its_mend(mode, group, bits, which, file):
    place = file if which == "file" else file.parent
    os.chown(place, 0, group)
    place.chmod(mode | (0o111 if which == "folder" else 0))
    assert wrong(file) == (told(place, bits) if bits else [])


@AS_ROOT
def test_in_a_container_there_are_no_others(file, monkeypatch):
    file.chmod(0o666)
    assert wrong(file)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert wrong(file) == []


ASK = "import sys; from geproxy.config.writers import writers_of; print(writers_of(sys.argv[1])[0])"


@AS_ROOT
@pytest.mark.slow
def test_what_is_mounted_for_reading_alone_is_written_by_nobody(file):
    """As Kubernetes mounts a ConfigMap: a folder of mode 0777, read-only."""
    file.parent.chmod(0o777)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$4"'
    words = (str(file.parent), sys.executable, ASK, str(file))
    asked = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *words],
        cwd=ROOT_FOLDER,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (asked.stdout, wrong(file)) == ("[]\n", told(file.parent, "o-w"))


@AS_ROOT
def test_a_sticky_folder_of_root_alone_is_excepted(file):
    file.parent.chmod(0o1777)
    assert wrong(file) == []
    os.chown(file.parent, NOBODY, 0)
    assert wrong(file) == told(file.parent, "o-w")


@AS_ROOT
def test_both_ends_of_a_link_are_judged(file, tmp_path):
    (tmp_path / "open").mkdir()
    link = tmp_path / "open" / "link"
    link.symlink_to("../folder/file")
    assert wrong(link) == []
    file.parent.chmod(0o757)
    assert wrong(link) == told(file.parent, "o-w")
    file.parent.chmod(0o755)
    link.parent.chmod(0o757)
    assert wrong(link) == told(link.parent, "o-w")


@AS_ROOT
def test_a_loop_of_links_ends(tmp_path):
    (tmp_path / "link").symlink_to("link")
    assert wrong(tmp_path / "link") == []


@AS_ROOT
def test_a_foreign_owner_is_told_and_not_refused(file):
    os.chown(file, NOBODY, 0)
    odd = f"{str(file)!r} belongs to uid {NOBODY}, whom root obeys by it"
    assert writers_of(str(file)) == ([], [odd])


@AS_ROOT
def test_who_is_not_root_is_told_nothing(file):
    file.chmod(0o666)
    with account(NOBODY):
        assert writers_of(str(file)) == ([], [])


@AS_ROOT
def test_every_file_that_others_may_write_is_told_at_once(file):
    listed = file.parent / "list"
    listed.touch(0o644)
    listed.chmod(0o646)
    file.write_text(CONF)
    file.chmod(0o606)
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert [(problem.key, problem.text) for problem in caught.value.problems] == [
        ("", *told(file, "o-w")),
        ("rule.1.to_file", *told(listed, "o-w")),
    ]
