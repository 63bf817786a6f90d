"""What the tests of ops share: a clock that holds its sleepers, and the parts that ops watches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from fakes import FakeClock

from recorder.archive.stats import ArchiveStats
from recorder.bars import BarMaker
from recorder.bus import Bus
from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.market_hours.hours import ClusterHours
from recorder.ops.observed import Observed
from recorder.part import PartStats
from recorder.servers.stats import RelayStats, ReplayStats, ServerStats
from recorder.sources.replay.stats import PlayStats
from recorder.sources.stats import FeedStats
from recorder.workers.stats import WorkerStats


class HeldClock(FakeClock):
    """A clock on which a sleeper waits until cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Say that somebody sleeps, and never wake."""
        self.asleep.set()
        await asyncio.get_running_loop().create_future()


def feed_of(cluster: str) -> FeedStats:
    """Make the counters of a cluster that has not connected yet."""
    return FeedStats(cluster, reconnect_bounds=(0.1, 1, 60), interarrival_bounds=(0.001, 1))


def make_ready(feed: FeedStats, clock: Clock) -> None:
    """Let `feed` be subscribed, with one data frame received."""
    feed.connected = feed.subscribed = True
    feed.state = "streaming"
    feed.reason = ""
    feed.subscribed_at_ns = clock.monotonic_ns()
    feed.frames_since_subscribed = 1


T = TypeVar("T")


class Counting(Generic[T]):
    """Something that counts; what it does besides does not matter to ops."""

    def __init__(self, stats: T) -> None:
        self.stats = stats


def maker_of(cluster: str) -> BarMaker:
    """Make the bar maker of a cluster that has seen no trade yet."""
    return BarMaker(cluster, delay_ms=20)


def observe(
    *clusters: str,
    ledger: Ledger | None = None,
    archive: ArchiveStats | None = None,
    clock: Clock | None = None,
    servers: Sequence[ServerStats] = (),
    makers: Sequence[BarMaker] = (),
    replays: Counting[ReplayStats] | None = None,
    relay: Counting[RelayStats] | None = None,
    workers: Sequence[WorkerStats] = (),
    hours: Mapping[str, ClusterHours] | None = None,
    parts: Sequence[PartStats] = (),
    player: Counting[PlayStats] | None = None,
) -> Observed:
    """Make the parts of a recorder that follows `clusters`."""
    clock = clock or FakeClock()
    feeds = [feed_of(cluster) for cluster in clusters]
    ledger = ledger or Ledger()
    return Observed(
        feeds=feeds,
        ledger=ledger,
        archive=archive,
        bus=Bus(),
        run_id="3f1c",
        clock=clock,
        servers=servers,
        makers={maker.cluster: maker for maker in makers},
        replays=replays,
        relay=relay,
        workers=workers,
        hours=hours or {},
        parts=lambda: parts,
        player=player,
    )
