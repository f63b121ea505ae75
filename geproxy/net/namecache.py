"""What is known of names: fresh, stale, or that there is nothing (RFC 8767, RFC 9520)."""

from __future__ import annotations

import time

from geproxy.errors import GeproxyError, LimitError, NoAnswerError, ResolveError
from geproxy.net.lookup import Found

# Fixed by the specification
RECHECK_SECONDS = 30.0  # RFC 8767 §5: a server that fails is asked again no sooner

# Chosen here
# Stale ones included: about 2 MiB, and 30 MiB where a hostile zone fills them with addresses.
CACHE_NAMES = 4096
FAILURE_SECONDS = 5.0  # a typing error costs no look-up each, a mended zone is seen soon
# An hour bridges an outage of name servers; RFC 8767 §5 allows days, for caches of many users.
STALE_SECONDS = 3600.0


class Entry:
    """What is known of one name; times are of the monotonic clock."""

    __slots__ = ("expires", "found", "stale_until")

    def __init__(self, found: Found | ResolveError, expires: float, stale_until: float) -> None:
        self.found = found
        self.expires = expires  # until then it is used without asking
        self.stale_until = stale_until  # until then it is better than a failure

    def stale(self) -> Found | None:
        """Return the addresses, if they are better than none."""
        if isinstance(self.found, ResolveError) or time.monotonic() >= self.stale_until:
            return None
        return self.found


class NameCache:
    """The names that one worker knows; the one that was learnt first makes room for the next."""

    def __init__(self, cache_seconds: float) -> None:
        """Keep an answer fresh for *cache_seconds*; with 0, keep nothing, stale or not."""
        self._cache_seconds = cache_seconds
        self._entries: dict[str, Entry] = {}
        self.get = self._entries.get

    def learn(self, name: str, outcome: Found | GeproxyError, *, whole: bool) -> Entry | None:
        """Take the *outcome* of a look-up; returns what is now known of *name*.

        An answer, "no such name" too, replaces what was known. A failure to get one never
        replaces addresses: they are used for RECHECK_SECONDS more, until too stale. Failures of
        our own are not kept. Without *whole*, addresses are kept no longer than a failure, for
        they are of no use, and those of the other family may come.
        """
        entry = self.get(name)
        now = time.monotonic()
        failed = isinstance(outcome, NoAnswerError | LimitError) or not whole
        if failed and entry is not None and entry.stale() is not None:
            entry.expires = min(max(entry.expires, now + RECHECK_SECONDS), entry.stale_until)
            return entry
        if not self._cache_seconds or not isinstance(outcome, tuple | ResolveError):
            return None
        seconds = self._cache_seconds
        if failed or isinstance(outcome, ResolveError):
            seconds = min(seconds, FAILURE_SECONDS)
        expires = now + seconds
        stale_until = 0.0 if failed else expires + STALE_SECONDS
        # Put at the end, so that the oldest stands in front.
        self._entries.pop(name, None)
        entry = self._entries[name] = Entry(outcome, expires, stale_until)
        if len(self._entries) > CACHE_NAMES:
            del self._entries[next(iter(self._entries))]
        return entry
