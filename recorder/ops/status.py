"""What the parts are doing now, as one JSON-ready object: `/status`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol

from recorder.bars import BarStats
from recorder.bus import Bus
from recorder.clock import Clock
from recorder.ops.health import pauses, readiness, warnings
from recorder.ops.lag import LoopLag
from recorder.sessions.hours import UNKNOWN, ClusterHours, Session
from recorder.stats import ArchiveStats, FeedStats, Ledger, PressureStats, ServerStats, SinkStats, WorkerStats
from recorder.version import VERSION


class Bars(Protocol):
    """Who makes the bars of a cluster."""

    @property
    def stats(self) -> BarStats: ...

    @property
    def event_ms(self) -> int: ...


class Replays(Protocol):
    """Who gives clients bars of the past."""

    replays: int


class Relay(Protocol):
    """Who takes bars from another recorder."""

    bars_received: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class Watched:
    """The parts that ops looks at. It only ever reads them."""

    feeds: Sequence[FeedStats]
    ledger: Ledger
    archive: ArchiveStats | None
    """None where nothing is written to files."""
    bus: Bus
    lag: LoopLag
    run_id: str
    clock: Clock
    started_ns: int
    """Wall clock."""
    started_monotonic_ns: int
    ready_min_messages: int
    ready_delay_ms: int
    servers: Sequence[ServerStats] = ()
    makers: Mapping[str, Bars] = field(default_factory=dict)
    """The bars of each cluster; empty where none are made."""
    replays: Replays | None = None
    """None where no bars are made."""
    relay: Relay | None = None
    """None where bars do not come from another recorder."""
    workers: Sequence[WorkerStats] = ()
    """Empty where this process serves."""
    hours: Mapping[str, ClusterHours] = field(default_factory=dict)
    """Of the markets, by cluster; empty where none are known."""

    @property
    def uptime_secs(self) -> float:
        """How long the process has worked."""
        return (self.clock.monotonic_ns() - self.started_monotonic_ns) / 1e9

    def reasons(self) -> list[str]:
        """Give the reasons why the recorder is not ready; none: ready."""
        return self._reasons(self.feeds, list(self.ledger.sinks.values()), self._pressure, self.workers)

    def warnings(self) -> list[str]:
        """Give what is about to become a reason."""
        return warnings(self._pressure)

    def notes(self) -> list[str]:
        """Give what explains why nothing happens, and is no fault."""
        return pauses({feed.cluster: self.session(feed) for feed in self.feeds})

    def session(self, feed: FeedStats) -> Session:
        """Tell whether a cluster's market is open."""
        hours = self.hours.get(feed.cluster)
        return hours.at(self.clock.wall_ns()) if hours is not None else UNKNOWN

    def is_feed_ready(self, feed: FeedStats) -> bool:
        """Tell whether one cluster is subscribed and its data has come as the settings ask."""
        return not self._reasons([feed], [])

    @property
    def consumer_failures(self) -> int:
        """Calls in which a consumer failed, in all processes."""
        return self.bus.failures + sum(worker.consumer_failures for worker in self.workers)

    @property
    def _pressure(self) -> PressureStats | None:
        return self.archive.pressure if self.archive else None

    def _reasons(
        self,
        feeds: Sequence[FeedStats],
        sinks: Sequence[SinkStats],
        pressure: PressureStats | None = None,
        workers: Sequence[WorkerStats] = (),
    ) -> list[str]:
        wall_ns = self.clock.wall_ns()
        return readiness(
            feeds,
            sinks,
            pressure=pressure,
            workers=workers,
            ready_min_messages=self.ready_min_messages,
            ready_delay_ms=self.ready_delay_ms,
            now_monotonic_ns=self.clock.monotonic_ns(),
            quiet=[cluster for cluster, hours in self.hours.items() if not hours.wants_data(wall_ns)],
        )


class Balance(NamedTuple):
    """What became of the events that were received, at one moment; `pending` are records on their way."""

    received: int = 0
    recorded: int = 0
    filtered: int = 0
    sampled_out: int = 0
    rejected: int = 0
    dropped: int = 0
    pending: int = 0

    @property
    def difference(self) -> int:
        """Events that are accounted for nowhere, or, below 0, more than once."""
        return self.received - sum(self[1:])


def total(books: Iterable[Balance]) -> Balance:
    """Give the sums over `books`."""
    return Balance(*map(sum, zip(*books, strict=True)))


def balances(ledger: Ledger, sink: SinkStats) -> dict[tuple[str, str], Balance]:
    """Give one sink's books per (cluster, channel). To be called in the event loop's thread."""
    # The sink's own thread may be counting meanwhile: what leaves `pending` is read before what enters it.
    recorded = {key: sink.recorded[key] for key in list(sink.recorded)}
    dropped = {key: sink.dropped[key] for key in list(sink.dropped)}
    accepted = {key: sink.accepted[key] for key in list(sink.accepted)}
    found = {}
    for key in dict.fromkeys([*ledger.channels, *accepted, *recorded, *dropped]):
        channel = ledger.channels.get(key)
        done = recorded.get(key, 0), dropped.get(key, 0)
        found[key] = Balance(
            received=channel.received if channel else 0,
            recorded=done[0],
            filtered=channel.filtered if channel else 0,
            sampled_out=channel.sampled_out if channel else 0,
            rejected=channel.rejected if channel else 0,
            dropped=done[1],
            # Never below 0: what a sink recorded without having accepted it shall show as a difference.
            pending=max(0, accepted.get(key, 0) - sum(done)),
        )
    return found


def difference(books: Mapping[tuple[str, str], Balance]) -> int:
    """Give the sum of all channels' differences without their signs, so that two cannot hide each other."""
    return sum(abs(balance.difference) for balance in books.values())


def status(watched: Watched) -> dict[str, Any]:
    """Give the state of all parts. Times are Unix milliseconds, 0 where there is none yet."""
    reasons = watched.reasons()
    return {
        "version": VERSION,
        "run_id": watched.run_id,
        "pid": os.getpid(),
        "started": watched.started_ns // 1_000_000,
        "uptime_secs": round(watched.uptime_secs, 3),
        "ready": not reasons,
        "reasons": reasons,
        "warnings": watched.warnings(),
        "notes": watched.notes(),
        "loop_lag_secs": round(watched.lag.last_secs, 6),
        "loop_lag_peak_secs": round(watched.lag.peak_secs, 6),
        "consumer_failures": watched.consumer_failures,
        "feeds": [_feed_status(watched, feed) for feed in watched.feeds],
        "sinks": [_sink_status(watched.ledger, sink) for sink in list(watched.ledger.sinks.values())],
        "archive": _archive_status(watched.archive) if watched.archive else None,
        "servers": [_server_status(server) for server in watched.servers],
        "workers": [_worker_status(worker) for worker in watched.workers],
        "bars": _bars_status(watched),
    }


def _feed_status(watched: Watched, feed: FeedStats) -> dict[str, Any]:
    session = watched.session(feed)
    return {
        "cluster": feed.cluster,
        "state": feed.state,
        "ready": watched.is_feed_ready(feed),
        "connected": feed.connected,
        "subscribed": feed.subscribed,
        "reason": feed.reason,
        "session": session.state,
        "session_until": session.until_ns // 1_000_000,
        "stale_secs": round(feed.stale_secs, 3),
        "topics_wanted": feed.topics_wanted,
        "topics_acknowledged": feed.topics_acknowledged,
        "sessions": feed.sessions,
        "reconnects": feed.reconnects,
        "gaps": feed.gaps,
        "gap_secs": round(feed.gap_secs, 3),
        "errors": feed.errors,
        "ended_by": dict(feed.ended_by),
        "frames_received": feed.frames_received,
        "frames_since_subscribed": feed.frames_since_subscribed,
        "bytes_received": feed.bytes_received,
        "last_received": feed.last_received_ns // 1_000_000,
        "last_event": feed.last_event_ms,
    }


def _sink_status(ledger: Ledger, sink: SinkStats) -> dict[str, Any]:
    books = balances(ledger, sink)
    return {
        "name": sink.name,
        "failure": sink.failure,
        "pending_bytes": sink.pending_bytes,
        "pending_bytes_peak": sink.pending_bytes_peak,
        "pending_batches": sink.pending_batches,
        "bytes_written": sink.bytes_written,
        "write_errors": sink.write_errors,
        "balance": total(books.values())._asdict() | {"difference": difference(books)},
        "channels": [
            {"feed": feed, "channel": channel, **balance._asdict()}
            for (feed, channel), balance in books.items()
        ],
    }


def _archive_status(archive: ArchiveStats) -> dict[str, Any]:
    return {
        # The writer's thread owns these; a copy in one step is safe to walk through.
        "active": [
            {"file": name, "bytes": size, "records": records}
            for name, (size, records) in archive.active.copy().items()
        ],
        "rotations": archive.rotations.total(),
        "rejects_written": archive.rejects_written,
        "fsync_errors": archive.fsync_errors,
        "manifest_errors": archive.manifest_errors,
        "compress_pending": archive.compress_pending,
        "compress_errors": archive.compress_errors,
        "deleted": archive.deleted,
        "recovered": archive.recovered,
        "pressure": {
            "step": archive.pressure.word,
            "free_bytes": archive.pressure.free_bytes,
            "free_inodes": archive.pressure.free_inodes,
            "needed_bytes": archive.pressure.needed_bytes,
            "transitions": archive.pressure.transitions.total(),
            "sampled_out": archive.pressure.sampled_out,
            "dropped": archive.pressure.dropped,
        },
    }


def _server_status(server: ServerStats) -> dict[str, Any]:
    return {
        "port": server.port,
        "clients": server.clients,
        "clients_authenticated": server.clients_authenticated,
        "clients_total": server.clients_total,
        "subscriptions": server.subscriptions,
        "audiences": server.audiences,
        "auth_failures": server.auth_failures,
        "refused": dict(server.refused),
        "evictions": dict(server.evictions),
        "requests": server.requests,
        "bad_requests": server.bad_requests,
        "events_delivered": server.events_delivered,
        "frames_delivered": server.frames_delivered,
        "bytes_delivered": server.bytes_delivered,
        "pending_bytes_max": server.pending_bytes_max,
        "lag_secs_max": round(server.lag_secs_max, 3),
    }


def _worker_status(worker: WorkerStats) -> dict[str, Any]:
    return {
        "worker": worker.number,
        "state": worker.state,
        "pid": worker.pid,
        "restarts": dict(worker.restarts),
        "connections": worker.connections,
        "clients": worker.clients,
        "pending_bytes": worker.pending_bytes,
        "lag_secs": round(worker.lag_secs, 6),
        "cpu_secs": round(worker.cpu_secs, 3),
        "memory_bytes": worker.memory_bytes,
    }


def _bars_status(watched: Watched) -> dict[str, Any]:
    return {
        "made": [
            {"cluster": cluster, "event_time": maker.event_ms, **asdict(maker.stats)}
            for cluster, maker in watched.makers.items()
        ],
        "replays": watched.replays.replays if watched.replays else 0,
        "relayed": watched.relay.bars_received if watched.relay else 0,
    }
