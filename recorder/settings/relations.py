"""Relations between variables: values that are allowed each but contradict, or leave another no effect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from recorder.polygon.clusters import CLUSTERS
from recorder.settings.model import Settings, cluster_path
from recorder.settings.sections import STDOUT

REPLACES: Final = {
    "POLYGON_API_KEY": ("POLYGON_API_KEY_FILE",),
    "POLYGON_API_KEY_FILE": ("POLYGON_API_KEY",),
    "SUBSCRIPTION": ("SUBSCRIBE_DATA_TYPES",),
    "SUBSCRIBE_DATA_TYPES": ("SUBSCRIPTION",),
    "NDJSON_COMPRESSION": ("NDJSON_GZIP",),
}
"""A value given by the command takes the place of these too, which say the same in another way."""

_FILES_ONLY: Final = (
    "ndjson_max_bytes",
    "ndjson_rotate_secs",
    "ndjson_gzip",
    "ndjson_compression",
    "ndjson_retain_bytes",
    "ndjson_retain_secs",
)


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
    named = cluster_path(settings.polygon_ws_url).partition("/")[0]
    if named and settings.clusters != (named,):
        yield Contradiction(
            ("POLYGON_CLUSTER", "POLYGON_WS_URL"),
            f"must be {named}, which the path of POLYGON_WS_URL names; a URL without it serves every cluster",
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


def without_effect(settings: Settings) -> Iterator[str]:
    """Yield a warning for what is set and changes nothing, because of another variable."""
    for cluster in CLUSTERS:
        if settings.is_set(f"subscription_{cluster}") and cluster not in settings.clusters:
            yield f"SUBSCRIPTION_{cluster.upper()} has no effect: POLYGON_CLUSTER does not name {cluster}"
    if "ndjson" not in settings.effective("sink"):
        if settings.is_set("ndjson_dest"):
            yield "NDJSON_DEST has no effect: SINK does not name ndjson"
    elif settings.ndjson_dest == STDOUT:
        for field in _FILES_ONLY:
            if (
                settings.is_set(field)
                and getattr(settings, field) != type(settings).model_fields[field].default
            ):
                yield f"{field.upper()} has no effect: NDJSON_DEST is stdout"


def _in_order(settings: Settings, low: str, high: str, *, equal: bool) -> Iterator[Contradiction]:
    smaller, greater = settings.effective(low), settings.effective(high)
    if smaller < greater or (equal and smaller == greater):
        return
    pair = (low.upper(), high.upper())
    if settings.is_set(low):
        words = f"must be {'at most' if equal else 'below'} {pair[1]}, which is {greater:g}"
        yield Contradiction(pair, words)
    else:
        words = f"must be {'at least' if equal else 'above'} {pair[0]}, which is {smaller:g}"
        yield Contradiction((pair[1], pair[0]), words)
