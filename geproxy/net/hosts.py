"""What the system's resolver knows without name servers: /etc/hosts, and names of other sources.

getaddrinfo ends its search at the first source that knows a name in either family. Asked for one
family, it goes on: "10.0.0.5 db.internal" would be walked around by an AAAA record of that name.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

# Fixed by the specification
HOSTS = Path("/etc/hosts")  # hosts(5)
NSSWITCH = Path("/etc/nsswitch.conf")  # nsswitch.conf(5)

# Chosen here
READ_BYTES = 64 * 1024  # of lines at a time; threads change places between any two names
# Of the file, for each bucket. 200 000 blocked names take 11 MB like this, where a set of them
# would take 25, and are searched in microseconds; one text would be searched for 4 ms, and the
# loop would wait meanwhile.
BUCKET_BYTES = 1024
# Sources that may be asked for one family. "resolve" ends the search, whatever it says; the names
# of the last two are told apart by their form, see special().
APART = frozenset(("files", "dns", "resolve", "myhostname", "mymachines"))
MDNS = frozenset(("mdns_minimal", "mdns4_minimal", "mdns6_minimal"))  # .local alone

Stamp = tuple[int, int, int, int]


class HostsFile:
    """The names of /etc/hosts, read again when the file has changed. For threads."""

    def __init__(self, path: Path = HOSTS) -> None:
        self._path = path
        self._stamp: Stamp | None = None
        self._buckets = [bytearray()]
        self._reading = threading.Lock()

    def __contains__(self, name: str) -> bool:
        """Tell whether *name*, in lower case, has a line.

        A file that cannot be opened now (no descriptor left) is taken as it last was.
        """
        with self._reading:
            self._read_if_changed()
            buckets = self._buckets
        word = name.encode("ascii")
        return b" %b " % word in buckets[hash(word) % len(buckets)]

    def _read_if_changed(self) -> None:
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev)
            if stamp == self._stamp:
                return
            with self._path.open("rb") as file:
                buckets = [bytearray(b" ") for _ in range(1 + status.st_size // BUCKET_BYTES)]
                while lines := file.readlines(READ_BYTES):
                    for line in lines:
                        for word in line.partition(b"#")[0].lower().split()[1:]:
                            buckets[hash(word) % len(buckets)] += word + b" "
        except FileNotFoundError:
            self._stamp, self._buckets = None, [bytearray()]
        except OSError:
            pass
        else:
            self._stamp, self._buckets = stamp, buckets


def sources(path: Path = NSSWITCH) -> tuple[str, ...]:
    """Return the sources of host names in their order; without a file, glibc's own."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        database, _, rest = line.partition("#")[0].partition(":")
        if database.strip() == "hosts":
            return tuple(word for word in rest.split() if word[0] != "[" and word[-1] != "]")
    return ("files", "dns")


class OtherSources:
    """The names that sources other than name servers may know in one family alone."""

    def __init__(self, known: Iterable[str]) -> None:
        """*known* are the names of sources, as sources() gives them."""
        known = frozenset(known)
        self._all = bool(known - APART - MDNS)
        self._local = bool(known & MDNS)
        self._plain = bool(known & {"myhostname", "mymachines"})
        self._own = socket.gethostname().lower()

    def __contains__(self, name: str) -> bool:
        """Tell whether a source may know *name*, in lower case, apart from name servers."""
        if self._all:
            return True
        last = name.removesuffix(".").rpartition(".")[2]
        if self._local and last == "local":
            return True
        return self._plain and (last in (name, "localhost", "localdomain") or name == self._own)
