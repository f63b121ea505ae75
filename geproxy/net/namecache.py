"""What is known of names: fresh, stale, or that there is nothing (RFC 8767, RFC 9520)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable

from geproxy.errors import GeproxyError, LimitError, NoAnswerError, ResolveError
from geproxy.net.lookup import Found
from geproxy.net.ranking import Ranking

# Fixed by the specification
RECHECK_SECONDS = 30.0  # RFC 8767 §5: a server that fails is asked again no sooner

# Chosen here
# Stale ones included: about 2 MiB, and 10 MiB where hostile zones fill each with addresses.
CACHE_NAMES = 4096
FAILURE_SECONDS = 5.0  # a typing error costs no look-up each, a mended zone is seen soon
# An hour bridges an outage of name servers; RFC 8767 §5 allows days, for caches of many users.
STALE_SECONDS = 3600.0


class Entry:
    """What is known of one name; times are of the monotonic clock."""

    __slots__ = ("expires", "found", "share", "stale_until")

    def __init__(
        self, found: Found | ResolveError, expires: float, stale_until: float, share: Hashable
    ) -> None:
        self.found = found
        self.share = share  # of the client who asked for it
        self.expires = expires  # until then it is used without asking
        self.stale_until = stale_until  # until then it is better than a failure

    def stale(self) -> Found | None:
        """Return the addresses, if they are better than none."""
        if isinstance(self.found, ResolveError) or time.monotonic() >= self.stale_until:
            return None
        return self.found


class NameCache:
    """The names that one worker knows.

    The share that has most in it makes room for the next, with what it learnt first: a client that
    asks for thousands of names forgets its own.
    """

    def __init__(self, cache_seconds: float) -> None:
        """Keep an answer fresh for *cache_seconds*; with 0, keep nothing, stale or not."""
        self._cache_seconds = cache_seconds
        self._entries: dict[str, Entry] = {}
        self._shares: dict[Hashable, OrderedDict[str, None]] = {}  # names, by who asked for them
        self._by_names = Ranking()
        self.get = self._entries.get

    def learn(
        self, name: str, outcome: Found | GeproxyError, share: Hashable, *, whole: bool
    ) -> Entry | None:
        """Take the *outcome* of a look-up for *share*; returns what is now known of *name*.

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
        if entry is not None:
            self._drop(name, entry)
        entry = Entry(outcome, expires, stale_until, share)
        self._keep(name, entry)
        if len(self._entries) > CACHE_NAMES:
            first = next(iter(self._shares[self._by_names.most()]))
            self._drop(first, self._entries[first])
        return entry

    def _keep(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry
        names = self._shares.setdefault(entry.share, OrderedDict())
        self._by_names.move(entry.share, len(names) or None, len(names) + 1)
        names[name] = None

    def _drop(self, name: str, entry: Entry) -> None:
        del self._entries[name]
        names = self._shares[entry.share]
        self._by_names.move(entry.share, len(names), len(names) - 1 or None)
        del names[name]
        if not names:
            del self._shares[entry.share]
