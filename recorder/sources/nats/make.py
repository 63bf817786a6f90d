"""Makes the source of SOURCE=nats. What it needs is imported only then."""

from __future__ import annotations

from recorder.errors import ConfigError
from recorder.plugins import installing
from recorder.settings.nats import NatsSettings
from recorder.sources.nats.stats import StreamStats
from recorder.sources.source import Source, SourceContext
from recorder.stream_message import Names


def make_nats_source(context: SourceContext, settings: NatsSettings, streams: list[StreamStats]) -> Source:
    """Return the source of one cluster, whose stats join the `streams`.

    :raises ConfigError: nats-py is not installed.
    """
    try:
        from recorder.sources.nats.source import NatsSource
    except ModuleNotFoundError as error:
        if error.name != "nats":
            raise
        raise ConfigError(f"SOURCE=nats needs nats-py: {installing('nats-py')}") from error
    streams.append(StreamStats(context.cluster, Names.of(settings.stream_prefix, context.cluster).stream))
    return NatsSource(context, settings, streams[-1])
