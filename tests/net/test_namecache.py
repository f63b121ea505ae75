"""What is known of a name after each outcome of a look-up; how it is used is in test_resolver."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from geproxy.errors import GeproxyError, LimitError, NoAnswerError, ResolveError
from geproxy.net import namecache
from geproxy.net.lookup import Found
from geproxy.net.namecache import FAILURE_SECONDS, RECHECK_SECONDS, STALE_SECONDS, NameCache

CACHE_SECONDS = 60.0
CLIENT, OTHER = "client", "other"
NOW = 1000.0
OLD = (IPv4Address("192.0.2.1"),)
NEW = (IPv6Address("2001:db8::1"),)
GONE, SILENT, OURS = ResolveError("no"), NoAnswerError("nobody"), LimitError("no descriptor")


class Clock:
    """The time, as the test has it."""

    now = NOW

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    monkeypatch.setattr(namecache, "time", Clock)
    monkeypatch.setattr(Clock, "now", NOW)
    return Clock


@pytest.mark.parametrize("age", [CACHE_SECONDS, CACHE_SECONDS + STALE_SECONDS - 1])
@pytest.mark.parametrize(
    ("outcome", "whole", "found", "seconds"),
    [
        pytest.param(NEW, True, NEW, CACHE_SECONDS, id="an answer"),
        pytest.param(NEW, False, OLD, RECHECK_SECONDS, id="addresses of no use"),
        pytest.param(GONE, True, GONE, FAILURE_SECONDS, id="no such name"),
        pytest.param(SILENT, True, OLD, RECHECK_SECONDS, id="no answer"),
        pytest.param(OURS, True, OLD, RECHECK_SECONDS, id="a failure of our own"),
    ],
)
def test_an_outcome_replaces_what_is_stale_or_does_not(
    clock: type[Clock],
    age: float,
    outcome: Found | GeproxyError,
    whole: bool,
    found: Found | GeproxyError,
    seconds: float,
) -> None:
    cache = NameCache(CACHE_SECONDS)
    cache.learn("name", OLD, CLIENT, whole=True)
    clock.now += age
    entry = cache.learn("name", outcome, CLIENT, whole=whole)
    assert entry is not None
    assert entry is cache.get("name")
    assert entry.found == found
    end = NOW + CACHE_SECONDS + STALE_SECONDS
    assert entry.expires == (min(clock.now + seconds, end) if found == OLD else clock.now + seconds)


@pytest.mark.parametrize("before", [None, GONE, OLD], ids=["new", "unknown", "too old"])
@pytest.mark.parametrize(
    ("outcome", "whole", "kept"),
    [
        pytest.param(NEW, False, True, id="addresses of no use"),
        pytest.param(SILENT, True, True, id="no answer"),
        pytest.param(OURS, True, False, id="a failure of our own"),
    ],
)
def test_a_failure_without_anything_stale_is_kept_for_a_moment_if_it_is_not_ours(
    clock: type[Clock],
    before: Found | ResolveError | None,
    outcome: Found | GeproxyError,
    whole: bool,
    kept: bool,
) -> None:
    cache = NameCache(CACHE_SECONDS)
    if before is not None:
        cache.learn("name", before, CLIENT, whole=True)
    clock.now += CACHE_SECONDS + STALE_SECONDS
    entry = cache.learn("name", outcome, CLIENT, whole=whole)
    assert (entry is not None) is kept
    if entry is not None:
        assert (entry.found, entry.expires) == (outcome, clock.now + FAILURE_SECONDS)
        assert entry.stale() is None


def test_nothing_is_kept_longer_than_an_answer() -> None:
    cache = NameCache(2.0)
    for outcome in (OLD, GONE):
        entry = cache.learn("name", outcome, CLIENT, whole=True)
        assert entry is not None
        assert entry.expires == NOW + 2


@pytest.mark.parametrize("outcome", [OLD, GONE, SILENT, OURS])
def test_with_zero_seconds_nothing_is_kept(outcome: Found | GeproxyError) -> None:
    cache = NameCache(0.0)
    assert cache.learn("name", outcome, CLIENT, whole=True) is None
    assert cache.get("name") is None


def test_the_name_that_was_learnt_first_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namecache, "CACHE_NAMES", 3)
    cache = NameCache(CACHE_SECONDS)
    for name in ("a", "b", "c", "a", "d"):
        cache.learn(name, OLD, CLIENT, whole=True)
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


def test_who_has_most_names_in_it_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namecache, "CACHE_NAMES", 8)
    cache = NameCache(CACHE_SECONDS)
    for name in ("a", "b", "c"):
        cache.learn(name, OLD, OTHER, whole=True)
    flood = [f"{number}.example" for number in range(100)]
    for name in flood:
        cache.learn(name, OLD, CLIENT, whole=True)
    known = [name for name in ("a", "b", "c", *flood) if cache.get(name)]
    assert known == ["a", "b", "c", *flood[-5:]]


def test_a_name_counts_for_who_asked_for_it_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namecache, "CACHE_NAMES", 4)
    cache = NameCache(CACHE_SECONDS)
    for name, client in (("a", CLIENT), ("b", CLIENT), ("c", OTHER), ("a", OTHER), ("d", OTHER)):
        cache.learn(name, OLD, client, whole=True)
    cache.learn("e", OLD, CLIENT, whole=True)
    assert [name for name in "abcde" if cache.get(name)] == ["a", "b", "d", "e"]
