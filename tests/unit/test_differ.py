"""Two streams in pieces: equal ones are called equal, and what one of them lacks is named exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import differ as module
from recorder.differ import Differ, Difference


def pieces(items: Sequence[int], cuts: Sequence[int]) -> list[Sequence[int]]:
    """Cut a stream at some places."""
    edges = [0, *sorted(cut % (len(items) + 1) for cut in cuts), len(items)]
    return [items[begin:end] for begin, end in pairwise(edges)]


def differ(*streams: Sequence[Sequence[int]]) -> Difference[int]:
    """Compare two streams of numbers, each in pieces; a number is its own time."""
    made: Differ[int] = Differ(lambda item: "odd" if item % 2 else "even", lambda item: item)
    for number in range(max(map(len, streams))):
        for side, stream in enumerate(streams):
            if number < len(stream):
                made.add(side, [b"%d" % item for item in stream[number]], stream[number])
    for side in (0, 1):
        made.end(side)
    return made.found


numbers = st.lists(st.integers(0, 30), max_size=60)
places = st.lists(st.integers(0, 60), max_size=6)


@given(numbers, numbers, places, places)
def test_whether_they_are_equal_depends_on_the_streams_alone(
    one: list[int], other: list[int], cuts: list[int], other_cuts: list[int]
) -> None:
    """However they are cut, two streams are equal exactly if they are; and every item is counted once."""
    found = differ(pieces(one, cuts), pieces(other, other_cuts))
    assert found.is_none == (one == other)
    for side, stream in enumerate((one, other)):
        assert found.equal + found.only[side].total() + found.elsewhere.total() == len(stream)
    # What only one has, it has more often than the other.
    for side, (mine, others) in enumerate(((one, other), (other, one))):
        lacking = sum((Counter(mine) - Counter(others)).values())
        assert found.only[side].total() == lacking


@given(st.sets(st.integers(0, 199), max_size=40), st.sets(st.integers(0, 199), max_size=40), places, places)
def test_what_one_lacks_is_named(
    one_lacks: set[int], other_lacks: set[int], cuts: list[int], other_cuts: list[int]
) -> None:
    """Holes in a stream of distinct items are found as such, by kind; nothing is called out of order."""
    one = [number for number in range(200) if number not in one_lacks]
    other = [number for number in range(200) if number not in other_lacks]
    found = differ(pieces(one, cuts), pieces(other, other_cuts))
    assert not found.elsewhere.total()
    assert +found.only[0] == Counter("odd" if item % 2 else "even" for item in other_lacks - one_lacks)
    assert +found.only[1] == Counter("odd" if item % 2 else "even" for item in one_lacks - other_lacks)


def test_an_item_that_came_later_is_elsewhere() -> None:
    """It is missing on no side."""
    found = differ([[1, 2, 3, 4, 5, 6, 7, 8]], [[1, 3, 4, 5, 2, 6, 7, 8]])
    assert (found.equal, found.elsewhere, found.only) == (7, Counter(even=1), (Counter(), Counter(even=0)))
    assert not found.is_none
    assert [item for _, item in found.examples] == [2]


def test_a_stream_that_began_long_before_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is older than all of the other side is left out until both tell of the same time."""
    monkeypatch.setattr(module, "WINDOW", 10)
    found = differ([list(range(1000))], [list(range(600, 1000))])
    assert (found.equal, found.only[0].total(), found.only[1].total()) == (400, 600, 0)


def test_who_gets_nothing_from_the_other_side_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: past the limit the oldest items are called missing."""
    monkeypatch.setattr(module, "WINDOW", 10)
    monkeypatch.setattr(module, "_PENDING_MAX", 100)
    made: Differ[int] = Differ(str, int)
    for number in range(1000):
        made.add(0, [b"%d" % number], [number])
        assert made.waiting(0) <= 100
    made.add(1, [b"999"], [999])
    made.end(0)
    made.end(1)
    assert made.found.only[0].total() + made.found.equal + made.found.elsewhere.total() == 1000
    assert len(made.found.examples) == module.EXAMPLES_MAX
