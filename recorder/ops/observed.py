"""The parts that ops looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from recorder.access_log.writer import AccessLogStats
from recorder.archive.gaps import Completeness, Gap, Silence, completeness
from recorder.archive.pressure import PressureStats
from recorder.archive.stats import ArchiveStats
from recorder.bars import BarStats
from recorder.bus import Bus
from recorder.clock import Clock
from recorder.ledger import Ledger, SinkStats
from recorder.log import lines_dropped
from recorder.market_hours.hours import UNKNOWN, ClusterHours, MarketState, bounds_of, day_of
from recorder.ops.health import part_reasons, pauses, readiness, warnings
from recorder.ops.lag import LoopLag
from recorder.ops.rates import Rates
from recorder.ops.symbols import Symbols
from recorder.part import PartStats
from recorder.polygon.clusters import CLUSTERS
from recorder.reload import ReloadStats
from recorder.servers.draining import DrainStats
from recorder.servers.stats import ClientStats, RelayStats, ReplayStats, ServerStats
from recorder.sources.nats.stats import StreamStats
from recorder.sources.replay.stats import PlayStats
from recorder.sources.stats import FeedStats
from recorder.workers.stats import WorkerStats

_MS_NS: Final = 1_000_000

T_co = TypeVar("T_co", covariant=True)


class Counting(Protocol[T_co]):
    """Something that counts."""

    @property
    def stats(self) -> T_co: ...


@dataclass(slots=True)
class Observed:
    """The parts that ops looks at. It only ever reads them."""

    feeds: Sequence[FeedStats]
    ledger: Ledger
    bus: Bus
    run_id: str
    clock: Clock
    ready_min_messages: int = 1
    ready_delay_ms: int = 0
    archive: ArchiveStats | None = None
    """None where nothing is written to files."""
    servers: Sequence[ServerStats] = ()
    makers: Mapping[str, Counting[BarStats]] = field(default_factory=dict)
    """The bars of each cluster; empty where none are made."""
    replays: Counting[ReplayStats] | None = None
    """None where no bars are made."""
    relay: Counting[RelayStats] | None = None
    """None where bars do not come from another recorder."""
    bar_feeds: Sequence[FeedStats] = ()
    """The connections to the other recorder whose bars are passed on."""
    workers: Sequence[WorkerStats] = ()
    """Empty where this process serves."""
    hours: Mapping[str, ClusterHours] = field(default_factory=dict)
    """Of the markets, by cluster; empty where none are known."""
    parts: Callable[[], Sequence[PartStats]] = tuple
    """Returns every part that the supervisor keeps, in the order of opening."""
    reload: ReloadStats = field(default_factory=ReloadStats)
    draining: DrainStats = field(default_factory=DrainStats)
    omissions: Sequence[str] = ()
    """What the settings leave unsaid, and a default decided."""
    clients: Callable[[int], Sequence[ClientStats]] = lambda _: ()
    """Returns at most that many clients of each port and process: those that leave most unread, where there are more."""
    access_log: AccessLogStats | None = None
    """None where none is written."""
    player: Counting[PlayStats] | None = None
    """None where nothing is replayed."""
    streams: Sequence[StreamStats] = ()
    """Those that are followed; empty where the source is no stream."""
    lag: LoopLag = field(init=False)
    rates: Rates = field(init=False)
    symbols: Symbols = field(init=False)
    started_ns: int = field(init=False)
    """Wall clock."""
    _started_monotonic_ns: int = field(init=False)

    def __post_init__(self) -> None:
        self.lag = LoopLag(self.clock)
        self.rates = Rates(self.feeds, self.ledger, self.clock)
        self.symbols = Symbols(self.bus, self.clock)
        self.started_ns = self.clock.wall_ns()
        self._started_monotonic_ns = self.clock.monotonic_ns()

    @property
    def uptime_secs(self) -> float:
        """How long the process has worked."""
        return (self.clock.monotonic_ns() - self._started_monotonic_ns) / 1e9

    def reasons(self) -> list[str]:
        """Return the reasons why the recorder is not ready; an empty list means that it is ready."""
        return [
            *self.draining.reasons,
            *part_reasons(self.parts(), self.clock.monotonic_ns()),
            *self._reasons(self.feeds, list(self.ledger.sinks.values()), self._pressure, self.workers),
        ]

    def warnings(self) -> list[str]:
        """Return what is about to become a reason, and what fails beside the data of the clusters."""
        found = warnings(
            self._pressure,
            self.parts(),
            self.workers,
            self.bar_feeds,
            self.archive.upload.failure if self.archive else "",
        )
        if self.access_log is not None and (words := self.access_log.warning(self.clock.monotonic_ns())):
            found.append(words)
        return [*found, *self.reload.warnings, *self.omissions]

    def notes(self) -> list[str]:
        """Return why nothing happens where that is not a fault."""
        return pauses({feed.cluster: self.session(feed) for feed in self.feeds})

    def session(self, feed: FeedStats) -> MarketState:
        """Return whether a cluster's market is open."""
        hours = self.hours.get(feed.cluster)
        return hours.at(self.clock.wall_ns()) if hours is not None else UNKNOWN

    def open_gap(self, feed: FeedStats) -> Silence | None:
        """Return since when, and why, a cluster has brought nothing; a run before this one may have begun the gap.

        Before the first session of all it is open since the start of the process.
        """
        begun = self.archive.silences.get(feed.cluster) if self.archive is not None else None
        if begun is not None:
            return begun
        if feed.gap_since:
            return Silence(feed.gap_since, feed.gap_reason)
        if not feed.sessions:
            return Silence(self.started_ns // 1_000_000, "not_connected")
        if feed.stale_secs:
            return Silence(feed.last_received_ns // 1_000_000, "silence")
        return None

    def open_gap_secs(self, feed: FeedStats) -> float:
        """Return how long the gap is that is open now; 0 while none is."""
        gap = self.open_gap(feed)
        return max(0.0, self.clock.wall_ns() / 1e9 - gap.since_ms / 1e3) if gap is not None else 0.0

    def today(self, feed: FeedStats) -> Completeness | None:
        """Return how complete the archive is today, until now; before its first run there was nothing to be missed.

        None where no files are written, where the hours of the market are not known (yet), and where the clock is absurd.
        """
        archive, cluster, now_ns = self.archive, feed.cluster, self.clock.wall_ns()
        times = archive.history.followed.get(cluster) if archive is not None else None
        if archive is None or not times:
            return None
        try:
            begin_ns = bounds_of(day_of(now_ns))[0]
        except (OverflowError, ValueError, OSError):
            return None
        hours = self.hours.get(cluster)
        spans = hours.open_within(begin_ns, now_ns) if hours is not None else None
        if spans is None:
            if cluster not in CLUSTERS or CLUSTERS[cluster].hours != "always":
                return None  # a night would count as missing
            spans = [(begin_ns, now_ns)]
        gaps = list(archive.history.since(cluster, begin_ns // _MS_NS))
        gap = self.open_gap(feed)
        if gap is not None:
            gaps.append(Gap(cluster, gap.since_ms, now_ns // _MS_NS, gap.reason, self.run_id))
        open_ms = [(opening // _MS_NS, close // _MS_NS) for opening, close in spans]
        return completeness(open_ms, times, gaps)

    def is_feed_ready(self, feed: FeedStats) -> bool:
        """Return whether one cluster is subscribed and its data has come as the settings ask."""
        return not self._reasons([feed], [])

    @property
    def consumer_failures(self) -> int:
        """Calls in which a consumer failed, in all processes."""
        return self.bus.failures + sum(worker.consumer_failures for worker in self.workers)

    @property
    def log_lines_dropped(self) -> int:
        """Lines of the log that nobody took, in all processes."""
        return lines_dropped() + sum(worker.log_lines_dropped for worker in self.workers)

    @property
    def _pressure(self) -> PressureStats | None:
        return self.archive.pressure if self.archive else None

    def _reasons(
        self,
        feeds: Sequence[FeedStats],
        sinks: Sequence[SinkStats],
        pressure: PressureStats | None = None,
        workers: Sequence[WorkerStats] = (),
    ) -> list[str]:
        wall_ns = self.clock.wall_ns()
        return readiness(
            feeds,
            sinks,
            pressure=pressure,
            workers=workers,
            ready_min_messages=self.ready_min_messages,
            ready_delay_ms=self.ready_delay_ms,
            now_monotonic_ns=self.clock.monotonic_ns(),
            quiet=[cluster for cluster, hours in self.hours.items() if not hours.wants_data(wall_ns)],
        )
