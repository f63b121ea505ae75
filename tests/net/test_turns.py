"""Turns: idle places are anybody's, scarce ones go to who holds least, and a newcomer finds one."""

import random
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest

from geproxy.errors import LimitError
from geproxy.net.turns import GREED, Turn, Turns, share_of

PLACES = 16
WAITING = 8
MOST = 12  # of one share alone: three times what it leaves


class Crowd:
    """Shares that take turns, and what became of them."""

    def __init__(self, places: int = PLACES, waiting: int = WAITING) -> None:
        self.turns = Turns("look-ups", places, waiting)
        self.order: list[str] = []  # the shares, as they were granted
        self.held: Counter[str] = Counter()
        self.refused: list[str] = []
        self.reasons: list[str] = []

    def take(self, share: str, places: int = 1, count: int = 1) -> list[Turn]:
        """Ask for *count* turns."""
        return [self._take(share, places) for _ in range(count)]

    def _take(self, share: str, places: int) -> Turn:
        turn: Turn | None = None

        # A turn may have changed hands by the time that it is granted.
        def granted() -> None:
            holder = share if turn is None else str(turn.share)
            self.order.append(holder)
            self.held[holder] += places

        def refused(error: LimitError) -> None:
            self.refused.append(share)
            self.reasons.append(str(error))

        turn = self.turns.take(share, places, granted, refused)
        return turn

    def give(self, share: str, count: int = 1) -> None:
        """Give places back."""
        for _ in range(count):
            self.held[share] -= 1
            self.turns.give(share)


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


def test_a_client_is_its_ipv4_address_or_its_64() -> None:
    assert share_of(IPv4Address("192.0.2.1")) != share_of(IPv4Address("192.0.2.2"))
    one, same, other = "2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"
    assert share_of(IPv6Address(one)) == share_of(IPv6Address(same))
    assert share_of(IPv6Address(one)) != share_of(IPv6Address(other))
    assert share_of(IPv4Address(1)) != share_of(IPv6Address(1 << 64))


def test_one_share_takes_what_is_idle_but_for_what_newcomers_need(crowd: Crowd) -> None:
    crowd.take("greedy", count=MOST + 3)
    assert crowd.held == {"greedy": MOST}
    assert GREED * (PLACES - MOST) == MOST


def test_newcomers_find_places_while_greedy_ones_wait(crowd: Crowd) -> None:
    crowd.take("greedy", count=MOST + 3)
    for number in range(PLACES - MOST):
        crowd.take(f"new{number}")
    assert crowd.order[MOST:] == ["new0", "new1", "new2", "new3"]


def test_the_next_place_goes_to_the_share_that_holds_least(crowd: Crowd) -> None:
    crowd.take("greedy", count=MOST + 1)
    crowd.take("few", count=3)
    crowd.take("new")
    assert crowd.held == {"greedy": MOST, "few": 3, "new": 1}
    crowd.take("few")
    crowd.take("newer")
    crowd.order.clear()
    crowd.give("greedy")
    assert crowd.order == ["newer"]
    crowd.give("greedy", 3)
    assert crowd.order == ["newer", "few"], "two are left to the next newcomer, greedy waits"


def test_equals_are_served_in_the_order_in_which_they_came(crowd: Crowd) -> None:
    for number in range(PLACES):
        crowd.take(f"{number}")
    for share in ("a", "b", "a", "b"):
        crowd.take(share)
    crowd.order.clear()
    for number in range(5):
        crowd.give(f"{number}")
    assert crowd.order == ["a", "b", "a", "b"]


def test_a_turn_of_two_places_waits_until_both_are_free() -> None:
    crowd = Crowd(places=4)
    crowd.take("a", places=2)
    crowd.take("b", places=2)
    crowd.take("c", places=2)
    crowd.give("a")
    assert crowd.order == ["a", "b"]
    crowd.give("b")
    assert crowd.order == ["a", "b", "c"]


def test_a_share_that_waits_does_not_overtake_itself(crowd: Crowd) -> None:
    first = crowd.take("greedy", count=MOST + 2)[-2:]
    crowd.turns.cancel(first[0])
    crowd.give("greedy", MOST)
    assert crowd.held == {"greedy": 1}
    assert len(crowd.order) == MOST + 1


def test_a_full_queue_refuses_a_share_that_is_as_greedy_as_any(crowd: Crowd) -> None:
    crowd.take("greedy", count=MOST + WAITING)
    assert crowd.refused == []
    crowd.take("greedy")
    assert crowd.refused == ["greedy"]
    assert crowd.reasons == ["too many look-ups at once"]


def test_a_full_queue_makes_room_for_a_newcomer(crowd: Crowd) -> None:
    greedy = crowd.take("greedy", count=MOST + WAITING)
    for number in range(PLACES - MOST):
        crowd.take(f"{number}")
    crowd.take("new")
    assert crowd.refused == ["greedy"]
    assert not crowd.turns.cancel(greedy[-1]), "the newest is the one that had to go"
    assert crowd.turns.cancel(greedy[-2])


def test_where_nobody_is_greedy_the_newcomer_is_refused(crowd: Crowd) -> None:
    for number in range(PLACES + WAITING):
        crowd.take(f"{number}")
    crowd.take("new")
    assert crowd.refused == ["new"]


def test_a_cancelled_turn_is_neither_granted_nor_refused(crowd: Crowd) -> None:
    waiting = crowd.take("greedy", count=MOST + 2)[-2:]
    assert all(crowd.turns.cancel(turn) for turn in waiting)
    assert not any(crowd.turns.cancel(turn) for turn in waiting)
    crowd.give("greedy", MOST)
    assert len(crowd.order) == MOST
    assert crowd.refused == []


def test_a_turn_that_another_share_wants_too_comes_when_the_lesser_one_has_its_turn(
    crowd: Crowd,
) -> None:
    waiting = crowd.take("greedy", count=MOST + 2)
    crowd.turns.advance(waiting[-1], "new")
    assert crowd.held == {"greedy": MOST, "new": 1}
    crowd.turns.advance(waiting[0], "newer")
    assert waiting[0].share == "greedy", "it has its places"


def test_a_turn_is_not_advanced_for_a_share_that_holds_more(crowd: Crowd) -> None:
    crowd.take("greedy", count=MOST)
    for number in range(PLACES - MOST):
        crowd.take(f"{number}")
    (turn,) = crowd.take("new")
    crowd.turns.advance(turn, "greedy")
    assert turn.share == "new"
    crowd.give("0")
    assert crowd.order[-1] == "new"


class Twin:
    """The same promises, by a slow and obvious count."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.held: Counter[str] = Counter()

    def may(self, share: str, places: int) -> bool:
        left = self.free - places
        return left >= 0 and (not self.held[share] or self.held[share] + places <= GREED * left)


@pytest.mark.parametrize("seed", range(20))
def test_no_place_is_lost_and_none_idle_that_may_be_used(seed: int) -> None:
    dice = random.Random(seed)
    places = dice.choice((1, 2))
    crowd, twin = Crowd(), Twin(PLACES)
    shares = "abcdef"
    waiting: list[Turn] = []

    def release(turn: Callable[[], None]) -> None:
        before = crowd.held.copy()
        turn()
        for share in shares:
            twin.held[share] += crowd.held[share] - before[share]
        twin.free = PLACES - sum(crowd.held.values())

    for _ in range(2000):
        share = dice.choice(shares)
        if dice.random() < 0.5:
            release(lambda share=share: waiting.extend(crowd.take(share, places)))
        elif crowd.held[share]:
            release(lambda share=share: crowd.give(share))
        elif waiting and dice.random() < 0.5:
            crowd.turns.cancel(waiting.pop(dice.randrange(len(waiting))))
        assert twin.free >= 0
        queues = crowd.turns._queues
        assert sum(map(len, queues.values())) == crowd.turns._waiting <= WAITING
        assert not any(twin.may(one, places) for one in shares if one in queues)
        assert crowd.turns._free == twin.free
    for share in shares:
        while crowd.held[share]:
            crowd.give(share)
    assert crowd.turns._free + sum(crowd.held.values()) == PLACES
