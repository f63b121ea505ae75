"""What a worker remembers of the sources of passwords: who was right, asked and was wrong lately.

Only sources are remembered, never user names: an order that knew names would tell which exist.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Hashable

# Chosen here
# A day, so that who logs in each morning comes first every morning; an address that changes its
# owner does so about as often.
PROVEN_SECONDS = 86_400.0
PROVEN_SOURCES = 4096  # about 1 MiB; only right passwords fill it, so no flood can empty it
# Long enough to tell a guesser who takes turns among thousands of addresses from a newcomer, short
# enough to forgive somebody a few mistakes while he finds the right password.
HALF_LIFE_SECONDS = 300.0
FORGET_SECONDS = 6 * HALF_LIFE_SECONDS  # then 1/64 is left, which changes no order
ASKING_SOURCES = 8192  # about 4 MiB, which a flood of addresses can fill; the quietest goes first
# The second within HALF_LIFE_SECONDS. One is a slip, and the next costs an honest client 0.2 s.
SUSPECT_FAILURES = 1.5
# Different passwords of a source that never was right. An honest one waits a little longer for its
# third try, and the first right password of a whole office clears all of it.
SUSPECT_PASSWORDS = 3.0
# After its first try: after a restart a whole office comes at once, and is cleared in time.
SUSPECT_SECONDS = 2.0

Rank = tuple[bool, int]


class _Account:
    """One source's counts, halved every HALF_LIFE_SECONDS; both times are monotonic."""

    __slots__ = ("asked", "counted", "failed", "latest", "passwords", "refused", "seen", "since")

    def __init__(self, now: float) -> None:
        self.asked = self.failed = self.passwords = 0.0
        self.latest = b""  # the key of the newest password
        self.refused = 0  # how many of those that were not checked nobody has been told of
        self.counted = now  # of which time the counts are
        self.since = self.seen = now  # when the source asked first, and last

    def age(self, now: float) -> None:
        """Bring the counts up to *now*."""
        if now > self.counted:
            left: float = 0.5 ** ((now - self.counted) / HALF_LIFE_SECONDS)
            self.asked *= left
            self.failed *= left
            self.passwords *= left
            self.counted = now


class Standings:
    """The sources of one worker. Bounded in entries and in age; no call grows with their number."""

    def __init__(self) -> None:
        self._accounts: OrderedDict[Hashable, _Account] = OrderedDict()  # the quietest in front
        self._proven: OrderedDict[Hashable, float] = OrderedDict()  # when each expires

    def ask(self, source: Hashable, key: bytes) -> None:
        """Count a password that *source* wants checked, whatever comes of it; *key* names it."""
        now = time.monotonic()
        account = self._accounts.get(source)
        if account is None:
            account = self._accounts[source] = _Account(now)
            self._forget(now)
        else:
            self._accounts.move_to_end(source)
            account.seen = now
            account.age(now)
        account.asked += 1.0
        if key != account.latest:  # not the same once more, as a client tries that was refused
            account.passwords += 1.0
            account.latest = key

    def succeed(self, source: Hashable) -> None:
        """Count a right password, which takes back what it cost to ask."""
        account = self._accounts.get(source)
        if account is not None:
            account.asked = max(account.asked - 1.0, 0.0)
            account.refused = 0
        self._proven[source] = time.monotonic() + PROVEN_SECONDS
        self._proven.move_to_end(source)
        if len(self._proven) > PROVEN_SOURCES:
            self._proven.popitem(last=False)

    def fail(self, source: Hashable) -> None:
        """Count a wrong password, or one of a user who does not exist."""
        account = self._accounts.get(source)
        if account is not None:
            account.age(time.monotonic())
            account.failed += 1.0

    def refuse(self, source: Hashable) -> int:
        """Count a password that was not checked.

        Returns for how many *source* answers now: none while it may be an honest client that came
        at a bad time, and those of that time too once it is a suspect.
        """
        account = self._accounts.get(source)
        if account is None:
            return 0
        account.refused += 1
        return self.take_refused(source)

    def take_refused(self, source: Hashable) -> int:
        """Return how many of *source* were not checked and nobody was told of, for who tells now.

        None while it is no suspect.
        """
        account = self._accounts.get(source)
        if account is None or not self.suspects(source):
            return 0
        refused, account.refused = account.refused, 0
        return refused

    def suspects(self, source: Hashable) -> bool:
        """Tell whether *source* seems to guess: it was wrong twice lately, or has tried several
        passwords for a while and never was right.
        """
        account = self._accounts.get(source)
        if account is None:
            return False
        now = time.monotonic()
        account.age(now)
        if account.failed >= SUSPECT_FAILURES:
            return True
        many = account.passwords >= SUSPECT_PASSWORDS and now >= account.since + SUSPECT_SECONDS
        return many and not self._has_proven(source)

    def rank(self, source: Hashable) -> Rank:
        """Return what orders sources; the lowest comes first.

        Sources that logged in within PROVEN_SECONDS stand before all others; among equals, the one
        that asked least lately, so that a newcomer stands before 200 guessers.
        """
        account = self._accounts.get(source)
        if account is not None:
            account.age(time.monotonic())
        return not self._has_proven(source), 0 if account is None else round(account.asked)

    def _has_proven(self, source: Hashable) -> bool:
        return self._proven.get(source, 0.0) > time.monotonic()

    def _forget(self, now: float) -> None:
        """Drop those that were quiet for too long, and the quietest while there are too many."""
        while True:
            source, account = next(iter(self._accounts.items()))
            if len(self._accounts) <= ASKING_SOURCES and account.seen + FORGET_SECONDS > now:
                return
            del self._accounts[source]
