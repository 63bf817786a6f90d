"""Settings that are set and change nothing, or not what their names say, because of another one: a warning for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from recorder.polygon.clusters import CLUSTERS
from recorder.settings.model import NATS, OPTIONS, Settings
from recorder.settings.names import OLDER_LIMITS

_ROTATED_ONLY: Final = (
    "NDJSON_GZIP",
    "NDJSON_COMPRESSION",
    "NDJSON_RETAIN_BYTES",
    "NDJSON_RETAIN_SECS",
    "ARCHIVE_UPLOAD_URL",
)
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
        yield from (
            f"{variable} has no effect: SINK does not name ndjson"
            for variable in ("NDJSON_DEST", "ARCHIVE_UPLOAD_URL")
            if settings.is_set(variable)
        )
    elif settings.archive.to_stdout:
        yield from _changed(settings, _FILES_ONLY, "NDJSON_DEST is stdout")
    else:
        yield from _about_files(settings)


def _about_files(settings: Settings) -> Iterator[str]:
    archive = settings.archive
    if archive.upload_url is None:
        yield from _changed(settings, ("ARCHIVE_UPLOAD_BYTES_PER_SEC",), "ARCHIVE_UPLOAD_URL is not set")
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
