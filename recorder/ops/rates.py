"""How fast each cluster's data comes: looked at once a second, remembered for five minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.ops.status_schema import History
from recorder.ops.status_schema import Rates as RatesOfFeed
from recorder.sources.stats import FeedStats

HISTORY_SECS: Final = 300


class Rate(NamedTuple):
    """Frames, events and bytes that arrived within a second."""

    frames: float = 0.0
    events: float = 0.0
    bytes: float = 0.0


class Rates:
    """The rates of all clusters. Call `look` once a second; without it they are 0."""

    def __init__(self, feeds: Sequence[FeedStats], ledger: Ledger, clock: Clock) -> None:
        self._feeds = feeds
        self._ledger = ledger
        self._clock = clock
        self._looked_ns = clock.monotonic_ns()
        self._at_ns = clock.wall_ns()
        self._before = [self._counts(feed) for feed in feeds]
        self._history: list[deque[Rate]] = [deque(maxlen=HISTORY_SECS) for _ in feeds]

    def look(self) -> None:
        """Take the counts, and what they have grown by since the last look."""
        now_ns = self._clock.monotonic_ns()
        secs = max(1e-9, (now_ns - self._looked_ns) / 1e9)
        self._looked_ns, self._at_ns = now_ns, self._clock.wall_ns()
        for place, feed in enumerate(self._feeds):
            counts, before = self._counts(feed), self._before[place]
            self._before[place] = counts
            grown = zip(counts, before, strict=True)
            self._history[place].append(Rate(*(round((now - then) / secs, 1) for now, then in grown)))

    def of(self, feed: FeedStats) -> Rate:
        """Return a cluster's rate at the last look."""
        for place, known in enumerate(self._feeds):
            if known is feed and self._history[place]:
                return self._history[place][-1]
        return Rate()

    def history(self) -> History:
        """Return the rates of the last minutes."""
        return History(
            at=self._at_ns // 1_000_000,
            feeds={
                feed.cluster: RatesOfFeed(
                    frames=[rate.frames for rate in history],
                    events=[rate.events for rate in history],
                    bytes=[rate.bytes for rate in history],
                )
                for feed, history in zip(self._feeds, self._history, strict=True)
            },
        )

    def _counts(self, feed: FeedStats) -> tuple[int, int, int]:
        return feed.frames_received, events_received(self._ledger, feed.cluster) or 0, feed.bytes_received

    def __repr__(self) -> str:
        rates = ", ".join(f"{feed.cluster}={self.of(feed).events:g}/s" for feed in self._feeds)
        return f"Rates({rates})"


def events_received(ledger: Ledger, cluster: str) -> int | None:
    """Return the number of events of a cluster that came; None where none did, or nothing looks into its frames."""
    counts = [balance.received for (feed, _), balance in list(ledger.channels.items()) if feed == cluster]
    return sum(counts) if counts else None
