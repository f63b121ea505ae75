"""What clients are told behind NAT: the address of their family, from the file or from a name."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from geproxy.errors import LimitError, ResolveError
from geproxy.net import announce
from geproxy.net.announce import Announcer
from geproxy.terms import Address, Offer
from tests.support.conformance import SHORT_SECONDS, until

OWN_4, OWN_6 = IPv4Address("127.0.0.1"), IPv6Address("::1")
PUBLIC_4, PUBLIC_6 = IPv4Address("203.0.113.7"), IPv6Address("2001:db8::7")
CLIENT = IPv4Address("192.0.2.1")
BOTH, ONE_4 = "both.example", "four.example"


class World:
    """Names, and what was asked and complained of."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...] | Exception] = {
            BOTH: ("2001:db8::9", "203.0.113.9"),
            ONE_4: ("203.0.113.4", "203.0.113.5"),
            "none.example": ResolveError("none.example: no address"),
            "busy.example": LimitError("look-ups wait"),
            "blocked.example": ("0.0.0.0", "::"),
        }
        self.asked: list[tuple[str, Address]] = []
        self.complaints: list[tuple[str, str]] = []
        self.announcer = Announcer(self._resolve, lambda *said: self.complaints.append(said))

    def _resolve(self, name: str, client: Address) -> tuple[Address, ...]:
        self.asked.append((name, client))
        found = self.names[name]
        if isinstance(found, Exception):
            raise found
        return tuple(ip_address(one) for one in found)

    def told(self, own: Address, *announced: Address | str) -> Address:
        return self.announcer.address_for(own, Offer(announced), CLIENT)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("announced", "told_4", "told_6"),
    [
        pytest.param((), OWN_4, OWN_6, id="nothing"),
        pytest.param((PUBLIC_4,), PUBLIC_4, OWN_6, id="IPv4 alone"),
        pytest.param((PUBLIC_6,), OWN_4, PUBLIC_6, id="IPv6 alone"),
        pytest.param((PUBLIC_6, PUBLIC_4), PUBLIC_4, PUBLIC_6, id="one of each"),
        pytest.param((BOTH,), "203.0.113.9", "2001:db8::9", id="a name with both"),
        pytest.param((ONE_4,), "203.0.113.4", OWN_6, id="a name with one family"),
        pytest.param((ONE_4, BOTH), "203.0.113.4", "2001:db8::9", id="a second name for the rest"),
        pytest.param((ONE_4, PUBLIC_6), "203.0.113.4", PUBLIC_6, id="an address beside a name"),
        pytest.param(("blocked.example",), OWN_4, OWN_6, id="a name that is blocked"),
    ],
)
def test_each_family_is_told_its_own(
    world: World,
    announced: tuple[Address | str, ...],
    told_4: Address | str,
    told_6: Address | str,
) -> None:
    assert world.told(OWN_4, *announced) == ip_address(told_4)
    assert world.told(OWN_6, *announced) == ip_address(told_6)
    assert world.complaints == []


def test_a_client_on_our_link_is_told_where_it_reached_us(world: World) -> None:
    """Its port hears that link alone: what is announced to others does not lead there."""
    own = IPv6Address("fe80::1")
    assert world.told(own, PUBLIC_6, BOTH) == own
    assert world.asked == []


def test_a_name_is_not_resolved_where_an_address_of_the_family_is_there(world: World) -> None:
    assert world.told(OWN_4, BOTH, PUBLIC_4) == PUBLIC_4
    assert world.asked == []


def test_a_name_is_resolved_each_time_at_the_clients_expense(world: World) -> None:
    world.told(OWN_4, BOTH)
    world.names[BOTH] = ("203.0.113.10",)
    assert world.told(OWN_4, BOTH) == ip_address("203.0.113.10")
    assert world.asked == [(BOTH, CLIENT)] * 2


@pytest.mark.parametrize("name", ["none.example", "busy.example"])
def test_a_name_without_an_address_is_complained_of_once_in_a_while(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "COMPLAINT_SECONDS", SHORT_SECONDS)
    said = (name, str(world.names[name]))
    for _ in range(20):
        assert world.told(OWN_4, name) == OWN_4
        if len(world.complaints) > 1:  # the machine is slow
            break
    assert world.complaints[0] == said

    def is_said_again() -> bool:
        world.told(OWN_4, name)
        return world.complaints == [said] * 2

    until(is_said_again)


def test_a_flood_of_clients_is_no_flood_of_complaints(world: World) -> None:
    for _ in range(100):
        world.told(OWN_4, "none.example", "busy.example")
    assert [name for name, _ in world.complaints] == ["none.example", "busy.example"]


def test_the_next_name_is_tried_where_one_has_no_address(world: World) -> None:
    assert world.told(OWN_4, "none.example", ONE_4) == ip_address("203.0.113.4")
