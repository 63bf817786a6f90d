"""Every variable, in the section of the part that uses it: a new one is one field here, and nothing else.

The docstring of a field is what `.env.example` and docs/settings.md say of its variable.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from recorder import addresses
from recorder.log_events import TARGETS
from recorder.settings import keys, values
from recorder.settings.kinds import (
    ANY_CASE,
    DAY_SECS,
    SIZE,
    WHOLE_DURATION,
    Backoff,
    Batches,
    Count,
    Many,
    Millis,
    PositiveMillis,
    Seconds,
    Size,
    Timeout,
    WholeSeconds,
)
from recorder.settings.option import Section, option, same_as
from recorder.settings.values import Port

GROUPS: Final = ("Source", "Consumers", "Servers", "Operation")
"""The chapters of the docs."""
ROLES: Final = ("archive", "firehose", "filtered", "bars", "ops")
STDOUT: Final = "stdout"
"""The destination, and the sink, that is standard output."""
KIB: Final = 2**10
MIB: Final = 2**20
GIB: Final = 2**30
_YEAR_SECS: Final = 365 * DAY_SECS
MAX_BYTES_MIN: Final = 4 * KIB
"""A file holds some records at least: each rotation costs several fsyncs and a line of the manifest."""
_BUFFER_BYTES: Final = 256 * MIB
_DATA_TIMEOUT_SECS: Final = 120.0


class DemandSettings(Section, group="Source"):
    """Topics that are subscribed upstream for as long as clients want them."""

    enabled: bool = option("SUBSCRIBE_ON_DEMAND", False)
    """Also subscribe upstream to what clients of the filtered and bars servers ask for."""
    release_delay_secs: Seconds = option("UNSUBSCRIBE_DELAY_SECS", 30.0)
    """How long a topic that was subscribed on demand is kept after its last client has left."""


class ConnectionSettings(Section, group="Source"):
    """What all upstream connections have in common."""

    backoff_initial_secs: Backoff = option("BACKOFF_INITIAL_SECS", 1.0)
    """Upper bound of the first wait before reconnecting. It doubles with each failure, with full jitter."""
    backoff_max_secs: Backoff = option("BACKOFF_MAX_SECS", 60.0)
    """Where the doubling stops; not below `BACKOFF_INITIAL_SECS`."""
    read_timeout_secs: Timeout = option("READ_TIMEOUT_SECS", 60.0)
    """Reconnect when no byte has arrived for this time."""
    data_timeout_secs: Seconds = option("DATA_TIMEOUT_SECS", _DATA_TIMEOUT_SECS)
    """Not ready, and reconnect, when the market is open and no data has arrived for this time, even if pongs do. Needs
    known hours (`SESSION_CALENDAR`) and a whole busy channel such as `T.*`; 0 disables."""
    heartbeat_interval_secs: Seconds = option("HEARTBEAT_INTERVAL_SECS", 30.0)
    """Time between WebSocket pings upstream; 0 disables. Below `READ_TIMEOUT_SECS`; if not set, at most half of it."""
    channel_cap: Count = option("CHANNEL_CAP", 1024)
    """Frames collected from one read before they must be passed on."""
    allow_shifted: bool = option("ALLOW_SHIFTED", False)
    """Follow a replay whose events have other times than those at which they happened (`recorder replay --shift now`), and
    tell the own clients that this may be so. Without it, such a replay ends the start."""
    silence_max_ms: Millis = same_as("BAR_SILENCE_MAX_MS", 10_000)
    """How long time stands still where nobody answers a ping."""


class UpstreamSettings(ConnectionSettings):
    """One upstream connection."""

    cluster: str
    url: str
    """Complete, the cluster's path included."""
    api_key: str = Field(repr=False)
    """At a firehose, the token there."""
    topics: tuple[str, ...]
    """As they are sent; `*` alone at a firehose."""
    amend: bool = False
    """Whether the source is another recorder's bars server, which is asked for amended bars."""
    firehose: bool = False
    """Whether the source is another recorder, which sends every frame it has to a client that subscribes to `*`."""


class MarketHoursSettings(Section, group="Source"):
    """Whether the hours of the markets are known, and what they are for."""

    calendar: Annotated[Literal["auto", "on", "off"], ANY_CASE] = option("SESSION_CALENDAR", "auto")
    """Whether the hours of each cluster's market distinguish good silence from bad: `on` needs the extra `calendar`,
    `auto` uses it where it is installed, `off` knows no hours."""
    data_timeout_secs: Seconds = same_as("DATA_TIMEOUT_SECS", _DATA_TIMEOUT_SECS)


class RecordSettings(Section, group="Consumers"):
    """Which events become records."""

    include: values.Patterns = option("NDJSON_INCLUDE", (), default_text="every event")
    """Only these events go to the sinks. `*` ends a prefix; before the colon stands the whole type."""
    sample_quotes: Many = option("NDJSON_SAMPLE_QUOTES", 1)
    """Keep 1 in N quotes, beginning with the first: of each symbol, unless `NDJSON_SAMPLE_BY` says otherwise."""
    sample_by: Annotated[Literal["symbol", "all"], ANY_CASE] = option("NDJSON_SAMPLE_BY", "symbol")
    """What `NDJSON_SAMPLE_QUOTES` counts: the quotes of each symbol, so that a quiet one is not lost and a wide market
    keeps more than 1 in N; or `all` quotes together, so that exactly 1 in N is kept."""

    @property
    def samples_by_symbol(self) -> bool:
        """Whether the quotes of each symbol are counted for themselves."""
        return self.sample_by == "symbol"


class ArchiveSettings(Section, group="Consumers"):
    """The files of the archive. A limit that is None does not exist."""

    dest: values.Destination = option("NDJSON_DEST", STDOUT)
    """`stdout`, or a file whose missing folders are made; `~`, `{cluster}` and `{type}` in the path are filled in."""
    max_bytes: Size | None = option("NDJSON_MAX_BYTES", None, ge=MAX_BYTES_MIN)
    """Rotate at this size. What is in the file already counts."""
    rotate_secs: WholeSeconds | None = option("NDJSON_ROTATE_SECS", None, le=_YEAR_SECS)
    """Rotate at multiples of this, aligned to UTC (`1h`: on the hour), also without traffic."""
    # Part of `compression` already: `relations.implications`.
    gzip: bool = option("NDJSON_GZIP", False)
    """Compress rotated files with gzip: short for `NDJSON_COMPRESSION=gzip`."""
    compression: Annotated[Literal["none", "gzip", "zstd"], ANY_CASE] = option("NDJSON_COMPRESSION", "none")
    """How rotated files are compressed."""
    split_per_type: bool = option("NDJSON_SPLIT_PER_TYPE", False)
    """A file for each type: `polygon.ndjson` becomes `polygon.trades.ndjson`, `polygon.quotes.ndjson`, …."""
    flush_every: Many = option("NDJSON_FLUSH_EVERY", 100)
    """Flush to the operating system every N records."""
    flush_interval_ms: PositiveMillis = option("NDJSON_FLUSH_INTERVAL_MS", 1000)
    """Flush after this time at the latest, also without traffic."""
    fsync: Annotated[Literal["never", "rotate", "flush"], ANY_CASE] = option("NDJSON_FSYNC", "rotate")
    """When the disk must hold it: on rotation, reopening and closing, or at every flush."""
    channel_cap: Batches | None = option("NDJSON_CHANNEL_CAP", None)
    """Older limit of what may wait for the disk, in blocks of up to `1MiB` into which batches are merged. The limit that
    counts is `NDJSON_BUFFER_BYTES`."""
    buffer_bytes: Size = option("NDJSON_BUFFER_BYTES", _BUFFER_BYTES)
    """Bytes that may wait for the disk. Past this limit the newest batch is dropped and counted. The sinks `stdout`
    and `zmq` have it too, each for itself."""
    warn_interval_secs: Seconds = option("NDJSON_WARN_INTERVAL_SECS", 5.0)
    """Minimum time between warnings about drops or a failing disk."""
    no_reopen: bool = option("NDJSON_NO_REOPEN", False)
    """Leave the files open on SIGHUP. A file that was moved or deleted gets a successor in any case."""
    retain_bytes: Size | None = option("NDJSON_RETAIN_BYTES", None)
    """Delete the oldest rotated files while all together are larger than this."""
    retain_secs: WholeSeconds | None = option("NDJSON_RETAIN_SECS", None, le=100 * _YEAR_SECS)
    """Delete rotated files that are older than this."""
    upload_url: values.ObjectStoreUrl | None = option("ARCHIVE_UPLOAD_URL", None)
    """Upload sealed files to a bucket, each in its final form, and delete no local file before the bucket has it
    ([object-store.md](object-store.md)). Credentials come from the environment or the machine's role."""
    upload_bytes_per_sec: Size | None = option("ARCHIVE_UPLOAD_BYTES_PER_SEC", None, ge=KIB)
    """Upload at no more than this rate."""
    pressure: Annotated[Literal["stop", "sample"], ANY_CASE] = option("NDJSON_PRESSURE", "stop")
    """What is given up as the disk fills, once warning, compressing and retention have not helped: `stop` pauses
    recording, `sample` gives up quotes first."""
    min_free_bytes: Annotated[int | None, SIZE] = option(
        "NDJSON_MIN_FREE_BYTES", None, default_text="a twentieth of the file system, `1GiB` at most", ge=0
    )
    """Free space on the archive's disk below which recording pauses. The steps before that begin at four times as much.
    0: no steps, and records wait in memory once the disk is full."""

    @property
    def reopen(self) -> bool:
        """Whether SIGHUP opens the files again."""
        return not self.no_reopen

    @property
    def to_stdout(self) -> bool:
        """Whether records go to stdout instead of files."""
        return self.dest == STDOUT


class ZmqSettings(Section, group="Consumers"):
    """The ZeroMQ publisher."""

    endpoint: values.ZmqEndpoint = option("ZMQ_ENDPOINT", "tcp://127.0.0.1:5556")
    """Where the ZeroMQ publisher connects, or binds."""
    bind: bool = option("ZMQ_BIND", False)
    """Bind `ZMQ_ENDPOINT`, so that subscribers connect; otherwise they must bind."""
    channel_cap: Batches | None = option("ZMQ_CHANNEL_CAP", None)
    """Older limit of what may wait for the ZeroMQ socket, as `NDJSON_CHANNEL_CAP`."""
    snd_hwm: Many | None = option(
        "ZMQ_SND_HWM", None, default_text="100000; ZeroMQ's own 1000 is less than a burst"
    )
    """Messages that may wait for one subscriber (SNDHWM)."""
    warn_interval_secs: Seconds = option("ZMQ_WARN_INTERVAL_SECS", 5.0)
    """Minimum time between warnings about drops or missing subscribers."""
    topic_prefix: values.Prefix = option("ZMQ_TOPIC_PREFIX", "", default_text="empty")
    """What the topic frame begins with, as `md.` in `md.T:AAPL`."""
    buffer_bytes: Size = same_as("NDJSON_BUFFER_BYTES", _BUFFER_BYTES)
    """Bytes waiting for the socket."""


class ClientLimits(Section, group="Servers"):
    """What one client of a server, and all of them together, may ask of it."""

    clients_max: Count = option("CLIENTS_MAX", 10_000)
    """Clients of each server; one more is refused with close code 1013."""
    clients_per_token_max: Count | None = option("CLIENTS_PER_TOKEN_MAX", None)
    """Clients of each server that use the same token; one more is refused with close code 1008."""
    pending_bytes_max: Size = option("CLIENT_PENDING_BYTES_MAX", 16 * MIB, ge=MIB)
    """A client that leaves more unread is closed with 1008 `slow consumer`, unless it has chosen to miss events then
    ([delivery.md](delivery.md))."""
    message_bytes_max: Size = option("CLIENT_MESSAGE_BYTES_MAX", 64 * KIB, ge=KIB)
    """Size of a client's message; a larger one closes with 1009."""
    subscriptions_max: Count = option("CLIENT_SUBSCRIPTIONS_MAX", 10_000)
    """Topics that a client may hold."""
    requests_per_sec_max: Count = option("CLIENT_REQUESTS_PER_SEC_MAX", 50)
    """Messages that a client may send; each counts once more for every KiB. The messages of 20 s may come at once. A
    client that sends more is closed with 1008."""
    auth_timeout_secs: Timeout = option("CLIENT_AUTH_TIMEOUT_SECS", 10.0)
    """A client that has not authenticated within this time is closed with 1008."""
    ping_interval_secs: Timeout = option("CLIENT_PING_INTERVAL_SECS", 20.0)
    """Time between WebSocket pings to clients. A client that misses two pings is disconnected. Proxies cut silent
    connections, often after 60 s."""


class AccessLogSettings(Section, group="Servers"):
    """The log of who received what. A limit that is None does not exist."""

    dest: values.AccessLogFile | None = option("ACCESS_LOG_DEST", None)
    """File that says who received what: a JSON line for each client when it joins, each interval and when it leaves;
    [access-log.md](access-log.md) describes it. Unset: no such log."""
    interval_secs: Timeout = option("ACCESS_LOG_INTERVAL_SECS", 60.0)
    """Time between the lines of a client, which is what a kill of the recorder loses."""
    rotate_secs: Annotated[int, WHOLE_DURATION, Field(ge=0, le=_YEAR_SECS)] = option(
        "ACCESS_LOG_ROTATE_SECS", DAY_SECS
    )
    """Begin a new file at multiples of this, aligned to UTC; 0: never, as where logrotate does it."""
    max_bytes: Size | None = option("ACCESS_LOG_MAX_BYTES", None, ge=MAX_BYTES_MIN)
    """Begin a new file at this size, too."""
    compression: Annotated[Literal["none", "gzip", "zstd"], ANY_CASE] = option(
        "ACCESS_LOG_COMPRESSION", "gzip"
    )
    """How rotated files of this log are compressed."""
    retain_secs: WholeSeconds | None = option("ACCESS_LOG_RETAIN_SECS", None, le=100 * _YEAR_SECS)
    """Delete rotated files of this log that are older than this. Unset: they are kept."""
    retain_bytes: Size | None = option("ACCESS_LOG_RETAIN_BYTES", None)
    """Delete the oldest rotated files of this log while all together are larger than this."""


class ServersSettings(Section, group="Servers"):
    """The servers that clients connect to. A port is None where the server's role is left out, 0 for any free one."""

    host: values.Host = option("BIND_HOST", "127.0.0.1")
    """Address on which the three servers listen. Other than loopback needs `AUTH_TOKENS` or `AUTH_TOKENS_FILE`."""
    firehose_port: Port | None = option("FIREHOSE_PORT", 8767)
    """Port of the firehose: every frame, as it came."""
    older_firehose_port: Port | None = option("PROXY_PORT", None)
    """Older name of `FIREHOSE_PORT`."""
    filtered_port: Port | None = option("FILTERED_PROXY_PORT", 8765)
    """Port of the filtered server: each client gets the topics it asks for."""
    bars_port: Port | None = option("AGGREGATOR_PORT", 8768)
    """Port of the bars server: millisecond bars."""
    older_bars_port: Port | None = option("MS_AGGREGATOR_PORT", None)
    """Older name of `AGGREGATOR_PORT`."""
    # Entries as they were given. None here and no file: the key of the exchange is the token.
    tokens: keys.TokenList = option(
        "AUTH_TOKENS", (), default_text="`POLYGON_API_KEY` is the token", secret=True
    )
    """Tokens that clients may use. Logs and limits go by the name. Of a token with `sha256:` only its hash is known
    here."""
    tokens_file: values.File | None = option("AUTH_TOKENS_FILE", None)
    """File with more tokens, one a line; empty lines and lines that begin with `#` do not count."""
    tls_cert_file: values.File | None = option("TLS_CERT_FILE", None)
    """Certificate chain (PEM). With it the servers speak `wss://` and `https://`."""
    tls_key_file: values.File | None = option("TLS_KEY_FILE", None)
    """Private key of the certificate (PEM), not encrypted."""
    limits: ClientLimits = Field(default_factory=ClientLimits)
    resume_bytes: Annotated[int, SIZE] = option("RESUME_BUFFER_BYTES", 16 * MIB, ge=0, le=64 * GIB)
    """Memory for what was received last, from which clients that were cut resume; what is older is read from the archive.
    0 keeps nothing. With `SERVE_WORKERS`, each worker has as much. In a flood that would fill it within 0.25 s, 512 KiB
    are kept. Bars of the past are made of it, too."""
    older_resume_bytes: Size | None = option("REPLAY_BUFFER_BYTES", None)
    """Older name of `RESUME_BUFFER_BYTES`, of when bars had a memory of their own."""
    snapshot_values_max: int = option("SNAPSHOT_VALUES_MAX", 500_000, ge=0, le=50_000_000)
    """Last trades, quotes and aggregates that are kept of each cluster for clients that ask for `snapshot`, once one has
    asked: some 400 bytes each; 0: no snapshots. With `SERVE_WORKERS`, each worker has as many."""
    snapshot_from_start: bool = option("SNAPSHOT_FROM_START", False)
    """Keep them from the start, so that the first snapshot has every symbol, and not only what `RESUME_BUFFER_BYTES`
    still holds. An event costs more in a flood."""
    access_log: AccessLogSettings = Field(default_factory=AccessLogSettings)
    allow_shifted: bool = same_as("ALLOW_SHIFTED", False)
    """Whether clients are told that events may not have happened when they say."""
    compression: bool = option("WS_COMPRESSION", False)
    """Offer permessage-deflate to clients: less network for much more CPU."""
    # As browsers send them; none: no page of another origin.
    allowed_origins: values.Origins = option("ALLOWED_ORIGINS", ())
    """Browser pages that may connect, besides those of the server itself; `null` is what pages from files send."""
    # In lower case, without port; none: the server's own addresses.
    allowed_hosts: values.Hosts = option("ALLOWED_HOSTS", (), default_text="the servers' own addresses")
    """Names under which clients may reach the servers (the `Host` header): guards against DNS rebinding."""
    default_cluster: str = ""
    """The cluster that is followed because nobody has chosen one; empty where somebody has."""

    @property
    def enabled(self) -> bool:
        """Whether any of them runs."""
        return any(port is not None for port in (self.firehose_port, self.filtered_port, self.bars_port))


class WorkerSettings(Section, group="Servers"):
    """Processes that serve in place of the recording one."""

    count: int = option("SERVE_WORKERS", 0, ge=0, le=64)
    """Further processes that serve the three ports, so that serving uses other cores than recording; 0: the recording
    process serves."""
    pending_bytes_max: Size = option("SERVE_WORKER_PENDING_BYTES_MAX", 64 * MIB, ge=MIB)
    """A worker that is further behind the recording process is restarted; its clients connect again."""


class BarSettings(Section, group="Servers"):
    """Millisecond bars: which trades count, which lengths exist, and what is kept of them."""

    aggregator_url: Annotated[str | None, values.websocket_url("ws://127.0.0.1:8768")] = option(
        "MS_AGGREGATOR_URL", None, group="Source"
    )
    """Another recorder's bars server: bars come from there instead of being made here; `POLYGON_API_KEY` is the token
    there too."""
    conditions: Annotated[Literal["vendor", "all"], ANY_CASE] = option("BAR_CONDITIONS", "vendor")
    """Which trades count in bars: as the exchange's condition rules say, or all."""
    min_interval_ms: PositiveMillis = option("MIN_INTERVAL_MS", 1)
    """Shortest bar that clients may ask for."""
    max_interval_ms: PositiveMillis = option("MAX_INTERVAL_MS", 60_000)
    """Longest bar that clients may ask for."""
    delay_ms: Millis = option("BAR_DELAY_MS", 20)
    """How long the window of a bar stays open for late trades after its end, in event time."""
    silence_max_ms: Millis = option("BAR_SILENCE_MAX_MS", 10_000)
    """How long a window that time alone can close waits for a pong. The pong proves that no trade is on its way."""
    timer_interval_ms: PositiveMillis = option("TIMER_INTERVAL_MS", 10, le=60_000)
    """Time between checks of the windows when no trades come."""
    past_max_secs: Seconds = option("BAR_PAST_MAX_SECS", 86_400.0)
    """How far back bars are made of the archive, for clients that missed them; what `RESUME_BUFFER_BYTES` keeps is always
    there."""
    older_past_max_secs: Seconds | None = option("REPLAY_BUFFER_SECS", None)
    """Older name of `BAR_PAST_MAX_SECS`."""
    amend_secs: Seconds = option("BAR_AMEND_SECS", 60.0)
    """How long after its end, in event time, late trades can change a bar for clients that asked for `amend`; 0:
    never."""
    amend_bytes: Size = option("BAR_AMEND_BYTES", 64 * MIB)
    """Memory for the bars that can still change. Past either limit, late trades are too late for the oldest."""


class OpsSettings(Section, group="Operation"):
    """The ops server, and when `/ready` says so."""

    address: values.Address = option("METRICS_ADDR", "127.0.0.1:9898")
    """Address of the live page, `/metrics`, `/health`, `/ready` and `/status`; port 0: any free one; empty: no server.
    Other than loopback needs `AUTH_TOKENS` or `AUTH_TOKENS_FILE`, and all but `/health` and `/ready` a token."""
    page_recorders: values.HttpUrls = option("PAGE_RECORDERS", ())
    """Further recorders that the live page shows, a line each: where their ops servers are, as `http://10.0.0.5:9898`. Those
    of other machines are asked with the first plain token of `AUTH_TOKENS`. All may have the same list."""
    ready_min_messages: int = option("READY_MIN_MESSAGES", 1, group="Source", ge=0, le=1_000_000_000)
    """Data frames since the subscription was acknowledged before `/ready` is READY."""
    ready_delay_ms: Millis = option("READY_DELAY_MS", 0, group="Source")
    """Time since the subscription was acknowledged before `/ready` is READY."""

    @property
    def host(self) -> str:
        """The address to listen on, without brackets."""
        return addresses.split(self.address)[0]

    @property
    def port(self) -> int:
        """The port to listen on; 0: any free one."""
        return addresses.split(self.address)[1]


class LogSettings(Section, group="Operation"):
    """What is logged, and how."""

    levels: values.Levels = option(
        "LOG_LEVEL",
        {"": "info"},
        meaning=f"Level of the log, and of its targets {', '.join(f'`{target}`' for target in TARGETS)}. "
        "`trace` is `debug`; `off` is `critical`, which leaves the line that says why the recorder ends.",
    )
    """Target to level; `""` is the rest."""
    format: Annotated[Literal["auto", "json", "console"], ANY_CASE] = option("LOG_FORMAT", "auto")
    """Form of the log on stderr; `auto` is `console` on a terminal, else `json`."""
