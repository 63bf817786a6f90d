"""Every metric, once: type, name, meaning, labels, and where it is read. Collector and docs follow it."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from recorder.errors import UpstreamError
from recorder.ops.definition import (
    Definition,
    Sample,
    of_archive,
    of_bars,
    of_cluster,
    of_feed,
    of_process,
    of_server,
    of_sink,
    of_worker,
)
from recorder.ops.health import stalled_secs
from recorder.ops.scrape import Scrape
from recorder.ops.status import Balance, difference, total
from recorder.polygon.channels import QUOTE_CHANNELS, TRADE_CHANNELS
from recorder.servers.stats import EVICTIONS, REFUSALS
from recorder.version import VERSION


def _build(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.watched.feeds:
        yield (feed.cluster, VERSION, platform.python_version()), 1


def _feed_ready(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.watched.feeds:
        yield (feed.cluster,), scrape.watched.is_feed_ready(feed)


def _session_open(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.watched.feeds:
        yield (feed.cluster,), scrape.watched.session(feed).state != "closed"


def _counted(counts: Mapping[Any, int], known: Iterable[str]) -> Iterable[tuple[str, int]]:
    """Give each count, and 0 for what has not happened yet: Prometheus sees no increase in a series that begins at 1."""
    return {**dict.fromkeys(known, 0), **counts}.items()


_ENDS: Final = tuple(kind.reason for kind in UpstreamError.__subclasses__())


def _disconnects(scrape: Scrape) -> Iterator[Sample]:
    for feed in scrape.watched.feeds:
        for reason, count in _counted(feed.ended_by, _ENDS):
            yield (feed.cluster, reason), count


def _refused(scrape: Scrape) -> Iterator[Sample]:
    for server in scrape.watched.servers:
        for reason, count in _counted(server.refused, REFUSALS):
            yield (server.port, reason), count


def _evictions(scrape: Scrape) -> Iterator[Sample]:
    for server in scrape.watched.servers:
        for reason, count in _counted(server.evictions, EVICTIONS):
            yield (server.port, reason), count


def _workers(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.workers:
        states = [worker.state for worker in scrape.watched.workers]
        for state in ("up", "starting", "down"):
            yield (state,), states.count(state)


def _worker_restarts(scrape: Scrape) -> Iterator[Sample]:
    for worker in scrape.watched.workers:
        for reason in ("ended", "slow", "silent"):
            yield (str(worker.number), reason), worker.restarts[reason]


def _worker_clients(scrape: Scrape) -> Iterator[Sample]:
    for worker in scrape.watched.workers:
        for port, count in worker.clients.items():
            yield (str(worker.number), port), count


def _left_out(scrape: Scrape) -> Iterator[Sample]:
    for cluster, maker in scrape.watched.makers.items():
        for reason in _LEFT_OUT:
            yield (cluster, reason), getattr(maker.stats, reason)


_LEFT_OUT: Final = ("unreadable", "misdated", "late", "not_counted", "unpriced", "partial", "abandoned")
"""Fields of `BarStats`, the names of the label's values."""


def _replays(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.replays:
        yield (), scrape.watched.replays.replays


def _relayed(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.relay:
        yield (), scrape.watched.relay.bars_received


def _relay_rejects(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.relay:
        yield (), scrape.watched.relay.unreadable


def _balance_events(scrape: Scrape) -> Iterator[Sample]:
    for sink, books in scrape.labelled_books.items():
        for (cluster, channel), balance in books.items():
            for state, count in balance._asdict().items():
                yield (sink, cluster, channel, state), count


def _balance_difference(scrape: Scrape) -> Iterator[Sample]:
    for sink, books in scrape.books.items():
        yield (sink,), difference(books)


def _stalled(scrape: Scrape) -> Iterator[Sample]:
    now_ns = scrape.watched.clock.monotonic_ns()
    for sink in scrape.sinks:
        yield (sink.name,), stalled_secs(sink, now_ns)


def _zmq(scrape: Scrape, cluster: str) -> Balance:
    return total(balance for (feed, _), balance in scrape.books.get("zmq", {}).items() if feed == cluster)


def _zmq_peers(scrape: Scrape) -> Iterator[Sample]:
    for sink in scrape.sinks:
        if sink.peers is not None:
            yield (), sink.peers


def _rotations(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.archive:
        # The writer's thread counts meanwhile; a copy in one step is safe to walk through.
        for reason, count in dict(scrape.watched.archive.rotations).items():
            yield (reason,), count


def _active_bytes(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.archive:
        for file, segment in dict(scrape.watched.archive.active).items():
            yield (file,), segment.bytes


def _active_records(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.archive:
        for file, segment in dict(scrape.watched.archive.active).items():
            yield (file,), segment.records


def _free_bytes(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.archive and scrape.watched.archive.pressure.free_bytes is not None:
        yield (), scrape.watched.archive.pressure.free_bytes


def _free_inodes(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.archive and scrape.watched.archive.pressure.free_inodes is not None:
        yield (), scrape.watched.archive.pressure.free_inodes


def _pressure_transitions(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.archive:
        for step, count in dict(scrape.watched.archive.pressure.transitions).items():
            yield (step,), count


def _pressure_left_out(scrape: Scrape) -> Iterator[Sample]:
    if scrape.watched.archive:
        pressure = scrape.watched.archive.pressure
        yield ("sampled_out",), pressure.sampled_out
        yield ("dropped",), pressure.dropped


METRICS: Final[Mapping[str, tuple[Definition, ...]]] = {
    "Process": (
        Definition(
            "gauge",
            "polygon_build_info",
            "Always 1; the labels say what runs.",
            ("feed", "version", "python"),
            _build,
        ),
        of_process("gauge", "polygon_ready", "1 while /ready answers READY.", lambda w: not w.reasons()),
        of_process(
            "counter",
            "polygon_consumer_failures_total",
            "Calls in which a consumer on the bus failed because of a defect in it.",
            lambda w: w.consumer_failures,
        ),
        of_process(
            "histogram",
            "polygon_event_loop_lag_seconds",
            "How late a timer of the event loop fired that is due every 100 ms.",
            lambda w: w.lag.seconds,
        ),
        of_process(
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
        of_feed("gauge", "polygon_connected", "1 while connected.", lambda f: f.connected),
        of_feed(
            "gauge", "polygon_subscribed", "1 while a subscription is acknowledged.", lambda f: f.subscribed
        ),
        of_feed("gauge", "polygon_topics_wanted", "Topics asked for.", lambda f: f.topics_wanted),
        of_feed(
            "gauge",
            "polygon_topics_acknowledged",
            "Topics that the exchange acknowledged.",
            lambda f: f.topics_acknowledged,
        ),
        of_feed("counter", "polygon_connects_total", "Attempts to connect.", lambda f: f.connects),
        of_feed(
            "counter",
            "polygon_sessions_total",
            "Connections that were authenticated and subscribed.",
            lambda f: f.sessions,
        ),
        of_feed(
            "counter",
            "polygon_reconnects_total",
            "Attempts to connect after the first connection failed or was lost.",
            lambda f: f.reconnects,
        ),
        of_feed(
            "counter",
            "polygon_reconnect_success_total",
            "Reconnects that led to a subscribed session.",
            lambda f: f.reconnect_successes,
        ),
        of_feed(
            "counter",
            "polygon_reconnect_failure_total",
            "Reconnects that did not.",
            lambda f: f.reconnect_failures,
        ),
        of_feed(
            "histogram",
            "polygon_reconnect_duration_seconds",
            "From the loss of a session to the next one; bounds: RECONNECT_BUCKETS.",
            lambda f: f.reconnect_seconds,
        ),
        of_feed("counter", "polygon_gaps_total", "Gaps: times between two sessions.", lambda f: f.gaps),
        of_feed(
            "counter",
            "polygon_gap_seconds_total",
            "How long the gaps were in all, each from the last data before it.",
            lambda f: f.gap_secs,
        ),
        Definition(
            "counter",
            "polygon_disconnects_total",
            "Connections that ended and attempts that failed, by reason.",
            ("feed", "reason"),
            _disconnects,
        ),
        of_feed(
            "counter",
            "polygon_read_timeouts_total",
            "Connections given up because no byte came for READ_TIMEOUT_SECS.",
            lambda f: f.read_timeouts,
        ),
        of_feed(
            "counter",
            "polygon_data_timeouts_total",
            "Connections given up because no data came for DATA_TIMEOUT_SECS while the market was open.",
            lambda f: f.data_timeouts,
        ),
        of_feed(
            "counter", "polygon_heartbeats_sent_total", "WebSocket pings sent.", lambda f: f.heartbeats_sent
        ),
        of_feed(
            "counter",
            "polygon_errors_total",
            "Connections that ended badly, and error statuses of the exchange.",
            lambda f: f.errors,
        ),
        of_feed(
            "counter", "polygon_status_total", "Status messages received.", lambda f: f.statuses_received
        ),
    ),
    "Data": (
        of_feed(
            "counter",
            "polygon_messages_received_total",
            "WebSocket frames received.",
            lambda f: f.frames_received,
        ),
        of_feed(
            "counter",
            "polygon_received_bytes_total",
            "Bytes of the frames received.",
            lambda f: f.bytes_received,
        ),
        of_feed(
            "counter",
            "polygon_batches_total",
            "Reads of the socket that brought frames; each is one pass through all consumers.",
            lambda f: f.batches_received,
        ),
        Definition(
            "counter",
            "polygon_events_total",
            "Events received, by channel.",
            ("feed", "channel"),
            lambda scrape: scrape.received.items(),
        ),
        of_cluster(
            "counter",
            "polygon_trades_total",
            f"Trades received (channels {', '.join(sorted(TRADE_CHANNELS))}).",
            lambda scrape, cluster: scrape.received_on(cluster, TRADE_CHANNELS),
        ),
        of_cluster(
            "counter",
            "polygon_quotes_total",
            f"Quotes received (channels {', '.join(sorted(QUOTE_CHANNELS))}).",
            lambda scrape, cluster: scrape.received_on(cluster, QUOTE_CHANNELS),
        ),
        of_cluster(
            "counter",
            "polygon_rejects_total",
            "Frames and elements that could not be read as events; the reject file keeps them.",
            lambda scrape, cluster: scrape.rejected(cluster),
        ),
        of_feed(
            "counter",
            "polygon_channel_drops_total",
            "Frames lost between socket and bus; there is no queue there, so it stays 0.",
            lambda f: f.channel_drops,
        ),
        of_feed(
            "counter",
            "polygon_cap_reached_total",
            "Reads that brought CHANNEL_CAP frames or more.",
            lambda f: f.cap_reached,
        ),
        of_feed(
            "gauge",
            "polygon_last_received_timestamp_seconds",
            "When data was last received, Unix time; 0 before the first.",
            lambda f: f.last_received_ns / 1e9,
        ),
        of_feed(
            "gauge",
            "polygon_last_event_timestamp_seconds",
            "The newest event's own time, Unix time; 0 before the first.",
            lambda f: f.last_event_ms / 1e3,
        ),
        of_feed(
            "histogram",
            "polygon_message_interarrival_seconds",
            "Time between two reads that brought data; bounds: INTERARRIVAL_BUCKETS.",
            lambda f: f.interarrival_seconds,
        ),
        of_feed(
            "histogram",
            "polygon_ingest_latency_seconds",
            "From an event's own time to its receipt; one observation a read, its last event.",
            lambda f: f.latency_seconds,
        ),
        of_feed(
            "histogram",
            "polygon_pass_duration_seconds",
            "How long the loop was busy with one batch, all consumers together.",
            lambda f: f.pass_seconds,
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
            "Events accounted for nowhere or twice, added up over all channels; 0: the books balance.",
            ("sink",),
            _balance_difference,
        ),
        of_cluster(
            "counter",
            "polygon_ndjson_written_total",
            "Records handed to the operating system by the sinks ndjson and stdout.",
            lambda scrape, cluster: scrape.ndjson(cluster).recorded,
        ),
        of_cluster(
            "counter",
            "polygon_ndjson_drops_total",
            "Records lost because the sinks ndjson and stdout could not take them.",
            lambda scrape, cluster: scrape.ndjson(cluster).dropped,
        ),
        of_cluster(
            "counter",
            "polygon_zmq_sent_total",
            "Records published over ZMQ, each counted once however many subscribe to it, or none.",
            lambda scrape, cluster: _zmq(scrape, cluster).recorded,
        ),
        of_cluster(
            "counter",
            "polygon_zmq_drops_total",
            "Records not published over ZMQ, and records that found a subscriber's queue full; see zmq.md.",
            lambda scrape, cluster: _zmq(scrape, cluster).dropped,
        ),
        Definition(
            "gauge", "polygon_zmq_peers", "ZMQ peers connected; no sample without SINK=zmq.", (), _zmq_peers
        ),
        of_sink("gauge", "polygon_sink_writable", "1 while the sink can write.", lambda s: not s.failure),
        Definition(
            "gauge",
            "polygon_sink_stalled_seconds",
            "How long the sink has been in its present write; grows while a disk hangs.",
            ("sink",),
            _stalled,
        ),
        of_sink(
            "gauge", "polygon_sink_pending_bytes", "Bytes waiting for the sink.", lambda s: s.pending_bytes
        ),
        of_sink(
            "gauge",
            "polygon_sink_pending_limit_bytes",
            "Bytes that may wait for the sink; past them the newest records are dropped.",
            lambda s: s.pending_bytes_max,
        ),
        of_sink(
            "gauge",
            "polygon_sink_pending_peak_bytes",
            "The most bytes that ever waited for the sink.",
            lambda s: s.pending_bytes_peak,
        ),
        of_sink(
            "gauge",
            "polygon_sink_pending_batches",
            "Batches waiting for the sink.",
            lambda s: s.pending_batches,
        ),
        of_sink(
            "counter",
            "polygon_sink_written_bytes_total",
            "Bytes handed to the operating system.",
            lambda s: s.bytes_written,
        ),
        of_sink(
            "counter", "polygon_sink_write_errors_total", "Writes that failed.", lambda s: s.write_errors
        ),
        of_sink(
            "counter",
            "polygon_sink_rejects_dropped_total",
            "Lines for the reject file that were dropped; their events count as rejected all the same.",
            lambda s: s.rejects_dropped,
        ),
    ),
    "Archive": (
        Definition(
            "gauge", "polygon_active_file_bytes", "Size of each file being written.", ("file",), _active_bytes
        ),
        Definition(
            "gauge",
            "polygon_active_file_records",
            "Records in each file being written.",
            ("file",),
            _active_records,
        ),
        Definition(
            "counter", "polygon_rotations_total", "Segments closed, by reason.", ("reason",), _rotations
        ),
        of_archive("counter", "polygon_reopens_total", "Reopenings on SIGHUP.", lambda a: a.reopens),
        of_archive(
            "counter",
            "polygon_vanished_files_total",
            "Active files that were moved or deleted without a signal.",
            lambda a: a.vanished,
        ),
        of_archive(
            "counter",
            "polygon_recovered_files_total",
            "Files that a crash had left and that the start finished.",
            lambda a: a.recovered,
        ),
        of_archive(
            "counter",
            "polygon_rejects_written_total",
            "Lines written to the reject file.",
            lambda a: a.rejects_written,
        ),
        of_archive(
            "histogram", "polygon_fsync_duration_seconds", "How long fsync took.", lambda a: a.fsync_seconds
        ),
        of_archive("counter", "polygon_fsync_errors_total", "Failed fsyncs.", lambda a: a.fsync_errors),
        of_archive(
            "counter",
            "polygon_manifest_errors_total",
            "Manifest lines that could not be written at once.",
            lambda a: a.manifest_errors,
        ),
        of_archive(
            "gauge",
            "polygon_compress_pending_files",
            "Rotated files waiting to be compressed.",
            lambda a: a.compress_pending,
        ),
        of_archive("counter", "polygon_compressed_files_total", "Files compressed.", lambda a: a.compressed),
        of_archive(
            "counter",
            "polygon_compress_errors_total",
            "Compressions that failed; the plain file stays.",
            lambda a: a.compress_errors,
        ),
        of_archive(
            "counter",
            "polygon_compress_input_bytes_total",
            "Bytes before compression.",
            lambda a: a.compress_bytes_in,
        ),
        of_archive(
            "counter",
            "polygon_compress_output_bytes_total",
            "Bytes after compression.",
            lambda a: a.compress_bytes_out,
        ),
        of_archive(
            "counter", "polygon_deleted_segments_total", "Segments deleted by retention.", lambda a: a.deleted
        ),
        Definition(
            "gauge",
            "polygon_disk_free_bytes",
            "Free space for the archive, looked at each second unless NDJSON_MIN_FREE_BYTES is 0.",
            (),
            _free_bytes,
        ),
        Definition(
            "gauge",
            "polygon_disk_free_inodes",
            "Files that can still be made there, where the file system has a limit.",
            (),
            _free_inodes,
        ),
        of_archive(
            "gauge",
            "polygon_disk_pressure_step",
            "What is done about a disk that fills: 0 nothing, 1 warn, 2 compress, 3 delete, 4 sample, 5 no_quotes, "
            "6 stop. From 4 on, data is left out.",
            lambda a: a.pressure.step,
        ),
        Definition(
            "counter",
            "polygon_disk_pressure_transitions_total",
            "Changes of that step, by the step they led to.",
            ("step",),
            _pressure_transitions,
        ),
        Definition(
            "counter",
            "polygon_disk_pressure_left_out_total",
            "Events left out because of it, by what they count as in the books: quotes sampled_out, and events "
            "dropped while recording was paused.",
            ("state",),
            _pressure_left_out,
        ),
    ),
    "Servers": (
        of_server("gauge", "polygon_server_clients", "Clients connected.", lambda s: s.clients),
        of_server(
            "gauge",
            "polygon_server_clients_authenticated",
            "Clients connected that gave a good token.",
            lambda s: s.clients_authenticated,
        ),
        of_server(
            "counter",
            "polygon_server_connections_total",
            "Connections accepted.",
            lambda s: s.clients_total,
        ),
        Definition(
            "counter",
            "polygon_server_refused_total",
            "Connections turned away, by reason.",
            ("port", "reason"),
            _refused,
        ),
        of_server(
            "counter",
            "polygon_server_auth_failures_total",
            "Clients that gave a token that is none.",
            lambda s: s.auth_failures,
        ),
        Definition(
            "counter",
            "polygon_server_evictions_total",
            "Clients cut, by reason; slow_consumer is one that left too much unread.",
            ("port", "reason"),
            _evictions,
        ),
        of_server("counter", "polygon_server_requests_total", "Messages of clients.", lambda s: s.requests),
        of_server(
            "counter",
            "polygon_server_bad_requests_total",
            "Errors that clients were told: no request, or a topic that is not served.",
            lambda s: s.bad_requests,
        ),
        of_server(
            "gauge",
            "polygon_server_subscriptions",
            "Topics held by all clients together.",
            lambda s: s.subscriptions,
        ),
        of_server(
            "gauge",
            "polygon_server_audiences",
            "Different sets of topics among the clients; each is matched and framed once.",
            lambda s: s.audiences,
        ),
        of_server(
            "counter",
            "polygon_server_events_total",
            "Deliveries: events, each counted once for every client it went to. The firehose, which passes frames on "
            "unread, counts them only where another part has read them.",
            lambda s: s.events_delivered,
        ),
        of_server(
            "counter",
            "polygon_server_frames_total",
            "Data frames sent, counted likewise.",
            lambda s: s.frames_delivered,
        ),
        of_server(
            "counter",
            "polygon_server_sent_bytes_total",
            "Bytes of the data frames sent, counted likewise.",
            lambda s: s.bytes_delivered,
        ),
        of_server(
            "gauge",
            "polygon_server_pending_max_bytes",
            "The most that one client holds unread, looked at each second.",
            lambda s: s.pending_bytes_max,
        ),
        of_server(
            "gauge",
            "polygon_server_lag_max_seconds",
            "How long the slowest client has taken nothing of what is pending, looked at each second.",
            lambda s: s.lag_secs_max,
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
        Definition(
            "counter",
            "polygon_serve_worker_restarts_total",
            "Workers that were replaced: ended by themselves, slow (left more than SERVE_WORKER_PENDING_BYTES_MAX "
            "unread), or silent (said nothing for 30 s). Their clients had to connect again.",
            ("worker", "reason"),
            _worker_restarts,
        ),
        Definition(
            "gauge",
            "polygon_serve_worker_clients",
            "Clients connected, by worker.",
            ("worker", "port"),
            _worker_clients,
        ),
        of_worker(
            "gauge",
            "polygon_serve_worker_pending_bytes",
            "What the worker has not taken yet of what was received, looked at each second.",
            lambda w: w.pending_bytes,
        ),
        of_worker(
            "gauge",
            "polygon_serve_worker_lag_seconds",
            "From the receipt of data to its being taken by the worker: the most within the last second.",
            lambda w: w.lag_secs,
        ),
        of_worker(
            "counter",
            "polygon_serve_worker_cpu_seconds_total",
            "Processor time of the worker.",
            lambda w: w.cpu_secs,
        ),
        of_worker(
            "gauge",
            "polygon_serve_worker_resident_memory_bytes",
            "Resident memory of the worker.",
            lambda w: w.memory_bytes,
        ),
    ),
    "Bars": (
        of_bars("counter", "polygon_bars_total", "Bars made.", lambda b: b.bars),
        of_bars("gauge", "polygon_bars_open_windows", "Windows being filled.", lambda b: b.open_windows),
        of_bars(
            "counter",
            "polygon_bars_trades_total",
            "Trades of symbols of which clients want bars.",
            lambda b: b.trades,
        ),
        of_bars(
            "counter",
            "polygon_bars_entries_total",
            "The readable ones, once for each length of bar that is wanted of the symbol.",
            lambda b: b.entries,
        ),
        of_bars(
            "counter",
            "polygon_bars_entries_used_total",
            "Entries that are in bars; the rest are in open windows or left out.",
            lambda b: b.in_bars,
        ),
        Definition(
            "counter",
            "polygon_bars_left_out_total",
            "What is in no bar, by reason: trades unreadable (no time, price or size) and misdated (far ahead of all "
            "others); entries late (their window had closed), not_counted (by their conditions), unpriced (no trade "
            "of the window sets a price), partial (the window began before it was wanted) and abandoned (it was no "
            "longer wanted).",
            ("feed", "reason"),
            _left_out,
        ),
        Definition(
            "counter",
            "polygon_bars_replays_total",
            "Subscriptions that asked for bars of the past, with since.",
            (),
            _replays,
        ),
        Definition(
            "counter",
            "polygon_bars_relayed_total",
            "Bars received from the recorder that MS_AGGREGATOR_URL names.",
            (),
            _relayed,
        ),
        Definition(
            "counter",
            "polygon_bars_relay_rejects_total",
            "Bars received from there that could not be read.",
            (),
            _relay_rejects,
        ),
    ),
}
