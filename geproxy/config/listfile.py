"""Files that list targets or clients, one a line: what `to_file` and `client_file` name.

Such lists come from elsewhere and have a few hundred thousand lines: a usual line is read in about
a microsecond, and what is wrong with others is told for the first few. No message repeats a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_pton
from typing import Generic, TypeVar

from geproxy.config.destinations import PRIVATE, To
from geproxy.config.edges import Networks, Span
from geproxy.config.names import Names
from geproxy.config.network import Network, read_destination, read_network
from geproxy.config.secretfile import read_regular
from geproxy.terms import MAX_NAME_BYTES

T = TypeVar("T")

# Fixed by the specification
_MAPPED = 0xFFFF  # the upper 96 bits of ::ffff:0:0/96: RFC 4291 §2.5.5.2

# Chosen here
FILE_MAX_BYTES = 64 << 20  # about 3 million names: half a minute in which the master hears nobody
TOLD_LINES = 10  # wrong lines that are told; one mistake of a whole list would fill the screen
# Names that a hosts file gives to the host itself. Whoever reads one as a list of others does not
# mean them; the last one is a line of a well-known list.
OWN_NAMES = frozenset(
    ("localhost", "localhost.localdomain", "local", "broadcasthost")
    + ("ip6-localhost", "ip6-loopback", "ip6-localnet", "ip6-mcastprefix")
    + ("ip6-allnodes", "ip6-allrouters", "ip6-allhosts", "0.0.0.0")
)

# Lines that are right as they stand, in lower case: read_destination() gives their entry as it is.
# A last label that begins with a letter is no number, so the name is no address.
_NAME_LINE = re.compile(
    r"(?:(0\.0\.0\.0|127\.0\.0\.1)[ \t]+)?"
    r"((?:\*\.)?(?:[a-z0-9_-]+\.)*[a-z][a-z0-9_-]*)[ \t]*"
)
_IPV4_LINE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3})(?:/([0-9]|[12][0-9]|3[0-2]))?[ \t]*")
_IPV6_LINE = re.compile(r"([0-9a-f]*:[0-9a-f:]+)(?:/([1-9]?[0-9]|1[01][0-9]|12[0-8]))?[ \t]*")
_AD_FILTER = re.compile(r"\|\||@@|!|\[adblock", re.I)


@dataclass(slots=True)
class _Found:
    """What the lines of one file gave."""

    entries: set[str] = field(default_factory=set)  # names, patterns, and perhaps PRIVATE
    names: set[str] = field(default_factory=set)  # where that word would be a name like others
    networks: list[Network] = field(default_factory=list)
    ipv4: list[Span] = field(default_factory=list)  # networks too, of usual lines
    ipv6: list[Span] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    wrong: int = 0

    def complain(self, number: int, text: str) -> None:
        self.wrong += 1
        if self.wrong <= TOLD_LINES:
            self.problems.append(f"line {number}: {text}")


class ListFiles(Generic[T]):
    """The list files of one configuration, of one kind; each is read once."""

    def __init__(self, parse: Callable[[bytes], tuple[T, list[str]]]) -> None:
        """*parse* is parse_destinations or parse_networks."""
        self._parse = parse
        self._read: dict[str, T] = {}

    def read(self, path: str) -> tuple[T, list[str]]:
        """Return what the file at *path* lists, and what is wrong with it.

        What is wrong is told the first time alone. Raises ValueError where it cannot be read.
        """
        if path in self._read:
            return self._read[path], []
        try:
            data, _ = read_regular(path, FILE_MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"the file cannot be read: {error.strerror}") from None
        if len(data) > FILE_MAX_BYTES:
            raise ValueError(f"the file has more than {FILE_MAX_BYTES >> 20} MiB")
        self._read[path], problems = self._parse(data)
        return self._read[path], problems


def parse_destinations(data: bytes) -> tuple[To, list[str]]:
    """Read a file of names, patterns, networks and "private", or a hosts file.

    Returns them, and what is wrong, by its line.
    """
    found = _Found()
    for number, line in _lines(data):
        if len(line) <= MAX_NAME_BYTES:
            match = _NAME_LINE.fullmatch(line)
            if match is not None:
                if match[1] is None:
                    found.entries.add(match[2])
                elif match[2] not in OWN_NAMES:
                    found.names.add(match[2])
                continue
        if not _read_network(found, line):
            try:
                _read_destinations(found, line)
            except ValueError as error:
                found.complain(number, str(error))
    try:
        names = Names.of(found.entries - {PRIVATE} | found.names)
    except ValueError as error:
        names = Names.of(())
        found.problems.append(str(error))
    return To(names, _networks(found), PRIVATE in found.entries), _told(found)


def parse_networks(data: bytes) -> tuple[Networks, list[str]]:
    """Read a file of networks and addresses. Returns them, and what is wrong, by its line."""
    found = _Found()
    for number, line in _lines(data):
        if not _read_network(found, line):
            try:
                text = _without_comment(line)
                if text:
                    found.networks.append(read_network(text))
            except ValueError as error:
                found.complain(number, str(error))
    return _networks(found), _told(found)


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    """Number the lines; those in ASCII alone come in lower case, if all are."""
    # Bytes that are not UTF-8 may stand in comments.
    text = data.decode("utf-8-sig", "surrogateescape")
    if text.isascii():
        text = text.lower()
    return enumerate(text.replace("\r\n", "\n").split("\n"), start=1)


def _without_comment(line: str) -> str:
    """Cut off a comment and the blanks around the rest. Raises ValueError for what is not UTF-8."""
    text = line.partition("#")[0].strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    return text


def _read_network(found: _Found, line: str) -> bool:
    """Read an address or a network as it is usually written. False: *line* is something else."""
    match, family, bits, spans = _IPV4_LINE.fullmatch(line), AF_INET, 32, found.ipv4
    if match is None:
        match, family, bits, spans = _IPV6_LINE.fullmatch(line), AF_INET6, 128, found.ipv6
        if match is None:
            return False
    try:
        first = int.from_bytes(inet_pton(family, match[1]))
    except OSError:
        return False
    size = 1 << (bits - int(match[2] or bits))
    if first % size or (family == AF_INET6 and first >> 32 == _MAPPED):
        return False
    spans.append((first, first + size))
    return True


def _read_destinations(found: _Found, line: str) -> None:
    """Read a line of any kind: nothing, one entry, or an address and its names. ValueError."""
    words = _without_comment(line).split()
    if not words:
        return
    if _AD_FILTER.match(words[0]):
        raise ValueError("is for ad blockers; a list of names, or a hosts file, is wanted")
    if len(words) > 1:
        if not _is_address(words[0]):
            raise ValueError("one name, pattern or network a line; or an address and its names")
        for word in words[1:]:
            if word.lower() not in OWN_NAMES:
                _add_name(found, word)
    elif words[0].startswith("."):
        _add_name(found, words[0][1:])
        _add_name(found, f"*{words[0]}")
    else:
        entry = read_destination(words[0])
        if isinstance(entry, str):
            found.entries.add(entry)
        else:
            found.networks.append(entry)


def _add_name(found: _Found, text: str) -> None:
    name = read_destination(text)
    if not isinstance(name, str):
        raise ValueError("a name is wanted there, not an address")
    found.names.add(name)


def _is_address(word: str) -> bool:
    try:
        ip_address(word.partition("%")[0])  # macOS has fe80::1%lo0 in its hosts file
    except ValueError:
        return False
    return True


def _networks(found: _Found) -> Networks:
    return Networks.of(found.networks, found.ipv4, found.ipv6)


def _told(found: _Found) -> list[str]:
    if found.wrong > TOLD_LINES:
        found.problems.append(f"{found.wrong - TOLD_LINES} more lines are wrong")
    return found.problems
