"""The bars of one cluster as a port's source of bars has them: what is wanted, what is remembered, who is behind."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from recorder.bars import BarMaker
from recorder.polygon.clusters import CLUSTERS
from recorder.servers.bar_replay import Remembered, Replay
from recorder.servers.topics import BarTopic


class TimeSource(Protocol):
    """What knows how far time has come at the exchange."""

    def ask_time(self) -> None:
        """Ask; a `Watermark` of this moment or later on the bus answers."""


class BarCluster:
    """The bars of one cluster."""

    def __init__(self, name: str, maker: BarMaker) -> None:
        self.trade_channel = CLUSTERS[name].trade_channel
        self.maker = maker
        self.wants: dict[BarTopic, int] = {}
        self.wanted_from_ms: dict[BarTopic, int] = {}
        """Event time when a topic was first wanted: windows that had begun by then are not the common maker's."""
        self.recent: deque[Remembered] = deque()
        self.recent_bytes = 0
        self.forgotten_ms = 0
        """Trades up to this time may be missing from memory."""
        self.replays: list[Replay] = []
        self.waiting: deque[Replay] = deque()
        self.source: TimeSource | None = None
        self.is_scheduled = False
        """Whether the loop goes on with closing in its next turn."""
        self.ask_ns = 0
        """Before this time the source is not asked again, unless it answers."""

    def remembered_from_ms(self) -> int | None:
        """Return the Unix ms from which on trades are remembered; None if none are."""
        first = next((arrived.trades for arrived in self.recent if arrived.trades is not None), None)
        return None if first is None else max(self.forgotten_ms + 1, first.times_ms[0])

    def due_ns(self) -> int | None:
        """Return the time from which on a watermark makes a difference; None if only trades do."""
        times_ns = [self.maker.due_ns()]
        for replay in self.replays:
            # What is still ahead of a replay may be the very watermark that it needs.
            if replay.maker is not None and replay.maker.newest_ms and not replay.ahead:
                times_ns += [replay.maker.due_ns(), replay.maker.closes_ns(replay.until_ms)]
        return min((time_ns for time_ns in times_ns if time_ns is not None), default=None)

    def start_over(self) -> list[Replay]:
        """Forget all trades, and the time; return those that were still sent the past, which is gone."""
        self.maker.flush()
        self.recent.clear()
        self.recent_bytes = 0
        self.forgotten_ms = 0
        self.wanted_from_ms = dict.fromkeys(self.wants, 0)
        behind = [*self.replays, *self.waiting]
        self.replays = []
        self.waiting.clear()
        return behind
