"""Sinks neither wait nor raise: real pipes, sockets, terminals and full disks."""

import errno
import fcntl
import os
import resource
import select
import socket
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from geproxy.observe.line import Lines
from geproxy.observe.sink import (
    MAX_WAITING_BYTES,
    MAX_WAITING_LINES,
    BlockingDescriptor,
    Descriptor,
    Sink,
    Socket,
    Syslog,
    open_append,
    open_stderr,
)

START = b"1970-01-01T00:00:00.000Z info "
LONG = "x" * 2000


def lines(*, syslog: bool = False) -> Lines:
    return Lines("text", syslog=syslog, clock=lambda: 0.0)


def put_numbers(sink: Sink, numbers: range, padding: str = "") -> None:
    for number in numbers:
        sink.put("info", "e", {"n": number, "p": padding})


def numbers_in(data: bytes) -> list[int]:
    """The n=… of every line, each of which must be whole."""
    assert data.endswith(b"\n")
    found = []
    for line in data.splitlines():
        assert line.startswith(START + b"e n="), line
        found.append(int(line.removeprefix(START + b"e n=").split()[0]))
    return found


def read_all(descriptor: int) -> bytes:
    """Everything that is there to be read now."""
    data = b""
    while select.select([descriptor], [], [], 0)[0]:
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            break
        data += piece
    return data


def drained(sink: Sink, descriptor: int) -> bytes:
    """Read and flush in turn until nothing more comes."""
    data = b""
    while piece := read_all(descriptor):
        data += piece
        sink.flush()
    return data


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, 4096)
    yield ends
    for descriptor in ends:
        os.close(descriptor)


class Recorder:
    """Takes what it is told to take, and remembers the writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.error: OSError | None = None

    def write(self, data: bytes, /) -> int:
        if self.error is not None:
            raise self.error
        self.writes.append(data)
        return len(data)

    def close(self) -> None:
        pass


def test_one_line_is_one_write() -> None:
    channel = Recorder()
    put_numbers(Sink("stderr", channel, lines()), range(3))
    assert numbers_in(b"".join(channel.writes)) == [0, 1, 2]
    assert len(channel.writes) == 3


def test_lines_wait_for_a_full_pipe_and_keep_their_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink("stderr", open_stderr(writer), lines())
    put_numbers(sink, range(50), LONG)
    assert numbers_in(drained(sink, reader)) == list(range(50))
    sink.close()


def test_a_line_that_finds_room_goes_behind_those_that_wait(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink("stderr", open_stderr(writer), lines())
    put_numbers(sink, range(4), LONG)
    first = read_all(reader)
    put_numbers(sink, range(4, 6), LONG)
    assert numbers_in(first + drained(sink, reader)) == list(range(6))
    sink.close()


def test_the_flag_that_keeps_us_from_waiting_is_not_set_for_others(pipe: tuple[int, int]) -> None:
    open_stderr(pipe[1]).close()
    assert not fcntl.fcntl(pipe[1], fcntl.F_GETFL) & os.O_NONBLOCK


@pytest.mark.parametrize(
    ("padding", "kept"),
    [
        pytest.param("", MAX_WAITING_LINES, id="so many lines"),
        pytest.param("x" * 4000, MAX_WAITING_BYTES // 4050, id="so many bytes"),
    ],
)
def test_what_waits_is_bounded_and_the_newest_lines_are_counted(padding: str, kept: int) -> None:
    channel = Recorder()
    sink = Sink("stderr", channel, lines())
    channel.error = BlockingIOError()
    put_numbers(sink, range(MAX_WAITING_LINES + 7), padding)
    channel.error = None
    sink.flush()
    notice, *rest = channel.writes
    assert len(rest) == pytest.approx(kept, rel=0.01)
    assert numbers_in(b"".join(rest)) == list(range(len(rest)))
    lost = MAX_WAITING_LINES + 7 - len(rest)
    assert notice.decode() == f"1970-01-01T00:00:00.000Z warning log.lost lines={lost}\n"
    put_numbers(sink, range(1))
    assert numbers_in(channel.writes[-1]) == [0]  # and the loss is told once


def test_a_shared_pipe_that_cannot_be_reopened_is_asked_first(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink("stderr", BlockingDescriptor(os.dup(writer)), lines())
    put_numbers(sink, range(9), LONG)
    assert numbers_in(drained(sink, reader)) == list(range(9))
    sink.close()


def test_a_pipe_that_nobody_reads_costs_only_the_lines() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = Sink("stderr", open_stderr(writer), lines())
    put_numbers(sink, range(2))
    sink.close()
    os.close(writer)


def test_a_fifo_that_lost_its_reader_gets_lines_again_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    os.close(reader)
    channel = open_stderr(writer)  # opening it again is ENXIO now
    assert isinstance(channel, BlockingDescriptor)
    sink = Sink("stderr", channel, lines())
    put_numbers(sink, range(2))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    put_numbers(sink, range(2, 3))
    notice, line = read_all(reader).splitlines(keepends=True)
    assert notice.endswith(b" log.lost lines=2\n")
    assert numbers_in(line) == [2]
    sink.close()
    os.close(writer)
    os.close(reader)


def test_a_line_that_a_socket_took_half_of_is_finished_first() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least, about 4.5 KiB
    channel = open_stderr(ours.fileno())
    assert isinstance(channel, Socket)
    sink = Sink("stderr", channel, lines())
    put_numbers(sink, range(1))  # a little less room than a long line needs
    put_numbers(sink, range(1, 20), "x" * 4000)
    first = read_all(theirs.fileno())
    assert not first.endswith(b"\n")
    sink.flush()
    assert numbers_in(first + drained(sink, theirs.fileno())) == list(range(20))
    assert ours.gettimeout() is None
    sink.close()
    ours.close()
    theirs.close()


def test_the_loss_is_not_told_inside_a_line() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sink = Sink("stderr", open_stderr(ours.fileno()), lines())
    put_numbers(sink, range(1))
    put_numbers(sink, range(1, 400), "x" * 4000)
    first = read_all(theirs.fileno())
    assert not first.endswith(b"\n")
    sink.flush()
    whole = first + drained(sink, theirs.fileno())
    notices = [line for line in whole.splitlines(keepends=True) if b" log.lost " in line]
    assert len(notices) == 1
    told = numbers_in(whole.replace(notices[0], b""))
    assert notices[0].endswith(f" warning log.lost lines={400 - len(told)}\n".encode())
    sink.close()
    ours.close()
    theirs.close()


def test_a_terminal_gets_every_line() -> None:
    master, slave = os.openpty()
    tty.setraw(slave)
    sink = Sink("stderr", open_stderr(slave), lines())
    put_numbers(sink, range(40), LONG)
    assert numbers_in(drained(sink, master)) == list(range(40))
    sink.close()
    os.close(master)
    os.close(slave)


def test_a_full_disk_is_counted_and_told_once_a_minute(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    full = os.open("/dev/full", os.O_WRONLY)
    sink = Sink("/var/log/geproxy", Descriptor(full), lines(), monotonic=lambda: now)
    put_numbers(sink, range(3))
    warnings = capfd.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert warnings[0].endswith(
        f' warning log.fail target=/var/log/geproxy reason="{os.strerror(errno.ENOSPC)}" lines=1'
    )
    now += 60
    put_numbers(sink, range(3, 5))
    assert capfd.readouterr().err.endswith(" lines=4\n")

    with (tmp_path / "log").open("wb") as file:  # space returns
        os.dup2(file.fileno(), full)
    put_numbers(sink, range(5, 7))
    sink.close()
    first, *others = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert first.endswith(b" warning log.lost lines=5\n")
    assert numbers_in(b"".join(others)) == [5, 6]


def test_standard_error_does_not_complain_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    sink = Sink("stderr", Descriptor(open_append("/dev/full")), lines())
    put_numbers(sink, range(3))
    sink.close()
    assert capfd.readouterr().err == ""


def test_without_standard_error_there_is_no_warning_and_no_fault() -> None:
    sink = Sink("/var/log/geproxy", Descriptor(open_append("/dev/full")), lines())
    saved = os.dup(2)
    os.close(2)
    try:
        put_numbers(sink, range(2))
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    sink.close()


def test_a_line_torn_by_a_full_disk_is_ended_before_the_next(tmp_path: Path) -> None:
    size = 1 << 20
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(size - 10)
    sink = Sink("stderr", Descriptor(open_append(str(path))), lines())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        put_numbers(sink, range(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    put_numbers(sink, range(3, 4))
    sink.close()
    torn, notice, last = path.read_bytes()[size - 10 :].splitlines(keepends=True)
    assert torn == START[:10] + b"\n"
    assert notice.endswith(b" warning log.lost lines=3\n")
    assert numbers_in(last) == [3]


def test_a_line_that_lacks_only_its_end_is_not_lost() -> None:
    class AlmostAll(Recorder):
        def write(self, data: bytes, /) -> int:
            taken = super().write(data)
            if len(data) == 1:
                return taken
            self.error = OSError(errno.EIO, "broken")
            return taken - 1

    channel = AlmostAll()
    sink = Sink("stderr", channel, lines())
    put_numbers(sink, range(1))
    channel.error = None
    sink.flush()
    assert channel.writes[1:] == [b"\n"]


def test_a_channel_that_takes_nothing_is_one_to_wait_for() -> None:
    class Nothing(Recorder):
        def write(self, data: bytes, /) -> int:
            super().write(data)
            return 0

    channel = Nothing()
    sink = Sink("stderr", channel, lines())
    put_numbers(sink, range(1))
    sink.flush()
    assert numbers_in(b"".join(channel.writes)) == [0, 0]


def test_a_closed_sink_writes_to_no_descriptor_that_took_its_number(tmp_path: Path) -> None:
    sink = Sink("stderr", Descriptor(open_append(str(tmp_path / "log"))), lines())
    sink.close()
    with (tmp_path / "other").open("wb"):
        put_numbers(sink, range(1))
    assert (tmp_path / "other").read_bytes() == b""


def test_a_forked_child_does_not_repeat_what_waited(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink("stderr", open_stderr(writer), lines())
    put_numbers(sink, range(3), LONG)
    first = read_all(reader)
    child = os.fork()
    if child == 0:
        sink.flush()
        put_numbers(sink, range(100, 101))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    first += read_all(reader)
    sink.flush()
    assert numbers_in(first + drained(sink, reader)) == [0, 1, 100, 2]
    sink.close()


def syslog_at(path: Path) -> socket.socket:
    daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    daemon.bind(str(path))
    daemon.setblocking(False)
    return daemon


def test_syslog_is_found_again_after_its_daemon_restarted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    sink = Sink("syslog", Syslog(str(path)), lines(syslog=True))
    put_numbers(sink, range(1))  # before the daemon is there
    assert 'target=syslog reason="No such file or directory"' in capfd.readouterr().err
    tag = f"<30>geproxy[{os.getpid()}]: info "
    with syslog_at(path) as daemon:
        put_numbers(sink, range(1, 2))
        assert daemon.recv(4096).decode().endswith("]: warning log.lost lines=1")
        assert daemon.recv(4096).decode() == tag + 'e n=1 p=""'
    put_numbers(sink, range(2, 3))  # ECONNREFUSED
    path.unlink()
    with syslog_at(path) as daemon:
        put_numbers(sink, range(3, 4))
        assert daemon.recv(4096).decode().endswith("]: warning log.lost lines=1")
        assert daemon.recv(4096).decode() == tag + 'e n=3 p=""'
    path.unlink()
    with syslog_at(path) as daemon:  # restarted between two lines: nothing is lost
        put_numbers(sink, range(4, 5))
        assert daemon.recv(4096).decode() == tag + 'e n=4 p=""'
    sink.close()


def test_a_syslog_daemon_that_does_not_read_gets_its_lines_later(tmp_path: Path) -> None:
    sink = Sink("syslog", Syslog(str(tmp_path / "log")), lines(syslog=True))
    seen: list[bytes] = []
    with syslog_at(tmp_path / "log") as daemon:
        put_numbers(sink, range(900), "x" * 900)  # more than any queue of the kernel's
        while len(seen) < 900:
            seen.append(daemon.recv(4096))
            sink.flush()
    numbers = [int(line.split(b"n=")[1].split()[0]) for line in seen]
    assert numbers == list(range(900))
    sink.close()
