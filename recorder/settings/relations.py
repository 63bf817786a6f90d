"""Relations between variables: values that are allowed each but follow, contradict, or leave another no effect."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from recorder.addresses import is_loopback
from recorder.polygon.channels import FAST_CHANNELS
from recorder.polygon.clusters import cluster_path
from recorder.settings.model import EXCHANGE, NATS, OPTIONS, Settings
from recorder.settings.names import OLDER_NAMES
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
