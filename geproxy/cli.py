"""geproxy, a prefork proxy server.

Usage:
  geproxy -f FILE [-d | -t]
  geproxy (--listen URL)... [--via URL]
  geproxy (reload | stop | quit | reopen) -f FILE
  geproxy status -f FILE [--json]
  geproxy passwd [--delete] FILE USER
  geproxy keygen METHOD
  geproxy url -f FILE NAME [--qr]
  geproxy -h | --help
  geproxy --version

Options:
  -f FILE       Run with this configuration file; without -d in the foreground.
  -d            Run as a daemon: return once every worker serves, or say why none does.
  -t            Check the configuration, show every error, and leave.
  --listen URL  Run without a file: listen at this URL, such as socks5://127.0.0.1:1080.
                May be given more than once.
  --via URL     Send all that comes in there through the peer at this URL, such as
                ss://aes-256-gcm:PASSWORD@relay.example.net:8388.
  --json        Show the status as JSON.
  --delete      Take USER out of the users file FILE, instead of setting the password.
  --qr          Draw the URI of listener NAME as a QR code, for a telephone to read.
  -h --help     Show this text.
  --version     Show the version.

reload, stop, quit and reopen act on the running daemon through its pidfile, and return when it has
done so: reload reads the configuration again, stop lets sessions finish for drain_seconds, quit
does not, reopen opens the log files anew. status shows what it is doing.

keygen prints a random key for a key_file or a URL's ?key=; METHOD is aes-128-gcm, aes-256-gcm or
chacha20-ietf-poly1305. url prints the ss:// URI that clients of an ss:// listener are given: it
holds the secret.

Exit status: 0 done; 1 could not run; 2 the command line or the configuration is wrong; 3 status
found it not running.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from docopt import DocoptExit, docopt

from geproxy import VERSION
from geproxy.commands.control import CONTROLS, control, status
from geproxy.commands.passwd import passwd
from geproxy.commands.sharing import keygen, url
from geproxy.commands.speech import (
    COULD_NOT_RUN,
    DONE,
    WRONG,
    fail,
    one_line,
    read_or_explain,
    say,
    silence,
)
from geproxy.config import load
from geproxy.config.settings import Settings
from geproxy.errors import StartError
from geproxy.process.start import Start, hide_arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        try:
            return _main(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # or the interpreter would complain at its very end
    except OSError as error:
        silence(1)
        return fail(f"cannot write: {error.strerror}", COULD_NOT_RUN)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        options = docopt(__doc__, arguments, version=f"geproxy {VERSION}")
    except DocoptExit:
        return fail("this command line is not understood; see geproxy --help", WRONG)
    try:
        return _command(options)
    except KeyboardInterrupt:
        return COULD_NOT_RUN


def _command(options: dict[str, str]) -> int:
    if options["passwd"]:
        # The launcher has it kill. Here a terminal without echo, or half a file, would stay.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return passwd(options["FILE"], options["USER"], delete=bool(options["--delete"]))
    if options["keygen"]:
        return keygen(options["METHOD"])
    if options["url"]:
        return url(options["-f"], options["NAME"], qr=bool(options["--qr"]))
    if options["status"]:
        return status(options["-f"], as_json=bool(options["--json"]))
    for name in CONTROLS:
        if options[name]:
            return control(name, options["-f"])
    if options["--listen"]:
        hide_arguments()
        urls = list(options["--listen"])
        return run(partial(load.from_urls, urls, options["--via"]), load.COMMAND_LINE)
    label = options["-f"]
    # Absolute, for the daemon's directory is another one by the time it reads it again.
    read = partial(load.load, os.path.abspath(label), label)
    if options["-t"]:
        return check(read, label)
    return run(read, label, daemon=bool(options["-d"]))


def check(read: Callable[[], Settings], label: str) -> int:
    """Say whether the configuration is sound, and all that is not."""
    settings = read_or_explain(read, label)
    if settings is None:
        return WRONG
    for warning in settings.warnings:
        say(f"{label}: warning: {warning}")
    print(f"geproxy: {one_line(label)}: the configuration is sound")
    return DONE


def run(read: Callable[[], Settings], label: str, *, daemon: bool = False) -> int:
    """Read the configuration, and serve with it."""
    settings = read_or_explain(read, label)
    if settings is None:
        return WRONG
    # Only now: the other commands start without the weight of gevent.
    from geproxy.process import worker

    worker.preload()
    start = Start(settings, read, worker.main)
    try:
        return start.as_daemon() if daemon else start.in_foreground()
    except (StartError, OSError) as error:
        return fail(f"{label}: {error}", COULD_NOT_RUN)


if __name__ == "__main__":
    sys.exit(main())
