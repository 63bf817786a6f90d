"""The settings: the sections of all parts in one frozen object, and what follows from the values of several variables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, create_model

from recorder import native
from recorder.plugins import SINKS, SOURCES
from recorder.polygon.clusters import CLUSTERS, cluster_path
from recorder.polygon.topics import WILDCARD
from recorder.settings import keys, values
from recorder.settings.kafka import KafkaSettings
from recorder.settings.kinds import ANY_CASE, Buckets, Seconds, choices, word_of
from recorder.settings.nats import NatsSettings
from recorder.settings.option import Option, Section, arguments_of, option, options_of, values_of
from recorder.settings.sections import (
    GROUPS,
    ROLES,
    STDOUT,
    ArchiveSettings,
    BarSettings,
    ConnectionSettings,
    DemandSettings,
    LogSettings,
    MarketHoursSettings,
    OpsSettings,
    RecordSettings,
    ServersSettings,
    UpstreamSettings,
    WorkerSettings,
    ZmqSettings,
)

EXCHANGE: Final = "exchange"
NATS: Final = "nats"
"""The sources that are not of another package."""
_MAIN_TOPICS: Final = ", ".join(
    f"{cluster.name} `{cluster.main.code}.*`" for cluster in CLUSTERS.values() if cluster.main.code != "T"
)
_source = partial(option, group="Source")
_consumers = partial(option, group="Consumers")
_operation = partial(option, group="Operation")


_topics_of: Any = {
    name: (
        values.Topics | None,
        option(f"SUBSCRIPTION_{name.upper()}", None, meaning=f"Upstream topics of the cluster {name}."),
    )
    for name in CLUSTERS
}
TopicsOf = create_model("TopicsOf", __base__=Section, __cls_kwargs__={"group": "Source"}, **_topics_of)
"""The topics of each cluster that has a list of its own."""


class Settings(Section, group="Operation"):
    """The sections of all parts, and what concerns the process as a whole.

    `load_settings` makes it and is the only reader of the environment: it knows where each value came from and reports
    all that is wrong at once.
    """

    api_key: keys.Secret = _source("POLYGON_API_KEY", "", default_text="required to connect", secret=True)
    """Key of the exchange, or the token of the recorder that `FIREHOSE_URL` names. Clients use it as their token while
    neither `AUTH_TOKENS` nor `AUTH_TOKENS_FILE` is set."""
    api_key_file: values.File | None = _source("POLYGON_API_KEY_FILE", None)
    """File that holds the key instead, as systemd credentials do."""
    clusters: values.Clusters = _source(
        "POLYGON_CLUSTER",
        ("futures",),
        default_text="`futures`; with `FIREHOSE_URL`, what that recorder offers",
    )
    """Clusters to record, one upstream connection each."""
    source: Annotated[str, word_of((EXCHANGE, NATS), SOURCES)] = _source("SOURCE", EXCHANGE)
    """Where data comes from: the exchange or another recorder's firehose, the NATS streams that a recorder with `SINK=nats`
    writes, or the source of an installed package."""
    exchange_url: Annotated[str, values.websocket_url("wss://socket.polygon.io")] = _source(
        "POLYGON_WS_URL", "wss://socket.polygon.io"
    )
    """Address of the exchange. The cluster is appended unless the path already names one, as in
    `wss://socket.polygon.io/futures/cme`."""
    topics: values.Topics = _source(
        "SUBSCRIPTION", (), default_text=f"`T.*`, or the cluster's own: {_MAIN_TOPICS}"
    )
    """Upstream topics of every cluster that has no list of its own."""
    topics_of: TopicsOf = Field(default_factory=TopicsOf)  # type: ignore[valid-type]
    data_types: values.Channels = _source("SUBSCRIBE_DATA_TYPES", ())
    """Short for whole channels: `T,A,AM` means `T.*,A.*,AM.*`; not together with `SUBSCRIPTION`."""
    demand: DemandSettings = Field(default_factory=DemandSettings)
    firehose_url: Annotated[str | None, values.websocket_url("ws://127.0.0.1:8767")] = _source(
        "FIREHOSE_URL", None
    )
    """Another recorder's firehose: the source instead of the exchange, with all it sends. The cluster is appended as
    for `POLYGON_WS_URL`; `POLYGON_API_KEY` is still required, as the token there."""
    connection: ConnectionSettings = Field(default_factory=ConnectionSettings)
    market_hours: MarketHoursSettings = Field(default_factory=MarketHoursSettings)

    roles: Annotated[tuple[str, ...], choices(ROLES)] = _consumers("ROLES", ROLES)
    """Parts that run: `archive` stands for the sinks, `firehose`, `filtered` and `bars` for the servers that clients
    connect to, `ops` for the server of `METRICS_ADDR`."""
    sink: Annotated[
        tuple[str, ...],
        choices((STDOUT, "ndjson", "zmq", "nats", "kafka", "none"), alone="none", plugins=SINKS),
    ] = _consumers("SINK", (STDOUT,))
    """Where events go: log lines on standard output, records in NDJSON files, records to ZeroMQ subscribers, frames into
    NATS streams, frames or records into Kafka topics, nowhere, or to the sink of an installed package."""
    emit_ndjson: bool = _consumers("EMIT_NDJSON", False)
    """Older switch: true means `SINK=ndjson` where `SINK` is not set."""
    archive: ArchiveSettings = Field(default_factory=ArchiveSettings)
    record: RecordSettings = Field(default_factory=RecordSettings)
    zmq: ZmqSettings = Field(default_factory=ZmqSettings)
    nats: NatsSettings = Field(default_factory=NatsSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    servers: ServersSettings = Field(default_factory=ServersSettings)
    workers: WorkerSettings = Field(default_factory=WorkerSettings)
    bars: BarSettings = Field(default_factory=BarSettings)
    ops: OpsSettings | None = Field(default_factory=OpsSettings)
    """None where there is no ops server."""
    log: LogSettings = Field(default_factory=LogSettings)
    stats_interval_secs: Seconds = _operation("STATS_INTERVAL_SECS", 60.0)
    """Time between lines of `polygon_stats`; 0 disables."""
    bp_warn_interval_secs: Seconds = _operation("BP_WARN_INTERVAL_SECS", 5.0)
    """Minimum time between warnings about backpressure."""
    reconnect_buckets: Buckets = _operation("RECONNECT_BUCKETS", (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0))
    """Bounds of the histogram of reconnect times."""
    interarrival_buckets: Buckets = _operation(
        "INTERARRIVAL_BUCKETS", (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0)
    )
    """Bounds of the histogram of the time between reads."""
    shutdown_timeout_secs: Seconds = _operation("SHUTDOWN_TIMEOUT_SECS", 10.0)
    """Time to pass on and write what was received before the process ends."""
    drain_secs: Seconds = _operation("DRAIN_SECS", 0.0)
    """Where a balancer spreads clients over several recorders: how long SIGTERM and SIGUSR2 let it see that `/ready` is
    503 and new clients are refused, before those that are here are closed. 0: SIGTERM stops at once; 2 is enough for
    the configurations of docs/proxies.md."""
    foreign_names: values.OtherNames = _operation("FOREIGN_NAMES", ())
    """Names in the environment and in `.env` that other programs read. Nothing is said of them, and they do not end the
    start though they may look like slips of a variable of this program."""
    native: Annotated[Literal["yes", "no"] | None, ANY_CASE] = _operation(
        native.VARIABLE, None, default_text="`yes` where it was built"
    )
    """Whether native code decodes events and makes lines, several times faster than Python and to the same bytes: `no`
    does without it, `yes` ends the start where it was not built. It counts for every command."""

    effective: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    """The effective value of every variable."""
    given: frozenset[str] = frozenset()
    """The variables that were set, if only to their default."""

    @classmethod
    def of(cls, known: Mapping[str, object] | None = None, given: frozenset[str] = frozenset()) -> Settings:
        """Return the settings with these values of variables, and all other defaults.

        Raise pydantic's ValidationError, which names the variables that cannot be used.
        """
        made = cls.model_validate(arguments_of(cls, known or {}))
        servers = made.servers
        ports = {"firehose": "firehose_port", "filtered": "filtered_port", "bars": "bars_port"}
        left_out = {port: None for role, port in ports.items() if role not in made.roles}
        chosen = "POLYGON_CLUSTER" in given or made.firehose_url or cluster_path(made.exchange_url)
        default_cluster = "" if chosen else ", ".join(made.clusters)
        servers = servers.model_copy(update={**left_out, "default_cluster": default_cluster})
        # A firehose sends all it has to begin with.
        can_demand = not made.firehose_url and not {"filtered", "bars"}.isdisjoint(made.roles)
        demand = made.demand.model_copy(update={"enabled": made.demand.enabled and can_demand})
        workers = made.workers.model_copy(update={"count": made.workers.count if servers.enabled else 0})
        ops = made.ops if made.ops and made.ops.address and "ops" in made.roles else None
        sections = {"servers": servers, "demand": demand, "workers": workers, "ops": ops}
        return made.model_copy(update={**sections, "effective": values_of(made), "given": given})

    def with_clusters(self, clusters: tuple[str, ...]) -> Settings:
        """Return the same settings for other clusters."""
        effective = {**self.effective, "POLYGON_CLUSTER": clusters}
        return self.model_copy(update={"clusters": clusters, "effective": effective})

    def __getitem__(self, variable: str) -> Any:
        """Return the effective value of a variable: as set, else as it follows from another, else the default."""
        return self.effective[variable]

    def is_set(self, variable: str) -> bool:
        """Return whether the variable was set, if only to its default."""
        return variable in self.given

    @property
    def sinks(self) -> tuple[str, ...]:
        """The sinks that run: `stdout`, `ndjson`, `zmq`, `nats`, `kafka`; none where the role `archive` is left out."""
        return tuple(sink for sink in self.sink if sink != "none") if "archive" in self.roles else ()

    @property
    def source_variable(self) -> str:
        """The variable that says where data comes from."""
        return "FIREHOSE_URL" if self.firehose_url else "POLYGON_WS_URL"

    @property
    def source_url(self) -> str:
        """Where data comes from; the cluster need not be in it."""
        return self.firehose_url or self.exchange_url

    @property
    def upstreams(self) -> tuple[UpstreamSettings, ...]:
        """One section for each cluster's connection."""
        return tuple(
            UpstreamSettings(
                cluster=cluster,
                url=_cluster_url(self.source_url, cluster),
                api_key=self.api_key,
                topics=self._topics(cluster),
                firehose=self.firehose_url is not None,
                **dict(self.connection),
            )
            for cluster in self.clusters
        )

    def _topics(self, cluster: str) -> tuple[str, ...]:
        if self.firehose_url or self.source != EXCHANGE:
            return (WILDCARD,)  # everything that there is
        whole_channels = tuple(f"{channel}.*" for channel in self.data_types)
        own: tuple[str, ...] | None = getattr(self.topics_of, cluster)
        return own or whole_channels or self.topics or (f"{CLUSTERS[cluster].main.code}.*",)

    def public_dict(self) -> dict[str, Any]:
        """Return the effective value of every variable that is no secret, in JSON types; what is not set is None."""
        public = {name: self.effective[name] for name, declared in OPTIONS.items() if not declared.secret}
        return {
            name: (list(value) or None) if isinstance(value, tuple) else value
            for name, value in public.items()
        }


def _cluster_url(url: str, cluster: str) -> str:
    if cluster_path(url):
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{cluster}"))


OPTIONS: Final[Mapping[str, Option]] = {
    declared.variable: declared
    for declared in sorted(options_of(Settings), key=lambda declared: GROUPS.index(declared.group))
}
"""Every variable, in the order of the docs."""
VARIABLES: Final = tuple(OPTIONS)
