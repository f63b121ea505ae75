"""geproxy passwd: store or delete a user of a users file."""

from __future__ import annotations

import getpass
import os
import sys

from geproxy.commands.speech import COULD_NOT_RUN, DONE, WRONG, fail, say
from geproxy.config import userfile
from geproxy.crypto.password import hash_password, weakness

MAX_PASSWORD_BYTES = 255  # RFC 1929 §2: PLEN is one octet


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
