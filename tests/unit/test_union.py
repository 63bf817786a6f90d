"""The union of two streams: each item as often as the side has it that has it more often, in the order of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder import union as module
from recorder.union import BOTH, Union


def pieces(items: Sequence[int], cuts: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield a stream cut at some places."""
    edges = [0, *sorted(cut % (len(items) + 1) for cut in cuts), len(items)]
    return iter([items[begin:end] for begin, end in pairwise(edges)])


def union(
    one: Iterator[Sequence[int]], other: Iterator[Sequence[int]], lanes: int = 1
) -> list[tuple[int, int]]:
    """Join two streams of numbers; a number is its own time."""
    made: Union[int] = Union(
        (one, other), lambda item: str(item % lanes), lambda item: b"%d" % item, lambda item: item
    )
    return list(made.items())


numbers = st.lists(st.integers(0, 12), max_size=40)
places = st.lists(st.integers(0, 40), max_size=6)


@given(numbers, numbers, places, places, st.integers(1, 3))
def test_each_item_comes_as_often_as_the_side_has_it_that_has_more(
    one: list[int], other: list[int], cuts: list[int], other_cuts: list[int], lanes: int
) -> None:
    """Whatever the orders and the pieces are; and who has each item is told."""
    found = union(pieces(one, cuts), pieces(other, other_cuts), lanes)
    assert Counter(item for item, _ in found) == Counter(one) | Counter(other)
    assert Counter(item for item, side in found if side == BOTH) == Counter(one) & Counter(other)
    assert Counter(item for item, side in found if side == 0) == Counter(one) - Counter(other)


@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)), places, places, st.integers(1, 3))
def test_two_streams_with_holes_make_the_whole_one_in_its_order(
    one_lacks: set[int], other_lacks: set[int], cuts: list[int], other_cuts: list[int], lanes: int
) -> None:
    """What both lack alone is missing."""
    one = [number for number in range(100) if number not in one_lacks]
    other = [number for number in range(100) if number not in other_lacks]
    found = union(pieces(one, cuts), pieces(other, other_cuts), lanes)
    assert [item for item, _ in found] == [item for item in range(100) if item not in one_lacks & other_lacks]


def test_clocks_that_differ_do_not_change_the_order() -> None:
    """What one side lacks comes before the next item that both have, also where its clock says later."""
    made: Union[tuple[int, str]] = Union(
        (iter([[(10, "a"), (20, "d")]]), iter([[(110, "a"), (115, "b"), (117, "c"), (120, "d")]])),
        lambda item: "",
        lambda item: item[1].encode(),
        lambda item: item[0],
    )
    assert [item for item, _ in made.items()] == [(10, "a"), (115, "b"), (117, "c"), (20, "d")]


def test_at_the_edge_of_the_window_an_item_stays_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """So much is read ahead and no more: memory is bounded, and an equal item behind that is another one."""
    monkeypatch.setattr(module, "WINDOW", 4)

    def far(distance: int) -> list[int]:
        one = iter([[0]])
        other = iter([[item] for item in [*range(1, distance + 1), 0]])
        return [item for item, _ in union(one, other)]

    assert far(3).count(0) == 1
    assert far(4).count(0) == 2
    monkeypatch.setattr(module, "PENDING_MAX", 2)
    assert far(2).count(0) == 2
