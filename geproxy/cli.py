"""geproxy, a prefork proxy server.

Usage:
  geproxy -f FILE [-t]
  geproxy (--listen URL)... [--via URL]
  geproxy passwd [--delete] FILE USER
  geproxy keygen METHOD
  geproxy url -f FILE NAME [--qr]
  geproxy -h | --help
  geproxy --version

Options:
  -f FILE       Run with this configuration file, in the foreground.
  -t            Check the configuration, show every error, and leave.
  --listen URL  Run without a file: listen at this URL, such as socks5://127.0.0.1:1080.
                May be given more than once.
  --via URL     Send all that comes in there through the peer at this URL, such as
                ss://aes-256-gcm:PASSWORD@relay.example.net:8388.
  --delete      Take USER out of the users file FILE, instead of setting the password.
  --qr          Draw the URI of listener NAME as a QR code, for a telephone to read.
  -h --help     Show this text.
  --version     Show the version.

keygen prints a random key for a key_file or a URL's ?key=; METHOD is aes-128-gcm, aes-256-gcm or
chacha20-ietf-poly1305. url prints the ss:// URI that clients of an ss:// listener are given: it
holds the secret.

Exit status: 0 done; 1 could not run; 2 the command line or the configuration is wrong.
"""

from __future__ import annotations

import getpass
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from docopt import DocoptExit, docopt

from geproxy import VERSION
from geproxy.config import load, ssurl, userfile
from geproxy.config.outward import outward_address
from geproxy.config.settings import Listen, Settings
from geproxy.crypto.methods import generate_key, method_by_name
from geproxy.crypto.password import hash_password, weakness
from geproxy.errors import ConfigError, StartError
from geproxy.process.start import hide_arguments, start

DONE, COULD_NOT_RUN, WRONG = 0, 1, 2
MAX_PASSWORD_BYTES = 255  # RFC 1929 §2: PLEN is one octet
BRIGHT_ON_BLACK, PLAIN = "\033[97;40m", "\033[0m"  # console_codes(4)


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
        if options["keygen"]:
            return keygen(options["METHOD"])
        if options["url"]:
            return url(options["-f"], options["NAME"], qr=options["--qr"])
        if options["--listen"]:
            hide_arguments()
            read = partial(load.from_urls, options["--listen"], options["--via"])
            return run(read, load.COMMAND_LINE)
        return run(partial(load.load, options["-f"]), options["-f"], check=options["-t"])
    except KeyboardInterrupt:
        return COULD_NOT_RUN


def run(read: Callable[[], Settings], label: str, *, check: bool = False) -> int:
    """Read the configuration, and serve with it unless it was only to be checked."""
    settings = read_or_explain(read, label)
    if settings is None:
        return WRONG
    if check:
        for warning in settings.warnings:
            say(f"{label}: warning: {warning}")
        print(f"geproxy: {_one_line(label)}: the configuration is sound")
        return DONE
    # Only now: the other commands start without the weight of gevent.
    from geproxy.process import worker

    worker.preload()
    try:
        return start(settings, read, worker.main)
    except StartError as error:
        return fail(f"{label}: {error}", COULD_NOT_RUN)


def read_or_explain(read: Callable[[], Settings], label: str) -> Settings | None:
    """Read the configuration; where it is wrong, say all that is, and return None."""
    try:
        return read()
    except ConfigError as error:
        for problem in error.problems:
            say(f"{label}: {problem}")
        return None


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
            say(f"warning: {weak}")
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


def keygen(name: str) -> int:
    """Print a random key for the cipher *name*."""
    try:
        method = method_by_name(name)
    except ValueError as error:
        return fail(str(error), WRONG)
    print(generate_key(method))
    return DONE


def url(path: str, name: str, *, qr: bool) -> int:
    """Print what a client is given to reach listener *name*: a URI, or a drawing of it."""
    settings = read_or_explain(partial(load.load, path), path)
    if settings is None:
        return WRONG
    listen = next((listen for listen in settings.listen if listen.name == name), None)
    if listen is None:
        known = ", ".join(listen.name for listen in settings.listen)
        return fail(f"{path}: no such listener; there are {known}", WRONG)
    key = f"{path}: listen.{name}.url"
    if listen.url.sealing is None:
        return fail(f"{key}: only an ss:// listener has a URI to give to clients", WRONG)
    if listen.url.port == 0:
        return fail(f"{key}: port 0 is another one at every start; clients need a fixed one", WRONG)
    host = _host_of(listen, key)
    if host is None:
        return fail(f"{key}: this host has no address towards the outside", COULD_NOT_RUN)
    uri = ssurl.write(listen.url.sealing, host, listen.url.port, name)
    if qr:
        return _draw(uri)
    print(uri)
    return DONE


def _host_of(listen: Listen, key: str) -> IPv4Address | IPv6Address | None:
    """Choose the address for clients; a chosen one is told, for they may need a public name."""
    wildcards = listen.url.wildcards
    if not wildcards:
        return listen.url.addresses[0]
    host = outward_address(wildcard.version for wildcard in wildcards)
    if host is not None:
        say(f"{key}: names no host; {host} is ours towards the outside, clients may need another")
    return host


def _draw(uri: str) -> int:
    """Show *uri* as a QR code, bright on black whatever the terminal's colours are."""
    try:
        import segno  # here: nothing else needs it
    except ImportError:
        return fail("--qr needs segno; run: pip install segno", COULD_NOT_RUN)
    try:
        code = segno.make_qr(uri)
    except segno.DataOverflowError:
        return fail("the URI is too long for a QR code; print it without --qr", COULD_NOT_RUN)
    drawing = io.StringIO()
    code.terminal(drawing, compact=True)
    before, after = "", ""
    if sys.stdout is not None and sys.stdout.isatty():
        before, after = BRIGHT_ON_BLACK, PLAIN
    try:
        for line in drawing.getvalue().splitlines():
            print(f"{before}{line}{after}")
    except UnicodeEncodeError:
        return fail("a QR code is drawn in UTF-8, which is not the locale's", COULD_NOT_RUN)
    return DONE


def say(text: str) -> None:
    """Say something about the work, on one line of standard error."""
    try:
        print(f"geproxy: {_one_line(text)}", file=sys.stderr)
    except OSError:
        _silence(2)


def fail(text: str, status: int) -> int:
    """Say what went wrong; returns *status*."""
    say(text)
    return status


def _one_line(text: str) -> str:
    """Escape what does not print, such as the line's end in the name of a file."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _silence(descriptor: int) -> None:
    """Have what could not be written go nowhere, before the interpreter tries again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
