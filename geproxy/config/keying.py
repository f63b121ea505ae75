"""The one secret of a table with an ss:// URL: in the URL, or in a file of its own."""

from __future__ import annotations

from geproxy.config import secretfile
from geproxy.config.sealing import STRONG_BITS, Sealing
from geproxy.config.table import Entry, Reading
from geproxy.config.url import may_hold_secret
from geproxy.crypto.methods import Method, decode_key


def password_in(data: bytes, method: Method) -> Sealing:
    """Take the content of a password_file: one line, its end not counted. Raises ValueError."""
    password = data.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise ValueError("the password is empty")
    if b"\n" in password:  # nobody could tell which of the lines a peer has to be given
        raise ValueError("the file holds more than one line; the password alone is wanted")
    return Sealing(method, password=password)


def key_in(data: bytes, method: Method) -> Sealing:
    """Take the content of a key_file: what geproxy keygen prints. Raises ValueError."""
    # latin-1 never fails, and decode_key refuses what is not ASCII.
    return Sealing(method, key=decode_key(data.decode("latin-1"), method))


FILES = {"password_file": password_in, "key_file": key_in}


def note_url(reading: Reading, entry: Entry, example: str) -> None:
    """Complain if there is no URL, and note whether a secret may stand in it."""
    if "url" not in entry.table:
        reading.complain(f"{entry.key}.url", f'is missing; for example url = "{example}"')
    # Of the text, not of what was understood: a wrong URL holds its password as well.
    text = entry.table.get("url")
    reading.holds_secret |= isinstance(text, str) and may_hold_secret(text)


def read_sealing(reading: Reading, entry: Entry, sealing: Sealing | None) -> Sealing | None:
    """Find the one secret of *entry*: in its URL, which gave *sealing*, or in a file.

    With a URL that is wrong, *sealing* is None; what is wrong with the files is told all the same.
    Returns None where there is no secret.
    """
    files = [name for name in FILES if entry.names(name)]
    places = ["url", *files] if sealing is not None and sealing.has_secret else files
    if sealing is not None and not places:
        reading.complain(
            f"{entry.key}.url",
            "the secret is missing: METHOD:PASSWORD@ in the URL, password_file or key_file",
        )
    for name in places[1:]:
        reading.complain(f"{entry.key}.{name}", f"{places[0]} has the secret; one of them must go")
    for name in files:
        sealing = _read_file(reading, entry, name, sealing)
    if sealing is None or not sealing.has_secret:
        return None
    if sealing.guessable:
        reading.warn(
            f"{entry.key}.{places[0]}",
            f"a password of fewer than {STRONG_BITS} bits may be guessed from one recorded "
            f"connection; a random key may not: geproxy keygen {sealing.method.name}",
        )
    return sealing


def _read_file(
    reading: Reading, entry: Entry, name: str, sealing: Sealing | None
) -> Sealing | None:
    """Complete *sealing* from the file that setting *name* names; a wrong one changes nothing."""
    key, path = f"{entry.key}.{name}", entry.values.get(name)
    data = secretfile.read(path, key, reading.problems) if path is not None else None
    if data is None or sealing is None:
        return sealing
    try:
        return FILES[name](data, sealing.method)
    except ValueError as error:
        reading.complain(key, str(error))
        return sealing
