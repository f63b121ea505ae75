"""geproxy, a prefork proxy server.

Usage:
  geproxy -f FILE [-t]
  geproxy (--listen URL)...
  geproxy passwd [--delete] FILE USER
  geproxy -h | --help
  geproxy --version

Options:
  -f FILE       Run with this configuration file, in the foreground.
  -t            Check the configuration, show every error, and leave.
  --listen URL  Run without a file: listen at this URL, such as socks5://127.0.0.1:1080.
                May be given more than once.
  --delete      Take USER out of the users file FILE, instead of setting the password.
  -h --help     Show this text.
  --version     Show the version.

Exit status: 0 done; 1 could not run; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import getpass
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from docopt import DocoptExit, docopt

from geproxy import VERSION
from geproxy.config import load, userfile
from geproxy.config.settings import Settings
from geproxy.crypto.password import hash_password, weakness
from geproxy.errors import ConfigError, StartError
from geproxy.process.start import hide_arguments, start

DONE, COULD_NOT_RUN, WRONG = 0, 1, 2
MAX_PASSWORD_BYTES = 255  # RFC 1929 §2: PLEN is one octet


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        try:
            return _main(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # or the interpreter would complain at its very end
    except OSError as error:
        _silence(1)
        return fail(f"cannot write: {error.strerror}", COULD_NOT_RUN)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        options = docopt(__doc__, arguments, version=f"geproxy {VERSION}")
    except DocoptExit:
        return fail("this command line is not understood; see geproxy --help", WRONG)
    try:
        if options["passwd"]:
            # The launcher has it kill. Here a terminal without echo, or half a file, would stay.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return passwd(options["FILE"], options["USER"], delete=options["--delete"])
        if options["--listen"]:
            hide_arguments()
            return run(partial(load.from_urls, options["--listen"]), load.COMMAND_LINE)
        return run(partial(load.load, options["-f"]), options["-f"], check=options["-t"])
    except KeyboardInterrupt:
        return COULD_NOT_RUN


def run(read: Callable[[], Settings], label: str, *, check: bool = False) -> int:
    """Read the configuration, and serve with it unless it was only to be checked."""
    try:
        settings = read()
    except ConfigError as error:
        for problem in error.problems:
            fail(f"{label}: {problem}", WRONG)
        return WRONG
    if check:
        print(f"geproxy: {_one_line(label)}: the configuration is sound")
        return DONE
    # Only now: the other commands start without the weight of gevent.
    from geproxy.process import worker

    worker.preload()
    try:
        return start(settings, read, worker.main)
    except StartError as error:
        return fail(f"{label}: {error}", COULD_NOT_RUN)


def passwd(path: str, user: str, *, delete: bool) -> int:
    """Store or delete a user of the users file at *path*."""
    try:
        if delete:
            if not userfile.delete(path, user):
                return fail(f"{path}: no such user", COULD_NOT_RUN)
            return DONE
        userfile.check_user_name(user)
        password = _read_password()
        weak = weakness(password, user)
        if weak is not None:
            fail(f"warning: {weak}", DONE)
        userfile.store(path, user, hash_password(password))
    except ValueError as error:
        return fail(str(error), WRONG)
    except OSError as error:
        return fail(f"{path}: {error.strerror}", COULD_NOT_RUN)
    return DONE


def _read_password() -> bytes:
    """Ask twice on a terminal; else take the first line, which a second one must equal.

    Raises ValueError.
    """
    if sys.stdin is None:  # closed by whoever started us
        lines = []
    elif sys.stdin.isatty():
        try:
            first, second = getpass.getpass("Password: "), getpass.getpass("Again: ")
        except EOFError as error:
            raise ValueError("no password was given") from error
        lines = [os.fsencode(first), os.fsencode(second)]
    else:
        lines = sys.stdin.buffer.read().splitlines()
    if not lines or not lines[0]:
        raise ValueError("the password is empty; give it on the first line of standard input")
    if len(lines[0]) > MAX_PASSWORD_BYTES:
        raise ValueError(f"a password has at most {MAX_PASSWORD_BYTES} bytes (RFC 1929)")
    if len(lines) > 1 and lines[1] != lines[0]:
        raise ValueError("the two passwords differ")
    return lines[0]


def fail(text: str, status: int) -> int:
    """Say what went wrong, on one line."""
    try:
        print(f"geproxy: {_one_line(text)}", file=sys.stderr)
    except OSError:
        _silence(2)
    return status


def _one_line(text: str) -> str:
    """Escape what does not print, such as the line's end in the name of a file."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _silence(descriptor: int) -> None:
    """Have what could not be written go nowhere, before the interpreter tries again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
