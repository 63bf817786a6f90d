"""What the settings say of serving: the ports, in this process or in workers, and the bars that come from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recorder.access_log.book import AccessBook
from recorder.access_log.writer import AccessLog
from recorder.bus import Bus
from recorder.clock import Clock
from recorder.servers.access import Access, Rules
from recorder.servers.past.entry import Origin
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.numbering import Numbering
from recorder.servers.serving import Serving
from recorder.settings import Settings
from recorder.settings.model import NATS
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed, Keys
from recorder.sources.source import FixedTopics, Source, TopicSink
from recorder.sources.stats import FeedStats
from recorder.workers.pool import WorkerPool


@dataclass(frozen=True, slots=True)
class Ports:
    """What was made."""

    serving: Serving | WorkerPool
    bar_feeds: tuple[Feed, ...]
    """The connections to the recorder that `MS_AGGREGATOR_URL` names, one a cluster; empty without it."""


def make_ports(
    settings: Settings,
    rules: Rules,
    sources: Mapping[str, Source],
    bus: Bus,
    clock: Clock,
    keys: Keys,
    origin: Origin,
    access_log: AccessLog | None = None,
) -> Ports:
    """Return the ports and attach them to the bus. `sources` are by cluster; `keys` are those of its feeds.

    `origin` is what the positions that clients are told are of.
    """
    topic_sinks: dict[str, TopicSink] = {
        cluster: source if isinstance(source, TopicSink) else FixedTopics(cluster, bus, clock)
        for cluster, source in sources.items()
    }
    topics = {upstream.cluster: upstream.topics for upstream in settings.upstreams}
    follows = settings.source == NATS or any(upstream.firehose for upstream in settings.upstreams)
    origin = origin._replace(follows=follows)
    bars_bus = Bus()
    serving: Serving | WorkerPool
    if settings.workers.count:
        serving = WorkerPool(
            settings.servers,
            settings.bars,
            settings.demand,
            topics,
            topic_sinks,
            rules,
            clock,
            settings.workers,
            settings.log,
            access_log,
            origin,
        )
        bars_bus.attach(serving.bars_consumer)
    else:
        book = None
        if access_log is not None:
            book = AccessBook(settings.servers.access_log.interval_secs, topics, access_log.write, clock)
        now_ms = clock.wall_ns() // 1_000_000
        log = HotLog(
            origin.epoch,
            settings.servers.resume_bytes,
            topics,
            now_ms,
            manifest=origin.manifest,
            follows=origin.follows,
        )
        bus.attach(Numbering(log, origin.seq))
        serving = Serving(
            settings.servers,
            settings.bars,
            settings.demand,
            topics,
            topic_sinks,
            Access.of_this_process(rules, clock, book),
            clock,
            log,
        )
    for consumer in serving.consumers:
        bus.attach(consumer)
    return Ports(serving, tuple(_bar_feeds(settings, serving, bars_bus, clock, keys)))


def _bar_feeds(
    settings: Settings, serving: Serving | WorkerPool, bars_bus: Bus, clock: Clock, keys: Keys
) -> list[Feed]:
    """Return a feed of bars for each cluster, if they come from another recorder, and have the ports relay them."""
    feeds: list[Feed] = []
    relay, url = serving.relay, settings.bars.aggregator_url
    if relay is None or url is None:
        return feeds
    bars_bus.attach(relay)
    for followed in settings.upstreams:
        cluster = followed.cluster
        upstream = followed.model_copy(
            update={"url": f"{url.rstrip('/')}/{cluster}", "topics": (), "firehose": False, "amend": True}
        )
        stats = FeedStats(cluster, settings.reconnect_buckets, settings.interarrival_buckets)
        context = FeedContext(upstream, bars_bus, stats, clock)
        feed = Feed(context, keys=keys, name=f"bars of {cluster}")
        feeds.append(feed)
        relay.connect(cluster, feed)
    return feeds
