"""What one cluster's upstream connection counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from recorder.stats import Histogram

PASS_SECONDS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008),
    *(0.01, 0.012, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.1, 0.5),
)
"""Fine enough that a fifth more shows where passes are long."""
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)


class Gap(NamedTuple):
    """A time without data, between two sessions of a cluster. Wall clock."""

    from_ms: int
    to_ms: int
    reason: str


@dataclass(slots=True)
class FeedStats:
    """One cluster's upstream connection, over the whole run."""

    cluster: str
    reconnect_bounds: Sequence[float]
    interarrival_bounds: Sequence[float]
    state: str = "starting"
    """`starting connecting authenticating subscribing streaming waiting stopped`"""
    connected: bool = False
    subscribed: bool = False
    reason: str = "not connected yet"
    """Why no data can be expected now; empty while streaming."""
    since_ns: int = 0
    """Wall clock since which it streams, or does not; 0 before the first time."""
    topics_wanted: int = 0
    topics_acknowledged: int = 0
    sessions: int = 0
    connects: int = 0
    """Attempts to connect."""
    reconnects: int = 0
    """Attempts after the first connection was lost or failed."""
    reconnect_successes: int = 0
    reconnect_failures: int = 0
    gaps: int = 0
    """Times between two sessions."""
    gap_secs: float = 0.0
    """How long they were in all, each from the last data before it."""
    recent_gaps: tuple[Gap, ...] = ()
    """The newest last."""
    read_timeouts: int = 0
    heartbeats_sent: int = 0
    data_timeouts: int = 0
    stale_secs: float = 0.0
    """How long nothing has come in a session of the market in which something had to; 0 while nothing is wrong."""
    batches_received: int = 0
    frames_received: int = 0
    bytes_received: int = 0
    statuses_received: int = 0
    errors: int = 0
    """Connections that ended badly and error statuses."""
    frames_since_subscribed: int = 0
    """Data frames of this session, after the first acknowledgement."""
    subscribed_at_ns: int = 0
    """Monotonic time of this session's first acknowledgement."""
    last_received_ns: int = 0
    """Wall clock of the last read that brought data."""
    last_event_ms: int = 0
    """The newest event's own time."""
    channel_drops: int = 0
    """Frames lost between socket and bus. There is no queue there, so this stays 0; kept for dashboards."""
    cap_reached: int = 0
    """Reads that brought `CHANNEL_CAP` frames or more."""
    ended_by: Counter[str] = field(default_factory=Counter)
    """Ended connections and failed attempts, by reason."""
    reconnect_seconds: Histogram = field(init=False)
    interarrival_seconds: Histogram = field(init=False)
    latency_seconds: Histogram = field(default_factory=lambda: Histogram(LATENCY_SECONDS))
    """From an event's own time to its receipt; one observation a read, its last event."""
    pass_seconds: Histogram = field(default_factory=lambda: Histogram(PASS_SECONDS))
    """How long the loop was busy with one batch, all consumers together."""

    def __post_init__(self) -> None:
        self.reconnect_seconds = Histogram(self.reconnect_bounds)
        self.interarrival_seconds = Histogram(self.interarrival_bounds)
