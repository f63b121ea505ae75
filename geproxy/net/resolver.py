"""Names to addresses, off the loop, with a cache, a deadline and fair shares."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address

from gevent.lock import Semaphore

from geproxy.errors import DeadlineError, ResolveError
from geproxy.net.deadline import Deadline
from geproxy.net.offload import Offload
from geproxy.terms import Address, plain_address, unmapped

# Fixed by the specification
MAX_NAME_CHARS = 253  # RFC 1035 §3.1: 255 octets on the wire

# Chosen here
THREADS = 32
WAITING_LIMIT = 512
SHARE = 8  # look-ups under way per client address; the others of that client wait their turn
FAILURE_SECONDS = 5.0  # a typing error costs no look-up each, a mended zone is seen soon
CACHE_NAMES = 4096  # about 2 MiB
# glibc's own 5 s and two tries would outlast the deadline and hold the thread for a minute.
RES_OPTIONS = "timeout:2 attempts:1"

_NAME = re.compile(r"[A-Za-z0-9._-]+")  # nothing else ever reaches getaddrinfo
_NUMERIC = re.compile(r"[0-9A-Fa-fxX.]+")

FAMILIES = {"both": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

LookUp = Callable[[str], tuple[Address, ...]]


def literal(host: str) -> Address | None:
    """Return the address that *host* spells, or None for a name.

    Takes every spelling that getaddrinfo takes (127.1, 0x7f000001, 2130706433), so that none of
    them is dialed unjudged.
    """
    if _NUMERIC.fullmatch(host):
        try:
            return IPv4Address(socket.inet_aton(host))
        except OSError:
            return None  # a name such as "cafe.de"
    if ":" in host:
        try:
            return plain_address(host) if "%" not in host else None
        except ValueError:
            return None
    return None


def system_look_up(family: str) -> LookUp:
    """Make the look-up that asks the system's resolver, in the family or families wanted."""

    def look_up(name: str) -> tuple[Address, ...]:
        # As bytes: Python would run a str through its idna codec, which raises for long labels.
        try:
            rows = socket.getaddrinfo(
                name.encode("ascii"), None, FAMILIES[family], socket.SOCK_STREAM
            )
        except OSError as error:
            raise ResolveError(f"{name}: {error.strerror or error}") from error
        found = (plain_address(str(row[4][0])) for row in rows)
        return tuple(dict.fromkeys(found))

    return look_up


class Resolver:
    """One worker's resolver."""

    def __init__(self, look_up: LookUp, timeout_seconds: float, cache_seconds: float) -> None:
        self._look_up = look_up
        self._timeout_seconds = timeout_seconds
        self._cache_seconds = cache_seconds
        self._offload: Offload[tuple[Address, ...]] = Offload("look-ups", THREADS, WAITING_LIMIT)
        self._cache: dict[str, tuple[float, tuple[Address, ...] | ResolveError]] = {}
        self._remembering = threading.Lock()
        self._shares: dict[Address, _Share] = {}

    def resolve(self, host: Address | str, client: Address) -> tuple[Address, ...]:
        """Return the addresses of *host*, at least one.

        Raises ResolveError for a name without one, or when the time is over; LimitError when too
        many look-ups wait.
        """
        if not isinstance(host, str):
            return (unmapped(host),)
        address = literal(host)
        if address is not None:
            return (address,)
        # Before lower(): it would make letters of some that are none, such as the Kelvin sign.
        if len(host.removesuffix(".")) > MAX_NAME_CHARS or not _NAME.fullmatch(host):
            raise ResolveError("not a host name")
        name = host.lower()
        found = self._cached(name) or self._wait(name, client)
        if isinstance(found, ResolveError):
            raise ResolveError(str(found))
        return found

    def _wait(self, name: str, client: Address) -> tuple[Address, ...] | ResolveError:
        late = ResolveError(f"{name}: not resolved in {self._timeout_seconds:g} seconds")
        with Deadline(self._timeout_seconds, "a look-up", late):
            share = self._shares.setdefault(client, _Share(self._shares, client))
            share.take()
            found = self._cached(name)
            if found is not None:
                share.give()
                return found
            return self._offload.run(name, lambda: self._ask(name), share.give)

    def _ask(self, name: str) -> tuple[Address, ...]:
        """Look *name* up and remember the answer. Runs on a thread of the pool."""
        try:
            addresses = self._look_up(name)
            if not addresses:
                raise ResolveError(f"{name}: no address")
        except ResolveError as error:
            self._remember(name, error, FAILURE_SECONDS)
            raise
        self._remember(name, addresses, self._cache_seconds)
        return addresses

    def _cached(self, name: str) -> tuple[Address, ...] | ResolveError | None:
        entry = self._cache.get(name)
        return entry[1] if entry is not None and time.monotonic() < entry[0] else None

    def _remember(
        self, name: str, found: tuple[Address, ...] | ResolveError, seconds: float
    ) -> None:
        # Look-ups end on threads, side by side; to find the oldest name takes more than one step.
        with self._remembering:
            self._cache.pop(name, None)
            self._cache[name] = (time.monotonic() + min(seconds, self._cache_seconds), found)
            if len(self._cache) > CACHE_NAMES:
                del self._cache[next(iter(self._cache))]

    def exercise(self) -> None:
        """Load what a look-up loads lazily (NSS modules) while files can still be opened.

        The answer does not matter: a host may have no address for the name in the family wanted,
        or no name server yet, and shall start all the same.
        """
        enough = DeadlineError("the look-up was begun, which is all that it was for")
        try:
            with Deadline(self._timeout_seconds, "a look-up", enough):
                self._offload.exercise(lambda: self._look_up("localhost"))
        except ResolveError:
            pass
        except DeadlineError as error:
            if error is not enough:
                raise


class _Share:
    """What one client address may have under way; forgotten when it has nothing."""

    __slots__ = ("_all", "_client", "_free", "_users")

    def __init__(self, shares: dict[Address, _Share], client: Address) -> None:
        self._all = shares
        self._client = client
        self._free = Semaphore(SHARE)
        self._users = 0

    def take(self) -> None:
        """Wait for a turn."""
        self._users += 1
        try:
            self._free.acquire()
        except BaseException:
            self._leave()
            raise

    def give(self) -> None:
        """End a turn."""
        self._free.release()
        self._leave()

    def _leave(self) -> None:
        self._users -= 1
        if not self._users:
            self._all.pop(self._client, None)
