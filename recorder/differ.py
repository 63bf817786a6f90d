"""Compares two streams of items that come in pieces, in bounded memory: what only one has, and what is elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

WINDOW: Final = 10_000
"""So many items of each side are searched for the place from which on both are equal again."""
_PENDING_MAX: Final = 500_000
"""Items of one side that wait for the other. Past them, the other does not have the oldest."""
_UNMATCHED_MAX: Final = 200_000
"""Items that only one side had, kept to be found again on the other."""
_SURE: Final = 3
"""So many items in a row must be equal for a place to count, where some items come several times."""
EXAMPLES_MAX: Final = 10


T = TypeVar("T")


@dataclass(slots=True)
class Difference(Generic[T]):
    """What became of the items of two streams."""

    equal: int = 0
    only: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))
    """Items that only the one or the other side has, by kind."""
    elsewhere: Counter[str] = field(default_factory=Counter)
    """Items that both have, in another order, by kind."""
    examples: list[tuple[int, T]] = field(default_factory=list)
    """The first items that were not at their place, with their side."""

    @property
    def is_none(self) -> bool:
        """Whether both streams are equal."""
        return not (self.only[0].total() or self.only[1].total() or self.elsewhere.total())


class _Side(Generic[T]):
    """The items of one stream that wait to be compared."""

    def __init__(self) -> None:
        self.items: list[T] = []
        self.keys: list[bytes] = []
        self.ended = False
        self.unmatched: Counter[bytes] = Counter()

    def take(self, count: int) -> list[tuple[bytes, T]]:
        """Return the next items with their keys; they wait no more."""
        taken = list(zip(self.keys[:count], self.items[:count], strict=True))
        self.skip(count)
        return taken

    def skip(self, count: int) -> None:
        """Let the next items wait no more."""
        del self.items[:count]
        del self.keys[:count]


class Differ(Generic[T]):
    """Compares two streams of items. Two items are equal if their keys are.

    How the streams are cut into pieces makes no difference to whether they are equal.
    """

    def __init__(self, kind_of: Callable[[T], str], time_ms_of: Callable[[T], int]) -> None:
        """`time_ms_of` says when an item happened: one far older than all of the other side is not searched there."""
        self.found: Difference[T] = Difference()
        self._kind_of = kind_of
        self._time_ms_of = time_ms_of
        self._sides: tuple[_Side[T], _Side[T]] = (_Side(), _Side())

    def waiting(self, side: int) -> int:
        """Return how many items of a side wait for the other."""
        return len(self._sides[side].items)

    def add(self, side: int, keys: Sequence[bytes], items: Sequence[T]) -> None:
        """Take the next items of a side, 0 or 1, with their keys."""
        self._sides[side].items += items
        self._sides[side].keys += keys
        self._compare()

    def end(self, side: int) -> None:
        """Note that a side has no more items."""
        self._sides[side].ended = True
        self._compare()

    def _compare(self) -> None:
        one, other = self._sides
        while True:
            self._skip_equal()
            if not one.items or not other.items:
                break
            is_ready = all(side.ended or len(side.items) >= WINDOW for side in self._sides)
            if not is_ready and max(len(one.items), len(other.items)) < _PENDING_MAX:
                return
            self._step_over()
        for number, side in enumerate(self._sides):
            if side.items and (self._sides[1 - number].ended or len(side.items) >= _PENDING_MAX):
                self._leave(number, len(side.items))

    def _skip_equal(self) -> None:
        one, other = self._sides
        count = min(len(one.keys), len(other.keys))
        if one.keys[:count] != other.keys[:count]:
            pairs = zip(one.keys, other.keys, strict=False)
            count = next(place for place, (a, b) in enumerate(pairs) if a != b)
        if count:
            one.skip(count)
            other.skip(count)
            self.found.equal += count

    def _step_over(self) -> None:
        """Leave what stands before the next place from which on both sides are equal again."""
        one, other = self._sides
        if place := _next_equal(one.keys[:WINDOW], other.keys[:WINDOW]):
            for side, count in enumerate(place):
                self._leave(side, count)
            return
        # One side has much that the other does not: what is older than all of the other is not there.
        time_ms_of = self._time_ms_of
        older = 0 if time_ms_of(one.items[0]) <= time_ms_of(other.items[0]) else 1
        begin_ms = time_ms_of(self._sides[1 - older].items[0])
        window = self._sides[older].items[:WINDOW]
        count = next((at for at, item in enumerate(window) if time_ms_of(item) >= begin_ms), len(window))
        self._leave(older, count or len(window))
        if not count:
            self._leave(1 - older, min(WINDOW, self.waiting(1 - older)))

    def _leave(self, side: int, count: int) -> None:
        """Take items that the other side does not have at this place."""
        mine, others = self._sides[side], self._sides[1 - side]
        found = self.found
        for key, item in mine.take(count):
            kind = self._kind_of(item)
            if others.unmatched[key]:
                others.unmatched[key] -= 1
                found.only[1 - side][kind] -= 1
                found.elsewhere[kind] += 1
                continue
            found.only[side][kind] += 1
            if len(mine.unmatched) < _UNMATCHED_MAX:
                mine.unmatched[key] += 1
            if len(found.examples) < EXAMPLES_MAX:
                found.examples.append((side, item))


def _next_equal(one: list[bytes], other: list[bytes]) -> tuple[int, int] | None:
    """Return the nearest places from which on both are equal; None where there are none."""
    places: dict[bytes, int] = {}
    for place, key in enumerate(other):
        places.setdefault(key, place)
    is_distinct = len(places) == len(other) and len(set(one)) == len(one)
    best: tuple[int, int] | None = None
    for place, key in enumerate(one):
        if best is not None and place >= sum(best):
            break
        there = places.get(key)
        if there is None or (best is not None and place + there >= sum(best)):
            continue
        # An item that comes once on each side is certainly the same.
        count = 1 if is_distinct else min(_SURE, len(one) - place, len(other) - there)
        if one[place : place + count] == other[there : there + count]:
            best = place, there
    return best
