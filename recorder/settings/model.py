"""The settings: the sections of all parts in one frozen object, and what follows from the values of several variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit, urlunsplit

from recorder.plugins import SINKS, SOURCES
from recorder.polygon.clusters import CLUSTERS, cluster_path
from recorder.polygon.topics import WILDCARD
from recorder.settings import keys, kinds, values
from recorder.settings.option import Option, arguments_of, option, option_of_each, options_of
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

_DAY_SECS: Final = 86_400
EXCHANGE: Final = "exchange"
"""The source that is not of another package."""
_MAIN_TOPICS: Final = ", ".join(
    f"{cluster.name} `{cluster.main.code}.*`" for cluster in CLUSTERS.values() if cluster.main.code != "T"
)
_source = partial(option, group="Source")
_consumers = partial(option, group="Consumers")
_operation = partial(option, group="Operation")


@dataclass(frozen=True, slots=True)
class Settings:
    """The sections of all parts, and what concerns the process as a whole.

    `load_settings` makes it and is the only reader of the environment: it knows where each value came from and reports
    all that is wrong at once.
    """

    group: ClassVar[str] = "Operation"

    api_key: str = _source(
        "POLYGON_API_KEY",
        keys.secret(),
        "",
        "Key of the exchange, or the token of the recorder that `FIREHOSE_URL` names. Clients use it as their token "
        "while neither `AUTH_TOKENS` nor `AUTH_TOKENS_FILE` is set.",
        default_text="required to connect",
    )
    api_key_file: str | None = _source(
        "POLYGON_API_KEY_FILE",
        values.path(),
        None,
        "File that holds the key instead, as systemd credentials do.",
    )
    clusters: tuple[str, ...] = _source(
        "POLYGON_CLUSTER",
        values.clusters(),
        ("futures",),
        "Clusters to record, one upstream connection each.",
    )
    source: str = _source(
        "SOURCE",
        kinds.choice(EXCHANGE, plugins=SOURCES),
        EXCHANGE,
        "Where data comes from: the exchange or another recorder's firehose, or the source of an installed package.",
    )
    exchange_url: str = _source(
        "POLYGON_WS_URL",
        values.websocket_url("wss://socket.polygon.io"),
        "wss://socket.polygon.io",
        "Address of the exchange. The cluster is appended unless the path already names one, as in "
        "`wss://socket.polygon.io/futures/cme`.",
    )
    topics: tuple[str, ...] = _source(
        "SUBSCRIPTION",
        values.topics(),
        (),
        "Upstream topics of every cluster that has no list of its own.",
        default_text=f"`T.*`, or the cluster's own: {_MAIN_TOPICS}",
    )
    topics_of: Mapping[str, tuple[str, ...] | None] = option_of_each(
        CLUSTERS, "SUBSCRIPTION_{}", values.topics(), "Upstream topics of the cluster {}.", group="Source"
    )
    data_types: tuple[str, ...] = _source(
        "SUBSCRIBE_DATA_TYPES",
        values.channels(),
        (),
        "Short for whole channels: `T,A,AM` means `T.*,A.*,AM.*`; not together with `SUBSCRIPTION`.",
    )
    demand: DemandSettings = field(default_factory=DemandSettings)
    firehose_url: str | None = _source(
        "FIREHOSE_URL",
        values.websocket_url("ws://127.0.0.1:8767"),
        None,
        "Another recorder's firehose: the source instead of the exchange, with all it sends. The cluster is appended "
        "as for `POLYGON_WS_URL`; `POLYGON_API_KEY` is still required, as the token there.",
    )
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)
    market_hours: MarketHoursSettings = field(default_factory=MarketHoursSettings)

    roles: tuple[str, ...] = _consumers(
        "ROLES",
        kinds.choices(ROLES),
        ROLES,
        "Parts that run: `archive` stands for the sinks, `firehose`, `filtered` and `bars` for the servers that "
        "clients connect to, `ops` for the server of `METRICS_ADDR`.",
    )
    sink: tuple[str, ...] = _consumers(
        "SINK",
        kinds.choices((STDOUT, "ndjson", "zmq", "none"), alone="none", plugins=SINKS),
        (STDOUT,),
        "Where events go: log lines on standard output, records in NDJSON files, records to ZeroMQ subscribers, "
        "nowhere, or to the sink of an installed package.",
    )
    emit_ndjson: bool = _consumers(
        "EMIT_NDJSON", kinds.flag(), False, "Older switch: true means `SINK=ndjson` where `SINK` is not set."
    )
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    record: RecordSettings = field(default_factory=RecordSettings)
    zmq: ZmqSettings = field(default_factory=ZmqSettings)
    servers: ServersSettings = field(default_factory=ServersSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    bars: BarSettings = field(default_factory=BarSettings)
    ops: OpsSettings | None = field(default_factory=OpsSettings)
    """None where there is no ops server."""
    log: LogSettings = field(default_factory=LogSettings)
    stats_interval_secs: float = _operation(
        "STATS_INTERVAL_SECS",
        kinds.seconds(0, _DAY_SECS),
        60.0,
        "Time between lines of `polygon_stats`; 0 disables.",
    )
    bp_warn_interval_secs: float = _operation(
        "BP_WARN_INTERVAL_SECS",
        kinds.seconds(0, _DAY_SECS),
        5.0,
        "Minimum time between warnings about backpressure.",
    )
    reconnect_buckets: tuple[float, ...] = _operation(
        "RECONNECT_BUCKETS",
        kinds.buckets(),
        (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
        "Bounds of the histogram of reconnect times.",
    )
    interarrival_buckets: tuple[float, ...] = _operation(
        "INTERARRIVAL_BUCKETS",
        kinds.buckets(),
        (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0),
        "Bounds of the histogram of the time between reads.",
    )
    shutdown_timeout_secs: float = _operation(
        "SHUTDOWN_TIMEOUT_SECS",
        kinds.seconds(0, _DAY_SECS),
        10.0,
        "Time to pass on and write what was received before the process ends.",
    )

    effective: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The effective value of every variable."""
    given: frozenset[str] = frozenset()
    """The variables that were set, if only to their default."""

    @classmethod
    def of(cls, known: Mapping[str, object] | None = None, given: frozenset[str] = frozenset()) -> Settings:
        """Return the settings with these values of variables, as their kinds read them, and all other defaults."""
        effective = {**{name: declared.default for name, declared in OPTIONS.items()}, **(known or {})}
        made = cls(**arguments_of(cls, effective), effective=effective, given=given)
        roles = made.roles
        servers = replace(
            made.servers,
            firehose_port=made.servers.firehose_port if "firehose" in roles else None,
            filtered_port=made.servers.filtered_port if "filtered" in roles else None,
            bars_port=made.servers.bars_port if "bars" in roles else None,
        )
        # A firehose sends all it has to begin with.
        on_demand = (
            made.demand.enabled and not made.firehose_url and not {"filtered", "bars"}.isdisjoint(roles)
        )
        return replace(
            made,
            servers=servers,
            demand=replace(made.demand, enabled=on_demand),
            workers=replace(made.workers, count=made.workers.count if servers.enabled else 0),
            ops=made.ops if made.ops is not None and made.ops.address and "ops" in roles else None,
        )

    def __getitem__(self, variable: str) -> Any:
        """Return the effective value of a variable: as set, else as it follows from another, else the default."""
        return self.effective[variable]

    def is_set(self, variable: str) -> bool:
        """Return whether the variable was set, if only to its default."""
        return variable in self.given

    @property
    def sinks(self) -> tuple[str, ...]:
        """The sinks that run: `stdout`, `ndjson`, `zmq`; none where the role `archive` is left out."""
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
        common = {each.name: getattr(self.connection, each.name) for each in fields(self.connection)}
        return tuple(
            UpstreamSettings(
                cluster=cluster,
                url=_cluster_url(self.source_url, cluster),
                api_key=self.api_key,
                topics=self._topics(cluster),
                firehose=self.firehose_url is not None,
                **common,
            )
            for cluster in self.clusters
        )

    def _topics(self, cluster: str) -> tuple[str, ...]:
        if self.firehose_url or self.source != EXCHANGE:
            return (WILDCARD,)  # everything that there is
        whole_channels = tuple(f"{channel}.*" for channel in self.data_types)
        own = self.topics_of[cluster]
        return own or whole_channels or self.topics or (f"{CLUSTERS[cluster].main.code}.*",)

    def public_dict(self) -> dict[str, Any]:
        """Return the effective value of every variable that is no secret, in JSON types; what is not set is None."""
        public = {
            name: self.effective[name] for name, declared in OPTIONS.items() if not declared.kind.secret
        }
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
