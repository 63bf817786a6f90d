"""Takes the snapshot: reads what the parts count, and works out the rest."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from heapq import nlargest
from itertools import islice

from msgspec.structs import asdict, astuple

from recorder import native
from recorder.archive.stats import ArchiveStats
from recorder.bars import kinds
from recorder.ledger import Ledger, SinkStats
from recorder.ops import status_schema as shown
from recorder.ops.books import balances, difference, total
from recorder.ops.health import stalled_secs
from recorder.ops.observed import Observed
from recorder.ops.rates import events_received
from recorder.ops.sections import plain, show
from recorder.sources.stats import FeedStats
from recorder.stats import RECENT_MAX
from recorder.version import VERSION


def take_snapshot(observed: Observed, find: str = "") -> shown.Snapshot:
    """Return the state of all parts, and the symbols that contain `find`. Call it in the event loop's thread."""
    now_ns = observed.clock.monotonic_ns()
    reasons = observed.reasons()
    return shown.Snapshot(
        schema_version=shown.SCHEMA_VERSION,
        version=VERSION,
        native=native.in_use(),
        bars_compiled=kinds.are_compiled(),
        hostname=platform.node(),
        run_id=observed.run_id,
        pid=os.getpid(),
        at=observed.clock.wall_ns() // 1_000_000,
        started=observed.started_ns // 1_000_000,
        uptime_secs=round(observed.uptime_secs, 3),
        ready=not reasons,
        reasons=[plain(reason) for reason in reasons],
        warnings=observed.warnings(),
        notes=observed.notes(),
        loop_lag_secs=plain(observed.lag.last_secs),
        loop_lag_peak_secs=plain(observed.lag.peak_secs),
        consumer_failures=observed.consumer_failures,
        feeds=[_feed(observed, feed) for feed in observed.feeds],
        recent_gaps=_gaps(observed.feeds),
        sinks=[_sink(observed.ledger, sink, now_ns) for sink in list(observed.ledger.sinks.values())],
        symbols=observed.symbols.most_active(find),
        symbols_count=observed.symbols.count,
        archive=_archive(observed.archive) if observed.archive else None,
        servers=[show(shown.Server, server) for server in observed.servers],
        clients=_clients(observed),
        clients_count=sum(server.clients for server in observed.servers),
        parts=[show(shown.Part, part) for part in observed.parts()],
        workers=[show(shown.Worker, worker, worker=worker.number) for worker in observed.workers],
        bars=_bars(observed),
        access_log=show(shown.AccessLog, observed.access_log) if observed.access_log is not None else None,
        replay=show(shown.Replay, observed.player.stats) if observed.player is not None else None,
        draining=show(shown.Draining, observed.draining),
        streams=[show(shown.Stream, stream) for stream in observed.streams],
    )


def _feed(observed: Observed, feed: FeedStats) -> shown.Feed:
    rate = observed.rates.of(feed)
    session = observed.session(feed)
    gap = observed.open_gap(feed)
    today = observed.today(feed)
    return show(
        shown.Feed,
        feed,
        since=(feed.since_ns or observed.started_ns) // 1_000_000,
        ready=observed.is_feed_ready(feed),
        events_received=events_received(observed.ledger, feed.cluster),
        frames_per_sec=rate.frames,
        events_per_sec=rate.events,
        bytes_per_sec=rate.bytes,
        last_received=feed.last_received_ns // 1_000_000,
        session=session.state,
        session_until=session.until_ns // 1_000_000,
        gap_since=gap.since_ms if gap is not None else 0,
        gap_reason=gap.reason if gap is not None else "",
        today_complete=plain(today.ratio) if today is not None else None,
        today_missing_secs=today.missing_ms / 1000 if today is not None else None,
        last_event=feed.last_event_ms,
    )


def _gaps(feeds: Sequence[FeedStats]) -> list[shown.Gap]:
    gaps = [(gap, feed.cluster) for feed in feeds for gap in feed.recent_gaps]
    newest = nlargest(RECENT_MAX, gaps, key=lambda entry: entry[0].to_ms)
    return [shown.Gap(cluster, gap.from_ms, gap.to_ms, gap.reason) for gap, cluster in newest]


def _sink(ledger: Ledger, sink: SinkStats, now_ns: int) -> shown.Sink:
    books = balances(ledger, sink)
    return show(
        shown.Sink,
        sink,
        stalled_secs=plain(stalled_secs(sink, now_ns)),
        balance=shown.SinkBalance(**asdict(total(books.values())), difference=difference(books)),
        channels=[
            shown.ChannelBalance(*astuple(balance), feed=feed, channel=channel)
            for (feed, channel), balance in islice(books.items(), shown.CHANNELS_LISTED_MAX)
        ],
        channels_count=len(books),
        recent_drops=[show(shown.Drops, run) for run in reversed(sink.recent_drops)],
        streams=[show(shown.Appended, stream) for stream in sink.streams],
    )


def _archive(archive: ArchiveStats) -> shown.Archive:
    pressure = archive.pressure
    return show(
        shown.Archive,
        archive,
        # The writer's thread owns these; a copy in one step is safe to walk through.
        active=[show(shown.ActiveFile, segment) for segment in archive.active.copy().values()],
        recent=[show(shown.RecentFile, segment) for segment in reversed(archive.recent)],
        rotations=archive.rotations.total(),
        pressure=show(shown.Pressure, pressure, step=pressure.word, transitions=pressure.transitions.total()),
        upload=show(shown.Upload, archive.upload) if archive.upload.url else None,
    )


def _clients(observed: Observed) -> list[shown.Client]:
    """Return the clients in a lasting order, so that no row of a page moves without a reason."""
    clients = list(observed.clients(shown.CLIENTS_LISTED_MAX))
    if len(clients) > shown.CLIENTS_LISTED_MAX:
        clients = nlargest(
            shown.CLIENTS_LISTED_MAX, clients, key=lambda client: (client.lag_secs, client.unread_bytes)
        )
    clients.sort(key=lambda client: (client.port, client.worker, client.number))
    return [show(shown.Client, client) for client in clients]


def _bars(observed: Observed) -> shown.Bars:
    return shown.Bars(
        made=[show(shown.BarsMade, maker.stats) for maker in observed.makers.values()],
        replays=observed.replays.stats.replays if observed.replays else 0,
        relayed=observed.relay.stats.relayed if observed.relay else 0,
    )
