"""The bars of one cluster as a port's source of bars has them: what is wanted, what is remembered, who is behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from recorder.bars import BarMaker
from recorder.servers.past.bar_memory import BarMemory
from recorder.servers.past.bar_replay import Replay
from recorder.servers.past.hotlog import HotLog
from recorder.servers.subscriptions import EVERYTHING, spellings
from recorder.servers.topics import BarTopic


class TimeSource(Protocol):
    """What knows how far time has come at the exchange."""

    def ask_time(self) -> None:
        """Ask; a `Watermark` of this moment or later on the bus answers."""


class BarCluster:
    """The bars of one cluster."""

    def __init__(self, name: str, maker: BarMaker, log: HotLog) -> None:
        self.name = name
        self.maker = maker
        self.memory = BarMemory(name, log)
        self.wants: dict[BarTopic, int] = {}
        self.wanted_from_ms: dict[BarTopic, int] = {}
        """Event time when a topic was first wanted: windows that had begun by then are not the common maker's."""
        self.replays: list[Replay] = []
        self.waiting: deque[Replay] = deque()
        self.source: TimeSource | None = None
        self.is_scheduled = False
        """Whether the loop goes on with closing in its next turn."""
        self.ask_ns = 0
        """Before this time the source is not asked again, unless it answers."""

    @property
    def kept_from_ms(self) -> int:
        """The Unix ms at which the first window may begin that can be made whole of what is in memory."""
        return self.memory.kept_from_ms(self.maker.progress)

    def due_ns(self) -> int | None:
        """Return the time from which on a watermark makes a difference; None if only trades do."""
        times_ns = [self.maker.due_ns()]
        for replay in self.replays:
            # What is still ahead of a replay may be the very watermark that it needs.
            if replay.maker is not None and replay.maker.newest_ms and replay.is_at_tip:
                times_ns += [replay.maker.due_ns(), replay.maker.closes_ns(replay.until_ms)]
        return min((time_ns for time_ns in times_ns if time_ns is not None), default=None)

    def start_over(self) -> list[Replay]:
        """Forget all trades, and the time; return those that were still sent the past, which is gone."""
        self.maker.flush()
        self.memory.start_over()
        self.wanted_from_ms = dict.fromkeys(self.wants, 0)
        behind = [*self.replays, *self.waiting]
        self.replays = []
        self.waiting.clear()
        return behind


def symbols_of(cluster: str, topic: BarTopic) -> Iterable[str | None]:
    """Return what a bar maker calls the symbols of a topic, None being all."""
    return (None,) if topic.symbol == EVERYTHING else spellings(cluster, topic.symbol)


def spelled(cluster: str, topics: Iterable[BarTopic]) -> dict[BarTopic, BarTopic]:
    """Return topics by every spelling of their symbols."""
    return {
        BarTopic(topic.interval_ms, EVERYTHING if symbol is None else symbol): topic
        for topic in topics
        for symbol in symbols_of(cluster, topic)
    }
