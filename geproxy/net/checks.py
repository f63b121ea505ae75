"""Passwords to check: one at a time on a thread, in an order that a flood of wrong ones cannot win.

Two lines wait. Sources that seem to guess stand in the second one, which is served only while the
first is empty, and for a part of the time. Within a line, sources take turns as net.standing ranks
them: by verdicts and addresses, and never by names, which the order would give away. What cannot be
served in time is refused early.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from functools import partial

from gevent import get_hub

from geproxy.errors import DeadlineError, LimitError, ResetError, UncheckedError
from geproxy.net.checkline import Check, Entry, Line, News
from geproxy.net.messages import has_given_up
from geproxy.net.offload import Answer, Offload
from geproxy.net.standing import Standings
from geproxy.net.turns import share_of
from geproxy.streams import Stream

# Chosen here
# Honest or not, passwords take one core's time of each worker at most. At normal priority: at nice
# 10 the thread does 2 checks a second where the cores are busy, and nobody is let in.
THREADS = 1
WAITING_LIMIT = 256  # entries in each line, 1 KiB each; about 160 are served within PATIENCE
# How many times what is served within PATIENCE the first line holds: in a flood half of it and more
# are guessers, who are found out by their next tries and leave it before their turn.
OVERBOOKED = 2
# Of a handshake's time. The rest is for the bytes before and after the password, and for a host
# that is slower now than it was when its hashes were measured.
PATIENCE = 0.75
FIRST_GUESS_SECONDS = 0.05  # what a check takes, before one was measured
SMOOTHING = 8  # checks over which that is averaged: one that was slow by chance refuses nobody
# After the check of a suspect, suspects wait this many times what it took: guessers get an eighth
# of a core of each worker, and what others transfer meanwhile keeps the rest.
SUSPECT_REST = 7


class Checks:
    """The queue of one worker. For one thread, the loop's.

    A session that waits looks at its own client when it is its turn, because nobody else may read
    there, and begins the check itself or passes the turn on.
    """

    def __init__(self, handshake_seconds: float) -> None:
        self._offload: Offload[bool] = Offload("passwords to check", THREADS)
        self._standings = Standings()
        self._patience_seconds = handshake_seconds * PATIENCE
        self._check_seconds = FIRST_GUESS_SECONDS
        self._checks: dict[bytes, Check] = {}
        self._first = Line(self._standings.rank)
        self._suspects = Line(self._standings.rank)
        self._busy = False  # a check runs, or somebody was asked to begin one
        self._asked: News | None = None  # who was asked to begin
        self._rested = 0.0  # monotonic; suspects wait until then
        self._timer = get_hub().loop.timer(0)

    def exercise(self, function: Callable[[], bool]) -> None:
        """Run *function* on the thread, before anybody waits."""
        self._offload.call(function)

    def run(self, key: bytes, function: Callable[[], bool], client: Stream) -> int:
        """Return 0 where *function* says True, or raise what it raises; *client* wants to know.

        Where it says False, return how many failures of this source are to be told of: this one,
        and those that were refused before it was known for a suspect.

        Equal keys that overlap share one call. Raises LimitError for what would be too late, or
        where the system has no thread; UncheckedError where its source is to blame; ResetError
        for a client that has left by its turn, which costs no call.
        """
        source = share_of(client.peer.address)
        check = self._checks.get(key)
        if check is None:
            check = self._checks[key] = Check(key, function)
        entry = check.entries.get(source)
        new = entry is None
        if entry is None:
            entry = check.entries[source] = Entry(check, source)
            self._standings.ask(source, key)
            self._sort(source)
        news = News()
        entry.waiters.append(news)
        if new and not check.running:
            self._enqueue(entry)
            self._offer()
        answer = self._wait(entry, news)
        if answer is None:
            self._begin(entry, client)
            news = News()
            entry.waiters.append(news)
            answer = self._wait(entry, news)
            assert answer is not None, "a check that runs is offered to nobody"
        return 0 if answer.give() else 1 + self._standings.take_refused(source)

    # -- who waits -------------------------------------------------------------------------------

    def _wait(self, entry: Entry, news: News) -> Answer[bool] | None:
        try:
            return news.get()
        except DeadlineError as error:
            self._leave(entry, news)
            count = self._standings.refuse(entry.source)
            if count:
                raise UncheckedError(f"{error}, with a password that waited", count) from error
            raise
        except BaseException:  # the end of the worker
            self._leave(entry, news)
            raise

    def _leave(self, entry: Entry, news: News) -> None:
        if news is self._asked:
            self._pass_on(entry)
        elif not news.ready():
            entry.waiters.remove(news)
            if not entry.waiters and entry.line is not None:
                self._drop(entry)

    def _begin(self, entry: Entry, client: Stream) -> None:
        """Start the check of *entry*, whose turn it is, unless *client* has left."""
        try:
            left = has_given_up(client)
        except BaseException:
            self._pass_on(entry)
            raise
        if left:
            self._pass_on(entry)
            raise ResetError("the client has left before its password was checked")
        self._asked = None
        check = entry.check
        check.running = True
        for other in check.entries.values():
            if other.line is not None:
                other.line.remove(other)
        suspect, started = self._standings.suspects(entry.source), time.monotonic()
        self._offload.start(check.function, partial(self._settle, check, suspect, started))

    def _settle(self, check: Check, suspect: bool, started: float, answer: Answer[bool]) -> None:
        """Tell everybody the answer, and go on with the next."""
        now = time.monotonic()
        self._check_seconds += (now - started - self._check_seconds) / SMOOTHING
        if suspect:
            self._rested = now + SUSPECT_REST * (now - started)
        del self._checks[check.key]
        for entry in check.entries.values():
            if answer.error is None:
                judge = self._standings.succeed if answer.value else self._standings.fail
                judge(entry.source)
                self._sort(entry.source)
            for news in entry.waiters:
                news.set(answer)
        self._busy = False
        self._offer()

    # -- the order -------------------------------------------------------------------------------

    def _sort(self, source: Hashable) -> None:
        """Have what *source* waits for stand in the line it belongs to by now."""
        wrong_line = self._first if self._standings.suspects(source) else self._suspects
        for entry in wrong_line.of(source):
            wrong_line.remove(entry)
            self._enqueue(entry)

    def _enqueue(self, entry: Entry) -> None:
        suspect = self._standings.suspects(entry.source)
        line = self._suspects if suspect else self._first
        line.add(entry)
        served = self._patience_seconds / self._check_seconds
        places = served / (1 + SUSPECT_REST) if suspect else served * OVERBOOKED
        while len(line) > max(min(WAITING_LIMIT, int(places)), 1):
            self._refuse(line.worst())

    def _offer(self) -> None:
        """Ask the best of those who wait to begin, if nobody runs."""
        self._timer.stop()
        if self._busy:
            return
        now = time.monotonic()
        # One that has just come is checked however long that takes: its client may yet be served.
        spare_seconds = max(self._patience_seconds - self._check_seconds, self._check_seconds)
        for line in (self._first, self._suspects):
            for entry in line.older_than(now - spare_seconds):
                self._refuse(entry)
        if len(self._first):
            self._ask(self._first.best())
        elif len(self._suspects) and now >= self._rested:
            self._ask(self._suspects.best())
        elif len(self._suspects):
            self._timer.close()
            self._timer = get_hub().loop.timer(self._rested - now)
            self._timer.start(self._offer, update=True)

    def _ask(self, entry: Entry) -> None:
        """Ask the first of *entry*'s sessions to begin: only it may look at its client."""
        if entry.line is not None:
            entry.line.remove(entry)
        self._busy = True
        self._asked = entry.waiters.popleft()
        self._asked.set(None)

    def _pass_on(self, entry: Entry) -> None:
        """Let the next session of *entry* begin, or else the next entry."""
        self._asked = None
        if entry.waiters:
            self._ask(entry)
            return
        self._drop(entry)
        self._busy = False
        self._offer()

    # -- who goes --------------------------------------------------------------------------------

    def _refuse(self, entry: Entry) -> None:
        self._drop(entry)
        text = "too many passwords to check at once"
        for news in entry.waiters:
            count = self._standings.refuse(entry.source)
            answer: Answer[bool] = Answer()
            answer.error = UncheckedError(text, count) if count else LimitError(text)
            news.set(answer)

    def _drop(self, entry: Entry) -> None:
        if entry.line is not None:
            entry.line.remove(entry)
        check = entry.check
        del check.entries[entry.source]
        if not check.entries:
            del self._checks[check.key]
