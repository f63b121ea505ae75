"""Names and patterns: what fnmatch says of them one by one, and what no list may cost."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geproxy.config.names import ALIKE_MAX, END_CHARACTERS, Names

LETTERS = "ab.*?"
PATTERNS = st.text(LETTERS, min_size=1, max_size=8)
ASKED = st.text("ab.", min_size=1, max_size=10)
LONG = "a" * END_CHARACTERS


def twin(patterns: list[str], name: str) -> bool:
    """Try every pattern but the one that means just everything."""
    return any(pattern != "*" and fnmatchcase(name, pattern) for pattern in patterns)


@given(st.lists(PATTERNS, max_size=12), st.lists(ASKED, min_size=1, max_size=8))
@example(["*.a.b", "*.b"], [".a.b", "a.b", "b", ".b", "a..b"])
@example(["a*b*a"], ["a", "aba", "abba", "abab"])
@example([f"{LONG}b*", f"*b{LONG}"], [f"{LONG}b", f"{LONG}a", f"b{LONG}", f"a{LONG}", LONG])
@example(["??", "?*", "**", "*?b"], ["a", "ab", "b"])
@example(["*"], ["a"])
def test_agrees_with_a_slow_obvious_twin(patterns: list[str], names: list[str]) -> None:
    found = Names.of(patterns)
    assert found.any is ("*" in patterns)
    for name in names:
        assert (name in found) is twin(patterns, name), name


@pytest.mark.parametrize("name", ["*", "?", "*.a", "a?b", "a\nb", "\udcff.a", "." * 255, "[a]"])
def test_whatever_a_client_calls_a_name_is_matched_as_letters(name: str) -> None:
    for pattern in ("*.a", "a?b", "?", "*", "a*", ".*."):
        assert (name in Names.of([pattern])) is twin([pattern], name)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param("*a{}*", id="by nothing"),
        pytest.param("a?b*{}*.example.net", id="by a domain"),
        pytest.param("www.?{}*", id="by a beginning"),
    ],
)
def test_patterns_that_no_end_tells_apart_are_limited(form: str) -> None:
    found = Names.of(form.format(number) for number in range(ALIKE_MAX))
    assert form.format(7).replace("*", "").replace("?", "x") in found
    with pytest.raises(ValueError, match=f"{ALIKE_MAX} are the most"):
        Names.of(form.format(number) for number in range(ALIKE_MAX + 1))


@pytest.mark.parametrize("form", ["a{}*b?.example", "a*b?.x{}.example", "*x{}.example", "x{}.*"])
def test_patterns_that_an_end_tells_apart_are_not(form: str) -> None:
    count = 10 * ALIKE_MAX
    found = Names.of(form.format(number) for number in range(count))
    name = form.replace("*", "y").replace("?", "z")
    assert name.format(count - 1) in found
    assert name.format("y") not in found
