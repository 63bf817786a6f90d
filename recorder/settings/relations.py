"""Relations between variables: values that are allowed each but follow, contradict, or leave another no effect."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from recorder.addresses import is_loopback
from recorder.polygon.channels import FAST_CHANNELS
from recorder.polygon.clusters import CLUSTERS, cluster_path
from recorder.settings.model import EXCHANGE, NATS, OPTIONS, Settings
from recorder.settings.names import OLDER_LIMITS, OLDER_NAMES
from recorder.settings.sections import STDOUT
from recorder.settings.values import split_zmq_endpoint

REPLACES: Final = {
    "POLYGON_API_KEY": ("POLYGON_API_KEY_FILE",),
    "POLYGON_API_KEY_FILE": ("POLYGON_API_KEY",),
    "SUBSCRIPTION": ("SUBSCRIBE_DATA_TYPES",),
    "SUBSCRIBE_DATA_TYPES": ("SUBSCRIPTION",),
    "NDJSON_COMPRESSION": ("NDJSON_GZIP",),
    **{older: (newer,) for older, newer in OLDER_NAMES.items()},
    **{newer: (older,) for older, newer in OLDER_NAMES.items()},
}
"""A value given by the command takes the place of these too, which say the same in another way."""

_ROTATED_ONLY: Final = ("NDJSON_GZIP", "NDJSON_COMPRESSION", "NDJSON_RETAIN_BYTES", "NDJSON_RETAIN_SECS")
_ACCESS_LOG: Final = (
    "ACCESS_LOG_INTERVAL_SECS",
    "ACCESS_LOG_ROTATE_SECS",
    "ACCESS_LOG_MAX_BYTES",
    "ACCESS_LOG_COMPRESSION",
    "ACCESS_LOG_RETAIN_SECS",
    "ACCESS_LOG_RETAIN_BYTES",
)
_FILES_ONLY: Final = (
    "NDJSON_MAX_BYTES",
    "NDJSON_ROTATE_SECS",
    *_ROTATED_ONLY,
    "NDJSON_PRESSURE",
    "NDJSON_MIN_FREE_BYTES",
)
_UPSTREAM_TOPICS: Final = (
    "SUBSCRIPTION",
    *(f"SUBSCRIPTION_{cluster.upper()}" for cluster in CLUSTERS),
    "SUBSCRIBE_DATA_TYPES",
    "SUBSCRIBE_ON_DEMAND",
)
_NATS: Final = ("NATS_URL", "NATS_STREAM_PREFIX")
_NATS_SINK: Final = (
    "NATS_REPLICAS",
    "NATS_MAX_BYTES",
    "NATS_MAX_AGE_SECS",
    "NATS_BUFFER_BYTES",
    "NATS_LINGER_MS",
    "NATS_ROLE",
    "NATS_TAKEOVER_SECS",
    "NATS_STANDBY",
    "NATS_PER_SYMBOL",
)
_KAFKA: Final = (
    "KAFKA_BROKERS",
    "KAFKA_TOPIC_PREFIX",
    "KAFKA_SHAPE",
    "KAFKA_PARTITIONS",
    "KAFKA_REPLICAS",
    "KAFKA_OPTIONS",
    "KAFKA_OPTIONS_FILE",
)
_SERVING: Final = ("SERVE_WORKERS", "RESUME_BUFFER_BYTES", "SNAPSHOT_VALUES_MAX", "SNAPSHOT_FROM_START")
_MAKING_BARS: Final = ("BAR_CONDITIONS", "BAR_DELAY_MS", "TIMER_INTERVAL_MS")
_EVERY_INTERFACE: Final = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared, not bound
_URL_PORTS: Final = {"ws": 80, "wss": 443}


def implications(settings: Settings) -> dict[str, tuple[object, str]]:
    """Return the variables that follow from others: variable to its value, and the variable that implies it."""
    found: dict[str, tuple[object, str]] = {}
    named = cluster_path(settings.source_url).partition("/")[0]
    if named and not settings.is_set("POLYGON_CLUSTER"):
        found["POLYGON_CLUSTER"] = (named,), settings.source_variable
    elif settings.firehose_url and settings.source == EXCHANGE and not settings.is_set("POLYGON_CLUSTER"):
        found["POLYGON_CLUSTER"] = (
            (),
            "FIREHOSE_URL",
        )  # what it offers is asked of it: `sources.exchange.offer`
    half = settings["READ_TIMEOUT_SECS"] / 2
    if not settings.is_set("HEARTBEAT_INTERVAL_SECS") and settings["HEARTBEAT_INTERVAL_SECS"] > half:
        found["HEARTBEAT_INTERVAL_SECS"] = half, "READ_TIMEOUT_SECS"
    if settings.emit_ndjson and not settings.is_set("SINK"):
        found["SINK"] = ("ndjson",), "EMIT_NDJSON"
    if settings.archive.gzip and settings.archive.compression == "none":
        found["NDJSON_COMPRESSION"] = "gzip", "NDJSON_GZIP"
    for older, newer in OLDER_NAMES.items():
        if settings[older] is not None and not settings.is_set(newer):
            found[newer] = settings[older], older
    return found


class Contradiction(NamedTuple):
    """Variables that cannot stand together; `words` are said of the first."""

    variables: tuple[str, ...]
    words: str


def contradictions(settings: Settings) -> Iterator[Contradiction]:
    """Yield what cannot stand together."""
    if settings.api_key and settings.api_key_file:
        yield Contradiction(
            ("POLYGON_API_KEY", "POLYGON_API_KEY_FILE"), "must not be set together with POLYGON_API_KEY_FILE"
        )
    if settings.topics and settings.data_types:
        yield Contradiction(
            ("SUBSCRIPTION", "SUBSCRIBE_DATA_TYPES"), "must not be set together with SUBSCRIBE_DATA_TYPES"
        )
    yield from _in_order(settings, "BACKOFF_INITIAL_SECS", "BACKOFF_MAX_SECS", equal=True)
    if settings["HEARTBEAT_INTERVAL_SECS"]:
        yield from _in_order(settings, "HEARTBEAT_INTERVAL_SECS", "READ_TIMEOUT_SECS", equal=False)
    named = cluster_path(settings.source_url).partition("/")[0]
    if named and settings.clusters != (named,):
        source = settings.source_variable
        yield Contradiction(
            ("POLYGON_CLUSTER", source, "FIREHOSE_URL"),
            f"must be {named}, which the path of {source} names; a URL without it serves every cluster",
        )
    if settings.archive.gzip and settings.archive.compression == "zstd":
        yield Contradiction(
            ("NDJSON_COMPRESSION", "NDJSON_GZIP"), "must not be zstd while NDJSON_GZIP is true"
        )
    if "ndjson" in settings.sinks and settings.archive.to_stdout:
        if STDOUT in settings.sinks:
            yield Contradiction(
                ("SINK", "NDJSON_DEST", "EMIT_NDJSON"),
                "has two sinks that write to standard output; NDJSON_DEST must be a file then",
            )
        if settings.archive.split_per_type:
            yield Contradiction(
                ("NDJSON_SPLIT_PER_TYPE", "NDJSON_DEST"), "must be false while NDJSON_DEST is stdout"
            )
    if NATS in settings.sinks:
        yield from _about_streams(settings)
        if settings.nats.standby == "waiting":
            yield from _about_standby(settings)
    if settings.source == NATS:
        yield from _about_nats_source(settings)
    if NATS in (*settings.sinks, settings.source):
        yield from _about_nats(settings)
    yield from _between_servers(settings)
    yield from _between_endpoints(settings)


def _about_streams(settings: Settings) -> Iterator[Contradiction]:
    for variable, example in (("NATS_MAX_BYTES", "100GiB"), ("NATS_MAX_AGE_SECS", "7d")):
        if settings[variable] is None:
            yield Contradiction(
                (variable, "SINK"),
                f"must be set, as in {variable}={example}: without a limit a stream fills the servers' disks",
            )


def _about_standby(settings: Settings) -> Iterator[Contradiction]:
    if settings.firehose_url or settings.source != EXCHANGE:
        yield Contradiction(
            ("NATS_STANDBY", "SOURCE", "FIREHOSE_URL"),
            "must not be waiting unless the source is the exchange: any other source takes both recorders",
        )


def _about_nats_source(settings: Settings) -> Iterator[Contradiction]:
    if NATS in settings.sinks:
        yield Contradiction(
            ("SINK", "SOURCE"),
            "must not name nats while SOURCE is nats: what is read would be appended again",
        )
    if settings.firehose_url:
        yield Contradiction(
            ("FIREHOSE_URL", "SOURCE"), "must not be set while SOURCE is nats: choose one source"
        )


def _about_nats(settings: Settings) -> Iterator[Contradiction]:
    for one, other in (
        ("NATS_USER", "NATS_PASSWORD_FILE"),
        ("NATS_PASSWORD_FILE", "NATS_USER"),
        ("NATS_TLS_CERT_FILE", "NATS_TLS_KEY_FILE"),
        ("NATS_TLS_KEY_FILE", "NATS_TLS_CERT_FILE"),
    ):
        if settings[one] and not settings[other]:
            yield Contradiction((one, other), f"needs {other} too")
    if fast := [channel for channel in settings.nats.per_symbol if channel in FAST_CHANNELS]:
        yield Contradiction(
            ("NATS_PER_SYMBOL",),
            f"must not name {', '.join(fast)}: these events come faster than each can be stored as a message; the stream of "
            "the cluster has them",
        )
    for one, other in combinations(("NATS_USER", "NATS_TOKEN_FILE", "NATS_CREDS_FILE"), 2):
        if settings[one] and settings[other]:
            yield Contradiction((one, other), f"must not be set together with {other}")


def _between_servers(settings: Settings) -> Iterator[Contradiction]:
    for older, newer in OLDER_NAMES.items():
        if settings.is_set(newer) and settings[older] not in (None, settings[newer]):
            yield Contradiction((older, newer), f"is the older name of {newer}, which is {settings[newer]}")
    servers = settings.servers
    has_tokens = bool(servers.tokens or servers.tokens_file)
    if settings.ops is not None and not is_loopback(settings.ops.host) and not has_tokens:
        yield Contradiction(
            ("METRICS_ADDR", "AUTH_TOKENS", "AUTH_TOKENS_FILE", "ROLES"),
            "is reached by other machines, so requests need a token: set AUTH_TOKENS or AUTH_TOKENS_FILE and give "
            "Prometheus one of them (authorization: credentials_file), or listen on 127.0.0.1",
        )
    if servers.enabled and not is_loopback(servers.host) and not has_tokens:
        yield Contradiction(
            ("BIND_HOST", "AUTH_TOKENS", "AUTH_TOKENS_FILE", "ROLES"),
            "is reached by other machines, so clients need tokens that are not the exchange's key: "
            "set AUTH_TOKENS or AUTH_TOKENS_FILE",
        )
    for one, other in (("TLS_CERT_FILE", "TLS_KEY_FILE"), ("TLS_KEY_FILE", "TLS_CERT_FILE")):
        if settings[one] and not settings[other]:
            yield Contradiction((one, other), f"needs {other} too")
    if servers.limits.clients_per_token_max is not None:
        yield from _in_order(settings, "CLIENTS_PER_TOKEN_MAX", "CLIENTS_MAX", equal=True)
    yield from _in_order(settings, "MIN_INTERVAL_MS", "MAX_INTERVAL_MS", equal=True)
    if settings.bars.aggregator_url and servers.filtered_port is servers.bars_port is None:
        yield Contradiction(
            ("MS_AGGREGATOR_URL", "ROLES"),
            "needs a server that passes bars on: ROLES must name bars or filtered",
        )


class Endpoint(NamedTuple):
    """Where this process listens, and the variable that says so."""

    variable: str
    host: str
    port: int

    def meets(self, host: str, port: int) -> bool:
        """Return whether the same port is meant, on an interface that both have."""
        if self.port != port or port == 0:
            return False
        hosts = {self.host.lower(), host.lower()}
        return (
            len(hosts) == 1
            or not hosts.isdisjoint(_EVERY_INTERFACE)
            or ("localhost" in hosts and all(map(is_loopback, hosts)))
        )


def endpoints(settings: Settings) -> Iterator[Endpoint]:
    """Yield every TCP address on which this process is to listen."""
    servers = settings.servers
    told_by = {newer: older for older, newer in OLDER_NAMES.items() if settings.is_set(older)}
    for variable, port in (
        ("FIREHOSE_PORT", servers.firehose_port),
        ("FILTERED_PROXY_PORT", servers.filtered_port),
        ("AGGREGATOR_PORT", servers.bars_port),
    ):
        if port is not None:
            named = variable if settings.is_set(variable) else told_by.get(variable, variable)
            yield Endpoint(named, servers.host, port)
    if settings.ops is not None:
        yield Endpoint("METRICS_ADDR", settings.ops.host, settings.ops.port)
    if "zmq" in settings.sinks and settings.zmq.bind and settings.zmq.endpoint.startswith("tcp:"):
        yield Endpoint("ZMQ_ENDPOINT", *split_zmq_endpoint(settings.zmq.endpoint))


def _between_endpoints(settings: Settings) -> Iterator[Contradiction]:
    places = list(endpoints(settings))
    chosen_by = ("BIND_HOST", "ROLES", "SINK")
    for one, other in combinations(places, 2):
        if one.meets(other.host, other.port):
            told, taken = (other, one) if settings.is_set(other.variable) else (one, other)
            yield Contradiction(
                (told.variable, taken.variable, *chosen_by),
                f"must not have the port of {taken.variable}, which is {taken.host}:{taken.port}",
            )
    for variable in ("FIREHOSE_URL", "MS_AGGREGATOR_URL"):
        if settings[variable] is None:
            continue
        parts = urlsplit(settings[variable])
        host, port = parts.hostname or "", parts.port or _URL_PORTS[parts.scheme]
        for endpoint in places:
            if endpoint.meets(host, port) and (is_loopback(host) or host == endpoint.host):
                yield Contradiction(
                    (variable, endpoint.variable, *chosen_by),
                    f"must be another recorder: {endpoint.variable} says that this one listens there. Leave {variable} "
                    "out, since one recorder does it all; or, if another one has that port, name in ROLES only what "
                    "this one does, such as ROLES=filtered,ops",
                )
    zmq = settings.zmq
    if not zmq.bind and "zmq" in settings.sinks and zmq.endpoint.startswith("tcp:"):
        host, port = split_zmq_endpoint(zmq.endpoint)
        if host == "*" or port == 0:
            yield Contradiction(
                ("ZMQ_ENDPOINT", "ZMQ_BIND", "SINK"),
                "is an address to bind; without ZMQ_BIND=true it must be one to connect to",
            )


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield a warning for what is set and changes nothing, or not what its name says, because of another variable."""
    for older in OLDER_LIMITS:
        if settings.is_set(older):
            yield (
                f"{older} counts no messages: it is an older limit, in blocks of up to 1 MiB; leave it out, and set "
                "NDJSON_BUFFER_BYTES, which limits what may wait in bytes"
            )
    if settings.firehose_url:
        if settings.is_set("POLYGON_WS_URL"):
            yield "POLYGON_WS_URL has no effect: FIREHOSE_URL is the source"
        yield from _changed(settings, _UPSTREAM_TOPICS, "FIREHOSE_URL is the source, which sends all it has")
    elif settings.source == NATS:
        yield from _changed(settings, _UPSTREAM_TOPICS, "SOURCE is nats, and a stream has all there is")
    else:
        for cluster in CLUSTERS:
            if cluster not in settings.clusters:
                because = f"POLYGON_CLUSTER does not name {cluster}"
                yield from _changed(settings, (f"SUBSCRIPTION_{cluster.upper()}",), because)
        if not settings["SUBSCRIBE_ON_DEMAND"]:
            yield from _changed(settings, ("UNSUBSCRIBE_DELAY_SECS",), "SUBSCRIBE_ON_DEMAND is false")
        elif not settings.demand.enabled:
            yield "SUBSCRIBE_ON_DEMAND has no effect: ROLES names neither filtered nor bars"
    if settings.market_hours.calendar == "off":
        yield from _changed(settings, ("DATA_TIMEOUT_SECS",), "SESSION_CALENDAR is off")
    if not settings.servers.enabled:
        yield from _changed(settings, (*_SERVING, "ACCESS_LOG_DEST", "DRAIN_SECS"), "ROLES names no server")
    elif not settings.workers.count:
        yield from _changed(settings, ("SERVE_WORKER_PENDING_BYTES_MAX",), "SERVE_WORKERS is 0")
    if settings["ACCESS_LOG_DEST"] is None:
        yield from _changed(settings, _ACCESS_LOG, "ACCESS_LOG_DEST is not set")
    if settings.record.sample_quotes == 1:
        yield from _changed(settings, ("NDJSON_SAMPLE_BY",), "NDJSON_SAMPLE_QUOTES is 1")
    if settings.bars.aggregator_url:
        yield from _changed(settings, _MAKING_BARS, "MS_AGGREGATOR_URL makes the bars")
    if "zmq" not in settings.sink:
        yield from _changed(settings, ("ZMQ_ENDPOINT", "ZMQ_BIND"), "SINK does not name zmq")
    if NATS not in settings.sink:
        yield from _changed(settings, _NATS_SINK, "SINK does not name nats")
        if settings.source != NATS:
            yield from _changed(settings, _NATS, "neither SINK nor SOURCE names nats")
    if settings.source != NATS:
        yield from _changed(settings, ("NATS_START",), "SOURCE is not nats")
    if "kafka" not in settings.sink:
        yield from _changed(settings, _KAFKA, "SINK does not name kafka")
    elif settings.kafka.shape == "frames":
        words = "KAFKA_SHAPE is frames, which one partition holds"
        yield from _changed(settings, ("KAFKA_PARTITIONS",), words)
    if "ndjson" not in settings.sink:
        if settings.is_set("NDJSON_DEST"):
            yield "NDJSON_DEST has no effect: SINK does not name ndjson"
    elif settings.archive.to_stdout:
        yield from _changed(settings, _FILES_ONLY, "NDJSON_DEST is stdout")
    else:
        yield from _about_files(settings)


def _about_files(settings: Settings) -> Iterator[str]:
    archive = settings.archive
    if archive.min_free_bytes == 0:
        yield from _changed(settings, ("NDJSON_PRESSURE",), "NDJSON_MIN_FREE_BYTES is 0")
    if archive.rotate_secs is None and archive.max_bytes is None:
        for variable in _of_changed(settings, _ROTATED_ONLY):
            yield (
                f"{variable} is for rotated files, and no file is rotated but by SIGUSR1 or as the disk fills: "
                "set NDJSON_ROTATE_SECS or NDJSON_MAX_BYTES"
            )


def _changed(settings: Settings, variables: tuple[str, ...], because: str) -> Iterator[str]:
    """Yield that it has no effect for each variable that was set to anything but its default."""
    for variable in _of_changed(settings, variables):
        yield f"{variable} has no effect: {because}"


def _of_changed(settings: Settings, variables: tuple[str, ...]) -> Iterator[str]:
    for variable in variables:
        if settings.is_set(variable) and settings[variable] != OPTIONS[variable].default:
            yield variable


def _in_order(settings: Settings, low: str, high: str, *, equal: bool) -> Iterator[Contradiction]:
    smaller, greater = settings[low], settings[high]
    if smaller < greater or (equal and smaller == greater):
        return
    if settings.is_set(low):
        shown = OPTIONS[high].show(greater)
        yield Contradiction(
            (low, high), f"must be {'at most' if equal else 'below'} {high}, which is {shown}"
        )
    else:
        shown = OPTIONS[low].show(smaller)
        yield Contradiction(
            (high, low), f"must be {'at least' if equal else 'above'} {low}, which is {shown}"
        )
