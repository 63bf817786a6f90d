"""What the tests of ops share: a clock that tests own, and the parts that ops watches."""

from __future__ import annotations

import asyncio

from recorder.bus import Bus
from recorder.ops.lag import LoopLag
from recorder.ops.status import Watched
from recorder.stats import ArchiveStats, FeedStats, Ledger

STARTED_NS = 1_795_237_802_335_000_000


class HeldClock:
    """Time stands still until a test moves it; who sleeps waits until cancelled."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000
        self.asleep = asyncio.Event()

    def wall_ns(self) -> int:
        """Give a wall clock that keeps pace with the monotonic one."""
        return STARTED_NS + self.now_ns - 5_000_000_000

    def monotonic_ns(self) -> int:
        """Give the time that the test has set."""
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        """Say that somebody sleeps, and never wake."""
        self.asleep.set()
        await asyncio.get_running_loop().create_future()


def feed_of(cluster: str) -> FeedStats:
    """Make the counters of a cluster that has not connected yet."""
    return FeedStats(cluster, reconnect_bounds=(0.1, 1, 60), interarrival_bounds=(0.001, 1))


def make_ready(feed: FeedStats, clock: HeldClock) -> None:
    """Let `feed` be subscribed, with one data frame received."""
    feed.connected = feed.subscribed = True
    feed.state = "streaming"
    feed.reason = ""
    feed.subscribed_at_ns = clock.monotonic_ns()
    feed.frames_since_subscribed = 1


def watch(
    *clusters: str,
    ledger: Ledger | None = None,
    archive: ArchiveStats | None = None,
    clock: HeldClock | None = None,
) -> Watched:
    """Make the parts of a recorder that follows `clusters`."""
    clock = clock or HeldClock()
    return Watched(
        feeds=[feed_of(cluster) for cluster in clusters],
        ledger=ledger or Ledger(),
        archive=archive,
        bus=Bus(),
        lag=LoopLag(clock),
        run_id="3f1c",
        clock=clock,
        started_ns=clock.wall_ns(),
        started_monotonic_ns=clock.monotonic_ns(),
        ready_min_messages=1,
        ready_delay_ms=0,
    )
