"""RFC 1928 §7, FRAG: every order, every loss, every repetition of a few fragments."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geproxy.errors import DropError
from geproxy.wire.fragments import MAX_DATA_BYTES, REASSEMBLY_SECONDS, Reassembly

HEAD, OTHER_HEAD = b"\x01\xc0\x00\x02\x07\x00\x35", b"\x01\xc0\x00\x02\x08\x00\x35"
LAST = 0x80
SECONDS = REASSEMBLY_SECONDS
DROPPED = "dropped"
KEPT = None

Verdict = tuple[bytes, bytes] | str | None


@dataclass(frozen=True)
class Arrival:
    """One datagram of a client."""

    frag: int
    data: bytes
    head: bytes = HEAD
    seconds: float = 0.0

    @property
    def position(self) -> int:
        return self.frag % 128

    @property
    def is_last(self) -> bool:
        return self.frag >= 128

    @property
    def content(self) -> tuple[int, bytes, bytes]:
        return self.frag, self.head, self.data


def fragments(count: int, mark: bytes = b"a") -> list[Arrival]:
    """One datagram in *count* fragments; *mark* stands in all of its data."""
    return [
        Arrival(place + (LAST if place == count else 0), mark + bytes((place,)))
        for place in range(1, count + 1)
    ]


def whole(parts: Iterable[Arrival]) -> tuple[bytes, bytes]:
    return HEAD, b"".join(part.data for part in parts)


def take(reassembly: Reassembly, arrival: Arrival) -> Verdict:
    """Add one arrival; say what became of it."""
    try:
        return reassembly.add(*arrival.content, arrival.seconds)
    except DropError as error:
        assert error.code == "fragment"
        return DROPPED


# -- the slow twin -------------------------------------------------------------------------------


def twin(arrivals: list[Arrival]) -> list[Verdict]:
    """What must become of each of *arrivals*, found by looking back over all that came before."""
    verdicts: list[Verdict] = []
    for index, arrival in enumerate(arrivals):
        verdicts.append(judge(arrival, sequence_before(arrivals[:index], verdicts, arrival)))
    return verdicts


def judge(arrival: Arrival, before: list[Arrival]) -> Verdict:
    """The verdict for *arrival*, *before* being what it may continue."""
    if arrival.frag == 0:
        return arrival.head, arrival.data
    if before and arrival.content == before[-1].content:
        return DROPPED
    sequence = [arrival] if arrival.position == 1 else [*before, arrival]
    if not is_sound(sequence):
        return DROPPED
    return whole_of(sequence) if arrival.is_last else KEPT


def sequence_before(
    past: list[Arrival], verdicts: list[Verdict], arrival: Arrival
) -> list[Arrival]:
    """The sequence under way when *arrival* comes, without repetitions; [] if there is none."""
    begins = [
        index
        for index, verdict in enumerate(verdicts)
        if past[index].position == 1 and verdict != DROPPED
    ]
    if not begins:
        return []
    sequence: list[Arrival] = []
    for one in past[begins[-1] :]:
        if not (sequence and one.content == sequence[-1].content):
            sequence.append(one)
    under_way = is_sound(sequence) and not sequence[-1].is_last
    in_time = arrival.seconds - sequence[0].seconds < 5
    return sequence if under_way and in_time else []


def is_sound(sequence: list[Arrival]) -> bool:
    """Whether these are positions 1 to n of one datagram, the end nowhere but at the end."""
    return (
        [one.position for one in sequence] == list(range(1, len(sequence) + 1))
        and not any(one.is_last for one in sequence[:-1])
        and len({one.head for one in sequence}) == 1
        and sequence[-1].seconds - sequence[0].seconds < 5
        and sum(len(one.data) for one in sequence) <= 65_507
    )


def whole_of(sequence: list[Arrival]) -> tuple[bytes, bytes]:
    return sequence[0].head, b"".join(one.data for one in sequence)


def check_against_twin(arrivals: list[Arrival]) -> None:
    reassembly = Reassembly()
    assert [take(reassembly, arrival) for arrival in arrivals] == twin(arrivals), arrivals


# -- every order, every loss ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fragments_in_order_are_one_datagram(count: int) -> None:
    reassembly = Reassembly()
    parts = fragments(count)
    for part in parts[:-1]:
        assert take(reassembly, part) is KEPT
        assert reassembly.pending
    assert take(reassembly, parts[-1]) == whole(parts)
    assert not reassembly.pending


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_of_every_order_and_every_loss_only_all_in_order_is_delivered(count: int) -> None:
    parts = fragments(count)
    for size in range(1, count + 1):
        for arrived in itertools.permutations(parts, size):
            reassembly = Reassembly()
            verdicts = [take(reassembly, part) for part in arrived]
            delivered = [one for one in verdicts if one not in (KEPT, DROPPED)]
            assert delivered == ([whole(parts)] if list(arrived) == parts else []), arrived
            check_against_twin(list(arrived))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_with_repetitions_too_every_fragment_is_judged_as_the_twin_does(count: int) -> None:
    parts = fragments(count)
    for size in range(1, count + 2):
        for arrived in itertools.product(parts, repeat=size):
            check_against_twin(list(arrived))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_after_any_of_these_the_next_datagram_is_delivered_and_is_no_mixture(count: int) -> None:
    """Even where the last fragments of the one and the first of the other have equal positions."""
    first, second = fragments(count), fragments(count, b"b")
    for size in range(count + 1):
        for arrived in itertools.permutations(first, size):
            reassembly = Reassembly()
            for part in arrived:
                take(reassembly, part)
            assert [take(reassembly, part) for part in second][-1] == whole(second), arrived


def test_every_fragment_may_come_twice_in_a_row() -> None:
    reassembly = Reassembly()
    parts = fragments(4)
    for part in parts[:-1]:
        assert take(reassembly, part) is KEPT
        assert take(reassembly, part) == DROPPED
        assert reassembly.pending
    assert take(reassembly, parts[-1]) == whole(parts)
    assert take(reassembly, parts[-1]) == DROPPED


ROWS = [  # the FRAG of each arrival, and what becomes of it: k(ept), d(ropped), w(hole)
    pytest.param([0], "w", id="a datagram that stands alone"),
    pytest.param([0, 0, 0], "www", id="as many as like"),
    pytest.param([1, 0, 0x82], "kwd", id="FRAG 0 ends a sequence"),
    pytest.param([1, 2, 0, 1, 0x82], "kkwkw", id="after which another begins"),
    pytest.param([0x81], "w", id="a sequence of one"),
    pytest.param([1, 2, 0x81], "kkw", id="a sequence of one ends another"),
    pytest.param([1, 0x81, 0x82], "kwd", id="whoever ends at 1 has no 2"),
    pytest.param([2], "d", id="no sequence begins with 2"),
    pytest.param([0x82], "d", id="nor with a 2 that is the last"),
    pytest.param([0x80], "d", id="position 0 is none"),
    pytest.param([1, 0x80, 0x82], "kdd", id="position 0 is lower than all"),
    pytest.param([1, 2, 1, 0x82], "kkkw", id="a lower FRAG that is 1 begins the next"),
    pytest.param([1, 2, 3, 2, 4, 0x85], "kkkddd", id="a lower FRAG that is not 1 is no use"),
    pytest.param([1, 3, 2, 0x84], "kddd", id="a gap is never closed"),
    pytest.param([1, 0x83, 0x82], "kdd", id="not even by the end"),
    pytest.param([1, 3, 1, 2, 0x83], "kdkkw", id="after a gap 1 begins anew"),
    pytest.param([1, 2, 0x82, 0x83], "kkdd", id="an end at a position that had none is no copy"),
    pytest.param([1, 2, 0x83, 0x84], "kkwd", id="there is nothing behind the end"),
    pytest.param([1, 2, 0x83, 3], "kkwd", id="nor is there before it"),
    pytest.param([1, 1, 2, 2, 0x83], "kdkdw", id="copies change nothing"),
    pytest.param([1, 127], "kd", id="the highest position behind a gap"),
]


@pytest.mark.parametrize(("frags", "expected"), ROWS)
def test_what_becomes_of_a_row_of_fragments(frags: list[int], expected: str) -> None:
    reassembly = Reassembly()
    arrivals = [Arrival(frag, bytes((frag % 128,))) for frag in frags]
    found = [take(reassembly, arrival) for arrival in arrivals]
    letters: dict[Verdict, str] = {KEPT: "k", DROPPED: "d"}
    assert "".join(letters.get(one, "w") for one in found) == expected
    check_against_twin(arrivals)


def test_what_stands_alone_comes_back_as_it_is() -> None:
    reassembly = Reassembly()
    assert reassembly.add(0, OTHER_HEAD, b"", 0.0) == (OTHER_HEAD, b"")
    assert not reassembly.pending


# -- what belongs together -----------------------------------------------------------------------


def test_a_fragment_for_another_target_ends_the_sequence() -> None:
    first, second, third = fragments(3)
    reassembly = Reassembly()
    assert take(reassembly, first) is KEPT
    assert take(reassembly, Arrival(2, second.data, OTHER_HEAD)) == DROPPED
    assert not reassembly.pending
    assert take(reassembly, second) == DROPPED
    assert take(reassembly, third) == DROPPED


@pytest.mark.parametrize(
    ("data", "head"),
    [
        pytest.param(b"other", HEAD, id="other data"),
        pytest.param(b"a\x01", OTHER_HEAD, id="another target"),
    ],
)
def test_another_first_fragment_is_no_copy_but_begins_the_next_datagram(
    data: bytes, head: bytes
) -> None:
    reassembly = Reassembly()
    assert take(reassembly, fragments(2)[0]) is KEPT
    assert take(reassembly, Arrival(1, data, head)) is KEPT
    assert take(reassembly, Arrival(0x82, b"end", head)) == (head, data + b"end")


def test_another_second_fragment_is_no_copy_but_ends_the_sequence() -> None:
    reassembly = Reassembly()
    first, second, third = fragments(3)
    assert [take(reassembly, one) for one in (first, second)] == [KEPT, KEPT]
    assert take(reassembly, Arrival(2, b"other")) == DROPPED
    assert take(reassembly, third) == DROPPED


# -- the timer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("began", [0.0, 86_400.0 * 365])
@pytest.mark.parametrize(
    ("passed", "arrives"),
    [
        pytest.param(0.0, True, id="at once"),
        pytest.param(4.999, True, id="just in time"),
        pytest.param(5.0, False, id="just too late"),
        pytest.param(3600.0, False, id="an hour late"),
    ],
)
def test_the_last_fragment_has_five_seconds_from_the_first(
    began: float, passed: float, arrives: bool
) -> None:
    reassembly = Reassembly()
    first, second = fragments(2)
    assert reassembly.add(*first.content, began) is KEPT
    last = Arrival(second.frag, second.data, seconds=began + passed)
    assert take(reassembly, last) == (whole([first, second]) if arrives else DROPPED)
    assert not reassembly.pending


def test_the_document_wants_no_less_than_five_seconds() -> None:
    assert REASSEMBLY_SECONDS >= 5


def test_fragments_in_between_give_no_more_time() -> None:
    arrivals = [
        Arrival(frag, b"%d" % frag, seconds=seconds)
        for frag, seconds in ((1, 10.0), (2, 14.0), (2, 14.5), (3, 14.9), (0x84, 15.0))
    ]
    reassembly = Reassembly()
    found = [take(reassembly, arrival) for arrival in arrivals]
    assert found == [KEPT, KEPT, DROPPED, KEPT, DROPPED]


def test_a_copy_of_the_first_fragment_gives_no_more_time() -> None:
    first, second = fragments(2)
    reassembly = Reassembly()
    assert reassembly.add(*first.content, 0.0) is KEPT
    assert take(reassembly, Arrival(1, first.data, seconds=4.0)) == DROPPED
    assert take(reassembly, Arrival(second.frag, second.data, seconds=6.0)) == DROPPED


def test_after_its_time_the_same_first_fragment_begins_anew() -> None:
    first, second = fragments(2)
    reassembly = Reassembly()
    assert reassembly.add(*first.content, 0.0) is KEPT
    assert reassembly.add(*first.content, SECONDS) is KEPT
    assert reassembly.add(*second.content, 2 * SECONDS - 0.001) == whole([first, second])


def test_a_sequence_whose_time_is_over_is_not_seen_by_what_stands_alone() -> None:
    reassembly = Reassembly()
    assert reassembly.add(1, HEAD, b"1", 0.0) is KEPT
    assert reassembly.add(0, HEAD, b"alone", SECONDS) == (HEAD, b"alone")
    assert not reassembly.pending


# -- bounds --------------------------------------------------------------------------------------


def test_the_largest_datagram_may_come_in_fragments() -> None:
    reassembly = Reassembly()
    assert reassembly.add(1, HEAD, bytes(65_000), 0.0) is KEPT
    assert reassembly.add(0x82, HEAD, bytes(507), 0.0) == (HEAD, bytes(MAX_DATA_BYTES))


@pytest.mark.parametrize("frag", [2, 0x82], ids=["on the way", "at the end"])
def test_one_byte_more_ends_the_sequence(frag: int) -> None:
    reassembly = Reassembly()
    assert reassembly.add(1, HEAD, bytes(65_000), 0.0) is KEPT
    assert take(reassembly, Arrival(frag, bytes(508))) == DROPPED
    assert not reassembly.pending
    assert take(reassembly, Arrival(0x83, b"")) == DROPPED


def test_what_was_given_up_is_not_held_against_the_next() -> None:
    reassembly = Reassembly()
    for frag in (1, 2, 0x83, 1, 0x83):  # given up by size, and by a gap
        take(reassembly, Arrival(frag, bytes(40_000)))
    assert reassembly.add(1, HEAD, bytes(65_507), 0.0) is KEPT
    assert reassembly.add(0x82, HEAD, b"", 0.0) == (HEAD, bytes(65_507))


def test_a_sequence_has_at_most_127_fragments() -> None:
    reassembly = Reassembly()
    parts = fragments(127)
    assert {take(reassembly, part) for part in parts[:-1]} == {KEPT}
    assert take(reassembly, parts[-1]) == whole(parts)


def test_fragments_may_be_empty() -> None:
    reassembly = Reassembly()
    assert reassembly.add(1, HEAD, b"", 0.0) is KEPT
    assert reassembly.pending
    assert reassembly.add(0x82, HEAD, b"", 0.0) == (HEAD, b"")


# -- anything at all -----------------------------------------------------------------------------

steps = st.tuples(
    st.sampled_from([0, 1, 1, 1, 2, 2, 3, 4, 127, 0x80, 0x81, 0x82, 0x82, 0x83, 0x84, 0xFF]),
    st.sampled_from([b"", b"a", b"b", bytes(33_000)]),
    st.sampled_from([HEAD, HEAD, HEAD, OTHER_HEAD]),
    st.sampled_from([0.0, 0.0, 0.5, 1.75, 5.0]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=25))
def test_whatever_arrives_is_judged_as_the_twin_does(
    rows: list[tuple[int, bytes, bytes, float]],
) -> None:
    now_seconds = 0.0
    arrivals = []
    for frag, data, head, passed in rows:
        now_seconds += passed
        arrivals.append(Arrival(frag, data, head, now_seconds))
    check_against_twin(arrivals)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=500), min_size=1, max_size=127), st.data())
def test_however_a_datagram_is_cut_it_comes_back(
    pieces: list[bytes], choice: st.DataObject
) -> None:
    reassembly = Reassembly()
    if choice.draw(st.booleans(), "something was begun before"):
        take(reassembly, Arrival(1, b"of another"))
    for place, piece in enumerate(pieces[:-1], 1):
        assert reassembly.add(place, HEAD, piece, 0.0) is KEPT
    assert reassembly.add(len(pieces) | LAST, HEAD, pieces[-1], 0.0) == (HEAD, b"".join(pieces))
