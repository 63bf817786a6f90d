"""Every metric, once: those that the parts declare, and those that are worked out from several of them."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import asdict

from recorder import native
from recorder.access_log.writer import AccessLogStats
from recorder.archive.pressure import PressureStats
from recorder.archive.stats import ActiveSegment, ArchiveStats, UploadStats
from recorder.bars import BarStats
from recorder.ledger import PairStats, SinkStats
from recorder.ops.books import difference, total
from recorder.ops.health import stalled_secs
from recorder.ops.observed import Observed
from recorder.ops.scrape import Scrape
from recorder.ops.status_schema import Balance
from recorder.part import PartStats
from recorder.polygon.channels import QUOTE_CHANNELS, TRADE_CHANNELS
from recorder.reload import ReloadStats
from recorder.servers.draining import DrainStats
from recorder.servers.stats import RelayStats, ReplayStats, ServerStats
from recorder.sources.nats.stats import StreamStats
from recorder.sources.replay.stats import PlayStats
from recorder.sources.stats import FeedStats
from recorder.stats import Histogram, Kind, Metric, declarations
from recorder.version import VERSION
from recorder.workers.stats import WorkerStats

Value = float | Histogram
Sample = tuple[tuple[str, ...], Value]
"""Label values in the order of the definition's labels, and the value."""


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric."""

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[Scrape], Iterable[Sample]]


def declared(stats: type, objects: Callable[[Observed], Iterable[Any]]) -> list[Definition]:
    """Return the metrics that a stats class declares, read from all `objects` of the class that there are."""
    label, metrics = "", dict[str, dict[str, Metric]]()
    for field, declaration in declarations(stats).items():
        label = field if declaration.label else label
        if declaration.metric is not None:
            metrics.setdefault(declaration.metric.name, {})[field] = declaration.metric
    return [_definition(stats, label, fields, objects) for fields in metrics.values()]


def _definition(
    stats: type, label: str, fields: Mapping[str, Metric], objects: Callable[[Observed], Iterable[Any]]
) -> Definition:
    """Return one metric of one or several fields; `label` is the field that tells the objects apart."""
    first = next(iter(fields.values()))
    own = [declarations(stats)[label].label] if label else []
    labels = (*own, *(name for name, _ in first.where), *([first.by] if first.by else []))

    def read(scrape: Scrape) -> Iterator[Sample]:
        for counted in objects(scrape.observed):
            values = (str(getattr(counted, label)),) if label else ()
            for field, metric in fields.items():
                known = (*values, *(value for _, value in metric.where))
                yield from _samples(metric, known, getattr(counted, field))

    return Definition(first.kind, first.name, first.help, labels, read)


def _samples(metric: Metric, labels: tuple[str, ...], value: Any) -> Iterator[Sample]:
    if metric.by:
        # The part's own thread may be counting meanwhile; a copy in one step is safe to walk through.
        for key, count in {**dict.fromkeys(metric.values, 0), **dict(value)}.items():
            yield (*labels, key), count
    elif value is not None:
        yield labels, metric.convert(value) if metric.convert else value


def _of_process(kind: Kind, name: str, text: str, read: Callable[[Observed], Value]) -> Definition:
    return Definition(kind, name, text, (), lambda scrape: [((), read(scrape.observed))])


def _of_cluster(name: str, text: str, read: Callable[[Scrape, str], float]) -> Definition:
    """Return a counter of each cluster's books."""
    return Definition(
        "counter",
        name,
        text,
        ("feed",),
        lambda scrape: [((cluster,), read(scrape, cluster)) for cluster in scrape.clusters],
    )


def _build(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.observed.feeds:
        yield (feed.cluster, VERSION, platform.python_version()), 1


def _feed_ready(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.observed.feeds:
        yield (feed.cluster,), scrape.observed.is_feed_ready(feed)


def _session_open(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.observed.feeds:
        yield (feed.cluster,), scrape.observed.session(feed).state != "closed"


def _gap_since(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.observed.feeds:
        gap = scrape.observed.open_gap(feed)
        yield (feed.cluster,), gap.since_ms / 1e3 if gap is not None else 0


def _gap_open(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.observed.feeds:
        yield (feed.cluster,), scrape.observed.open_gap_secs(feed)


def _today_complete(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.observed.feeds:
        today = scrape.observed.today(feed)
        if today is not None and today.ratio is not None:
            yield (feed.cluster,), today.ratio


def _today_missing(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.observed.feeds:
        today = scrape.observed.today(feed)
        if today is not None:
            yield (feed.cluster,), today.missing_ms / 1e3


def _workers(scrape: Scrape) -> Iterator[Sample]:
    if scrape.observed.workers:
        states = [worker.state for worker in scrape.observed.workers]
        for state in ("up", "starting", "down"):
            yield (state,), states.count(state)


def _balance_events(scrape: Scrape) -> Iterator[Sample]:
    for sink, books in scrape.labelled_books.items():
        for (cluster, channel), balance in books.items():
            for state, count in asdict(balance).items():
                yield (sink, cluster, channel, state), count


def _balance_difference(scrape: Scrape) -> Iterator[Sample]:
    for sink, books in scrape.books.items():
        yield (sink,), difference(books)


def _stalled(scrape: Scrape) -> Iterator[Sample]:
    now_ns = scrape.observed.clock.monotonic_ns()
    for sink in scrape.sinks:
        yield (sink.name,), stalled_secs(sink, now_ns)


def _sink(name: str, scrape: Scrape, cluster: str) -> Balance:
    """Return the books of one sink over all channels of a cluster."""
    return total(balance for (feed, _), balance in scrape.books.get(name, {}).items() if feed == cluster)


def _zmq_peers(scrape: Scrape) -> Iterator[Sample]:
    for sink in scrape.sinks:
        if sink.peers is not None:
            yield (), sink.peers


def _archive(observed: Observed) -> Iterator[ArchiveStats]:
    if observed.archive is not None:
        yield observed.archive


def _uploads(observed: Observed) -> Iterator[UploadStats]:
    yield from (archive.upload for archive in _archive(observed) if archive.upload.url)


def _active(observed: Observed) -> Iterator[ActiveSegment]:
    for archive in _archive(observed):
        # The writer's thread owns these; a copy in one step is safe to walk through.
        yield from archive.active.copy().values()


METRICS: Final[Mapping[str, tuple[Definition, ...]]] = {
    "Process": (
        Definition(
            "gauge",
            "polygon_build_info",
            "Always 1; the labels say what runs.",
            ("feed", "version", "python"),
            _build,
        ),
        _of_process(
            "gauge",
            "polygon_native",
            "1 where native code is used; RECORDER_NATIVE.",
            lambda w: native.in_use(),
        ),
        _of_process("gauge", "polygon_ready", "1 while /ready answers READY.", lambda w: not w.reasons()),
        _of_process(
            "counter",
            "polygon_consumer_failures_total",
            "Calls in which a consumer on the bus failed because of a defect in it.",
            lambda w: w.consumer_failures,
        ),
        *declared(PartStats, lambda observed: observed.parts()),
        *declared(ReloadStats, lambda observed: [observed.reload]),
        *declared(DrainStats, lambda observed: [observed.draining]),
        _of_process(
            "counter",
            "polygon_log_lines_dropped_total",
            "Lines of the log that were lost because nobody read it, in all processes; recording never waits for it.",
            lambda w: w.log_lines_dropped,
        ),
        _of_process(
            "histogram",
            "polygon_event_loop_lag_seconds",
            "How late the event loop fires a timer that is due every 100 ms.",
            lambda w: w.lag.seconds,
        ),
        _of_process(
            "gauge",
            "polygon_event_loop_lag_peak_seconds",
            "The event loop's greatest lag of this run.",
            lambda w: w.lag.peak_secs,
        ),
    ),
    "Upstream": (
        Definition(
            "gauge",
            "polygon_feed_ready",
            "1 while subscribed and data has come as READY_MIN_MESSAGES and READY_DELAY_MS ask.",
            ("feed",),
            _feed_ready,
        ),
        Definition(
            "gauge",
            "polygon_session_open",
            "1 while the cluster's market is open, or its hours are not known (SESSION_CALENDAR); 0 while it is closed.",
            ("feed",),
            _session_open,
        ),
        Definition(
            "gauge",
            "polygon_gap_open_seconds",
            "How long the gap is that is open now, from the last data before it, in a run before this one, too; 0: none is.",
            ("feed",),
            _gap_open,
        ),
        Definition(
            "gauge",
            "polygon_gap_since_timestamp_seconds",
            "When data last came before the gap that is open now, Unix time; 0 while no gap is open.",
            ("feed",),
            _gap_since,
        ),
        Definition(
            "gauge",
            "polygon_today_complete_ratio",
            "Which part of today's market hours until now the archive has data of; a day is one of New York. No sample "
            "before the market opens, where its hours are not known, and where no files are written.",
            ("feed",),
            _today_complete,
        ),
        Definition(
            "gauge",
            "polygon_today_missing_seconds",
            "How much of today's market hours until now is missing in the archive: what `recorder gaps --day today` shows, "
            "less the time before the first run of all.",
            ("feed",),
            _today_missing,
        ),
        *declared(FeedStats, lambda observed: observed.feeds),
    ),
    "Events": (
        Definition(
            "counter",
            "polygon_events_total",
            "Events received, by channel.",
            ("feed", "channel"),
            lambda scrape: scrape.received.items(),
        ),
        _of_cluster(
            "polygon_trades_total",
            f"Trades received (channels {', '.join(sorted(TRADE_CHANNELS))}).",
            lambda scrape, cluster: scrape.received_on(cluster, TRADE_CHANNELS),
        ),
        _of_cluster(
            "polygon_quotes_total",
            f"Quotes received (channels {', '.join(sorted(QUOTE_CHANNELS))}).",
            lambda scrape, cluster: scrape.received_on(cluster, QUOTE_CHANNELS),
        ),
        _of_cluster(
            "polygon_rejects_total",
            "Frames and elements that could not be read as events; the reject file keeps them.",
            lambda scrape, cluster: scrape.rejected(cluster),
        ),
    ),
    "Books and sinks": (
        Definition(
            "gauge",
            "polygon_balance_events",
            "Events by what became of them; received is the sum of all other states.",
            ("sink", "feed", "channel", "state"),
            _balance_events,
        ),
        Definition(
            "gauge",
            "polygon_balance_difference",
            "Events accounted for nowhere or twice, added up over all channels; the books balance at 0.",
            ("sink",),
            _balance_difference,
        ),
        _of_cluster(
            "polygon_ndjson_written_total",
            "Records handed to the operating system by the sinks ndjson and stdout.",
            lambda scrape, cluster: scrape.ndjson(cluster).recorded,
        ),
        _of_cluster(
            "polygon_ndjson_drops_total",
            "Records lost because the sinks ndjson and stdout could not take them.",
            lambda scrape, cluster: scrape.ndjson(cluster).dropped,
        ),
        _of_cluster(
            "polygon_zmq_sent_total",
            "Records published over ZMQ, each counted once, whatever the number of its subscribers.",
            lambda scrape, cluster: _sink("zmq", scrape, cluster).recorded,
        ),
        _of_cluster(
            "polygon_zmq_drops_total",
            "Records not published over ZMQ, and records that found a subscriber's queue full; see zmq.md.",
            lambda scrape, cluster: _sink("zmq", scrape, cluster).dropped,
        ),
        Definition(
            "gauge", "polygon_zmq_peers", "ZMQ peers connected; no sample without SINK=zmq.", (), _zmq_peers
        ),
        _of_cluster(
            "polygon_nats_sent_total",
            "Events that are in a NATS stream: its servers have acknowledged them.",
            lambda scrape, cluster: _sink("nats", scrape, cluster).recorded,
        ),
        _of_cluster(
            "polygon_nats_drops_total",
            "Events that are not in a NATS stream, because too much waited or a stop did not wait longer; see nats.md.",
            lambda scrape, cluster: _sink("nats", scrape, cluster).dropped,
        ),
        _of_cluster(
            "polygon_kafka_sent_total",
            "Events that are in a Kafka topic: its brokers have acknowledged them.",
            lambda scrape, cluster: _sink("kafka", scrape, cluster).recorded,
        ),
        _of_cluster(
            "polygon_kafka_drops_total",
            "Events that are not in a Kafka topic, because too much waited or a stop did not wait longer; see kafka.md.",
            lambda scrape, cluster: _sink("kafka", scrape, cluster).dropped,
        ),
        Definition(
            "gauge",
            "polygon_sink_stalled_seconds",
            "How long the sink has been in its present write; grows while a disk hangs.",
            ("sink",),
            _stalled,
        ),
        *declared(SinkStats, lambda observed: list(observed.ledger.sinks.values())),
        *declared(PairStats, lambda observed: observed.ledger.streams),
    ),
    "Archive": (
        *declared(ActiveSegment, _active),
        *declared(ArchiveStats, _archive),
        *declared(PressureStats, lambda observed: [archive.pressure for archive in _archive(observed)]),
        *declared(UploadStats, _uploads),
    ),
    "Servers": (
        *declared(ServerStats, lambda observed: observed.servers),
        *declared(
            AccessLogStats, lambda observed: [observed.access_log] if observed.access_log is not None else []
        ),
    ),
    "Workers": (
        Definition(
            "gauge",
            "polygon_serve_workers",
            "Processes that serve, by state; no sample with SERVE_WORKERS=0. The metrics of servers and bars are the "
            "sums over all of them, a second old at most.",
            ("state",),
            _workers,
        ),
        *declared(WorkerStats, lambda observed: observed.workers),
    ),
    "Bars": (
        *declared(BarStats, lambda observed: [maker.stats for maker in observed.makers.values()]),
        *declared(ReplayStats, lambda observed: [observed.replays.stats] if observed.replays else []),
        *declared(RelayStats, lambda observed: [observed.relay.stats] if observed.relay else []),
    ),
    "Streams": (*declared(StreamStats, lambda observed: observed.streams),),
    "Replay": (*declared(PlayStats, lambda observed: [observed.player.stats] if observed.player else []),),
}
"""By the title under which the docs list them."""
