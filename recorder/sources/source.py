"""What a source is to the rest of the recorder, and what one of another package is made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from recorder.bus import Bus, Watermark
from recorder.clock import Clock
from recorder.overlap import Recorded
from recorder.part import Part
from recorder.polygon.events import Decoder
from recorder.sources.bus_session import BusSession
from recorder.sources.stats import FeedStats


class Source(Part, Protocol):
    """Puts batches of one cluster on the bus that it was made with, while it runs.

    It announces when a session begins and when it ends, in order with the batches: the time between two sessions is a
    gap, and the archive says so. Each batch says when it was read, so that no consumer looks at its own clock.
    """


@runtime_checkable
class TopicSink(Protocol):
    """A source that can change what it is subscribed to."""

    def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to more topics, also after every reconnect."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Unsubscribe from topics that were subscribed to in this way."""

    def ask_time(self) -> None:
        """Ask how far time has come at the exchange; a `Watermark` of now or later on the bus answers."""


class FixedTopics:
    """Stands for a source that cannot change its topics: what it has is all there is, and nothing is on its way."""

    def __init__(self, cluster: str, bus: Bus, clock: Clock) -> None:
        self._cluster = cluster
        self._bus = bus
        self._clock = clock

    def subscribe(self, topics: Iterable[str]) -> None:
        """Do nothing."""

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Do nothing."""

    def ask_time(self) -> None:
        """Let time pass at once: whatever the source read has been passed on."""
        self._bus.advance(Watermark(self._cluster, self._clock.monotonic_ns()))


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source of another package is made with: the entry point is called with it, once for each cluster."""

    bus: Bus
    cluster: str
    stats: FeedStats
    """What `/status` and `/ready` show of the source."""
    clock: Clock
    environ: Mapping[str, str]
    """Where the source finds its settings."""
    recorded: Callable[[], Recorded] = Recorded
    """Returns, once the source runs, how far the stream is recorded whose positions its batches have (`Batch.marks`)."""

    def session(self) -> BusSession:
        """Return what to open, to publish frames by, and to close, for each session of the source."""
        return BusSession(Decoder(self.cluster), self.bus, self.stats, self.clock)
