"""geproxy keygen and geproxy url: what both ends of a sealed relay are given."""

from __future__ import annotations

import io
import sys
from functools import partial
from ipaddress import IPv4Address, IPv6Address

from geproxy.commands.speech import COULD_NOT_RUN, DONE, WRONG, fail, read_or_explain, say
from geproxy.config import load, ssurl
from geproxy.config.outward import outward_address
from geproxy.config.settings import Listen
from geproxy.crypto.methods import generate_key, method_by_name

BRIGHT_ON_BLACK, PLAIN = "\033[97;40m", "\033[0m"  # console_codes(4)


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
