"""What outlives the connections of one feed, and is shared by them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from recorder.bus import Bus
from recorder.clock import Clock
from recorder.log import RateLimited, enabled, get_logger
from recorder.market_hours.hours import ClusterHours
from recorder.polygon.events import Decoder
from recorder.polygon.rows import Status
from recorder.settings import UpstreamSettings
from recorder.sources.bus_session import BusSession
from recorder.sources.stats import FeedStats
from recorder.sources.turn import Turn

_WARN_SECS = 5.0

log = get_logger("polygon_upstream")


@dataclass(frozen=True, slots=True)
class FeedContext:
    """Where a feed gets its data, and where it goes."""

    settings: UpstreamSettings
    bus: Bus
    stats: FeedStats
    clock: Clock
    hours: ClusterHours = field(default_factory=ClusterHours)
    """When the market is open; nothing is known of that unless given."""
    backpressure: RateLimited = field(default_factory=lambda: RateLimited(_WARN_SECS))
    """Limits the warning that the exchange is ahead."""

    turn: Turn = field(default_factory=Turn)
    """Whether the feed may be connected; always, unless given."""
    refused: dict[str, str] = field(default_factory=dict)
    """Topics whose refusal by the exchange is on the bus, and why nothing will come of them."""

    @property
    def cluster(self) -> str:
        """The cluster that the feed follows."""
        return self.settings.cluster

    def session(self) -> BusSession:
        """Return what one connection opens, publishes by, and closes."""
        return BusSession(Decoder(self.cluster), self.bus, self.stats, self.clock)

    def log_statuses(self, statuses: Iterable[Status]) -> None:
        """Log what the exchange has said, where such lines are wanted."""
        if enabled("polygon_upstream", "debug"):
            for status in statuses:
                log.debug("exchange_status", cluster=self.cluster, status=status.status, words=status.message)

    def warn_of_backpressure(self) -> None:
        """One read brought more than `CHANNEL_CAP` frames: the exchange is ahead, and TCP holds the rest."""
        self.stats.cap_reached += 1
        suppressed = self.backpressure.ready(self.clock.monotonic_ns())
        if suppressed is not None:
            log.warning(
                "backpressure",
                cluster=self.cluster,
                frames_in_one_read=f"more than CHANNEL_CAP={self.settings.channel_cap}",
                times_since_last_warning=suppressed + 1,
            )
