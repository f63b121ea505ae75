"""A place is anybody's while there are many; then no source, and no stranger, takes all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import cast

import gevent
import pytest

from geproxy.errors import EvictedError, GeproxyError, LimitError
from geproxy.net.accept import Gate
from geproxy.net.greenlets import Event, dismiss, greenlet, spawn
from geproxy.net.places import UNPROVEN_LEAST, Place, Places
from geproxy.streams import Stream
from geproxy.terms import Endpoint

SESSIONS = 400
QUARTER = SESSIONS // 4


class Client:
    """A client's connection: its two ends, and whether it was reset."""

    def __init__(self, address: str, port: int, leave: Callable[[Client], None]) -> None:
        self.peer = Endpoint(IPv4Address(address), port)
        self.bound = Endpoint(IPv4Address("192.0.2.1"), 1080)
        self.dropped = False
        self.place: Place | None = None
        self._leave = leave

    def abort(self) -> None:
        """Be reset; the session, which is none here, leaves its place."""
        self.dropped = True
        self._leave(self)


class Worker:
    """What accepts, and has places."""

    def __init__(self, sessions: int = SESSIONS, per_client: int = 0) -> None:
        self.asked = 0
        self.told: list[tuple[str, int]] = []
        self.quiet_since: dict[greenlet, float] = {}
        self.gate = Gate(sessions)
        self.places = Places(
            self.gate,
            per_client,
            2,
            self._share,
            lambda session: self.quiet_since[session],
            lambda why, count, _: self.told.append((why, count)),
        )

    def _share(self, client: Endpoint, reached: Endpoint) -> IPv4Address:
        self.asked += 1
        return cast(IPv4Address, client.host)

    def enter(self, address: str, *, proven: bool = False) -> tuple[Client, Place | None]:
        client = Client(address, 1024 + self.gate.count, self.leave)
        place = client.place = self.places.enter(cast(Stream, client))
        if place is not None and proven:
            self.places.prove(cast(Stream, client))
        return client, place

    def leave(self, client: Client) -> None:
        assert client.place is not None
        self.places.leave(client.place)

    def served(self, address: str, count: int) -> list[Client]:
        """Have *count* clients ask and be served; return those who were let in."""
        entered = (self.enter(address, proven=True) for _ in range(count))
        return [client for client, place in entered if place is not None]


def test_strangers_fill_a_quarter_of_the_places_and_no_more() -> None:
    worker = Worker()
    flood = [worker.enter("192.0.2.9")[0] for _ in range(1000)]
    assert worker.gate.count == QUARTER
    assert [client.dropped for client in flood] == [True] * 900 + [False] * QUARTER
    worker.places.report()
    assert worker.told == [("unproven", 900)]


def test_a_flood_of_one_source_drops_its_own_and_not_a_slow_client_of_another() -> None:
    worker = Worker()
    slow, _ = worker.enter("198.51.100.7")
    for _ in range(1000):
        worker.enter("192.0.2.9")
    assert not slow.dropped


def test_who_has_proven_itself_is_never_dropped() -> None:
    worker = Worker()
    proven = worker.served("192.0.2.9", QUARTER * 2)
    for number in range(1000):
        worker.enter(f"198.51.100.{number % 250}")
    assert not any(client.dropped for client in proven)


def test_strangers_of_many_sources_leave_room_for_the_next_client() -> None:
    worker = Worker()
    for number in range(SESSIONS - 50):
        worker.enter(f"10.0.{number % 250}.{number // 250}", proven=True)
    for number in range(1000):
        worker.enter(f"10.1.{number % 250}.{number // 250}")
    assert not worker.gate.full


def test_one_source_alone_has_three_quarters_and_a_newcomer_finds_room() -> None:
    worker = Worker()
    greedy = worker.served("192.0.2.9", SESSIONS * 2)
    # A little more, until those who stood there are counted.
    assert SESSIONS - QUARTER <= len(greedy) <= SESSIONS * 4 // 5
    assert len(worker.served("198.51.100.7", 20)) == 20
    assert not any(client.dropped for client in greedy)
    worker.places.report()
    assert worker.told == [("share", SESSIONS * 2 - len(greedy))]


class Session:
    """A client who is served until somebody ends that."""

    def __init__(self, worker: Worker, address: str, quiet_since: float) -> None:
        self.client, self.place = worker.enter(address, proven=True)
        self.ended_by: BaseException | None = None
        self._worker = worker
        if self.place is not None:
            self.place.session = spawn(self._serve)
            worker.quiet_since[self.place.session] = quiet_since
            gevent.sleep(0)

    def _serve(self) -> None:
        try:
            Event().wait()
        except GeproxyError as error:
            self.ended_by = error
        finally:
            self._worker.leave(self.client)


FEW_EACH = 4  # of so many sources that they fill all places, and none has more than its share


@pytest.fixture
def full() -> Iterator[tuple[Worker, list[Session]]]:
    """A worker of which all places but one are taken, and whoever holds them, by source."""
    worker = Worker()
    sources = [f"10.0.{number % 250}.{number // 250}" for number in range(SESSIONS // FEW_EACH)]
    held = [
        Session(worker, source, quiet_since=FEW_EACH - number)
        for number in range(FEW_EACH)
        for source in sources
    ]
    yield worker, held
    for one in held:
        if one.place is not None and one.place.session is not None and one.ended_by is None:
            dismiss(one.place.session)
    gevent.sleep(0)


def test_many_sources_with_few_connections_each_leave_room_for_another(
    full: tuple[Worker, list[Session]],
) -> None:
    worker, held = full
    gevent.sleep(0)
    for number in range(20):
        newcomer = Session(worker, f"198.51.100.{number}", 0.0)
        gevent.sleep(0)
        assert newcomer.place is not None
        assert newcomer.ended_by is None
        assert not worker.gate.full
    ended = [one for one in held if one.ended_by is not None]
    let_in = sum(one.place is not None for one in held)
    assert len(ended) == let_in + 20 - (SESSIONS - 1)
    assert all(isinstance(one.ended_by, LimitError) for one in ended)
    # Of every source the one that was quiet for longest: it came last.
    assert all(one in held[-SESSIONS // FEW_EACH :] for one in ended)
    worker.places.report()
    assert ("evicted", len(ended)) in worker.told


def test_a_second_connection_finds_room_where_others_have_more(
    full: tuple[Worker, list[Session]],
) -> None:
    worker, _ = full
    for _ in range(FEW_EACH - 1):
        one = Session(worker, "198.51.100.7", 0.0)
        gevent.sleep(0)
        assert one.place is not None
    assert Session(worker, "198.51.100.7", 0.0).place is None


def test_where_everybody_has_one_place_nobody_loses_it() -> None:
    worker = Worker()
    clients = [
        worker.enter(f"10.0.{number % 250}.{number // 250}", proven=True)[0]
        for number in range(SESSIONS)
    ]
    assert worker.gate.full
    assert not any(client.dropped for client in clients)
    worker.places.report()
    assert worker.told == []


def test_nobody_is_asked_about_while_there_are_places_to_spare() -> None:
    worker = Worker()
    worker.served("192.0.2.9", SESSIONS - QUARTER)
    assert worker.asked == 0
    worker.served("198.51.100.7", 1)
    assert 1 <= worker.asked <= 20  # in pieces


def test_when_places_are_to_spare_again_sources_are_told_apart_no_more() -> None:
    worker = Worker()
    greedy = worker.served("192.0.2.9", SESSIONS)
    for client in greedy:
        worker.leave(client)
    asked = worker.asked
    assert len(worker.served("192.0.2.9", QUARTER)) == QUARTER
    assert worker.asked == asked


def test_a_limit_of_each_client_holds_from_the_first_place_on() -> None:
    worker = Worker(per_client=3)
    (first, *_) = worker.served("192.0.2.9", 10)
    assert worker.gate.count == 3
    assert len(worker.served("198.51.100.7", 1)) == 1
    worker.leave(first)
    assert len(worker.served("192.0.2.9", 2)) == 1


def test_a_handful_of_places_is_anybodys() -> None:
    worker = Worker(sessions=3)
    assert len(worker.served("192.0.2.9", 3)) == 3
    worker = Worker(sessions=UNPROVEN_LEAST)
    assert not any(worker.enter("192.0.2.9")[0].dropped for _ in range(12))


def test_associations_of_one_source_have_a_limit_of_their_own() -> None:
    places = Worker().places
    with ExitStack() as held:
        for share in ("a", "a", "b"):
            held.enter_context(places.association(share))
        with pytest.raises(LimitError):
            held.enter_context(places.association("a"))
    with places.association("a"):
        pass


def test_the_session_of_who_is_dropped_hears_of_it() -> None:
    worker = Worker()
    heard: list[bool] = []

    def wait() -> None:
        with pytest.raises(EvictedError):
            Event().wait()
        heard.append(True)

    _, place = worker.enter("192.0.2.9")
    assert place is not None
    place.session = spawn(wait)
    gevent.sleep(0)
    for _ in range(QUARTER):
        worker.enter("192.0.2.9")
    gevent.sleep(0.01)
    assert heard == [True]
