"""Relations between variables: values that are allowed each but contradict, or leave another no effect."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from recorder.polygon.clusters import CLUSTERS
from recorder.settings.model import KINDS, OLDER_NAMES, Settings, cluster_path
from recorder.settings.sections import STDOUT
from recorder.settings.values import is_loopback, split_address, split_zmq_endpoint

REPLACES: Final = {
    "POLYGON_API_KEY": ("POLYGON_API_KEY_FILE",),
    "POLYGON_API_KEY_FILE": ("POLYGON_API_KEY",),
    "SUBSCRIPTION": ("SUBSCRIBE_DATA_TYPES",),
    "SUBSCRIBE_DATA_TYPES": ("SUBSCRIPTION",),
    "NDJSON_COMPRESSION": ("NDJSON_GZIP",),
    **{newer.upper(): (older.upper(),) for newer, older in OLDER_NAMES.items()},
    **{older.upper(): (newer.upper(),) for newer, older in OLDER_NAMES.items()},
}
"""A value given by the command takes the place of these too, which say the same in another way."""

_FILES_ONLY: Final = (
    "ndjson_max_bytes",
    "ndjson_rotate_secs",
    "ndjson_gzip",
    "ndjson_compression",
    "ndjson_retain_bytes",
    "ndjson_retain_secs",
    "ndjson_pressure",
    "ndjson_min_free_bytes",
)
_ROTATED_ONLY: Final = ("ndjson_gzip", "ndjson_compression", "ndjson_retain_bytes", "ndjson_retain_secs")
_UPSTREAM_TOPICS: Final = (
    "subscription",
    *(f"subscription_{cluster}" for cluster in CLUSTERS),
    "subscribe_data_types",
    "subscribe_on_demand",
)
_MAKING_BARS: Final = ("bar_conditions", "bar_delay_ms", "timer_interval_ms")
_EVERY_INTERFACE: Final = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104 - compared, not bound
_URL_PORTS: Final = {"ws": 80, "wss": 443}


class Contradiction(NamedTuple):
    """Variables that cannot stand together; `words` are said of the first."""

    variables: tuple[str, ...]
    words: str


def contradictions(settings: Settings) -> Iterator[Contradiction]:
    """Yield what cannot stand together."""
    if settings.polygon_api_key and settings.polygon_api_key_file:
        yield Contradiction(
            ("POLYGON_API_KEY", "POLYGON_API_KEY_FILE"), "must not be set together with POLYGON_API_KEY_FILE"
        )
    if settings.subscription and settings.subscribe_data_types:
        yield Contradiction(
            ("SUBSCRIPTION", "SUBSCRIBE_DATA_TYPES"), "must not be set together with SUBSCRIBE_DATA_TYPES"
        )
    yield from _in_order(settings, "backoff_initial_secs", "backoff_max_secs", equal=True)
    if settings.effective("heartbeat_interval_secs"):
        yield from _in_order(settings, "heartbeat_interval_secs", "read_timeout_secs", equal=False)
    named = cluster_path(settings.source_url).partition("/")[0]
    if named and settings.clusters != (named,):
        source = settings.source_variable
        yield Contradiction(
            ("POLYGON_CLUSTER", source, "FIREHOSE_URL"),
            f"must be {named}, which the path of {source} names; a URL without it serves every cluster",
        )
    if settings.ndjson_gzip and settings.ndjson_compression == "zstd":
        yield Contradiction(
            ("NDJSON_COMPRESSION", "NDJSON_GZIP"), "must not be zstd while NDJSON_GZIP is true"
        )
    if "ndjson" in settings.sinks and settings.ndjson_dest == STDOUT:
        if STDOUT in settings.sinks:
            yield Contradiction(
                ("SINK", "NDJSON_DEST", "EMIT_NDJSON"),
                "has two sinks that write to standard output; NDJSON_DEST must be a file then",
            )
        if settings.ndjson_split_per_type:
            yield Contradiction(
                ("NDJSON_SPLIT_PER_TYPE", "NDJSON_DEST"), "must be false while NDJSON_DEST is stdout"
            )
    yield from _between_servers(settings)
    yield from _between_endpoints(settings)


def _between_servers(settings: Settings) -> Iterator[Contradiction]:
    for field, older in OLDER_NAMES.items():
        if settings.is_set(field) and getattr(settings, older) not in (None, getattr(settings, field)):
            names = (older.upper(), field.upper())
            yield Contradiction(
                names, f"is the older name of {names[1]}, which is {getattr(settings, field)}"
            )
    servers = settings.servers
    if servers.enabled and not is_loopback(servers.host) and not servers.tokens and not servers.tokens_file:
        yield Contradiction(
            ("BIND_HOST", "AUTH_TOKENS", "AUTH_TOKENS_FILE", "ROLES"),
            "is reached by other machines, so clients need tokens that are not the exchange's key: "
            "set AUTH_TOKENS or AUTH_TOKENS_FILE",
        )
    for one, other in (("tls_cert_file", "tls_key_file"), ("tls_key_file", "tls_cert_file")):
        if getattr(settings, one) and not getattr(settings, other):
            yield Contradiction((one.upper(), other.upper()), f"needs {other.upper()} too")
    if settings.clients_per_token_max is not None:
        yield from _in_order(settings, "clients_per_token_max", "clients_max", equal=True)
    yield from _in_order(settings, "min_interval_ms", "max_interval_ms", equal=True)
    if settings.ms_aggregator_url and servers.filtered_port is servers.bars_port is None:
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
        """Tell whether the same port is meant, on an interface that both have."""
        if self.port != port or port == 0:
            return False
        hosts = {self.host.lower(), host.lower()}
        return (
            len(hosts) == 1
            or not hosts.isdisjoint(_EVERY_INTERFACE)
            or ("localhost" in hosts and all(map(is_loopback, hosts)))
        )


def endpoints(settings: Settings) -> Iterator[Endpoint]:
    """Yield every TCP address that is to be listened on."""
    servers = settings.servers
    implied = settings.implied
    for field, port in (
        ("firehose_port", servers.firehose_port),
        ("filtered_proxy_port", servers.filtered_port),
        ("aggregator_port", servers.bars_port),
    ):
        if port is not None:
            variable = implied[field][1] if field in implied else field.upper()
            yield Endpoint(variable, servers.host, port)
    if settings.ops is not None:
        yield Endpoint("METRICS_ADDR", *split_address(settings.metrics_addr))
    if "zmq" in settings.sinks and settings.zmq_bind and settings.zmq_endpoint.startswith("tcp:"):
        yield Endpoint("ZMQ_ENDPOINT", *split_zmq_endpoint(settings.zmq_endpoint))


def _between_endpoints(settings: Settings) -> Iterator[Contradiction]:
    places = list(endpoints(settings))
    chosen_by = ("BIND_HOST", "ROLES", "SINK")
    for one, other in combinations(places, 2):
        if one.meets(other.host, other.port):
            told, taken = (other, one) if settings.is_set(other.variable.lower()) else (one, other)
            yield Contradiction(
                (told.variable, taken.variable, *chosen_by),
                f"must not have the port of {taken.variable}, which is {taken.host}:{taken.port}",
            )
    for variable, url in (
        ("FIREHOSE_URL", settings.firehose_url),
        ("MS_AGGREGATOR_URL", settings.ms_aggregator_url),
    ):
        if url is None:
            continue
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _URL_PORTS[parts.scheme]
        for endpoint in places:
            if endpoint.meets(host, port) and (is_loopback(host) or host == endpoint.host):
                yield Contradiction(
                    (variable, endpoint.variable, *chosen_by),
                    f"must be another recorder: {endpoint.variable} says that this one listens there",
                )
    if not settings.zmq_bind and "zmq" in settings.sinks and settings.zmq_endpoint.startswith("tcp:"):
        host, port = split_zmq_endpoint(settings.zmq_endpoint)
        if host == "*" or port == 0:
            yield Contradiction(
                ("ZMQ_ENDPOINT", "ZMQ_BIND", "SINK"),
                "is an address to bind; without ZMQ_BIND=true it must be one to connect to",
            )


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield a warning for what is set and changes nothing, because of another variable."""
    if settings.firehose_url:
        if settings.is_set("polygon_ws_url"):
            yield "POLYGON_WS_URL has no effect: FIREHOSE_URL is the source"
        yield from _changed(settings, _UPSTREAM_TOPICS, "FIREHOSE_URL is the source, which sends all it has")
    else:
        for cluster in CLUSTERS:
            if cluster not in settings.clusters:
                because = f"POLYGON_CLUSTER does not name {cluster}"
                yield from _changed(settings, (f"subscription_{cluster}",), because)
        if not settings.subscribe_on_demand:
            yield from _changed(settings, ("unsubscribe_delay_secs",), "SUBSCRIBE_ON_DEMAND is false")
        elif not settings.demand.enabled:
            yield "SUBSCRIBE_ON_DEMAND has no effect: ROLES names neither filtered nor bars"
    if settings.session_calendar == "off":
        yield from _changed(settings, ("data_timeout_secs",), "SESSION_CALENDAR is off")
    if not settings.servers.enabled:
        yield from _changed(settings, ("serve_workers",), "ROLES names no server")
    elif not settings.serve_workers:
        yield from _changed(settings, ("serve_worker_pending_bytes_max",), "SERVE_WORKERS is 0")
    if settings.ms_aggregator_url:
        yield from _changed(settings, _MAKING_BARS, "MS_AGGREGATOR_URL makes the bars")
    if "zmq" not in settings.effective("sink"):
        yield from _changed(settings, ("zmq_endpoint", "zmq_bind"), "SINK does not name zmq")
    if "ndjson" not in settings.effective("sink"):
        if settings.is_set("ndjson_dest"):
            yield "NDJSON_DEST has no effect: SINK does not name ndjson"
    elif settings.ndjson_dest == STDOUT:
        yield from _changed(settings, _FILES_ONLY, "NDJSON_DEST is stdout")
    else:
        yield from _about_files(settings)


def _about_files(settings: Settings) -> Iterator[str]:
    if not settings.ndjson_min_free_bytes:
        yield from _changed(settings, ("ndjson_pressure",), "NDJSON_MIN_FREE_BYTES is 0")
    if settings.ndjson_rotate_secs is None and settings.ndjson_max_bytes is None:
        for field in _of_changed(settings, _ROTATED_ONLY):
            yield (
                f"{field.upper()} is for rotated files, and no file is rotated but by SIGUSR1 or as the disk fills: "
                "set NDJSON_ROTATE_SECS or NDJSON_MAX_BYTES"
            )


def _changed(settings: Settings, fields: tuple[str, ...], because: str) -> Iterator[str]:
    """Yield that it has no effect for each field that was set to anything but its default."""
    for field in _of_changed(settings, fields):
        yield f"{field.upper()} has no effect: {because}"


def _of_changed(settings: Settings, fields: tuple[str, ...]) -> Iterator[str]:
    for field in fields:
        if settings.is_set(field) and getattr(settings, field) != type(settings).model_fields[field].default:
            yield field


def _in_order(settings: Settings, low: str, high: str, *, equal: bool) -> Iterator[Contradiction]:
    smaller, greater = settings.effective(low), settings.effective(high)
    if smaller < greater or (equal and smaller == greater):
        return
    pair = (low.upper(), high.upper())
    if settings.is_set(low):
        words = f"must be {'at most' if equal else 'below'} {pair[1]}, which is {KINDS[high].show(greater)}"
        yield Contradiction(pair, words)
    else:
        words = f"must be {'at least' if equal else 'above'} {pair[0]}, which is {KINDS[low].show(smaller)}"
        yield Contradiction((pair[1], pair[0]), words)
