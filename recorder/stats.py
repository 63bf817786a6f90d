"""What the parts count: plain integers, read at scrape time by who knows Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeVar, get_args

PASS_SECONDS = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008),
    *(0.01, 0.012, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.1, 0.5),
)
"""Fine enough that a fifth more shows where passes are long."""
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)
FSYNC_SECONDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
RECENT_MAX: Final = 20
"""Gaps, drops and segments that are remembered for who looks; the manifest has all of them."""
DROPS_PAUSE_MS: Final = 10_000
"""Drops that are closer to each other are one."""

T = TypeVar("T")


def with_newest(recent: tuple[T, ...], entry: T) -> tuple[T, ...]:
    """Give the last `RECENT_MAX` entries. A new tuple each time: other threads may be reading the old one."""
    return (*recent[-(RECENT_MAX - 1) :], entry)


Eviction = Literal[
    "auth_failed",
    "auth_timeout",
    "files",
    "full",
    "no_pong",
    "protocol_error",
    "slow_consumer",
    "too_many_for_token",
    "too_many_fragments",
    "too_many_requests",
]
"""Why a client was cut."""
EVICTIONS: Final[tuple[Eviction, ...]] = get_args(Eviction)
Refusal = Literal["address", "files", "full", "host", "origin", "too_many_for_token"]
"""Why a connection was turned away."""
REFUSALS: Final[tuple[Refusal, ...]] = get_args(Refusal)


class Histogram:
    """Counts of observations by upper bound, as Prometheus understands them; the last count is `+Inf`."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def cumulative(self) -> Iterable[tuple[str, int]]:
        """Yield `(upper bound, observations up to it)`, rising, the last bound being `+Inf`."""
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield bound, total

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, sum={self.sum:.6f})"


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


@dataclass(slots=True)
class ChannelBalance:
    """What became of one channel's events on the way to the sinks."""

    received: int = 0
    filtered: int = 0
    sampled_out: int = 0
    rejected: int = 0


@dataclass(slots=True)
class DropRun:
    """Records of one channel that were dropped one after another for one reason. Wall clock."""

    cluster: str
    channel: str
    reason: str
    first_ms: int
    last_ms: int
    count: int


@dataclass(slots=True)
class SinkStats:
    """One sink. `pending` is what it accepted and has neither recorded nor dropped yet."""

    name: str
    accepted: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records handed to the sink, by (cluster, channel); dropped ones included."""
    recorded: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    recent_drops: tuple[DropRun, ...] = ()
    """The newest last."""
    rejects_dropped: int = 0
    """Lines for the reject file that were dropped; their events are counted as rejected all the same."""
    given_up: int = 0
    """Of the dropped ones, those that could not be written before the shutdown's deadline."""
    pending_bytes: int = 0
    pending_bytes_max: int = 0
    """What may be pending; past it the newest is dropped."""
    pending_batches: int = 0
    pending_bytes_peak: int = 0
    bytes_written: int = 0
    write_errors: int = 0
    failure: str = ""
    """Why the sink cannot write now, in words; empty while it can."""
    busy_since_ns: int = 0
    """Monotonic time at which its thread began the call that it is in; 0 while it waits for work."""
    peers: int | None = None
    """Who is connected to it; None where nobody connects to a sink of this kind."""

    def note_drops(self, at_ms: int, cluster: str, counts: Mapping[str, int], reason: str) -> None:
        """Remember that records, by channel, were dropped; counting them is another matter."""
        for channel, count in counts.items():
            for run in self.recent_drops:
                is_same = (run.cluster, run.channel, run.reason) == (cluster, channel, reason)
                if is_same and at_ms - run.last_ms <= DROPS_PAUSE_MS:
                    run.last_ms = at_ms
                    run.count += count
                    break
            else:
                run = DropRun(cluster, channel, reason, at_ms, at_ms, count)
                self.recent_drops = with_newest(self.recent_drops, run)


@dataclass(slots=True)
class PressureStats:
    """The disk under the archive as it fills: what is free, what is done about it, and what that has cost."""

    step: int = 0
    """How far up the ladder; 0: there is space."""
    word: str = "none"
    """The step's name."""
    needed_bytes: int = 0
    """Free bytes at which the step is undone."""
    free_bytes: int | None = None
    """None where nobody looks."""
    free_inodes: int | None = None
    """None where the file system has no limit."""
    min_free_bytes: int = 0
    """What is left free in any case; 0: nothing."""
    losing: bool = False
    """Whether events are left out at this step."""
    transitions: Counter[str] = field(default_factory=Counter)
    """Changes, by the step they led to."""
    sampled_out: int = 0
    """Quotes left out while a step asked for it."""
    dropped: int = 0
    """Events that came while recording was paused."""


class ActiveSegment(NamedTuple):
    """A file that is being written."""

    bytes: int
    records: int
    rotates_ms: int | None = None
    """Wall clock at which it is rotated by time; None while it is empty, and where only its size counts."""


@dataclass(slots=True)
class ClosedSegment:
    """A file that was finished in this run."""

    file: str
    """As it was named before compression, relative to the archive's folder."""
    records: int
    bytes: int
    closed_ms: int
    reason: str
    compressed_bytes: int | None = None
    """None as long as it is plain."""
    deleted: bool = False
    """Whether retention has deleted it."""


@dataclass(slots=True)
class ArchiveStats:
    """The files of the archive."""

    rotations: Counter[str] = field(default_factory=Counter)
    """Closed segments by reason."""
    rejects_written: int = 0
    reopens: int = 0
    vanished: int = 0
    """Active files that were moved or deleted without a signal."""
    fsync_errors: int = 0
    compressed: int = 0
    compress_errors: int = 0
    compress_pending: int = 0
    compress_bytes_in: int = 0
    compress_bytes_out: int = 0
    deleted: int = 0
    """Segments deleted by retention."""
    recovered: int = 0
    """Files that a crash had left and that the start finished."""
    manifest_errors: int = 0
    fsync_seconds: Histogram = field(default_factory=lambda: Histogram(FSYNC_SECONDS))
    active: dict[str, ActiveSegment] = field(default_factory=dict)
    """By file name."""
    recent: tuple[ClosedSegment, ...] = ()
    """The newest last."""
    rotate_bytes: int | None = None
    """Size at which a file is rotated; None: at any."""
    rotate_secs: int | None = None
    """Length of the periods that have files of their own; None: there are none."""
    pressure: PressureStats = field(default_factory=PressureStats)

    def closed(self, file: str) -> ClosedSegment | None:
        """Give a segment that was closed not long ago."""
        return next((segment for segment in self.recent if segment.file == file), None)


@dataclass(slots=True)
class ServerStats:
    """One port that clients connect to."""

    port: str
    """`firehose`, `filtered` or `bars`."""
    clients: int = 0
    clients_authenticated: int = 0
    clients_total: int = 0
    """Connections that were ever accepted."""
    subscriptions: int = 0
    """Topics held by all clients together."""
    audiences: int = 0
    """Different sets of topics among the clients."""
    requests: int = 0
    bad_requests: int = 0
    auth_failures: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    """Connections that were turned away, by reason."""
    evictions: Counter[Eviction] = field(default_factory=Counter)
    """Clients that were cut, by reason."""
    events_delivered: int = 0
    """Events, each counted once for every client it went to."""
    frames_delivered: int = 0
    bytes_delivered: int = 0
    pending_bytes_max: int = 0
    """The most that one client holds unread, at the last look."""
    lag_secs_max: float = 0.0
    """How long the slowest client has held something unread, at the last look."""


@dataclass(frozen=True, slots=True)
class ClientStats:
    """One client, at one moment. What it says of itself is cut, and nothing of it is trusted."""

    port: str
    """`firehose`, `filtered` or `bars`."""
    number: int
    """Counts the connections of a port; with `worker`, of that worker's port."""
    worker: int
    """The process that serves it; 0: the recording one."""
    address: str
    address_port: int
    cluster: str
    """Empty: all."""
    token: str
    """The name of its token; empty before it has authenticated."""
    agent: str
    topics: tuple[str, ...]
    """The first of them."""
    topics_count: int
    unread_bytes: int
    lag_secs: float
    """For how long something has been unread, at the last look."""
    events: int
    """Delivered to it."""
    bytes: int
    connected_secs: float


@dataclass(slots=True)
class WorkerStats:
    """One process that serves, over all its lives."""

    number: int
    state: str = "starting"
    """`starting up down`"""
    pid: int = 0
    """0 while it is down."""
    restarts: Counter[str] = field(default_factory=Counter)
    """Ends that were not asked for, by reason: `ended` (by itself), `slow`, `silent`."""
    connections: int = 0
    """Clients, and connections that are none yet."""
    clients: dict[str, int] = field(default_factory=dict)
    """By port."""
    pending_bytes: int = 0
    """What it has not taken yet, at the last look."""
    lag_secs: float = 0.0
    """From the receipt of a batch to its being taken there: the most within the last second."""
    cpu_secs: float = 0.0
    """Of this life."""
    memory_bytes: int = 0
    consumer_failures: int = 0


class Ledger:
    """The books: `received = recorded + filtered + sampled out + rejected + dropped`, per cluster and channel.

    Shared by the stage that makes records (received, filtered, sampled out, rejected) and each sink
    (accepted, recorded, dropped). It holds for every sink by itself, once nothing is pending.
    """

    def __init__(self) -> None:
        self.channels: dict[tuple[str, str], ChannelBalance] = {}
        self.sinks: dict[str, SinkStats] = {}

    def channel(self, cluster: str, channel: str) -> ChannelBalance:
        """Give the books of one channel; made on first use. What has no channel is kept under `""`."""
        key = (cluster, channel)
        found = self.channels.get(key)
        if found is None:
            found = self.channels[key] = ChannelBalance()
        return found

    def sink(self, name: str) -> SinkStats:
        """Give the books of one sink; made on first use."""
        return self.sinks.setdefault(name, SinkStats(name))

    def differences(self, sink: str) -> dict[tuple[str, str], int]:
        """Give, per (cluster, channel), what is received but accounted for nowhere; empty when the books balance.

        Records that the sink still holds count as unaccounted, so ask when it has been drained.
        """
        books = self.sink(sink)
        found: dict[tuple[str, str], int] = {}
        for key, channel in list(self.channels.items()):
            known = channel.filtered + channel.sampled_out + channel.rejected
            rest = channel.received - known - books.recorded[key] - books.dropped[key]
            if rest:
                found[key] = rest
        return found

    def totals(self, sink: str) -> dict[str, int]:
        """Give the sums over all channels under the names of the identity."""
        books = self.sink(sink)
        channels = list(self.channels.values())
        return {
            "received": sum(c.received for c in channels),
            "recorded": sum(books.recorded.values()),
            "filtered": sum(c.filtered for c in channels),
            "sampled_out": sum(c.sampled_out for c in channels),
            "rejected": sum(c.rejected for c in channels),
            "dropped": sum(books.dropped.values()),
        }
