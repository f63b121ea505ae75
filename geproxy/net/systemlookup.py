"""Names as the system resolves them, by getaddrinfo on threads: A and AAAA side by side.

Asked for both at once, getaddrinfo waits for both, and fails where a name server never answers
one of them.
"""

from __future__ import annotations

import os
import socket
import time

from geproxy.errors import LimitError, NoAnswerError, ResolveError
from geproxy.net.hosts import HostsFile, OtherSources, sources
from geproxy.net.lookup import ADDRESSES, Found, Question
from geproxy.net.offload import Offload
from geproxy.terms import plain_address

# Chosen here
# Two for each name: 48 names at once, of which one client alone can hold 36. A thread that has
# looked up takes 20 to 36 KiB, and none is started before it is needed.
THREADS = 96
# A lost packet costs one second. Two attempts, for glibc takes an answer that comes after the
# first of them was given up, so that answers which take up to two seconds are heard. No more: a
# call cannot be broken off, and is made again as long as there is time. It lasts two seconds for
# each name server that is silent (three at most), and twice that with a search list.
ATTEMPT_SECONDS = 1.0
RES_OPTIONS = f"timeout:{ATTEMPT_SECONDS:.0f} attempts:2"

FAMILIES = {
    "both": (socket.AF_INET6, socket.AF_INET),
    "ipv4": (socket.AF_INET,),
    "ipv6": (socket.AF_INET6,),
}
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY)
_NO_ANSWER = (socket.EAI_AGAIN, socket.EAI_FAIL)  # silence, SERVFAIL; REFUSED, nonsense


class SystemLookUp:
    """A LookUp that asks the system; see lookup.LookUp."""

    places = THREADS

    def __init__(self, family: str, timeout_seconds: float) -> None:
        self.families = FAMILIES[family]
        self._timeout_seconds = timeout_seconds
        self._offload: Offload[Found] = Offload("look-ups", THREADS)
        self._hosts = HostsFile()
        self._others = OtherSources(sources())

    def ask(self, question: Question) -> Found:
        """Return the addresses; the families of a name that /etc/hosts knows come with the first.

        Raises ResolveError for a name that has none, NoAnswerError, and LimitError where the
        system has no descriptor, memory or thread for us.
        """
        return self._offload.call(lambda: self._ask(question))

    def _ask(self, question: Question) -> Found:
        """Ask until there is an answer, or no time or no need for one. Runs on a thread."""
        name, family = question.name, question.family
        if len(self.families) > 1 and (name in self._others or name in self._hosts):
            if family != self.families[0]:
                return ()
            family = socket.AF_UNSPEC
        give_up = time.monotonic() + self._timeout_seconds
        while True:
            begun = time.monotonic()
            try:
                return get_addresses(name, family)
            except NoAnswerError:
                ended = time.monotonic()
                # SERVFAIL comes soon; to ask again at once would make a flood of it.
                silent = ended - begun >= ATTEMPT_SECONDS
                if not silent or ended >= give_up or question.enough:
                    raise


def get_addresses(name: str, family: int) -> Found:
    """Ask getaddrinfo once for *name*, in an address family of socket's. Blocks.

    Raises ResolveError for a name that has no address, NoAnswerError, and LimitError for a
    failure of this host.
    """
    # As bytes: Python would run a str through its idna codec, which raises for long labels.
    try:
        rows = socket.getaddrinfo(name.encode("ascii"), None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        text = f"{name}: {error.strerror}"
        if not _has_descriptors():
            raise LimitError(f"{name}: no descriptor to look it up with") from error
        if error.errno in _NO_SUCH_NAME:
            raise ResolveError(text) from error
        if error.errno in _NO_ANSWER:
            raise NoAnswerError(text) from error
        raise LimitError(text) from error  # EAI_MEMORY
    except OSError as error:  # EAI_SYSTEM
        raise LimitError(f"{name}: {error.strerror or error}") from error
    found = (plain_address(str(row[4][0])) for row in rows[:ADDRESSES])
    return tuple(dict.fromkeys(found))


def _has_descriptors() -> bool:
    """Tell whether a file can be opened: where none can, glibc's error may be any."""
    try:
        os.close(os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError:
        return False
    return True
