"""PURE. The market hours of one cluster as times in UTC, and what may be expected of its feed at a moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from itertools import takewhile
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

State = Literal["open", "closed", "unknown"]
Span = tuple[int, int]
"""The opening and the close of a market, in Unix nanoseconds. At its close it is closed."""

NEW_YORK: Final = ZoneInfo("America/New_York")
"""The days of every market are counted here."""
LEAD_NS: Final = 300 * 1_000_000_000
"""How long before the opening the connection must be alive again: one that died at night is replaced by then."""


class MarketState(NamedTuple):
    """Whether the market is open at a moment."""

    state: State
    since_ns: int = 0
    """When it opened or closed; 0 where that is not known."""
    until_ns: int = 0
    """When it will close or open; 0 where that is not known."""


UNKNOWN: Final = MarketState("unknown")


class ClusterHours:
    """The market hours of one cluster. Nothing is known before `learn`, nor outside of the time that it was given."""

    def __init__(self, *, delay_secs: float = 0.0, grace_secs: float = 0.0) -> None:
        """`delay_secs`: how much later than the market its feed is. `grace_secs`: how long after the opening the feed may
        still be silent."""
        self._delay_ns = int(delay_secs * 1e9)
        self._grace_ns = int(grace_secs * 1e9)
        self._edges: list[int] = []
        """Openings and closes in turn."""
        self._from_ns = 0
        self._until_ns = 0

    def learn(self, spans: Iterable[Span], from_ns: int, until_ns: int) -> None:
        """Replace what was known by the spans of a time, which are in order and do not overlap."""
        self._edges = [edge + self._delay_ns for span in spans for edge in span]
        self._from_ns, self._until_ns = from_ns, until_ns

    def knows(self, wall_ns: int) -> bool:
        """Return whether a moment is within the time whose market hours are known."""
        return self._from_ns <= wall_ns < self._until_ns

    def at(self, wall_ns: int) -> MarketState:
        """Return the state of the market at a moment."""
        if not self.knows(wall_ns):
            return UNKNOWN
        place = bisect_right(self._edges, wall_ns)
        since_ns = self._edges[place - 1] if place else 0
        until_ns = self._edges[place] if place < len(self._edges) else 0
        return MarketState("open" if place % 2 else "closed", since_ns, until_ns)

    def open_within(self, from_ns: int, until_ns: int) -> list[Span] | None:
        """Return when the market is open in a time, cut to it; None where that is not known of all of it."""
        if not (self._from_ns <= from_ns <= until_ns <= self._until_ns):
            return None
        edges = self._edges
        first = bisect_right(edges, from_ns)
        # Of a market that is open at the beginning, the opening counts as well.
        spans = zip(edges[first - first % 2 :: 2], edges[first - first % 2 + 1 :: 2], strict=True)
        return within(takewhile(lambda span: span[0] < until_ns, spans), from_ns, until_ns)

    def wants_bytes(self, wall_ns: int) -> bool:
        """Return whether a silent connection should be replaced: while the market is open, shortly before, or if unknown."""
        return any(self.at(moment).state != "closed" for moment in (wall_ns, wall_ns + LEAD_NS))

    def wants_data(self, wall_ns: int) -> bool:
        """Return whether the absence of data is a reason not to be ready: not while closed, nor just after the opening."""
        market = self.at(wall_ns)
        if market.state == "open":
            return wall_ns - market.since_ns >= self._grace_ns
        return market.state == "unknown"

    def open_secs(self, wall_ns: int) -> float:
        """Return for how long the market has been open; 0 while it is closed, and where that is not known."""
        market = self.at(wall_ns)
        return (wall_ns - market.since_ns) / 1e9 if market.state == "open" else 0.0

    def __repr__(self) -> str:
        return f"ClusterHours({len(self._edges) // 2} spans, {self._from_ns}..{self._until_ns})"


def day_of(wall_ns: int) -> date:
    """Return the day that a moment belongs to, in New York."""
    return datetime.fromtimestamp(wall_ns // 1_000_000_000, NEW_YORK).date()


def bounds_of(day: date) -> Span:
    """Return the beginning of a day in New York and its end; it has 23, 24 or 25 hours."""
    begin, end = (datetime.combine(each, time(), NEW_YORK) for each in (day, day + timedelta(days=1)))
    return int(begin.timestamp()) * 1_000_000_000, int(end.timestamp()) * 1_000_000_000


def within(spans: Iterable[Span], from_ns: int, until_ns: int) -> list[Span]:
    """Return the parts of the spans that are in a time."""
    cut = [(max(begin, from_ns), min(end, until_ns)) for begin, end in spans]
    return [(begin, end) for begin, end in cut if begin < end]


def without(spans: Sequence[Span], holes: Sequence[Span]) -> list[Span]:
    """Return the spans without the holes."""
    left = list(spans)
    for begin, end in holes:
        parts = [((a, min(b, begin)), (max(a, end), b)) for a, b in left]
        left = [(a, b) for pair in parts for a, b in pair if a < b]
    return left
