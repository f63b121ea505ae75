"""The process that writes the log's files: without privileges, listening sockets and a loop."""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Sequence

from setproctitle import setproctitle

from geproxy.config.account import Account
from geproxy.observe.line import Lines
from geproxy.observe.sink import STDERR, Descriptor, Sink, open_append
from geproxy.process.privileges import prepare, settle
from geproxy.process.spawn import MASTERS_SIGNALS

# Chosen here
FLUSH_SECONDS = 1.0  # the longest that a line waits for a FIFO whose reader is slow
GATHER_SECONDS = 0.01  # lines of so long are written at one waking, which costs more than they do
QUEUE_LINES = 1000  # more than the queue holds
MAX_LINE_BYTES = 1 << 17  # longer than a line can be

# Fixed by the system: any number may be open, whatever RLIMIT_NOFILE is by now
DESCRIPTOR_END = 1 << 20  # fs.nr_open, as Linux has it

# What a writer says, and what it is told
READY, GO, FINISH = b"ready", b"go", b"finish"


class Task:
    """What a writer is to do."""

    __slots__ = ("account", "format", "outlet", "paths")

    def __init__(
        self, paths: Sequence[str], format: str, account: Account | None, outlet: socket.socket
    ) -> None:
        """Write what *outlet* gives: a byte, which says to which of *paths*, and a line.

        "stderr" among *paths* is standard error, where that is a file.
        """
        self.paths = paths
        self.format = format
        self.account = account
        self.outlet = outlet


def bear(task: Task) -> tuple[int, socket.socket]:
    """Fork a writer. Returns its pid, and the line to it: it says READY, or why not, and waits
    for GO.

    Raises OSError.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _become(task, theirs, mask)
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return pid, ours


def _become(task: Task, control: socket.socket, mask: Iterable[int]) -> None:
    """Be the writer, to the end: nothing of the master's stack may ever run here again."""
    try:
        gc.disable()  # a dead socket of the master's would close a number that is a file now
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # It outlives the workers, to write their last lines: the queue tells it when to end.
        for ignored in (signal.SIGTERM, *MASTERS_SIGNALS):
            signal.signal(ignored, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        setproctitle("geproxy: log writer")
        _close_all_but(control.fileno(), task.outlet.fileno())
        _write(task, control)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is not None:
            _say(control, f"errno {error.errno} {error.filename}")
        else:
            _say(control, f"error {type(error).__name__}: {error}")
    finally:
        os._exit(0)


def _write(task: Task, control: socket.socket) -> None:
    sinks = [Sink(path, Descriptor(_open(path)), Lines(task.format)) for path in task.paths]
    prepare(task.account)
    settle(task.account)
    control.send(READY)
    if control.recv(16) == GO:
        copy_lines(task.outlet, control, sinks)


def _open(path: str) -> int:
    return os.dup(STDERR) if path == "stderr" else open_append(path)


def copy_lines(queue: socket.socket, control: socket.socket, sinks: Sequence[Sink]) -> None:
    """Write what comes, until *control* says so, or nobody is left to send."""
    poll = select.poll()
    poll.register(queue, select.POLLIN)
    poll.register(control, select.POLLIN)
    sending, told = True, False
    while sending and not told:
        ready = dict(poll.poll(FLUSH_SECONDS * 1000))
        if control.fileno() in ready:
            told = control.recv(16) == FINISH
            poll.unregister(control)  # or the master is dead or let go; workers may live still
        elif ready:
            time.sleep(GATHER_SECONDS)
        sending = _write_waiting(queue, sinks)
        for sink in sinks:
            sink.flush()
    for sink in sinks:
        sink.close()


def _write_waiting(queue: socket.socket, sinks: Sequence[Sink]) -> bool:
    """Write what is there; False once nobody is left to send."""
    try:
        for _ in range(QUEUE_LINES):
            message = queue.recv(MAX_LINE_BYTES, socket.MSG_DONTWAIT)
            if not message:
                return False
            sinks[message[0]].pass_on(message[1:])
    except BlockingIOError:
        pass
    return True


def _say(control: socket.socket, text: str) -> None:
    try:
        control.send(text.encode("utf-8", "replace")[:1024], socket.MSG_NOSIGNAL)
    except OSError:
        pass  # nobody listens any more


def _close_all_but(*kept: int) -> None:
    """Keep the standard streams and *kept*: a writer that hangs must hold no listening socket."""
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, DESCRIPTOR_END)
