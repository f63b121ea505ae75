"""Users files: read with every bad line named, and changed without losing a thing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geproxy.config import userfile
from geproxy.crypto.password import PasswordHash

# Made-up salts and digests: nothing here is verified, so nothing needs to be hashed.
HASH = PasswordHash(14, 8, 1, bytes(16), bytes(32))
OTHER_HASH = PasswordHash(14, 8, 1, b"s" * 16, b"d" * 32)


def parse(data):
    problems = []
    users = userfile.parse(data, "listen.a.users", problems)
    return users, [str(problem) for problem in problems]


def test_blank_lines_and_comments_are_passed_over():
    users, problems = parse(f"# who\n\n  \nalice:{HASH}\nb c:{OTHER_HASH}\r\nd:{HASH}".encode())
    assert users == {"alice": HASH, "b c": OTHER_HASH, "d": HASH}
    assert problems == []


BAD_LINES = [
    pytest.param(b"hunter2", "user:$scrypt$", id="no colon"),
    pytest.param(b"alice:hunter2", "", id="a password in the clear"),
    pytest.param(b"alice:$scrypt$ln=14,r=8,p=1$x$hunter2", "", id="half a hash"),
    pytest.param(f":{HASH}".encode(), "the user is empty", id="no user"),
    pytest.param(f"a\tb:{HASH}".encode(), "no control character", id="a tab in the user"),
    pytest.param(b"\xff:" + str(HASH).encode(), "not UTF-8", id="not UTF-8"),
    pytest.param(f"{'x' * 256}:{HASH}".encode(), "at most 255", id="a user too long"),
    pytest.param(f"first:{OTHER_HASH}".encode(), "the user of line 1 again", id="a user twice"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_and_the_others_are_read(line, message):
    users, problems = parse(f"first:{HASH}\n".encode() + line + f"\nlast:{HASH}\n".encode())
    assert users == {"first": HASH, "last": HASH}
    assert len(problems) == 1
    assert problems[0].startswith("listen.a.users: line 2: ")
    assert message in problems[0]
    assert "hunter2" not in problems[0]


@given(
    st.binary()
    | st.lists(st.sampled_from([b"a", b":", b"#", b"\n", str(HASH).encode()])).map(b"".join)
)
def test_any_bytes_are_users_or_problems(data):
    users, problems = parse(data)
    assert all(problem.isprintable() for problem in problems)
    assert all(userfile.check_user_name(user) is None for user in users)


@pytest.mark.parametrize("user", ["alice", "a b", "é" * 127, "x" * 255, "a#"])
def test_a_user_that_can_stand_in_a_file_is_taken(user):
    userfile.check_user_name(user)


@pytest.mark.parametrize(
    "user",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 256, id="256 bytes"),
        pytest.param("é" * 128, id="256 bytes of UTF-8"),
        pytest.param("a:b", id="a colon"),
        pytest.param("a\nb", id="a newline"),
        pytest.param("a\x7f", id="a delete"),
        pytest.param("a\x85", id="a C1 control"),
        pytest.param("\udcff", id="argv that is not UTF-8"),
        pytest.param("#a", id="a comment"),
    ],
)
def test_a_user_that_cannot_stand_in_a_file_is_refused_everywhere(user, tmp_path):
    for refuse in (
        lambda: userfile.check_user_name(user),
        lambda: userfile.store(str(tmp_path / "users"), user, HASH),
        lambda: userfile.delete(str(tmp_path / "users"), user),
    ):
        with pytest.raises(ValueError):
            refuse()
    assert os.listdir(tmp_path) == []


def test_a_new_file_is_private_whatever_the_umask(tmp_path):
    old_umask = os.umask(0o777)
    try:
        userfile.store(str(tmp_path / "users"), "alice", HASH)
    finally:
        os.umask(old_umask)
    assert (tmp_path / "users").read_text() == f"alice:{HASH}\n"
    assert stat.S_IMODE((tmp_path / "users").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["users"]


CHANGES = [  # before, change, after
    pytest.param("# c\n\nbob:x\n", ("store", "al"), f"# c\n\nbob:x\nal:{HASH}\n", id="added last"),
    pytest.param("bob:x", ("store", "al"), f"bob:x\nal:{HASH}\n", id="a last line without an end"),
    pytest.param(
        "al:x\n# c\nb:\r\n", ("store", "al"), f"al:{HASH}\n# c\nb:\r\n", id="in its place"
    ),
    pytest.param("al:x\nb:y\nal:z\n", ("store", "al"), f"al:{HASH}\nb:y\n", id="doubles go"),
    pytest.param("alice:x\n#al:x\n", ("delete", "al"), None, id="a longer name is another"),
    pytest.param("# c\nal:x\n junk \n", ("delete", "al"), "# c\n junk \n", id="deleted"),
    pytest.param("a\rl:x\nal:y\n", ("delete", "al"), "a\rl:x\n", id="a lone CR ends no line"),
]


@pytest.mark.parametrize(("before", "change", "after"), CHANGES)
def test_a_change_leaves_the_other_lines_alone(before, change, after, tmp_path):
    path = tmp_path / "users"
    path.write_bytes(before.encode())
    path.chmod(0o640)
    verb, user = change
    if verb == "store":
        userfile.store(str(path), user, HASH)
    else:
        assert userfile.delete(str(path), user) is (after is not None)
    assert path.read_bytes().decode() == (before if after is None else after)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["users"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path):
    path = tmp_path / "users"
    path.write_text("bob:x\n")
    os.chown(path, 12345, 23456)
    userfile.store(str(path), "alice", HASH)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_a_link_stays_a_link_to_the_changed_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "users").write_text("bob:x\n")
    (tmp_path / "users").symlink_to("real/users")
    userfile.store(str(tmp_path / "users"), "alice", HASH)
    assert (tmp_path / "users").is_symlink()
    assert (tmp_path / "real" / "users").read_text() == f"bob:x\nalice:{HASH}\n"


def test_what_is_no_regular_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(OSError):
            userfile.store(str(path), "alice", HASH)


def test_deleting_from_no_file_is_an_error_and_makes_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        userfile.delete(str(tmp_path / "users"), "alice")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "users"
    path.write_text("bob:x\n")

    def full(_fd):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        userfile.store(str(path), "alice", HASH)
    assert path.read_text() == "bob:x\n"
    assert os.listdir(tmp_path) == ["users"]


def test_runs_at_the_same_time_lose_no_user(tmp_path):
    path = str(tmp_path / "users")
    names = [f"user{number}" for number in range(16)]
    start = threading.Barrier(len(names))

    def store(name):
        start.wait()
        userfile.store(path, name, HASH)

    threads = [threading.Thread(target=store, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = []
    assert sorted(userfile.read(path, "k", problems)) == sorted(names)
    assert problems == []


def test_a_run_waits_for_another_process(tmp_path):
    hold = (
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], **pipes) as holder:
        holder.stdout.readline()
        path = str(tmp_path / "users")
        thread = threading.Thread(target=userfile.store, args=(path, "alice", HASH))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and not os.path.exists(path)
        holder.stdin.close()
        thread.join()
    assert os.path.exists(path)


READ_MODES = [
    pytest.param(0o600, None, id="private"),
    pytest.param(0o640, None, id="read by the group"),
    pytest.param(0o644, "mode is 0644", id="read by others"),
    pytest.param(0o660, "mode is 0660", id="written by the group"),
    pytest.param(0o601, "mode is 0601", id="run by others"),
]


@pytest.mark.parametrize(("mode", "message"), READ_MODES)
def test_a_file_that_others_can_get_at_is_a_problem(mode, message, tmp_path):
    path = tmp_path / "users"
    path.write_text(f"alice:{HASH}\n")
    path.chmod(mode)
    problems = []
    assert userfile.read(str(path), "k", problems) == {"alice": HASH}
    texts = [str(problem) for problem in problems]
    assert texts == [] if message is None else message in texts[0] and "0640" in texts[0]


def test_a_file_that_cannot_be_read_is_a_problem_under_its_key(tmp_path):
    problems = []
    assert userfile.read(str(tmp_path / "none"), "listen.a.users", problems) == {}
    assert userfile.read(str(tmp_path), "listen.a.users", problems) == {}
    assert [problem.key for problem in problems] == ["listen.a.users"] * 2
