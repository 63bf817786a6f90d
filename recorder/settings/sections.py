"""Every variable, in the section of the part that uses it: a new one is one field here, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal

from recorder import addresses
from recorder.bars.conditions import MODES
from recorder.log import FORMATS, TARGETS
from recorder.settings import keys, kinds, values
from recorder.settings.option import option, same_as

GROUPS: Final = ("Source", "Consumers", "Servers", "Operation")
"""The chapters of the docs."""
ROLES: Final = ("archive", "firehose", "filtered", "bars", "ops")
STDOUT: Final = "stdout"
"""The destination, and the sink, that is standard output."""
KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30
_DAY_SECS: Final = 86_400
_DAY_MS: Final = 1000 * _DAY_SECS
_YEAR_SECS: Final = 365 * _DAY_SECS
MAX_BYTES_MIN: Final = 4 * KIB
"""A file holds some records at least: each rotation costs several fsyncs and a line of the manifest."""
_BUFFER_BYTES: Final = 256 * MIB
_DATA_TIMEOUT_SECS: Final = 120.0


@dataclass(frozen=True, slots=True)
class DemandSettings:
    """Topics that are subscribed upstream for as long as clients want them."""

    group: ClassVar[str] = "Source"

    enabled: bool = option(
        "SUBSCRIBE_ON_DEMAND",
        kinds.flag(),
        False,
        "Also subscribe upstream to what clients of the filtered and bars servers ask for.",
    )
    release_delay_secs: float = option(
        "UNSUBSCRIBE_DELAY_SECS",
        kinds.seconds(0, _DAY_SECS),
        30.0,
        "How long a topic that was subscribed on demand is kept after its last client has left.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """What all upstream connections have in common."""

    group: ClassVar[str] = "Source"

    backoff_initial_secs: float = option(
        "BACKOFF_INITIAL_SECS",
        kinds.seconds(0.001, _DAY_SECS),
        1.0,
        "Upper bound of the first wait before reconnecting. It doubles with each failure, with full jitter.",
    )
    backoff_max_secs: float = option(
        "BACKOFF_MAX_SECS",
        kinds.seconds(0.001, _DAY_SECS),
        60.0,
        "Where the doubling stops; not below `BACKOFF_INITIAL_SECS`.",
    )
    read_timeout_secs: float = option(
        "READ_TIMEOUT_SECS",
        kinds.seconds(0.01, _DAY_SECS),
        60.0,
        "Reconnect when no byte has arrived for this time.",
    )
    data_timeout_secs: float = option(
        "DATA_TIMEOUT_SECS",
        kinds.seconds(0, _DAY_SECS),
        _DATA_TIMEOUT_SECS,
        "Not ready, and reconnect, when the market is open and no data has arrived for this time, even if pongs do. "
        "Needs known hours (`SESSION_CALENDAR`) and a whole busy channel such as `T.*`; 0 disables.",
    )
    heartbeat_interval_secs: float = option(
        "HEARTBEAT_INTERVAL_SECS",
        kinds.seconds(0, _DAY_SECS),
        30.0,
        "Time between WebSocket pings upstream; 0 disables. Below `READ_TIMEOUT_SECS`; if not set, at most half of it.",
    )
    channel_cap: int = option(
        "CHANNEL_CAP",
        kinds.whole(1, 1_000_000),
        1024,
        "Frames collected from one read before they must be passed on.",
    )
    silence_max_ms: int = same_as("BAR_SILENCE_MAX_MS", 10_000)
    """How long time stands still where nobody answers a ping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings(ConnectionSettings):
    """One upstream connection."""

    cluster: str
    url: str
    """Complete, the cluster's path included."""
    api_key: str = field(repr=False)
    """At a firehose, the token there."""
    topics: tuple[str, ...]
    """As they are sent; `*` alone at a firehose."""
    amend: bool = False
    """Whether the source is another recorder's bars server, which is asked for amended bars."""
    firehose: bool = False
    """Whether another recorder is the source, which sends every frame it has to who subscribes to `*`."""


@dataclass(frozen=True, slots=True)
class MarketHoursSettings:
    """Whether the hours of the markets are known, and what they are for."""

    group: ClassVar[str] = "Source"

    calendar: Literal["auto", "on", "off"] = option(
        "SESSION_CALENDAR",
        kinds.choice("auto", "on", "off"),
        "auto",
        "Whether the hours of each cluster's market distinguish good silence from bad: `on` needs the extra "
        "`calendar`, `auto` uses it where it is installed, `off` knows no hours.",
    )
    data_timeout_secs: float = same_as("DATA_TIMEOUT_SECS", _DATA_TIMEOUT_SECS)


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """Which events become records."""

    group: ClassVar[str] = "Consumers"

    include: tuple[str, ...] = option(
        "NDJSON_INCLUDE",
        values.patterns(),
        (),
        "Only these events go to the sinks. `*` ends a prefix; before the colon stands the whole type.",
        default_text="every event",
    )
    sample_quotes: int = option(
        "NDJSON_SAMPLE_QUOTES",
        kinds.whole(1, 1_000_000_000),
        1,
        "Keep 1 in N quotes of each symbol, beginning with the first.",
    )


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """The files of the archive. A limit that is None does not exist."""

    group: ClassVar[str] = "Consumers"

    dest: str = option(
        "NDJSON_DEST",
        values.destination(),
        STDOUT,
        "`stdout`, or a file whose missing folders are made; `~`, `{cluster}` and `{type}` in the path are filled in.",
    )
    max_bytes: int | None = option(
        "NDJSON_MAX_BYTES",
        kinds.size(MAX_BYTES_MIN),
        None,
        "Rotate at this size. What is in the file already counts.",
    )
    rotate_secs: int | None = option(
        "NDJSON_ROTATE_SECS",
        kinds.whole(1, _YEAR_SECS),
        None,
        "Rotate at multiples of this, aligned to UTC (3600: on the hour), also without traffic.",
    )
    gzip: bool = option(
        "NDJSON_GZIP",
        kinds.flag(),
        False,
        "Compress rotated files with gzip: short for `NDJSON_COMPRESSION=gzip`.",
    )
    """Already part of `compression`."""
    compression: Literal["none", "gzip", "zstd"] = option(
        "NDJSON_COMPRESSION",
        kinds.choice("none", "gzip", "zstd"),
        "none",
        "How rotated files are compressed.",
    )
    split_per_type: bool = option(
        "NDJSON_SPLIT_PER_TYPE",
        kinds.flag(),
        False,
        "A file for each type: `polygon.ndjson` becomes `polygon.trades.ndjson`, `polygon.quotes.ndjson`, ….",
    )
    flush_every: int = option(
        "NDJSON_FLUSH_EVERY",
        kinds.whole(1, 1_000_000_000),
        100,
        "Flush to the operating system every N records.",
    )
    flush_interval_ms: int = option(
        "NDJSON_FLUSH_INTERVAL_MS",
        kinds.whole(1, _DAY_MS),
        1000,
        "Flush after this time at the latest, also without traffic.",
    )
    fsync: Literal["never", "rotate", "flush"] = option(
        "NDJSON_FSYNC",
        kinds.choice("never", "rotate", "flush"),
        "rotate",
        "When the disk must hold it: on rotation, reopening and closing, or at every flush.",
    )
    channel_cap: int = option(
        "NDJSON_CHANNEL_CAP", kinds.whole(1, 10_000_000), 2048, "Batches that may wait for the disk."
    )
    buffer_bytes: int = option(
        "NDJSON_BUFFER_BYTES",
        kinds.size(),
        _BUFFER_BYTES,
        "Bytes that may wait for the disk. Past either limit the newest batch is dropped and counted. The sinks "
        "`stdout` and `zmq` have this limit too, each for itself.",
    )
    warn_interval_secs: float = option(
        "NDJSON_WARN_INTERVAL_SECS",
        kinds.seconds(0, _DAY_SECS),
        5.0,
        "Minimum time between warnings about drops or a failing disk.",
    )
    no_reopen: bool = option(
        "NDJSON_NO_REOPEN",
        kinds.flag(),
        False,
        "Ignore SIGHUP instead of reopening the files. A file that was moved or deleted gets a successor in any case.",
    )
    retain_bytes: int | None = option(
        "NDJSON_RETAIN_BYTES",
        kinds.size(),
        None,
        "Delete the oldest rotated files while all together are larger than this.",
    )
    retain_secs: int | None = option(
        "NDJSON_RETAIN_SECS",
        kinds.whole(1, 100 * _YEAR_SECS),
        None,
        "Delete rotated files that are older than this.",
    )
    pressure: Literal["stop", "sample"] = option(
        "NDJSON_PRESSURE",
        kinds.choice("stop", "sample"),
        "stop",
        "What is given up as the disk fills, once warning, compressing and retention have not helped: `stop` pauses "
        "recording, `sample` gives up quotes first.",
    )
    min_free_bytes: int = option(
        "NDJSON_MIN_FREE_BYTES",
        kinds.size(0),
        GIB,
        "Free space on the archive's disk below which recording pauses. The steps before that begin at four times as "
        "much. 0: no steps, and records wait in memory once the disk is full.",
    )

    @property
    def reopen(self) -> bool:
        """Whether SIGHUP opens the files again."""
        return not self.no_reopen

    @property
    def to_stdout(self) -> bool:
        """Whether records go to stdout instead of files."""
        return self.dest == STDOUT


@dataclass(frozen=True, slots=True)
class ZmqSettings:
    """The ZeroMQ publisher."""

    group: ClassVar[str] = "Consumers"

    endpoint: str = option(
        "ZMQ_ENDPOINT",
        values.zmq_endpoint(),
        "tcp://127.0.0.1:5556",
        "Where the ZeroMQ publisher connects, or binds.",
    )
    bind: bool = option(
        "ZMQ_BIND",
        kinds.flag(),
        False,
        "Bind `ZMQ_ENDPOINT`, so that subscribers connect; otherwise they must bind.",
    )
    channel_cap: int = option(
        "ZMQ_CHANNEL_CAP", kinds.whole(1, 10_000_000), 4096, "Batches that may wait for the ZeroMQ socket."
    )
    snd_hwm: int | None = option(
        "ZMQ_SND_HWM",
        kinds.whole(1, 1_000_000_000),
        None,
        "Messages that may wait for one subscriber (SNDHWM).",
        default_text="100000; ZeroMQ's own 1000 is less than a burst",
    )
    warn_interval_secs: float = option(
        "ZMQ_WARN_INTERVAL_SECS",
        kinds.seconds(0, _DAY_SECS),
        5.0,
        "Minimum time between warnings about drops or missing subscribers.",
    )
    topic_prefix: str = option(
        "ZMQ_TOPIC_PREFIX",
        values.prefix(),
        "",
        "What the topic frame begins with, as `md.` in `md.T:AAPL`.",
        default_text="empty",
    )
    buffer_bytes: int = same_as("NDJSON_BUFFER_BYTES", _BUFFER_BYTES)
    """Bytes waiting for the socket."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """What one client of a server, and all of them together, may ask of it."""

    group: ClassVar[str] = "Servers"

    clients_max: int = option(
        "CLIENTS_MAX",
        kinds.whole(1, 1_000_000),
        10_000,
        "Clients of each server; one more is refused with close code 1013.",
    )
    clients_per_token_max: int | None = option(
        "CLIENTS_PER_TOKEN_MAX",
        kinds.whole(1, 1_000_000),
        None,
        "Clients of each server that use the same token; one more is refused with close code 1008.",
    )
    pending_bytes_max: int = option(
        "CLIENT_PENDING_BYTES_MAX",
        kinds.size(MIB),
        16 * MIB,
        "A client that leaves more unread is closed with 1008 `slow consumer`.",
    )
    message_bytes_max: int = option(
        "CLIENT_MESSAGE_BYTES_MAX",
        kinds.size(KIB),
        64 * KIB,
        "Size of a client's message; a larger one closes with 1009.",
    )
    subscriptions_max: int = option(
        "CLIENT_SUBSCRIPTIONS_MAX", kinds.whole(1, 1_000_000), 10_000, "Topics that a client may hold."
    )
    requests_per_sec_max: int = option(
        "CLIENT_REQUESTS_PER_SEC_MAX",
        kinds.whole(1, 1_000_000),
        50,
        "Messages that a client may send; each counts once more for every KiB. The messages of 20 s may come at once. "
        "A client that sends more is closed with 1008.",
    )
    auth_timeout_secs: float = option(
        "CLIENT_AUTH_TIMEOUT_SECS",
        kinds.seconds(0.01, _DAY_SECS),
        10.0,
        "A client that has not authenticated within this time is closed with 1008.",
    )
    ping_interval_secs: float = option(
        "CLIENT_PING_INTERVAL_SECS",
        kinds.seconds(0.01, _DAY_SECS),
        20.0,
        "Time between WebSocket pings to clients. A client that misses two pings is disconnected. Proxies cut silent "
        "connections, often after 60 s.",
    )


@dataclass(frozen=True, slots=True)
class ServersSettings:
    """The servers that clients connect to. A port is None where the server's role is left out, 0 for any free one."""

    group: ClassVar[str] = "Servers"

    host: str = option(
        "BIND_HOST",
        values.host(),
        "127.0.0.1",
        "Address on which the three servers listen. Other than loopback needs `AUTH_TOKENS` or `AUTH_TOKENS_FILE`.",
    )
    firehose_port: int | None = option(
        "FIREHOSE_PORT",
        values.port(),
        8767,
        "Port of the firehose: every frame, as it came.",
        older_name="PROXY_PORT",
    )
    filtered_port: int | None = option(
        "FILTERED_PROXY_PORT",
        values.port(),
        8765,
        "Port of the filtered server: each client gets the topics it asks for.",
    )
    bars_port: int | None = option(
        "AGGREGATOR_PORT",
        values.port(),
        8768,
        "Port of the bars server: millisecond bars.",
        older_name="MS_AGGREGATOR_PORT",
    )
    tokens: tuple[str, ...] = option(
        "AUTH_TOKENS",
        keys.tokens(),
        (),
        "Tokens that clients may use. Logs and limits go by the name. Of a token with `sha256:` only its hash is known "
        "here.",
        default_text="`POLYGON_API_KEY` is the token",
    )
    """Entries as they were given. None here and no file: the key of the exchange is the token."""
    tokens_file: str | None = option(
        "AUTH_TOKENS_FILE",
        values.path(),
        None,
        "File with more tokens, one a line; empty lines and lines that begin with `#` do not count.",
    )
    tls_cert_file: str | None = option(
        "TLS_CERT_FILE",
        values.path(),
        None,
        "Certificate chain (PEM). With it the servers speak `wss://` and `https://`.",
    )
    tls_key_file: str | None = option(
        "TLS_KEY_FILE", values.path(), None, "Private key of the certificate (PEM), not encrypted."
    )
    limits: ClientLimits = field(default_factory=ClientLimits)
    compression: bool = option(
        "WS_COMPRESSION",
        kinds.flag(),
        False,
        "Offer permessage-deflate to clients: less network for much more CPU.",
    )
    allowed_origins: tuple[str, ...] = option(
        "ALLOWED_ORIGINS",
        values.origins(),
        (),
        "Browser pages that may connect, besides those of the server itself; `null` is what pages from files send.",
    )
    """As browsers send them; none: no page of another origin."""
    allowed_hosts: tuple[str, ...] = option(
        "ALLOWED_HOSTS",
        values.hosts(),
        (),
        "Names under which clients may reach the servers (the `Host` header): guards against DNS rebinding.",
        default_text="the servers' own addresses",
    )
    """In lower case, without port; none: the server's own addresses."""

    @property
    def enabled(self) -> bool:
        """Whether any of them runs."""
        return any(port is not None for port in (self.firehose_port, self.filtered_port, self.bars_port))


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Processes that serve in place of the recording one."""

    group: ClassVar[str] = "Servers"

    count: int = option(
        "SERVE_WORKERS",
        kinds.whole(0, 64),
        0,
        "Further processes that serve the three ports, so that serving uses other cores than recording; 0: the "
        "recording process serves.",
    )
    pending_bytes_max: int = option(
        "SERVE_WORKER_PENDING_BYTES_MAX",
        kinds.size(MIB),
        64 * MIB,
        "A worker that is further behind the recording process is restarted; its clients connect again.",
    )


@dataclass(frozen=True, slots=True)
class BarSettings:
    """Millisecond bars: which trades count, which lengths exist, and what is kept of them."""

    group: ClassVar[str] = "Servers"

    aggregator_url: str | None = option(
        "MS_AGGREGATOR_URL",
        values.websocket_url("ws://127.0.0.1:8768"),
        None,
        "Another recorder's bars server: bars come from there instead of being made here; `POLYGON_API_KEY` is the "
        "token there too.",
        group="Source",
    )
    """Another recorder's bars server; None: bars are made here."""
    conditions: Literal["vendor", "all"] = option(
        "BAR_CONDITIONS",
        kinds.choice(*MODES),
        "vendor",
        "Which trades count in bars: as the exchange's condition rules say, or all.",
    )
    min_interval_ms: int = option(
        "MIN_INTERVAL_MS", kinds.whole(1, _DAY_MS), 1, "Shortest bar that clients may ask for."
    )
    max_interval_ms: int = option(
        "MAX_INTERVAL_MS", kinds.whole(1, _DAY_MS), 60_000, "Longest bar that clients may ask for."
    )
    delay_ms: int = option(
        "BAR_DELAY_MS",
        kinds.whole(0, _DAY_MS),
        20,
        "How long the window of a bar stays open for late trades after its end, in event time.",
    )
    silence_max_ms: int = option(
        "BAR_SILENCE_MAX_MS",
        kinds.whole(0, _DAY_MS),
        10_000,
        "How long a window that time alone can close waits for a pong. The pong proves that no trade is on its way.",
    )
    timer_interval_ms: int = option(
        "TIMER_INTERVAL_MS",
        kinds.whole(1, 60_000),
        10,
        "Time between checks of the windows when no trades come.",
    )
    replay_secs: float = option(
        "REPLAY_BUFFER_SECS",
        kinds.seconds(0, _DAY_SECS),
        60.0,
        "How long bars can be asked for with `since`; 0 keeps none.",
    )
    replay_bytes: int = option(
        "REPLAY_BUFFER_BYTES",
        kinds.size(),
        256 * MIB,
        "Memory for these bars. Past either limit the oldest are forgotten.",
    )
    amend_secs: float = option(
        "BAR_AMEND_SECS",
        kinds.seconds(0, _DAY_SECS),
        60.0,
        "How long after its end, in event time, late trades can change a bar for clients that asked for `amend`; 0: "
        "never.",
    )
    amend_bytes: int = option(
        "BAR_AMEND_BYTES",
        kinds.size(),
        64 * MIB,
        "Memory for the bars that can still change. Past either limit, late trades are too late for the oldest.",
    )


@dataclass(frozen=True, slots=True)
class OpsSettings:
    """The ops server, and when `/ready` says so."""

    group: ClassVar[str] = "Operation"

    address: str = option(
        "METRICS_ADDR",
        values.address(),
        "127.0.0.1:9898",
        "Address of the live page, `/metrics`, `/health`, `/ready` and `/status`; port 0: any free one; empty: no server. "
        "Other than loopback needs `AUTH_TOKENS` or `AUTH_TOKENS_FILE`, and all but `/health` and `/ready` a token.",
    )
    ready_min_messages: int = option(
        "READY_MIN_MESSAGES",
        kinds.whole(0, 1_000_000_000),
        1,
        "Data frames since the subscription was acknowledged before `/ready` is READY.",
        group="Source",
    )
    ready_delay_ms: int = option(
        "READY_DELAY_MS",
        kinds.whole(0, _DAY_MS),
        0,
        "Time since the subscription was acknowledged before `/ready` is READY.",
        group="Source",
    )

    @property
    def host(self) -> str:
        """The address to listen on, without brackets."""
        return addresses.split(self.address)[0]

    @property
    def port(self) -> int:
        """The port to listen on; 0: any free one."""
        return addresses.split(self.address)[1]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and how."""

    group: ClassVar[str] = "Operation"

    levels: Mapping[str, str] = option(
        "LOG_LEVEL",
        values.levels(),
        {"": "info"},
        f"Level of the log, and of its targets {', '.join(f'`{target}`' for target in TARGETS)}.",
    )
    """Target to level; `""` is the rest."""
    format: Literal["auto", "json", "console"] = option(
        "LOG_FORMAT",
        kinds.choice(*FORMATS),
        "auto",
        "Form of the log on stderr; `auto` is `console` on a terminal, else `json`.",
    )
