"""Takes the snapshot: reads what the parts count, and puts it into the structure that is shown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from heapq import nlargest
from itertools import islice
from typing import Final

from recorder.archive.stats import ArchiveStats
from recorder.ledger import Ledger, SinkStats
from recorder.ops import snapshot as shown
from recorder.ops.health import stalled_secs
from recorder.ops.rates import events_received
from recorder.ops.status import Watched, balances, difference, total
from recorder.servers.stats import ServerStats
from recorder.stats import RECENT_MAX
from recorder.upstream.stats import FeedStats
from recorder.version import VERSION
from recorder.workers.stats import WorkerStats

_TEXT_CHARS_MAX: Final = 500
"""Of what the outside says: the wire names channels, and the exchange words its refusals."""


def take_snapshot(watched: Watched) -> shown.Snapshot:
    """Look at all parts. To be called in the event loop's thread."""
    now_ns = watched.clock.monotonic_ns()
    reasons = watched.reasons()
    return shown.Snapshot(
        schema_version=shown.SCHEMA_VERSION,
        version=VERSION,
        hostname=platform.node(),
        run_id=watched.run_id,
        pid=os.getpid(),
        at=watched.clock.wall_ns() // 1_000_000,
        started=watched.started_ns // 1_000_000,
        uptime_secs=round(watched.uptime_secs, 3),
        ready=not reasons,
        reasons=[_cut(reason) for reason in reasons],
        warnings=watched.warnings(),
        notes=watched.notes(),
        loop_lag_secs=round(watched.lag.last_secs, 6),
        loop_lag_peak_secs=round(watched.lag.peak_secs, 6),
        consumer_failures=watched.consumer_failures,
        feeds=[_feed(watched, feed) for feed in watched.feeds],
        recent_gaps=_gaps(watched.feeds),
        sinks=[_sink(watched.ledger, sink, now_ns) for sink in list(watched.ledger.sinks.values())],
        archive=_archive(watched.archive) if watched.archive else None,
        servers=[_server(server) for server in watched.servers],
        clients=_clients(watched),
        clients_count=sum(server.clients for server in watched.servers),
        workers=[_worker(worker) for worker in watched.workers],
        bars=_bars(watched),
    )


def _feed(watched: Watched, feed: FeedStats) -> shown.Feed:
    rate = watched.rates.of(feed)
    session = watched.session(feed)
    return shown.Feed(
        cluster=feed.cluster,
        state=feed.state,
        since=(feed.since_ns or watched.started_ns) // 1_000_000,
        ready=watched.is_feed_ready(feed),
        connected=feed.connected,
        subscribed=feed.subscribed,
        reason=_cut(feed.reason),
        topics_wanted=feed.topics_wanted,
        topics_acknowledged=feed.topics_acknowledged,
        sessions=feed.sessions,
        reconnects=feed.reconnects,
        gaps=feed.gaps,
        gap_secs=round(feed.gap_secs, 3),
        errors=feed.errors,
        ended_by=dict(feed.ended_by),
        frames_received=feed.frames_received,
        frames_since_subscribed=feed.frames_since_subscribed,
        bytes_received=feed.bytes_received,
        events_received=events_received(watched.ledger, feed.cluster),
        frames_per_sec=rate.frames,
        events_per_sec=rate.events,
        bytes_per_sec=rate.bytes,
        last_received=feed.last_received_ns // 1_000_000,
        session=session.state,
        session_until=session.until_ns // 1_000_000,
        stale_secs=round(feed.stale_secs, 3),
        last_event=feed.last_event_ms,
    )


def _gaps(feeds: Sequence[FeedStats]) -> list[shown.Gap]:
    gaps = [(gap, feed.cluster) for feed in feeds for gap in feed.recent_gaps]
    newest = nlargest(RECENT_MAX, gaps, key=lambda entry: entry[0].to_ms)
    return [shown.Gap(cluster, gap.from_ms, gap.to_ms, gap.reason) for gap, cluster in newest]


def _sink(ledger: Ledger, sink: SinkStats, now_ns: int) -> shown.Sink:
    books = balances(ledger, sink)
    return shown.Sink(
        name=sink.name,
        failure=_cut(sink.failure),
        stalled_secs=round(stalled_secs(sink, now_ns), 3),
        pending_bytes=sink.pending_bytes,
        pending_bytes_max=sink.pending_bytes_max,
        pending_bytes_peak=sink.pending_bytes_peak,
        pending_batches=sink.pending_batches,
        bytes_written=sink.bytes_written,
        write_errors=sink.write_errors,
        balance=shown.SinkBalance(*total(books.values()), difference=difference(books)),
        channels=[
            shown.ChannelBalance(*balance, feed=feed, channel=_cut(channel))
            for (feed, channel), balance in islice(books.items(), shown.CHANNELS_LISTED_MAX)
        ],
        channels_count=len(books),
        recent_drops=[
            shown.Drops(
                cluster=run.cluster,
                channel=_cut(run.channel),
                reason=_cut(run.reason),
                first=run.first_ms,
                last=run.last_ms,
                count=run.count,
            )
            for run in reversed(sink.recent_drops)
        ],
    )


def _archive(archive: ArchiveStats) -> shown.Archive:
    pressure = archive.pressure
    return shown.Archive(
        # The writer's thread owns these; a copy in one step is safe to walk through.
        active=[
            shown.ActiveFile(name, segment.bytes, segment.records, segment.rotates_ms)
            for name, segment in archive.active.copy().items()
        ],
        recent=[
            shown.RecentFile(
                file=segment.file,
                records=segment.records,
                bytes=segment.bytes,
                compressed_bytes=segment.compressed_bytes,
                closed=segment.closed_ms,
                reason=segment.reason,
                deleted=segment.deleted,
            )
            for segment in reversed(archive.recent)
        ],
        rotate_bytes=archive.rotate_bytes,
        rotate_secs=archive.rotate_secs,
        rotations=archive.rotations.total(),
        rejects_written=archive.rejects_written,
        fsync_errors=archive.fsync_errors,
        manifest_errors=archive.manifest_errors,
        compress_pending=archive.compress_pending,
        compress_errors=archive.compress_errors,
        deleted=archive.deleted,
        recovered=archive.recovered,
        pressure=shown.Pressure(
            step=pressure.word,
            free_bytes=pressure.free_bytes,
            free_inodes=pressure.free_inodes,
            min_free_bytes=pressure.min_free_bytes,
            needed_bytes=pressure.needed_bytes,
            transitions=pressure.transitions.total(),
            sampled_out=pressure.sampled_out,
            dropped=pressure.dropped,
        ),
    )


def _server(server: ServerStats) -> shown.Server:
    return shown.Server(
        port=server.port,
        clients=server.clients,
        clients_authenticated=server.clients_authenticated,
        clients_total=server.clients_total,
        subscriptions=server.subscriptions,
        audiences=server.audiences,
        auth_failures=server.auth_failures,
        refused=dict(server.refused.items()),
        evictions=dict(server.evictions.items()),
        requests=server.requests,
        bad_requests=server.bad_requests,
        events_delivered=server.events_delivered,
        frames_delivered=server.frames_delivered,
        bytes_delivered=server.bytes_delivered,
        pending_bytes_max=server.pending_bytes_max,
        lag_secs_max=round(server.lag_secs_max, 3),
    )


def _clients(watched: Watched) -> list[shown.Client]:
    """The clients in a lasting order, so that no row of a page moves without a reason."""
    clients = list(watched.clients(shown.CLIENTS_LISTED_MAX))
    if len(clients) > shown.CLIENTS_LISTED_MAX:
        clients = nlargest(
            shown.CLIENTS_LISTED_MAX, clients, key=lambda client: (client.lag_secs, client.unread_bytes)
        )
    clients.sort(key=lambda client: (client.port, client.worker, client.number))
    return [
        shown.Client(
            port=client.port,
            worker=client.worker,
            number=client.number,
            address=client.address,
            address_port=client.address_port,
            cluster=client.cluster,
            token=client.token,
            agent=client.agent,
            topics=list(client.topics),
            topics_count=client.topics_count,
            unread_bytes=client.unread_bytes,
            lag_secs=round(client.lag_secs, 3),
            events=client.events,
            bytes=client.bytes,
            connected_secs=round(client.connected_secs, 1),
        )
        for client in clients
    ]


def _worker(worker: WorkerStats) -> shown.Worker:
    return shown.Worker(
        worker=worker.number,
        state=worker.state,
        pid=worker.pid,
        restarts=dict(worker.restarts),
        connections=worker.connections,
        clients=worker.clients,
        pending_bytes=worker.pending_bytes,
        lag_secs=round(worker.lag_secs, 6),
        cpu_secs=round(worker.cpu_secs, 3),
        memory_bytes=worker.memory_bytes,
    )


def _bars(watched: Watched) -> shown.Bars:
    return shown.Bars(
        made=[
            shown.BarsMade(cluster=cluster, event_time=maker.event_ms, **asdict(maker.stats))
            for cluster, maker in watched.makers.items()
        ],
        replays=watched.replays.replays if watched.replays else 0,
        relayed=watched.relay.bars_received if watched.relay else 0,
    )


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT_CHARS_MAX else f"{text[:_TEXT_CHARS_MAX]}…"
