"""Which address is used first: RFC 6724 with glibc's tables; the twin is in test_systemlookup."""

from ipaddress import ip_address

import pytest

from geproxy.net import preference
from geproxy.net.preference import Preference
from geproxy.terms import Address

SOURCES: dict[str, str] = {}


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The sources that the kernel would choose; none for what is not here."""
    sources: dict[str, str] = {}

    def source_towards(address: Address) -> Address | None:
        text = sources.get(str(address))
        return None if text is None else ip_address(text)

    monkeypatch.setattr(preference, "_source_towards", source_towards)
    return sources


def ordered(*addresses: str, gai: str = "") -> list[str]:
    found = Preference(gai.splitlines()).ordered([ip_address(one) for one in addresses])
    return [str(one) for one in found]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        pytest.param(
            {"192.0.2.1": "198.51.100.1", "2001:db8::1": "2001:db8:1::1"},
            ["2001:db8::1", "192.0.2.1"],
            id="both are global: IPv6 (rule 6)",
        ),
        pytest.param(
            {"192.0.2.1": "198.51.100.1"},
            ["192.0.2.1", "2001:db8::1"],
            id="no route for IPv6 (rule 1)",
        ),
        pytest.param(
            {"2001:db8::1": "2001:db8:1::1"},
            ["2001:db8::1", "192.0.2.1"],
            id="no route for IPv4 (rule 1)",
        ),
        pytest.param(
            {"192.0.2.1": "198.51.100.1", "2001:db8::1": "fe80::1"},
            ["192.0.2.1", "2001:db8::1"],
            id="IPv6 from a link-local address (rule 2)",
        ),
        pytest.param(
            {"192.0.2.1": "10.0.0.1", "2001:db8::1": "fd00::1"},
            ["192.0.2.1", "2001:db8::1"],
            id="IPv6 from a unique local address (rule 5)",
        ),
        pytest.param(
            {"192.0.2.1": "198.51.100.1", "2001:db8::1": "2002:c633:6401::1"},
            ["192.0.2.1", "2001:db8::1"],
            id="IPv6 from 6to4 (rule 5)",
        ),
        pytest.param({}, ["2001:db8::1", "192.0.2.1"], id="no route at all (rule 6)"),
    ],
)
def test_the_family_that_works_comes_first(
    kernel: dict[str, str], sources: dict[str, str], expected: list[str]
) -> None:
    kernel.update(sources)
    assert ordered("192.0.2.1", "2001:db8::1") == expected
    assert ordered("2001:db8::1", "192.0.2.1") == expected


def test_the_order_within_a_family_stays(kernel: dict[str, str]) -> None:
    texts = ["2001:db8::2", "2001:db8::1", "192.0.2.2", "192.0.2.1"]
    kernel.update(dict.fromkeys(texts[:2], "2001:db8:1::1") | dict.fromkeys(texts[2:], "10.0.0.1"))
    assert ordered(*texts) == texts


BOTH = {"192.0.2.1": "198.51.100.1", "2001:db8::1": "2001:db8:1::1"}
IPV4_FIRST = "# IPv4\n\nprecedence ::ffff:0:0/96  100  # first\n"


@pytest.mark.parametrize(
    ("gai", "first"),
    [
        pytest.param("", "2001:db8::1", id="empty"),
        pytest.param(IPV4_FIRST, "192.0.2.1", id="precedence"),
        pytest.param(f"#{IPV4_FIRST}", "192.0.2.1", id="a comment before it"),
        pytest.param("#precedence ::ffff:0:0/96 100\n", "2001:db8::1", id="a comment"),
        pytest.param("precedence nonsense 100\nprecedence 1.2.3.4/8 9\n", "2001:db8::1", id="bad"),
        pytest.param("label 2001:db8:1::/48 99\nlabel ::/0 1\n", "192.0.2.1", id="label"),
        pytest.param("reload yes\nscopev4 ::ffff:0:0/96 14\n", "2001:db8::1", id="other lines"),
    ],
)
def test_gai_conf_is_obeyed(kernel: dict[str, str], gai: str, first: str) -> None:
    kernel.update(BOTH)
    assert ordered("2001:db8::1", "192.0.2.1", gai=gai)[0] == first


@pytest.mark.parametrize(
    ("address", "source", "sound"),
    [
        ("192.0.2.1", "10.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("2001:db8::1", "2001:db8:1::1", True),
        ("fd00::1", "fd00::2", True),
        ("fe80::1", "fe80::2", True),
        ("2001:db8::1", "fd00::2", False),
        ("2001:db8::1", "fe80::2", False),
        ("2001:db8::1", None, False),
    ],
)
def test_an_address_is_sound_with_a_source_of_its_kind(
    kernel: dict[str, str], address: str, source: str | None, sound: bool
) -> None:
    if source is not None:
        kernel[address] = source
    assert Preference(()).is_sound(ip_address(address)) is sound
