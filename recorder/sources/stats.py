"""What one cluster's upstream connection counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from recorder.errors import UpstreamError
from recorder.stats import BYTES, SECS, Histogram, counter, gauge, histogram, label, shown

PASS_SECONDS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008),
    *(0.01, 0.012, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.1, 0.5),
)
"""Fine enough to show that long passes became a fifth longer."""
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)
ENDS: Final = tuple(kind.reason for kind in UpstreamError.__subclasses__())
"""Why a connection ends, or an attempt fails."""


class Gap(NamedTuple):
    """A time without data, between two sessions of a cluster. Wall clock."""

    from_ms: int
    to_ms: int
    reason: str


@dataclass(slots=True)
class FeedStats:
    """One cluster's upstream connection, over the whole run."""

    cluster: str = label("feed", "Name of the cluster.")
    reconnect_bounds: Sequence[float] = ()
    interarrival_bounds: Sequence[float] = ()
    state: str = shown(
        "`starting`, `connecting`, `authenticating`, `subscribing`, `streaming`, `waiting` (to connect again) or "
        "`stopped`.",
        default="starting",
    )
    connected: bool = gauge(
        "polygon_connected", "1 while connected.", about="Whether there is a connection.", default=False
    )
    subscribed: bool = gauge(
        "polygon_subscribed",
        "1 while a subscription is acknowledged.",
        about="Whether a subscription is acknowledged.",
        default=False,
    )
    reason: str = shown(
        "Why no data can be expected now; empty while streaming.", default="not connected yet"
    )
    since_ns: int = 0
    """Wall clock since which it streams, or does not; 0 before the first time."""
    topics_wanted: int = gauge("polygon_topics_wanted", "Topics asked for.")
    topics_acknowledged: int = gauge("polygon_topics_acknowledged", "Topics that the exchange acknowledged.")
    connects: int = counter("polygon_connects_total", "Attempts to connect.", shown=False)
    sessions: int = counter("polygon_sessions_total", "Connections that were authenticated and subscribed.")
    reconnects: int = counter(
        "polygon_reconnects_total", "Attempts to connect after the first connection failed or was lost."
    )
    reconnect_successes: int = counter(
        "polygon_reconnect_success_total", "Reconnects that led to a subscribed session.", shown=False
    )
    reconnect_failures: int = counter(
        "polygon_reconnect_failure_total", "Reconnects that did not.", shown=False
    )
    reconnect_seconds: Histogram = histogram(
        "polygon_reconnect_duration_seconds",
        "From the loss of a session to the next one; bounds: RECONNECT_BUCKETS.",
    )
    gaps: int = counter("polygon_gaps_total", "Gaps: times between two sessions.")
    gap_secs: float = counter(
        "polygon_gap_seconds_total",
        "The length of all gaps together, each from the last data before it.",
        unit=SECS,
        default=0.0,
    )
    resumes: int = counter(
        "polygon_resumes_total",
        "Times between two sessions of which another recorder (FIREHOSE_URL) sent everything that had come there.",
    )
    gap_since: int = 0
    """Unix ms at which data last came before the gap that a session of this run has left open; 0 while there is none."""
    gap_reason: str = ""
    """Why that session ended."""
    recent_gaps: tuple[Gap, ...] = ()
    """The newest last."""
    ended_by: Counter[str] = counter(
        "polygon_disconnects_total",
        "Connections that ended and attempts that failed, by reason.",
        by="reason",
        values=ENDS,
    )
    read_timeouts: int = counter(
        "polygon_read_timeouts_total",
        "Connections given up because no byte came for READ_TIMEOUT_SECS.",
        shown=False,
    )
    data_timeouts: int = counter(
        "polygon_data_timeouts_total",
        "Connections given up because no data came for DATA_TIMEOUT_SECS while the market was open.",
        shown=False,
    )
    heartbeats_sent: int = counter("polygon_heartbeats_sent_total", "WebSocket pings sent.", shown=False)
    errors: int = counter(
        "polygon_errors_total", "Connections that ended badly, and error statuses of the exchange."
    )
    statuses_received: int = counter("polygon_status_total", "Status messages received.", shown=False)
    stale_secs: float = shown(
        "How long nothing has come while the market is open; 0 while that is no fault.",
        unit=SECS,
        default=0.0,
    )
    frames_received: int = counter("polygon_messages_received_total", "WebSocket frames received.")
    frames_since_subscribed: int = shown("Data frames of this session.", default=0)
    bytes_received: int = counter("polygon_received_bytes_total", "Bytes of the frames received.", unit=BYTES)
    batches_received: int = counter(
        "polygon_batches_total",
        "Reads of the socket that brought frames; each is one pass through all consumers.",
        shown=False,
    )
    subscribed_at_ns: int = 0
    """Monotonic time of this session's first acknowledgement."""
    channel_drops: int = counter(
        "polygon_channel_drops_total",
        "Frames lost between socket and bus; there is no queue there, so it stays 0.",
        shown=False,
    )
    cap_reached: int = counter(
        "polygon_cap_reached_total", "Reads that brought CHANNEL_CAP frames or more.", shown=False
    )
    reading_pauses: int = counter(
        "polygon_reading_pauses_total", "Times that reading stopped because much waited for the disk."
    )
    reading_paused_secs: float = counter(
        "polygon_reading_paused_seconds_total",
        "How long reading has waited for the disk, all pauses together.",
        unit=SECS,
        default=0.0,
    )
    last_received_ns: int = gauge(
        "polygon_last_received_timestamp_seconds",
        "When data was last received, Unix time; 0 before the first.",
        shown=False,
        convert=lambda wall_ns: wall_ns / 1e9,
    )
    last_event_ms: int = gauge(
        "polygon_last_event_timestamp_seconds",
        "The newest event's own time, Unix time; 0 before the first.",
        shown=False,
        convert=lambda event_ms: event_ms / 1e3,
    )
    interarrival_seconds: Histogram = histogram(
        "polygon_message_interarrival_seconds",
        "Time between two frames; those that one read brought came 0 s apart; bounds: INTERARRIVAL_BUCKETS.",
    )
    latency_seconds: Histogram = histogram(
        "polygon_ingest_latency_seconds",
        "From an event's own time to its receipt; one observation a read, its newest event.",
        LATENCY_SECONDS,
    )
    pass_seconds: Histogram = histogram(
        "polygon_pass_duration_seconds",
        "How long the loop was busy with one batch, all consumers together.",
        PASS_SECONDS,
    )

    def __post_init__(self) -> None:
        self.reconnect_seconds = Histogram(tuple(self.reconnect_bounds))
        self.interarrival_seconds = Histogram(tuple(self.interarrival_bounds))
