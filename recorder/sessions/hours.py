"""PURE. The sessions of one cluster as times in UTC, and what may be expected of its feed at a moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

State = Literal["open", "closed", "unknown"]
Span = tuple[int, int]
"""A session: its opening and its close, Unix nanoseconds; it is over at its close."""

LEAD_NS: Final = 300 * 1_000_000_000
"""So long before the opening the line must be alive again: one that died at night is found and replaced by then."""


class Session(NamedTuple):
    """Whether the market is open at a moment."""

    state: State
    since_ns: int = 0
    """When it opened or closed; 0 where that is not known."""
    until_ns: int = 0
    """When it will close or open; 0 where that is not known."""


UNKNOWN: Final = Session("unknown")


class ClusterHours:
    """The sessions of one cluster, as far as they are known; nothing is known before `learn`, nor outside of its time."""

    def __init__(self, *, delay_secs: float = 0.0, grace_secs: float = 0.0) -> None:
        """`delay_secs`: how much later than the market its feed is. `grace_secs`: how long after the opening nothing
        need have come yet."""
        self._delay_ns = int(delay_secs * 1e9)
        self._grace_ns = int(grace_secs * 1e9)
        self._edges: list[int] = []
        """Openings and closes in turn."""
        self._from_ns = 0
        self._until_ns = 0

    def learn(self, spans: Iterable[Span], from_ns: int, until_ns: int) -> None:
        """Take the sessions of a time, which replace what was known. They are in order and do not overlap."""
        self._edges = [edge + self._delay_ns for span in spans for edge in span]
        self._from_ns, self._until_ns = from_ns, until_ns

    def knows(self, wall_ns: int) -> bool:
        """Tell whether a moment is within the time whose sessions are known."""
        return self._from_ns <= wall_ns < self._until_ns

    def at(self, wall_ns: int) -> Session:
        """Give the session, or the pause, that a moment is in."""
        if not self.knows(wall_ns):
            return UNKNOWN
        place = bisect_right(self._edges, wall_ns)
        since_ns = self._edges[place - 1] if place else 0
        until_ns = self._edges[place] if place < len(self._edges) else 0
        return Session("open" if place % 2 else "closed", since_ns, until_ns)

    def wants_bytes(self, wall_ns: int) -> bool:
        """Tell whether a line that brings no byte is worth another: in a session, shortly before it, or if unknown."""
        return any(self.at(moment).state != "closed" for moment in (wall_ns, wall_ns + LEAD_NS))

    def wants_data(self, wall_ns: int) -> bool:
        """Tell whether nothing having come yet is a reason not to be ready: not while closed, nor just after."""
        session = self.at(wall_ns)
        if session.state == "open":
            return wall_ns - session.since_ns >= self._grace_ns
        return session.state == "unknown"

    def open_secs(self, wall_ns: int) -> float:
        """Give for how long the market has been open; 0 while it is closed, and where that is not known."""
        session = self.at(wall_ns)
        return (wall_ns - session.since_ns) / 1e9 if session.state == "open" else 0.0

    def __repr__(self) -> str:
        return f"ClusterHours({len(self._edges) // 2} sessions, {self._from_ns}..{self._until_ns})"


def without(spans: Sequence[Span], holes: Sequence[Span]) -> list[Span]:
    """Give what is left of the spans between the holes."""
    left = list(spans)
    for begin, end in holes:
        parts = [((a, min(b, begin)), (max(a, end), b)) for a, b in left]
        left = [(a, b) for pair in parts for a, b in pair if a < b]
    return left
