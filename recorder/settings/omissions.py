"""What settings leave unsaid that most people want said: which cluster is followed, and where the records go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from recorder.log_events import LEVELS
from recorder.polygon.client import listed
from recorder.settings.model import OPTIONS, Settings
from recorder.settings.sections import STDOUT

_EVENTS_LEVEL: Final = "info"
"""The level of the log lines of SINK=stdout."""
_TO_FILES: Final = "set SINK=ndjson and NDJSON_DEST=/path/polygon.ndjson to record"


def omissions(settings: Settings) -> tuple[str, ...]:
    """Return a warning for each default that decides what is recorded, and for a sink that records nothing."""
    return (*_about_clusters(settings), *_about_records(settings))


def _about_clusters(settings: Settings) -> Iterator[str]:
    cluster = settings.servers.default_cluster
    if not cluster:
        return
    topics = listed([topic for upstream in settings.upstreams for topic in upstream.topics])
    yield (
        f"the cluster is {cluster} and the topics are {topics}, because POLYGON_CLUSTER is not set: "
        "set POLYGON_CLUSTER=stocks, or what you mean"
    )


def _about_records(settings: Settings) -> Iterator[str]:
    if STDOUT in settings.sinks and not _logs_events(settings):
        alone = settings.sinks == (STDOUT,)
        level = OPTIONS["LOG_LEVEL"].show(settings["LOG_LEVEL"])
        yield (
            f"{'nothing is recorded' if alone else 'SINK=stdout writes nothing'}: LOG_LEVEL={level} leaves out the log "
            f"lines of SINK=stdout, which are of level {_EVENTS_LEVEL}; {_TO_FILES}, or add polygon_events=info to LOG_LEVEL"
        )
    elif settings.sinks == (STDOUT,) and not settings.is_set("SINK"):
        yield (
            "no file is written: SINK is not set, so events go to standard output as log lines; "
            f"{_TO_FILES}, or SINK=stdout if that is meant"
        )
    elif "ndjson" in settings.sinks and not settings.is_set("NDJSON_DEST"):
        yield (
            "no file is written: NDJSON_DEST is not set, so records go to standard output; "
            "set NDJSON_DEST=/path/polygon.ndjson, or NDJSON_DEST=stdout if that is meant"
        )


def _logs_events(settings: Settings) -> bool:
    levels = settings.log.levels
    level = levels.get("polygon_events", levels[""])
    return LEVELS.index(level) <= LEVELS.index(_EVENTS_LEVEL)
