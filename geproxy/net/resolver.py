"""Names to addresses: a cache, a deadline and fair turns in front of whatever looks names up."""

from __future__ import annotations

import time

from gevent import get_hub
from gevent.event import Event
from gevent.hub import spawn_raw

from geproxy.errors import DeadlineError, GeproxyError, LimitError, NoAnswerError, ResolveError
from geproxy.net.deadline import Deadline
from geproxy.net.lookup import ADDRESSES, Found, LookUp, Question
from geproxy.net.namecache import Entry, NameCache
from geproxy.net.preference import Preference
from geproxy.net.turns import Turns, share_of
from geproxy.terms import Address, unmapped

# Fixed by the specification
# RFC 8305 §3, Resolution Delay. The RFC gives it to AAAA when A came first; here A has it too,
# for dialing wants both families, and 50 ms are less than the 250 ms to the second attempt.
RESOLUTION_DELAY_SECONDS = 0.05
STALE_AFTER_SECONDS = 1.8  # RFC 8767 §5: before a client gives up, which may be after 2 s

# Chosen here
WAITING_LIMIT = 512  # look-ups


class Resolver:
    """One worker's resolver."""

    def __init__(self, look_up: LookUp, timeout_seconds: float, cache_seconds: float) -> None:
        self.look_up = look_up
        self.turns = Turns("look-ups", look_up.places, WAITING_LIMIT)
        self.cache = NameCache(cache_seconds)
        self.preference = Preference.of_system()
        self._timeout_seconds = timeout_seconds
        self._under_way: dict[str, _Inquiry] = {}

    def resolve(self, host: Address | str, client: Address) -> tuple[Address, ...]:
        """Return the addresses of *host*, at least one; stale ones where no better can be had.

        A name is in its one spelling (hostname).

        Raises ResolveError for a name without one, or when the time is over; LimitError when too
        many look-ups wait, or the system has no room for one.
        """
        if not isinstance(host, str):
            return (unmapped(host),)
        entry = self.cache.get(host)
        if entry is not None and time.monotonic() < entry.expires:
            found: Found | GeproxyError = entry.found
        else:
            found = self._wait(host, client, entry)
        if isinstance(found, GeproxyError):
            raise type(found)(str(found))  # many may raise it at once
        return found

    def _wait(self, name: str, client: Address, entry: Entry | None) -> Found | GeproxyError:
        """Wait for the one inquiry about *name*, which the first who asks for it begins."""
        inquiry = self._under_way.get(name)
        if inquiry is None:
            inquiry = self._under_way[name] = _Inquiry(self, name)
            inquiry.begin(client)
        stale = None if entry is None else entry.stale()
        seconds = self._timeout_seconds
        if stale is not None:
            seconds = min(seconds, inquiry.begun + STALE_AFTER_SECONDS - time.monotonic())
        if inquiry.outcome is None and seconds > 0:
            inquiry.wait(seconds, client)
        if inquiry.outcome is not None:
            return inquiry.outcome
        text = f"{name}: not resolved in {self._timeout_seconds:g} seconds"
        return stale or NoAnswerError(text)

    def forget(self, name: str) -> None:
        """Let the next who asks for *name* begin anew."""
        self._under_way.pop(name, None)

    def exercise(self) -> None:
        """Load what a look-up loads lazily (NSS modules) while files can still be opened.

        The answer does not matter: a host may have no address for the name in the family wanted,
        or no name server yet, and shall start all the same.
        """
        enough = DeadlineError("the look-up was begun, which is all that it was for")
        for family in self.look_up.families:
            try:
                with Deadline(self._timeout_seconds, "a look-up", enough):
                    self.look_up.ask(Question("localhost", family))
            except (ResolveError, LimitError):
                pass
            except DeadlineError as error:
                if error is not enough:
                    raise


class _Inquiry:
    """The questions about one name, and what came of them. Ends by itself, with waiters or not."""

    __slots__ = (
        *("_delay", "_entry", "_failures", "_found", "_missing", "_name", "_questions", "_ready"),
        *("_resolver", "_share", "_turn", "_waiters", "begun", "outcome"),
    )

    def __init__(self, resolver: Resolver, name: str) -> None:
        self.begun = time.monotonic()
        self.outcome: Found | GeproxyError | None = None
        self._resolver = resolver
        self._name = name
        self._questions = [Question(name, family) for family in resolver.look_up.families]
        self._missing = len(self._questions)
        self._found: list[Found] = []
        self._failures: list[GeproxyError] = []
        self._entry: Entry | None = None
        self._ready = Event()
        self._waiters = 0
        self._delay = get_hub().loop.timer(RESOLUTION_DELAY_SECONDS)

    def begin(self, client: Address) -> None:
        """Ask, as soon as it is *client*'s turn."""
        self._share = share_of(client)
        self._turn = self._resolver.turns.take(
            self._share, self._missing, self._ask_all, self._conclude
        )

    def wait(self, seconds: float, client: Address) -> None:
        """Wait for the outcome, *seconds* at most."""
        self._resolver.turns.advance(self._turn, share_of(client))
        self._waiters += 1
        try:
            self._ready.wait(seconds)
        finally:
            self._waiters -= 1
            # What nobody waits for any more keeps nobody else waiting.
            if not self._waiters and self._resolver.turns.cancel(self._turn):
                self._conclude(LimitError(f"{self._name}: too many look-ups came first"))

    def _ask_all(self) -> None:
        for question in self._questions:
            spawn_raw(self._ask, question)

    def _ask(self, question: Question) -> None:
        answer: Found | GeproxyError = LimitError(f"{self._name}: the look-up broke off")
        try:
            answer = self._resolver.look_up.ask(question)
        except GeproxyError as error:
            answer = error
        finally:
            self._take(answer or ResolveError(f"{self._name}: no address"))
            self._resolver.turns.give(self._turn.share)

    def _take(self, answer: Found | GeproxyError) -> None:
        """Take the answer to one question."""
        self._missing -= 1
        if isinstance(answer, GeproxyError):
            self._failures.append(answer)
        else:
            self._found.append(answer)
        if self.outcome is not None:
            if self._entry is not None and not isinstance(answer, GeproxyError):
                self._entry.found = self._addresses()  # for the next who asks
        elif not self._missing:
            self._conclude_all()
        elif self._found and self._leads_somewhere():
            for question in self._questions:
                question.enough = True
            self._delay.start(self._conclude_all, update=True)

    def _leads_somewhere(self) -> bool:
        return any(self._resolver.preference.is_sound(found[0]) for found in self._found)

    def _addresses(self) -> Found:
        if len(self._found) == 1:
            return self._found[0]  # as its own source has ordered them
        # Half from each family: a zone that has many of one must not hide the other.
        some = [one for found in self._found for one in found[: ADDRESSES // len(self._found)]]
        return self._resolver.preference.ordered(some)

    def _conclude_all(self) -> None:
        if self._found:
            # Addresses that lead nowhere are no reason to stop asking for the other family.
            failed = any(isinstance(one, NoAnswerError | LimitError) for one in self._failures)
            whole = not failed or self._leads_somewhere()
            self._conclude(self._addresses(), whole=whole)
        else:
            self._conclude(max(self._failures, key=_gravity))

    def _conclude(self, outcome: Found | GeproxyError, *, whole: bool = True) -> None:
        self._delay.close()
        self._resolver.forget(self._name)
        self._entry = self._resolver.cache.learn(self._name, outcome, self._share, whole=whole)
        self.outcome = outcome if self._entry is None else self._entry.found
        self._ready.set()


def _gravity(error: GeproxyError) -> int:
    """Tell which of two failures stands for both: a name is unknown only if both say so."""
    return 2 if isinstance(error, LimitError) else int(isinstance(error, NoAnswerError))
