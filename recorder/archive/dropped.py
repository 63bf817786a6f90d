"""PURE. What recorders of one feed had dropped, and how much of it none of them has."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from recorder.archive.cutting import RecordedEvent
from recorder.archive.findings import Drop

APART_MS: Final = 1000
"""So far apart the clocks of two recorders may be."""
_seq_of: Final = attrgetter("seq")


@dataclass(slots=True)
class Dropped:
    """Records that one recorder dropped."""

    drop: Drop
    from_ms: int
    """When the last record before came, Unix ms."""
    to_ms: int
    """When the first one behind came."""
    had: int = 0
    """How many the other one has that this one lacks, of this channel and that time."""

    def is_near(self, other: Dropped) -> bool:
        """Return whether it may be the same records that the other one means."""
        mine, theirs = self.drop, other.drop
        return (
            (mine.cluster, mine.channel) == (theirs.cluster, theirs.channel)
            and self.from_ms - APART_MS <= other.to_ms
            and other.from_ms - APART_MS <= self.to_ms
        )


class DropTimes:
    """Finds out when the records of a run came that were dropped, from those around them."""

    def __init__(self, drops: Iterable[Drop]) -> None:
        # Rejects have no channel. They have no numbers, and were no records.
        self._waiting = sorted((one for one in drops if one.channel and one.last_seq), key=_last_of)
        self._from_ms: dict[int, int] = {}
        self._before_ms = 0

    def behind(self, events: Sequence[RecordedEvent]) -> Iterator[Dropped]:
        """Take the next records of the run; yield what was dropped before the last of them."""
        for drop in self._waiting:
            if id(drop) not in self._from_ms and events[-1].seq > drop.first_seq:
                place = bisect_left(events, drop.first_seq, key=_seq_of)
                self._from_ms[id(drop)] = (
                    events[place - 1].ingest_ts if place else self._before_ms or events[0].ingest_ts
                )
        while self._waiting and self._waiting[0].last_seq < events[-1].seq:
            drop = self._waiting.pop(0)
            place = bisect_left(events, drop.last_seq, key=_seq_of)
            yield Dropped(drop, self._from_ms[id(drop)], events[place].ingest_ts)
        self._before_ms = events[-1].ingest_ts

    def rest(self) -> Iterator[Dropped]:
        """Yield what was dropped behind the last record of the run."""
        for drop in self._waiting:
            yield Dropped(drop, self._from_ms.get(id(drop), self._before_ms), self._before_ms)


class Missing:
    """What both of two recorders lack, since one dropped it and the other one has nothing of it, or has dropped it, too."""

    def __init__(self) -> None:
        self._waiting: tuple[list[Dropped], list[Dropped]] = ([], [])
        self._counted: tuple[list[tuple[Dropped, int]], list[tuple[Dropped, int]]] = ([], [])

    def add(self, side: int, dropped: Dropped) -> None:
        """Take what a recorder, 0 or 1, had dropped."""
        self._waiting[side].append(dropped)

    def lacks(self, side: int, event: RecordedEvent) -> None:
        """Take a record that a recorder lacks and the other one has."""
        for one in self._waiting[side]:
            is_it = (one.drop.cluster, one.drop.channel) == (event.feed, event.type)
            if (
                is_it
                and one.had < one.drop.count
                and one.from_ms - APART_MS <= event.ingest_ts <= one.to_ms + APART_MS
            ):
                one.had += 1
                return

    def until(self, at_ms: int) -> Iterator[tuple[Dropped, int]]:
        """Yield what is missing of all that was dropped well before a time, and how many records it is."""
        for side, waiting in enumerate(self._waiting):
            for one in [one for one in waiting if one.to_ms + APART_MS < at_ms]:
                waiting.remove(one)
                # What both have dropped is missing once.
                counted = sum(count for other, count in self._counted[1 - side] if other.is_near(one))
                count = one.drop.count - one.had - counted
                if count > 0:
                    self._counted[side].append((one, count))
                    yield one, count


def _last_of(drop: Drop) -> int:
    return drop.last_seq
