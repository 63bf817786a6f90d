"""PURE. The union of two streams of items that come in pieces: what both have comes once, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Generic, TypeVar

WINDOW: Final = 10_000
"""So many items of a lane each side is searched for what the other has next, where they differ."""
PENDING_MAX: Final = 100_000
"""Items of one side that wait, over all lanes. Past them, a lane is searched only as far as it was read."""

T = TypeVar("T")
BOTH: Final = 2
"""Says of an item that both sides have it; 0 and 1 are the side that has it alone."""


class _Lane(Generic[T]):
    """What waits of one lane of a side."""

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.keys: deque[bytes] = deque()
        self.waiting: Counter[bytes] = Counter()
        """How often each key waits."""
        self.taken: Counter[bytes] = Counter()
        """Of these, how many have come out with the other side's; they still stand in the lane."""

    def pop(self) -> T:
        """Return the next item; it waits no more."""
        key = self.keys.popleft()
        if self.waiting[key] == 1:
            del self.waiting[key]
        else:
            self.waiting[key] -= 1
        return self.items.popleft()

    def has(self, key: bytes) -> bool:
        """Return whether an item waits that has not come out."""
        return self.waiting.get(key, 0) > self.taken.get(key, 0)


class _Side(Generic[T]):
    """One stream, read as far as it was needed."""

    def __init__(
        self, pieces: Iterator[Sequence[T]], lane_of: Callable[[T], str], key_of: Callable[[T], bytes]
    ) -> None:
        self.lanes: dict[str, _Lane[T]] = {}
        self.pending = 0
        self.ended = False
        self._pieces = pieces
        self._lane_of = lane_of
        self._key_of = key_of

    def lane(self, name: str) -> _Lane[T]:
        """Return a lane, which may be empty."""
        found = self.lanes.get(name)
        if found is None:
            found = self.lanes[name] = _Lane()
        return found

    def read(self) -> None:
        """Read the next piece."""
        piece = next(self._pieces, None)
        if piece is None:
            self.ended = True
            return
        for item in piece:
            lane, key = self.lane(self._lane_of(item)), self._key_of(item)
            lane.items.append(item)
            lane.keys.append(key)
            lane.waiting[key] += 1
        self.pending += len(piece)

    def look_ahead(self, name: str) -> None:
        """Read until the window of a lane is full, as far as there is room."""
        lane = self.lane(name)
        while not self.ended and len(lane.items) < WINDOW and self.pending < PENDING_MAX:
            self.read()

    def skip_taken(self, name: str) -> None:
        """Drop what stands first in a lane and has come out already."""
        lane = self.lane(name)
        while lane.keys and lane.taken and lane.taken.get(lane.keys[0]):
            key = lane.keys[0]
            lane.taken[key] -= 1
            if not lane.taken[key]:
                del lane.taken[key]
            self.take(name)

    def take(self, name: str) -> T:
        """Return the next item of a lane; it waits no more."""
        self.pending -= 1
        return self.lanes[name].pop()


class Union(Generic[T]):
    """Joins two streams. Items of a lane whose keys are equal are the same; each lane is joined by itself.

    What one side has several times within the window stays so: of equal items, as many come out as the side has that has
    more. Where the sides differ, each is read ahead: what only one has comes out before the next item that both have, so
    that the order of each side is kept, whatever its clock says. Between the sides, and between lanes, the earlier comes
    first. Two items that both sides have in opposite orders come in the order of the side that had its first one earlier.
    """

    def __init__(
        self,
        pieces: tuple[Iterator[Sequence[T]], Iterator[Sequence[T]]],
        lane_of: Callable[[T], str],
        key_of: Callable[[T], bytes],
        time_ms_of: Callable[[T], int],
    ) -> None:
        self._sides = (_Side(pieces[0], lane_of, key_of), _Side(pieces[1], lane_of, key_of))
        self._time_ms_of = time_ms_of

    def items(self) -> Iterator[tuple[T, int]]:
        """Yield each item, and which side has it: 0, 1, or `BOTH`; of what both have, the earlier one."""
        while (name := self._next_lane()) is not None:
            found = self._step(name)
            if found is not None:
                yield found

    def _next_lane(self) -> str | None:
        """Return the lane whose next item is the earliest; None at the end."""
        for side in self._sides:
            while not side.ended and not side.pending:
                side.read()
        best, best_ms = None, 0
        names = [name for side in self._sides for name, lane in side.lanes.items() if lane.items]
        if names and names.count(names[0]) == len(names):
            return names[0]
        for side in self._sides:
            for name, lane in side.lanes.items():
                if lane.items and (best is None or self._time_ms_of(lane.items[0]) < best_ms):
                    best, best_ms = name, self._time_ms_of(lane.items[0])
        return best

    def _step(self, name: str) -> tuple[T, int] | None:
        """Return the next item of a lane; None where all that was left of it has come out."""
        one, other = self._sides
        for side in self._sides:
            side.skip_taken(name)
        mine, others = one.lane(name), other.lane(name)
        if not self._is_equal(mine, others):
            for side in self._sides:
                side.look_ahead(name)
                side.skip_taken(name)
        if self._is_equal(mine, others):
            pair = one.take(name), other.take(name)
            return min(pair, key=self._time_ms_of), BOTH
        if not mine.items or not others.items:
            number = 0 if mine.items else 1
            return (self._sides[number].take(name), number) if mine.items or others.items else None
        in_other, in_one = others.has(mine.keys[0]), mine.has(others.keys[0])
        if in_other != in_one:
            number = 1 if in_other else 0
            return self._sides[number].take(name), number
        earlier = 0 if self._time_ms_of(mine.items[0]) <= self._time_ms_of(others.items[0]) else 1
        if in_one:
            key = (mine, others)[earlier].keys[0]
            (others, mine)[earlier].taken[key] += 1
            return self._sides[earlier].take(name), BOTH
        return self._sides[earlier].take(name), earlier

    @staticmethod
    def _is_equal(mine: _Lane[T], others: _Lane[T]) -> bool:
        return bool(mine.keys and others.keys) and mine.keys[0] == others.keys[0]
