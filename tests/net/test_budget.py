"""Memory that many hold: a lone client has most of it, and a newcomer finds some."""

from ipaddress import IPv4Address, IPv6Address

from geproxy.net.budget import Budget

GREEDY, OTHER = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")


def fill(budget: Budget, client: IPv4Address | IPv6Address, size_bytes: int = 10) -> int:
    """Take all that *client* may have. Returns how many bytes that are."""
    holding = budget.holding(client)
    while holding.take(size_bytes):
        pass
    return holding.size_bytes


def test_one_client_alone_may_have_three_quarters() -> None:
    assert fill(Budget(1000), GREEDY) == 750


def test_whoever_comes_finds_some() -> None:
    budget = Budget(1000)
    fill(budget, GREEDY)
    assert fill(budget, OTHER) == 180
    assert fill(budget, IPv4Address("192.0.2.3")) > 0


def test_all_holdings_of_one_source_are_one_share() -> None:
    budget = Budget(1000)
    assert fill(budget, IPv6Address("2001:db8::1")) == 750
    assert fill(budget, IPv6Address("2001:db8::ffff:1")) == 0
    assert fill(budget, IPv6Address("2001:db8:0:1::1")) == 180


def test_what_is_given_back_is_anybodys() -> None:
    budget = Budget(1000)
    holding = budget.holding(GREEDY)
    assert holding.take(700)
    assert not holding.take(100)
    holding.give(200)
    assert holding.size_bytes == 500
    holding.give_all()
    holding.give_all()
    assert holding.size_bytes == 0
    assert fill(budget, OTHER) == 750
    assert budget._held_bytes == {OTHER: 750}


def test_nothing_is_larger_than_all() -> None:
    assert not Budget(1000).holding(GREEDY).take(1001)
