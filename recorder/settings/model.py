"""Every variable: its type, default, group and meaning. A new one is one field here, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal, cast
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from recorder.log import FORMATS, TARGETS
from recorder.polygon.clusters import CLUSTERS, is_cluster_path
from recorder.polygon.topics import WILDCARD
from recorder.settings import values
from recorder.settings.sections import (
    STDOUT,
    ArchiveSettings,
    BarSettings,
    ClientLimits,
    DemandSettings,
    LogSettings,
    OpsSettings,
    RecordSettings,
    ServersSettings,
    SessionSettings,
    UpstreamSettings,
    WorkerSettings,
    ZmqSettings,
)

GROUPS: Final = ("Source", "Consumers", "Servers", "Operation")
ROLES: Final = ("archive", "firehose", "filtered", "bars", "ops")
_DAY_SECS: Final = 86_400
_YEAR_SECS: Final = 365 * _DAY_SECS
_KIB: Final = 2**10
_MIB: Final = 2**20
_GIB: Final = 2**30
MAX_BYTES_MIN: Final = 4 * _KIB
"""A file holds some records at least: each rotation costs several fsyncs and a line of the manifest."""

OLDER_NAMES: Final = {"firehose_port": "proxy_port", "aggregator_port": "ms_aggregator_port"}
"""Fields that can be set under a second name; it counts where the field itself is not set."""


def _option(group: str, default: Any, meaning: str, *, default_text: str | None = None) -> Any:
    """Declare one variable; `default_text` says in the docs what a default of None comes to."""
    extra: dict[str, Any] = {"group": group, "default_text": default_text}
    return Field(default=default, description=meaning, json_schema_extra=extra)


_source = partial(_option, "Source")
_consumers = partial(_option, "Consumers")
_servers = partial(_option, "Servers")
_operation = partial(_option, "Operation")

_Topics = Annotated[tuple[str, ...] | None, values.topics()]


class Settings(BaseSettings):
    """The values of all variables, each field under its variable's name in lower case.

    `load_settings` makes it and is the only reader of the environment: it knows where each value came from
    and reports all that is wrong at once. Each part takes its own section of it.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    polygon_api_key: Annotated[SecretStr | None, values.secret()] = _source(
        None,
        "Key of the exchange, or the token of the recorder that `FIREHOSE_URL` names. Clients use it as their token "
        "while neither `AUTH_TOKENS` nor `AUTH_TOKENS_FILE` is set.",
        default_text="required to connect",
    )
    polygon_api_key_file: Annotated[str | None, values.path()] = _source(
        None, "File that holds the key instead, as systemd credentials do."
    )
    polygon_cluster: Annotated[tuple[str, ...], values.clusters()] = _source(
        ("futures",), "Clusters to record, one upstream connection each."
    )
    polygon_ws_url: Annotated[str, values.websocket_url("wss://socket.polygon.io")] = _source(
        "wss://socket.polygon.io",
        "Address of the exchange; the cluster is appended unless the path already names one, as in "
        "`wss://socket.polygon.io/futures/cme`.",
    )
    subscription: _Topics = _source(
        None,
        "Upstream topics of every cluster that has no list of its own.",
        default_text="`T.*`, or the cluster's own: crypto `XT.*`, forex `C.*`, indices `V.*`",
    )
    subscription_stocks: _Topics = _source(None, "Upstream topics of the cluster stocks.")
    subscription_options: _Topics = _source(None, "Upstream topics of the cluster options.")
    subscription_futures: _Topics = _source(None, "Upstream topics of the cluster futures.")
    subscription_crypto: _Topics = _source(None, "Upstream topics of the cluster crypto.")
    subscription_forex: _Topics = _source(None, "Upstream topics of the cluster forex.")
    subscription_indices: _Topics = _source(None, "Upstream topics of the cluster indices.")
    subscribe_data_types: Annotated[tuple[str, ...] | None, values.channels()] = _source(
        None, "Short for whole channels: `T,A,AM` means `T.*,A.*,AM.*`; not together with `SUBSCRIPTION`."
    )
    subscribe_on_demand: Annotated[bool, values.flag()] = _source(
        False, "Also subscribe upstream to what clients of the filtered and bars servers ask for."
    )
    unsubscribe_delay_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _source(
        30.0, "How long a topic subscribed on demand is kept after its last client has left."
    )
    firehose_url: Annotated[str | None, values.websocket_url("ws://127.0.0.1:8767")] = _source(
        None,
        "Another recorder's firehose: the source instead of the exchange, with all it sends. The cluster is appended "
        "as for `POLYGON_WS_URL`; `POLYGON_API_KEY` is still required, as the token there.",
    )
    ms_aggregator_url: Annotated[str | None, values.websocket_url("ws://127.0.0.1:8768")] = _source(
        None,
        "Another recorder's bars server: bars come from there instead of being made here; `POLYGON_API_KEY` is the "
        "token there too.",
    )
    backoff_initial_secs: Annotated[float, values.seconds(0.001, _DAY_SECS)] = _source(
        1.0,
        "Upper bound of the first wait before reconnecting; it doubles with each failure, with full jitter.",
    )
    backoff_max_secs: Annotated[float, values.seconds(0.001, _DAY_SECS)] = _source(
        60.0, "Where the doubling stops; not below `BACKOFF_INITIAL_SECS`."
    )
    read_timeout_secs: Annotated[float, values.seconds(0.01, _DAY_SECS)] = _source(
        60.0, "No byte received for so long: reconnect."
    )
    data_timeout_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _source(
        120.0,
        "No data for so long while the market is open, whatever pongs come: not ready, and reconnect. Only where hours are "
        "known (`SESSION_CALENDAR`) and a whole busy channel such as `T.*` is subscribed; 0 disables.",
    )
    session_calendar: Annotated[Literal["auto", "on", "off"], values.choice("auto", "on", "off")] = _source(
        "auto",
        "Whether the hours of each cluster's market tell good silence from bad: `on` needs the extra `calendar`, `auto` "
        "takes it where it is installed, `off` knows no hours.",
    )
    heartbeat_interval_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _source(
        30.0,
        "WebSocket ping upstream; 0 disables. Below `READ_TIMEOUT_SECS`; if not set, at most half of it.",
    )
    channel_cap: Annotated[int, values.whole(1, 1_000_000)] = _source(
        1024, "Frames collected from one read before they must be passed on."
    )
    ready_min_messages: Annotated[int, values.whole(0, 1_000_000_000)] = _source(
        1, "Data frames since the subscription was acknowledged before `/ready` is READY."
    )
    ready_delay_ms: Annotated[int, values.whole(0, 1000 * _DAY_SECS)] = _source(
        0, "Time since the subscription was acknowledged before `/ready` is READY."
    )

    roles: Annotated[tuple[str, ...], values.choices(ROLES)] = _consumers(
        ROLES,
        "Parts that run: `archive` stands for the sinks, `firehose`, `filtered` and `bars` for the servers that "
        "clients connect to, `ops` for the server of `METRICS_ADDR`.",
    )
    sink: Annotated[tuple[str, ...], values.choices((STDOUT, "ndjson", "zmq", "none"), alone="none")] = (
        _consumers(
            (STDOUT,),
            "Where events go: log lines on standard output, records in NDJSON files, records to ZeroMQ subscribers, "
            "or nowhere.",
        )
    )
    emit_ndjson: Annotated[bool, values.flag()] = _consumers(
        False, "Older switch: true means `SINK=ndjson` where `SINK` is not set."
    )
    ndjson_dest: Annotated[str, values.destination()] = _consumers(
        STDOUT,
        "`stdout`, or a file whose missing folders are made; `~`, `{cluster}` and `{type}` in the path are filled in.",
    )
    ndjson_max_bytes: Annotated[int | None, values.size(MAX_BYTES_MIN)] = _consumers(
        None, "Rotate at this size; what is in the file already counts."
    )
    ndjson_rotate_secs: Annotated[int | None, values.whole(1, _YEAR_SECS)] = _consumers(
        None, "Rotate at multiples of this, aligned to UTC (3600: on the hour), also without traffic."
    )
    ndjson_gzip: Annotated[bool, values.flag()] = _consumers(
        False, "Compress rotated files with gzip: short for `NDJSON_COMPRESSION=gzip`."
    )
    ndjson_compression: Annotated[Literal["none", "gzip", "zstd"], values.choice("none", "gzip", "zstd")] = (
        _consumers("none", "How rotated files are compressed.")
    )
    ndjson_split_per_type: Annotated[bool, values.flag()] = _consumers(
        False,
        "A file for each type: `polygon.ndjson` becomes `polygon.trades.ndjson`, `polygon.quotes.ndjson`, ….",
    )
    ndjson_include: Annotated[tuple[str, ...] | None, values.patterns()] = _consumers(
        None,
        "Only these events go to the sinks; `*` ends a prefix, before the colon stands the whole type.",
        default_text="every event",
    )
    ndjson_sample_quotes: Annotated[int, values.whole(1, 1_000_000_000)] = _consumers(
        1, "Keep 1 in so many quotes, counted for each symbol; the first one is kept."
    )
    ndjson_flush_every: Annotated[int, values.whole(1, 1_000_000_000)] = _consumers(
        100, "Hand to the operating system after so many records."
    )
    ndjson_flush_interval_ms: Annotated[int, values.whole(1, 1000 * _DAY_SECS)] = _consumers(
        1000, "Or after so long, whichever comes first, also without traffic."
    )
    ndjson_fsync: Annotated[
        Literal["never", "rotate", "flush"], values.choice("never", "rotate", "flush")
    ] = _consumers(
        "rotate", "When the disk must hold it: on rotation, reopening and closing, or at every flush."
    )
    ndjson_channel_cap: Annotated[int, values.whole(1, 10_000_000)] = _consumers(
        2048, "Batches that may wait for the disk."
    )
    ndjson_buffer_bytes: Annotated[int, values.size()] = _consumers(
        256 * _MIB,
        "Bytes that may wait for the disk; past either limit the newest batch is dropped and counted. The sinks "
        "`stdout` and `zmq` have this limit too, each for itself.",
    )
    ndjson_warn_interval_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _consumers(
        5.0, "At most one warning in so long about drops or a failing disk."
    )
    ndjson_no_reopen: Annotated[bool, values.flag()] = _consumers(
        False, "Do not reopen the files on SIGHUP; the signal is then ignored."
    )
    ndjson_retain_bytes: Annotated[int | None, values.size()] = _consumers(
        None, "Delete the oldest rotated files while all together are larger than this."
    )
    ndjson_retain_secs: Annotated[int | None, values.whole(1, 100 * _YEAR_SECS)] = _consumers(
        None, "Delete rotated files that are older than this."
    )
    ndjson_pressure: Annotated[Literal["stop", "sample"], values.choice("stop", "sample")] = _consumers(
        "stop",
        "What is given up as the disk fills, once warning, compressing and retention have not helped: `stop` pauses "
        "recording, `sample` gives up quotes first.",
    )
    ndjson_min_free_bytes: Annotated[int, values.size(0)] = _consumers(
        _GIB,
        "Free space on the archive's disk below which recording pauses; what is done before begins at four times as "
        "much. 0: none of it, records wait in memory once the disk is full.",
    )

    zmq_endpoint: Annotated[str, values.zmq_endpoint()] = _consumers(
        "tcp://127.0.0.1:5556", "Where the ZeroMQ publisher connects, or binds."
    )
    zmq_bind: Annotated[bool, values.flag()] = _consumers(
        False, "Bind `ZMQ_ENDPOINT`, so that subscribers connect; otherwise they must bind."
    )
    zmq_channel_cap: Annotated[int, values.whole(1, 10_000_000)] = _consumers(
        4096, "Batches that may wait for the ZeroMQ socket."
    )
    zmq_snd_hwm: Annotated[int | None, values.whole(1, 1_000_000_000)] = _consumers(
        None,
        "Messages that may wait for one subscriber (SNDHWM).",
        default_text="100000; ZeroMQ's own 1000 is less than a burst",
    )
    zmq_warn_interval_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _consumers(
        5.0, "At most one warning in so long about drops or missing subscribers."
    )
    zmq_topic_prefix: Annotated[str, values.prefix()] = _consumers(
        "", "What the topic frame begins with, as `md.` in `md.T:AAPL`.", default_text="empty"
    )

    bind_host: Annotated[str, values.host()] = _servers(
        "127.0.0.1",
        "Address on which the three servers listen. Other than loopback needs `AUTH_TOKENS` or `AUTH_TOKENS_FILE`.",
    )
    firehose_port: Annotated[int, values.port()] = _servers(
        8767, "Port of the firehose: every frame, as it came."
    )
    proxy_port: Annotated[int | None, values.port()] = _servers(None, "Older name of `FIREHOSE_PORT`.")
    filtered_proxy_port: Annotated[int, values.port()] = _servers(
        8765, "Port of the filtered server: each client gets the topics it asks for."
    )
    aggregator_port: Annotated[int, values.port()] = _servers(
        8768, "Port of the bars server: millisecond bars."
    )
    ms_aggregator_port: Annotated[int | None, values.port()] = _servers(
        None, "Older name of `AGGREGATOR_PORT`."
    )
    auth_tokens: Annotated[tuple[SecretStr, ...] | None, values.tokens()] = _servers(
        None,
        "Tokens that clients may use; the name is what logs and limits go by. Of a token with `sha256:` only its "
        "hash is known here.",
        default_text="`POLYGON_API_KEY` is the token",
    )
    auth_tokens_file: Annotated[str | None, values.path()] = _servers(
        None, "File with more of them, one a line; empty lines and lines that begin with `#` do not count."
    )
    tls_cert_file: Annotated[str | None, values.path()] = _servers(
        None, "Certificate chain (PEM): the servers speak `wss://` and `https://` then."
    )
    tls_key_file: Annotated[str | None, values.path()] = _servers(
        None, "Private key of the certificate (PEM), not encrypted."
    )
    clients_max: Annotated[int, values.whole(1, 1_000_000)] = _servers(
        10_000, "Clients of each server; one more is refused with close code 1013."
    )
    clients_per_token_max: Annotated[int | None, values.whole(1, 1_000_000)] = _servers(
        None, "Clients of each server that use the same token; one more is refused with close code 1008."
    )
    client_pending_bytes_max: Annotated[int, values.size(_MIB)] = _servers(
        16 * _MIB, "A client that leaves more unread is closed with 1008 `slow consumer`."
    )
    client_message_bytes_max: Annotated[int, values.size(_KIB)] = _servers(
        64 * _KIB, "Size of a client's message; a larger one closes with 1009."
    )
    client_subscriptions_max: Annotated[int, values.whole(1, 1_000_000)] = _servers(
        10_000, "Topics that a client may hold."
    )
    client_requests_per_sec_max: Annotated[int, values.whole(1, 1_000_000)] = _servers(
        50,
        "Messages that a client may send, each counting once more for every KiB; 20 s' worth may come at once. Past "
        "it, it is closed with 1008.",
    )
    client_auth_timeout_secs: Annotated[float, values.seconds(0.01, _DAY_SECS)] = _servers(
        10.0, "A client that has not authenticated for so long is closed with 1008."
    )
    client_ping_interval_secs: Annotated[float, values.seconds(0.01, _DAY_SECS)] = _servers(
        20.0,
        "WebSocket ping to clients; who answers none for two of these is closed. Proxies cut what is silent, often "
        "after 60 s.",
    )
    ws_compression: Annotated[bool, values.flag()] = _servers(
        False, "Offer permessage-deflate to clients: less network for much more CPU."
    )
    allowed_origins: Annotated[tuple[str, ...] | None, values.origins()] = _servers(
        None,
        "Browser pages that may connect, besides those of the server itself; `null` is what pages from files send.",
    )
    allowed_hosts: Annotated[tuple[str, ...] | None, values.hosts()] = _servers(
        None,
        "Names under which clients may reach the servers (the `Host` header): guards against DNS rebinding.",
        default_text="the servers' own addresses",
    )
    serve_workers: Annotated[int, values.whole(0, 64)] = _servers(
        0,
        "Further processes that serve the three ports, so that serving uses other cores than recording; 0: the "
        "recording process serves.",
    )
    serve_worker_pending_bytes_max: Annotated[int, values.size(_MIB)] = _servers(
        64 * _MIB,
        "A worker that is further behind the recording process is restarted; its clients connect again.",
    )
    bar_conditions: Annotated[Literal["vendor", "all"], values.choice("vendor", "all")] = _servers(
        "vendor", "Which trades count in bars: as the exchange's condition rules say, or all."
    )
    min_interval_ms: Annotated[int, values.whole(1, 1000 * _DAY_SECS)] = _servers(
        1, "Shortest bar that clients may ask for."
    )
    max_interval_ms: Annotated[int, values.whole(1, 1000 * _DAY_SECS)] = _servers(
        60_000, "Longest bar that clients may ask for."
    )
    bar_delay_ms: Annotated[int, values.whole(0, 1000 * _DAY_SECS)] = _servers(
        20, "How long the window of a bar stays open for late trades after its end, in event time."
    )
    bar_silence_max_ms: Annotated[int, values.whole(0, 1000 * _DAY_SECS)] = _servers(
        10_000,
        "How long a window that time alone can close waits for a pong. The pong proves that no trade is on its way.",
    )
    timer_interval_ms: Annotated[int, values.whole(1, 60_000)] = _servers(
        10, "How often windows are checked when no trades come."
    )
    replay_buffer_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _servers(
        60.0, "How long bars can be asked for with `since`; 0 keeps none."
    )
    replay_buffer_bytes: Annotated[int, values.size()] = _servers(
        256 * _MIB, "Memory for it; the oldest is let go past either limit."
    )

    metrics_addr: Annotated[str, values.address()] = _operation(
        "127.0.0.1:9898",
        "Address of the live page, `/metrics`, `/health`, `/ready` and `/status`; port 0: any; empty: no server.",
    )
    log_level: Annotated[dict[str, str], values.levels()] = _operation(
        {"": "info"},
        f"Level of the log, and of its targets {', '.join(f'`{target}`' for target in TARGETS)}.",
    )
    log_format: Annotated[Literal["auto", "json", "console"], values.choice(*FORMATS)] = _operation(
        "auto", "Form of the log on stderr; `auto` is `console` on a terminal, else `json`."
    )
    stats_interval_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _operation(
        60.0, "A line of `polygon_stats` so often; 0 disables."
    )
    bp_warn_interval_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _operation(
        5.0, "At most one warning about backpressure in so long."
    )
    reconnect_buckets: Annotated[tuple[float, ...], values.buckets()] = _operation(
        (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0), "Bounds of the histogram of reconnect times."
    )
    interarrival_buckets: Annotated[tuple[float, ...], values.buckets()] = _operation(
        (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0),
        "Bounds of the histogram of the time between reads.",
    )
    shutdown_timeout_secs: Annotated[float, values.seconds(0, _DAY_SECS)] = _operation(
        10.0, "Time to pass on and write what was received before the process ends."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the caller alone: `load_settings` has put the places in order."""
        return (init_settings,)

    @property
    def implied(self) -> Mapping[str, tuple[object, str]]:
        """Fields that were not set but follow from another variable: field to (value, that variable)."""
        return dict(self._implications())

    def _implications(self) -> Iterator[tuple[str, tuple[object, str]]]:
        named = cluster_path(self.source_url).partition("/")[0]
        if named and not self.is_set("polygon_cluster"):
            yield "polygon_cluster", ((named,), self.source_variable)
        half = self.read_timeout_secs / 2
        if not self.is_set("heartbeat_interval_secs") and self.heartbeat_interval_secs > half:
            yield "heartbeat_interval_secs", (half, "READ_TIMEOUT_SECS")
        if self.emit_ndjson and not self.is_set("sink"):
            yield "sink", (("ndjson",), "EMIT_NDJSON")
        if self.ndjson_gzip and self.ndjson_compression == "none":
            yield "ndjson_compression", ("gzip", "NDJSON_GZIP")
        for field, older in OLDER_NAMES.items():
            value = getattr(self, older)
            if value is not None and not self.is_set(field):
                yield field, (value, older.upper())

    def is_set(self, field: str) -> bool:
        """Tell whether the variable was set, if only to its default."""
        return field in self.model_fields_set

    def effective(self, field: str) -> Any:
        """Give the value that counts: as set, else as it follows from another variable, else the default."""
        return self.implied[field][0] if field in self.implied else getattr(self, field)

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters to record."""
        return cast("tuple[str, ...]", self.effective("polygon_cluster"))

    @property
    def sinks(self) -> tuple[str, ...]:
        """The sinks that run: `stdout`, `ndjson`, `zmq`; none where the role `archive` is left out."""
        if "archive" not in self.roles:
            return ()
        return tuple(sink for sink in self.effective("sink") if sink != "none")

    @property
    def source_variable(self) -> str:
        """The variable that says where data comes from."""
        return "FIREHOSE_URL" if self.firehose_url else "POLYGON_WS_URL"

    @property
    def source_url(self) -> str:
        """Where data comes from; the cluster need not be in it."""
        return self.firehose_url or self.polygon_ws_url

    @property
    def upstreams(self) -> tuple[UpstreamSettings, ...]:
        """One section for each cluster's connection."""
        return tuple(
            UpstreamSettings(
                cluster=cluster,
                url=_cluster_url(self.source_url, cluster),
                api_key=self.polygon_api_key.get_secret_value() if self.polygon_api_key else "",
                topics=(WILDCARD,) if self.firehose_url else self._topics(cluster),
                backoff_initial_secs=self.backoff_initial_secs,
                backoff_max_secs=self.backoff_max_secs,
                read_timeout_secs=self.read_timeout_secs,
                heartbeat_interval_secs=self.effective("heartbeat_interval_secs"),
                silence_max_ms=self.bar_silence_max_ms,
                channel_cap=self.channel_cap,
                data_timeout_secs=self.data_timeout_secs,
                firehose=self.firehose_url is not None,
            )
            for cluster in self.clusters
        )

    @property
    def sessions(self) -> SessionSettings:
        """The section of the markets' hours."""
        return SessionSettings(self.session_calendar, self.data_timeout_secs)

    @property
    def demand(self) -> DemandSettings:
        """The section of what is subscribed for clients. A firehose sends all it has to begin with."""
        return DemandSettings(
            enabled=self.subscribe_on_demand
            and self.firehose_url is None
            and not {"filtered", "bars"}.isdisjoint(self.roles),
            release_delay_secs=self.unsubscribe_delay_secs,
        )

    @property
    def record(self) -> RecordSettings:
        """The section of the stage that makes records."""
        return RecordSettings(include=self.ndjson_include or (), sample_quotes=self.ndjson_sample_quotes)

    @property
    def archive(self) -> ArchiveSettings:
        """The section of the archive."""
        return ArchiveSettings(
            dest=self.ndjson_dest,
            max_bytes=self.ndjson_max_bytes,
            rotate_secs=self.ndjson_rotate_secs,
            compression=self.effective("ndjson_compression"),
            split_per_type=self.ndjson_split_per_type,
            flush_every=self.ndjson_flush_every,
            flush_interval_ms=self.ndjson_flush_interval_ms,
            fsync=self.ndjson_fsync,
            channel_cap=self.ndjson_channel_cap,
            buffer_bytes=self.ndjson_buffer_bytes,
            warn_interval_secs=self.ndjson_warn_interval_secs,
            reopen=not self.ndjson_no_reopen,
            retain_bytes=self.ndjson_retain_bytes,
            retain_secs=self.ndjson_retain_secs,
            pressure=self.ndjson_pressure,
            min_free_bytes=self.ndjson_min_free_bytes,
        )

    @property
    def zmq(self) -> ZmqSettings:
        """The section of the ZeroMQ publisher."""
        return ZmqSettings(
            endpoint=self.zmq_endpoint,
            bind=self.zmq_bind,
            channel_cap=self.zmq_channel_cap,
            snd_hwm=self.zmq_snd_hwm,
            warn_interval_secs=self.zmq_warn_interval_secs,
            topic_prefix=self.zmq_topic_prefix,
            buffer_bytes=self.ndjson_buffer_bytes,
        )

    @property
    def servers(self) -> ServersSettings:
        """The section of the servers that clients connect to."""
        return ServersSettings(
            host=self.bind_host,
            firehose_port=self._port("firehose", "firehose_port"),
            filtered_port=self._port("filtered", "filtered_proxy_port"),
            bars_port=self._port("bars", "aggregator_port"),
            limits=ClientLimits(
                clients_max=self.clients_max,
                clients_per_token_max=self.clients_per_token_max,
                pending_bytes_max=self.client_pending_bytes_max,
                message_bytes_max=self.client_message_bytes_max,
                subscriptions_max=self.client_subscriptions_max,
                requests_per_sec_max=self.client_requests_per_sec_max,
                auth_timeout_secs=self.client_auth_timeout_secs,
                ping_interval_secs=self.client_ping_interval_secs,
            ),
            compression=self.ws_compression,
            allowed_origins=self.allowed_origins or (),
            allowed_hosts=self.allowed_hosts or (),
            tls_cert_file=self.tls_cert_file,
            tls_key_file=self.tls_key_file,
            tokens=tuple(token.get_secret_value() for token in self.auth_tokens or ()),
            tokens_file=self.auth_tokens_file,
        )

    @property
    def workers(self) -> WorkerSettings:
        """The section of the processes that serve; none where there is nothing to serve."""
        return WorkerSettings(
            count=self.serve_workers if self.servers.enabled else 0,
            pending_bytes_max=self.serve_worker_pending_bytes_max,
        )

    @property
    def bars(self) -> BarSettings:
        """The section of millisecond bars."""
        return BarSettings(
            conditions=self.bar_conditions,
            min_interval_ms=self.min_interval_ms,
            max_interval_ms=self.max_interval_ms,
            delay_ms=self.bar_delay_ms,
            timer_interval_ms=self.timer_interval_ms,
            replay_secs=self.replay_buffer_secs,
            replay_bytes=self.replay_buffer_bytes,
            aggregator_url=self.ms_aggregator_url,
        )

    @property
    def ops(self) -> OpsSettings | None:
        """The section of the ops server, None where it is disabled."""
        if not self.metrics_addr or "ops" not in self.roles:
            return None
        host, port = values.split_address(self.metrics_addr)
        return OpsSettings(host, port, self.ready_min_messages, self.ready_delay_ms)

    @property
    def log(self) -> LogSettings:
        """The section of the log."""
        return LogSettings(self.log_level, self.log_format)

    def _port(self, role: str, field: str) -> int | None:
        return cast("int", self.effective(field)) if role in self.roles else None

    def _topics(self, cluster: str) -> tuple[str, ...]:
        own: tuple[str, ...] | None = getattr(self, f"subscription_{cluster}")
        whole_channels = tuple(f"{channel}.*" for channel in self.subscribe_data_types or ())
        return own or whole_channels or self.subscription or (_main_topic(cluster),)

    def public_dict(self) -> dict[str, Any]:
        """Give the effective value of every variable that is no secret, in JSON types."""
        public = {field.upper(): self.effective(field) for field, kind in KINDS.items() if not kind.secret}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in public.items()}


def _main_topic(cluster: str) -> str:
    return f"{CLUSTERS[cluster].main.code}.*"


def cluster_path(url: str) -> str:
    """Give the end of a URL's path that names a cluster (`stocks`, `futures/cme`), `""` if none does."""
    segments = [segment for segment in urlsplit(url).path.split("/") if segment]
    ends = ("/".join(segments[-count:]) for count in (2, 1))
    return next(filter(is_cluster_path, ends), "")


def _cluster_url(url: str, cluster: str) -> str:
    if cluster_path(url):
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{cluster}"))


def _kind(field: str) -> values.Kind:
    return next(part for part in Settings.model_fields[field].metadata if isinstance(part, values.Kind))


KINDS: Final[Mapping[str, values.Kind]] = {field: _kind(field) for field in Settings.model_fields}
"""Field to how it is read and shown."""

VARIABLES: Final = tuple(field.upper() for field in Settings.model_fields)
"""Every variable, in the order of the docs."""
