"""What each part takes from the settings: small frozen objects, complete and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One upstream connection."""

    cluster: str
    url: str
    """Complete, the cluster's path included."""
    api_key: str = field(repr=False)
    """At a firehose, the token there."""
    topics: tuple[str, ...]
    """As they are sent; `*` alone at a firehose."""
    backoff_initial_secs: float
    backoff_max_secs: float
    read_timeout_secs: float
    heartbeat_interval_secs: float
    """0: no pings."""
    channel_cap: int
    """Frames of one read."""
    data_timeout_secs: float = 0.0
    """How long nothing but pongs may come while the market is open; 0: for ever."""
    silence_max_ms: int = 10_000
    """How long time stands still where nobody answers a ping."""
    firehose: bool = False
    """Whether another recorder is the source, which sends every frame it has to who subscribes to `*`."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Whether the hours of the markets are known, and what they are for."""

    calendar: Literal["auto", "on", "off"]
    data_timeout_secs: float


@dataclass(frozen=True, slots=True)
class DemandSettings:
    """Topics that are subscribed upstream for as long as clients want them."""

    enabled: bool
    release_delay_secs: float
    """How long a topic is kept after the last client that wanted it."""


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """Which events become records."""

    include: tuple[str, ...]
    """Patterns; empty: every event."""
    sample_quotes: int


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """The files of the archive. A limit that is None does not exist."""

    dest: str
    max_bytes: int | None
    rotate_secs: int | None
    compression: Literal["none", "gzip", "zstd"]
    split_per_type: bool
    flush_every: int
    flush_interval_ms: int
    fsync: Literal["never", "rotate", "flush"]
    channel_cap: int
    """Batches waiting for the disk."""
    buffer_bytes: int
    warn_interval_secs: float
    reopen: bool
    """Whether SIGHUP opens the files again."""
    retain_bytes: int | None
    retain_secs: int | None
    pressure: Literal["stop", "sample"]
    """What is given up as the disk fills: recording, or quotes first."""
    min_free_bytes: int
    """What recording leaves free on the disk; 0: it fills it."""

    @property
    def to_stdout(self) -> bool:
        """Whether records go to stdout instead of files."""
        return self.dest == STDOUT


@dataclass(frozen=True, slots=True)
class ZmqSettings:
    """The ZeroMQ publisher."""

    endpoint: str
    bind: bool
    channel_cap: int
    """Batches waiting for the socket."""
    snd_hwm: int | None
    """Messages waiting for one subscriber; None: what suits bursts of market data."""
    warn_interval_secs: float
    topic_prefix: str
    buffer_bytes: int
    """Bytes waiting for the socket."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one client of a server, and all of them together, may ask of it."""

    clients_max: int
    clients_per_token_max: int | None
    pending_bytes_max: int
    message_bytes_max: int
    subscriptions_max: int
    requests_per_sec_max: int
    auth_timeout_secs: float
    ping_interval_secs: float


@dataclass(frozen=True, slots=True)
class ServersSettings:
    """The servers that clients connect to. A port is None where the server's role is left out, 0 for any free one."""

    host: str
    firehose_port: int | None
    filtered_port: int | None
    bars_port: int | None
    limits: ClientLimits
    compression: bool
    allowed_origins: tuple[str, ...]
    """As browsers send them; none: no page of another origin."""
    allowed_hosts: tuple[str, ...]
    """In lower case, without port; none: the server's own addresses."""
    tls_cert_file: str | None
    tls_key_file: str | None
    tokens: tuple[str, ...] = field(repr=False)
    """Entries as they were given. None here and no file: the key of the exchange is the token."""
    tokens_file: str | None

    @property
    def enabled(self) -> bool:
        """Whether any of them runs."""
        return any(port is not None for port in (self.firehose_port, self.filtered_port, self.bars_port))


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Processes that serve in place of the recording one."""

    count: int
    """0: the recording process serves."""
    pending_bytes_max: int
    """What a worker may leave unread."""


@dataclass(frozen=True, slots=True)
class BarSettings:
    """Millisecond bars: which trades count, which lengths exist, and what is kept of them."""

    conditions: Literal["vendor", "all"]
    min_interval_ms: int
    max_interval_ms: int
    delay_ms: int
    """How long a window that is over waits for late trades."""
    timer_interval_ms: int
    replay_secs: float
    replay_bytes: int
    aggregator_url: str | None
    """Another recorder's bars server; None: bars are made here."""


@dataclass(frozen=True, slots=True)
class OpsSettings:
    """The ops server, and when `/ready` says so."""

    host: str
    port: int
    """0: any free one."""
    ready_min_messages: int
    ready_delay_ms: int


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and how."""

    levels: Mapping[str, str]
    """Target to level; `""` is the rest."""
    format: Literal["auto", "json", "console"]


STDOUT = "stdout"
"""The destination, and the sink, that is standard output."""
