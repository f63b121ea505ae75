"""A real master whose workers have no event loop: `python -m tests.process.fake_master FOLDER`.

FOLDER/plan says what a worker does from its birth on, FOLDER/config what the next reading of the
configuration finds. Each reading is numbered, and workers answer their clients with the number.
"""

import dataclasses
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from geproxy.config.load import from_urls
from geproxy.config.settings import Settings
from geproxy.errors import ConfigError, Problem, StartError
from geproxy.observe.log import Log, open_log
from geproxy.process.assignment import Assignment
from geproxy.process.control import Verb
from geproxy.process.logfiles import LogFiles
from geproxy.process.master import Master

BEAT_SECONDS = 0.2


def serve(assignment: Assignment, folder: Path) -> int:
    """Be ready at once; answer each client with the number of the configuration, and hang up."""
    assignment.control.send(Verb.READY)
    return attend(assignment, stubborn=False)


def stay(assignment: Assignment, folder: Path) -> int:
    """Serve, but leave only when told to do so at once, as with a session that does not end."""
    assignment.control.send(Verb.READY)
    return attend(assignment, stubborn=True)


def wait_for_go(assignment: Assignment, folder: Path) -> int:
    """Be ready once FOLDER/go is there."""
    while not (folder / "go").exists():
        if select.select([assignment.control], [], [], 0.01)[0]:
            return 0
    return serve(assignment, folder)


def raise_error(assignment: Assignment, folder: Path) -> int:
    """Fail with a reason before being ready."""
    raise RuntimeError("no luck today")


def share(assignment: Assignment, folder: Path) -> int:
    """Fail where a collection would look at the configuration, and so copy its pages."""
    if any(one is assignment.settings.listen[0] for one in gc.get_objects()):
        raise RuntimeError("the configuration is not shared")
    return serve(assignment, folder)


def exit_7(assignment: Assignment, folder: Path) -> int:
    """End without a word before being ready."""
    return 7


def be_killed(assignment: Assignment, folder: Path) -> int:
    """Be killed before being ready."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


PLANS: dict[str, Callable[[Assignment, Path], int]] = {
    "serve": serve,
    "stay": stay,
    "wait_for_go": wait_for_go,
    "raise_error": raise_error,
    "share": share,
    "exit_7": exit_7,
    "be_killed": be_killed,
}


def attend(assignment: Assignment, *, stubborn: bool) -> int:
    """Do as the master says, until it wants us to leave or is gone."""
    sockets = [sock for lent in assignment.lent.streams.values() for sock in lent]
    serving: list[socket.socket] = []
    while True:
        assignment.slot.beat(0, 0, 0, 0)
        for ready in select.select([assignment.control, *serving], [], [], BEAT_SECONDS)[0]:
            if isinstance(ready, socket.socket):
                answer(ready, assignment.settings.file)
                continue
            message = assignment.control.receive()
            if message is None or message[0] is Verb.QUIT:
                return 0
            assignment.control.send(Verb.DONE, str(message.number))
            if message[0] is Verb.SERVE:
                serving = sockets
            elif message[0] is Verb.DRAIN:
                for sock in sockets:
                    sock.close()
                serving = []
                if not stubborn:
                    return 0


def answer(listening: socket.socket, text: str) -> None:
    """Send *text* to one client, unless a sibling was faster."""
    try:
        client, _ = listening.accept()
    except BlockingIOError:
        return
    with client:
        client.sendall(text.encode())


def worker_main(folder: Path) -> Callable[[Assignment], int]:
    """Make the main of workers that do what FOLDER/plan says when they are born."""

    def main(assignment: Assignment) -> int:
        assignment.log.info("fake.born", worker=assignment.number, pid=os.getpid())
        return PLANS[(folder / "plan").read_text().strip()](assignment, folder)

    return main


def reader(folder: Path) -> Callable[[], Settings]:
    """Make what reads FOLDER/config: a number of workers and the names of the listeners."""
    numbers = count(1)

    def read() -> Settings:
        words = (folder / "config").read_text().split()
        if words[0] == "broken":
            raise ConfigError([Problem("server.workers", "a number is wanted")])
        settings = from_urls(["socks5://127.0.0.1:0"] * len(words[1:]))
        listen = zip(settings.listen, words[1:], strict=True)
        return dataclasses.replace(
            settings,
            file=f"reading{next(numbers)}",
            server=dataclasses.replace(settings.server, workers=int(words[0]), drain_seconds=5.0),
            limits=dataclasses.replace(settings.limits, sessions=10),
            listen=tuple(dataclasses.replace(one, name=name) for one, name in listen),
        )

    return read


def open_fake_log(folder: Path) -> Log:
    """Open FOLDER/log: a file, so that a log that is forgotten is a descriptor that is lost."""
    files = partial(LogFiles, format="text", account=None)
    return open_log(str(folder / "log"), "", "debug", "text", open_files=files)


def main() -> int:
    """Run until a signal ends it."""
    folder = Path(sys.argv[1])
    read = reader(folder)
    log = open_fake_log(folder)
    try:
        return Master(read, lambda settings: open_fake_log(folder), worker_main(folder)).run(
            read(), log
        )
    except StartError as error:
        print(f"StartError: {error}", flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
