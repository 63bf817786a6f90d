"""What a metric is, and how to define one of the process, and one of each feed, sink, port…, or of the archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from recorder.archive.stats import ArchiveStats
from recorder.bars import BarStats
from recorder.ledger import SinkStats
from recorder.ops.scrape import Scrape
from recorder.ops.status import Watched
from recorder.servers.stats import ServerStats
from recorder.stats import Histogram
from recorder.upstream.stats import FeedStats
from recorder.workers.stats import WorkerStats

Kind = Literal["counter", "gauge", "histogram"]
Value = float | Histogram
Sample = tuple[tuple[str, ...], Value]
"""Label values in the order of the definition's labels, and the value."""


class Definition(NamedTuple):
    """One metric."""

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[Scrape], Iterable[Sample]]


def of_process(kind: Kind, name: str, text: str, value: Callable[[Watched], Value]) -> Definition:
    """Define a metric of the whole process."""
    return Definition(kind, name, text, (), lambda scrape: [((), value(scrape.watched))])


def of_feed(kind: Kind, name: str, text: str, value: Callable[[FeedStats], Value]) -> Definition:
    """Define a metric of each upstream connection."""
    return Definition(
        kind,
        name,
        text,
        ("feed",),
        lambda scrape: [((feed.cluster,), value(feed)) for feed in scrape.watched.feeds],
    )


def of_cluster(kind: Kind, name: str, text: str, value: Callable[[Scrape, str], Value]) -> Definition:
    """Define a metric of each cluster's books."""
    return Definition(
        kind,
        name,
        text,
        ("feed",),
        lambda scrape: [((cluster,), value(scrape, cluster)) for cluster in scrape.clusters],
    )


def of_sink(kind: Kind, name: str, text: str, value: Callable[[SinkStats], Value]) -> Definition:
    """Define a metric of each sink."""
    return Definition(
        kind, name, text, ("sink",), lambda scrape: [((sink.name,), value(sink)) for sink in scrape.sinks]
    )


def of_archive(kind: Kind, name: str, text: str, value: Callable[[ArchiveStats], Value]) -> Definition:
    """Define a metric of the archive's files; it has no sample where there is no archive."""
    return Definition(
        kind,
        name,
        text,
        (),
        lambda scrape: [((), value(scrape.watched.archive))] if scrape.watched.archive else [],
    )


def of_server(kind: Kind, name: str, text: str, value: Callable[[ServerStats], Value]) -> Definition:
    """Define a metric of each port that clients connect to."""
    return Definition(
        kind,
        name,
        text,
        ("port",),
        lambda scrape: [((server.port,), value(server)) for server in scrape.watched.servers],
    )


def of_worker(kind: Kind, name: str, text: str, value: Callable[[WorkerStats], Value]) -> Definition:
    """Define a metric of each process that serves; it has no sample where the recording process does."""
    return Definition(
        kind,
        name,
        text,
        ("worker",),
        lambda scrape: [((str(worker.number),), value(worker)) for worker in scrape.watched.workers],
    )


def of_bars(kind: Kind, name: str, text: str, value: Callable[[BarStats], Value]) -> Definition:
    """Define a metric of each cluster's bars; it has no sample where none are made."""
    return Definition(
        kind,
        name,
        text,
        ("feed",),
        lambda scrape: [((cluster,), value(maker.stats)) for cluster, maker in scrape.watched.makers.items()],
    )
