"""What the dashboard shows: rows of panels."""

from __future__ import annotations

from typing import Final

from grafana.model import FEED, Panel, grown, of, quantile, rate, stat

LEFT_OUT: Final = f'{FEED}, state!~"received|recorded"'

ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Overview": (
        stat(
            "Ready",
            "Whether data flows from every cluster into every sink. The page of /ready has the reasons.",
            "none",
            f"min by (instance) ({of('polygon_ready')})",
            "{{instance}}",
            states={0: ("NOT READY", "red"), 1: ("READY", "green")},
        ),
        stat(
            "Events received",
            "Events a second, of all clusters.",
            "cps",
            rate("polygon_events_total", "", FEED),
        ),
        stat(
            "Records written",
            "Records a second handed to the operating system, of all clusters.",
            "cps",
            rate("polygon_ndjson_written_total", "", FEED),
        ),
        stat(
            "Records lost",
            "Records dropped in the time that is shown, because a disk or a pipe did not take them.",
            "short",
            f"sum(increase({of('polygon_ndjson_drops_total', FEED)}[$__range]))",
            bad_from=1,
        ),
        stat(
            "Without data",
            "How long the gaps between two sessions were, together, in the time that is shown.",
            "s",
            f"sum(increase({of('polygon_gap_seconds_total', FEED)}[$__range]))",
            bad_from=60,
        ),
        stat(
            "Books",
            "Events that are accounted for nowhere, or twice. Other than 0 is a defect.",
            "short",
            f"sum({of('polygon_balance_difference')})",
            bad_from=1,
        ),
        stat("Clients", "Clients connected, on all ports.", "short", f"sum({of('polygon_server_clients')})"),
        stat(
            "Free disk",
            "Of the archive with the least.",
            "bytes",
            f"min({of('polygon_disk_free_bytes')})",
        ),
        stat(
            "Running for",
            "Since the last start of each recorder.",
            "dtdurations",
            f"time() - max by (instance) ({of('process_start_time_seconds')})",
            "{{instance}}",
        ),
        Panel(
            "What runs",
            "Version of each recorder and of its Python, by cluster.",
            "none",
            {"": f"max by (instance, feed, version, python) ({of('polygon_build_info', FEED)})"},
            type="table",
            width=12,
            height=4,
        ),
        Panel(
            "Events",
            "Received a second, by cluster.",
            "cps",
            {"{{feed}} {{instance}}": rate("polygon_events_total", "instance, feed", FEED)},
            width=12,
        ),
        Panel(
            "What goes wrong",
            "Counts of what should not happen, about each point. Nothing here is the rule; the rows below say where it is.",
            "short",
            {
                "records lost": grown("polygon_ndjson_drops_total", "", FEED),
                "writes failed": grown("polygon_sink_write_errors_total", ""),
                "fsyncs failed": grown("polygon_fsync_errors_total", ""),
                "gaps": grown("polygon_gaps_total", "", FEED),
                "clients cut": grown("polygon_server_evictions_total", ""),
                "wrong tokens": grown("polygon_server_auth_failures_total", ""),
                "defects": grown("polygon_consumer_failures_total", ""),
                "parts restarted": grown("polygon_part_restarts_total", ""),
            },
            width=12,
        ),
    ),
    "Feeds": (
        Panel(
            "State",
            "How far the connection to each cluster has come.",
            "none",
            {
                "{{feed}} {{instance}}": " + ".join(
                    of(metric, FEED)
                    for metric in ("polygon_connected", "polygon_subscribed", "polygon_feed_ready")
                )
            },
            type="state-timeline",
            states={
                0: ("not connected", "red"),
                1: ("connected", "orange"),
                2: ("subscribed", "yellow"),
                3: ("data flows", "green"),
            },
        ),
        Panel(
            "Events by channel",
            "Received a second; T are trades, Q quotes, A and AM aggregates.",
            "cps",
            {"{{feed}} {{channel}}": rate("polygon_events_total", "feed, channel", FEED)},
            stacked=True,
        ),
        Panel(
            "Bytes received",
            "Of the frames, a second.",
            "Bps",
            {"{{feed}} {{instance}}": rate("polygon_received_bytes_total", "instance, feed", FEED)},
        ),
        Panel(
            "Since the last data",
            "Grows while a cluster is silent; at night that is as it should be.",
            "s",
            {
                "{{feed}} {{instance}}": f"time() - {of('polygon_last_received_timestamp_seconds', FEED)} "
                f"and {of('polygon_last_received_timestamp_seconds', FEED)} > 0"
            },
        ),
        Panel(
            "Age on arrival",
            "From an event's own time to its receipt, by this machine's clock: shows a delayed plan, or a wrong clock.",
            "s",
            {
                "{{feed}} median": quantile(0.5, "polygon_ingest_latency_seconds", "feed", FEED),
                "{{feed}} 99 %": quantile(0.99, "polygon_ingest_latency_seconds", "feed", FEED),
            },
        ),
        Panel(
            "Time in one pass",
            "How long the loop is busy with what one read brought, all consumers together.",
            "s",
            {
                "{{feed}} median": quantile(0.5, "polygon_pass_duration_seconds", "feed", FEED),
                "{{feed}} 99 %": quantile(0.99, "polygon_pass_duration_seconds", "feed", FEED),
            },
        ),
        Panel(
            "Ends of connections",
            "Connections that ended and attempts that failed, by reason, of the chosen clusters together.",
            "short",
            {"{{reason}}": grown("polygon_disconnects_total", "reason", FEED)},
        ),
        Panel(
            "Reconnects and gaps",
            "Attempts after the first connection, sessions that came about, those that resumed, and gaps between two.",
            "short",
            {
                "{{feed}} attempts": grown("polygon_reconnects_total", "feed", FEED),
                "{{feed}} sessions": grown("polygon_sessions_total", "feed", FEED),
                "{{feed}} resumed": grown("polygon_resumes_total", "feed", FEED),
                "{{feed}} gaps": grown("polygon_gaps_total", "feed", FEED),
            },
        ),
        Panel(
            "Open gaps",
            "How long each cluster has brought nothing, while there is no session; at night nothing is missed by it.",
            "s",
            {"{{feed}} {{instance}}": of("polygon_gap_open_seconds", FEED)},
        ),
        Panel(
            "Complete today",
            "Which part of today's market hours until now the archive has data of; a day is one of New York.",
            "percentunit",
            {"{{feed}} {{instance}}": of("polygon_today_complete_ratio", FEED)},
        ),
        Panel(
            "Missing today",
            "How much of today's market hours is missing in the archive, all gaps together.",
            "s",
            {"{{feed}} {{instance}}": of("polygon_today_missing_seconds", FEED)},
        ),
        Panel(
            "Time to reconnect",
            "From the loss of a session to the next one; a point only where one was lost.",
            "s",
            {"{{feed}} 90 %": quantile(0.9, "polygon_reconnect_duration_seconds", "feed", FEED)},
        ),
        Panel(
            "Topics",
            "Asked for, and acknowledged by the exchange.",
            "short",
            {
                "{{feed}} wanted": f"max by (feed) ({of('polygon_topics_wanted', FEED)})",
                "{{feed}} acknowledged": f"max by (feed) ({of('polygon_topics_acknowledged', FEED)})",
            },
        ),
        Panel(
            "Between two reads",
            "Time between two reads that brought data: how evenly it comes.",
            "s",
            {
                "{{feed}} median": quantile(0.5, "polygon_message_interarrival_seconds", "feed", FEED),
                "{{feed}} 99 %": quantile(0.99, "polygon_message_interarrival_seconds", "feed", FEED),
            },
        ),
        Panel(
            "Unreadable, and errors",
            "Frames and elements that are no events (the reject file has them), and errors of the exchange.",
            "short",
            {
                "{{feed}} unreadable": grown("polygon_rejects_total", "feed", FEED),
                "{{feed}} errors": grown("polygon_errors_total", "feed", FEED),
                "{{feed}} read timeouts": grown("polygon_read_timeouts_total", "feed", FEED),
            },
        ),
        Panel(
            "Lag behind the stream",
            "With SOURCE=nats: age of what is passed on, since its receipt from the exchange, while more is to be read.",
            "s",
            {"{{feed}} {{instance}}": of("polygon_stream_lag_seconds", FEED)},
        ),
        Panel(
            "Messages to be read",
            "With SOURCE=nats: messages of the stream that are there and were not read.",
            "short",
            {"{{feed}} {{instance}}": of("polygon_stream_lag_messages", FEED)},
        ),
        Panel(
            "Holes in the stream",
            "With SOURCE=nats: times that events were missing between two messages, by cause, about each point.",
            "short",
            {"{{feed}} {{cause}}": grown("polygon_stream_holes_total", "feed, cause", FEED)},
        ),
    ),
    "Archive": (
        Panel(
            "Records written",
            "Handed to the operating system a second, by cluster.",
            "cps",
            {"{{feed}} {{instance}}": rate("polygon_ndjson_written_total", "instance, feed", FEED)},
        ),
        Panel(
            "Bytes written",
            "Handed to the operating system a second, by sink.",
            "Bps",
            {"{{sink}} {{instance}}": rate("polygon_sink_written_bytes_total", "instance, sink")},
        ),
        Panel(
            "Waiting for the sinks",
            "Bytes in memory; past NDJSON_BUFFER_BYTES (256 MiB) they are dropped. The peak is that of the run.",
            "bytes",
            {
                "{{sink}} {{instance}}": of("polygon_sink_pending_bytes"),
                "{{sink}} {{instance}} peak": of("polygon_sink_pending_peak_bytes"),
            },
        ),
        Panel(
            "What became of the events",
            "Of this run, without those that were recorded: left out as told, unreadable, lost, or on their way.",
            "short",
            {"{{sink}} {{state}}": f"sum by (sink, state) ({of('polygon_balance_events', LEFT_OUT)})"},
        ),
        Panel(
            "Lost",
            "Records that were received and are in no file, or reached no subscriber.",
            "short",
            {
                "files {{feed}}": grown("polygon_ndjson_drops_total", "feed", FEED),
                "ZMQ {{feed}}": grown("polygon_zmq_drops_total", "feed", FEED),
                "NATS {{feed}}": grown("polygon_nats_drops_total", "feed", FEED),
                "Kafka {{feed}}": grown("polygon_kafka_drops_total", "feed", FEED),
                "rejects {{sink}}": grown("polygon_sink_rejects_dropped_total", "sink"),
            },
        ),
        Panel(
            "Sinks",
            "Whether each can write.",
            "none",
            {"{{sink}} {{instance}}": of("polygon_sink_writable")},
            type="state-timeline",
            states={0: ("cannot write", "red"), 1: ("writes", "green")},
        ),
        Panel(
            "NATS streams",
            "Who leads each of them, where two recorders append to it.",
            "none",
            {"{{feed}} {{instance}}": of("polygon_nats_leads", FEED)},
            type="state-timeline",
            states={0: ("follows", "blue"), 1: ("leads", "green")},
        ),
        Panel(
            "NATS pair",
            "What one recorder has added to the other's, and what is not in the streams yet.",
            "short",
            {
                "{{feed}} {{instance}} filled": grown(
                    "polygon_nats_filled_events_total", "instance, feed", FEED
                ),
                "{{feed}} {{instance}} takeovers": grown(
                    "polygon_nats_takeovers_total", "instance, feed", FEED
                ),
                "{{feed}} {{instance}} waits": of("polygon_nats_uncovered_events", FEED),
            },
        ),
        Panel(
            "Present write",
            "How long each sink has been in the write that it is in: grows while a disk hangs.",
            "s",
            {"{{sink}} {{instance}}": of("polygon_sink_stalled_seconds")},
        ),
        Panel(
            "Files being written",
            "Their sizes; they fall when a file is rotated.",
            "bytes",
            {"{{file}} {{instance}}": of("polygon_active_file_bytes")},
        ),
        Panel(
            "Files closed",
            "Segments by the reason of their closing.",
            "short",
            {"{{reason}} {{instance}}": grown("polygon_rotations_total", "instance, reason")},
        ),
        Panel(
            "Durability",
            "How long fsync took.",
            "s",
            {
                "{{instance}} median": quantile(0.5, "polygon_fsync_duration_seconds", "instance"),
                "{{instance}} 99 %": quantile(0.99, "polygon_fsync_duration_seconds", "instance"),
            },
        ),
        Panel(
            "Compression",
            "How many times smaller rotated files became; a point only where one was compressed.",
            "none",
            {
                "{{instance}}": rate("polygon_compress_input_bytes_total", "instance")
                + " / "
                + rate("polygon_compress_output_bytes_total", "instance")
            },
        ),
        Panel(
            "Compressed and deleted",
            "Rotated files compressed, waiting for it, and deleted by retention.",
            "short",
            {
                "{{instance}} compressed": grown("polygon_compressed_files_total", "instance"),
                "{{instance}} waiting": of("polygon_compress_pending_files"),
                "{{instance}} deleted": grown("polygon_deleted_segments_total", "instance"),
            },
        ),
        Panel(
            "Uploads",
            "Sealed files uploaded to the bucket, waiting for that, failed attempts, and files that retention has to keep.",
            "short",
            {
                "{{instance}} uploaded": grown("polygon_uploaded_files_total", "instance"),
                "{{instance}} waiting": of("polygon_upload_waiting_files"),
                "{{instance}} failed": grown("polygon_upload_errors_total", "instance"),
                "{{instance}} kept": of("polygon_upload_kept_files"),
            },
        ),
        Panel(
            "Disk",
            "Free bytes, and what will be free in 24 hours if it goes on as in the last six. "
            "Recording pauses at NDJSON_MIN_FREE_BYTES.",
            "bytes",
            {
                "{{instance}} free": of("polygon_disk_free_bytes"),
                "{{instance}} in 24 h": f"clamp_min(predict_linear({of('polygon_disk_free_bytes')}[6h], 86400), 0)",
            },
        ),
        Panel(
            "Disk pressure",
            "What is done about a disk that fills: 0 nothing, 1 warn, 2 compress, 3 delete, 4 sample, 5 no quotes, 6 stop.",
            "none",
            {"{{instance}}": of("polygon_disk_pressure_step")},
        ),
        Panel(
            "Left out under pressure",
            "Events not recorded because the disk was full: quotes sampled out, and all while recording was paused.",
            "short",
            {"{{instance}} {{state}}": grown("polygon_disk_pressure_left_out_total", "instance, state")},
        ),
        Panel(
            "Errors",
            "Of writes (tried again), fsyncs, the manifest and compression.",
            "short",
            {
                "{{instance}} writes": grown("polygon_sink_write_errors_total", "instance"),
                "{{instance}} fsyncs": grown("polygon_fsync_errors_total", "instance"),
                "{{instance}} manifest": grown("polygon_manifest_errors_total", "instance"),
                "{{instance}} compression": grown("polygon_compress_errors_total", "instance"),
            },
        ),
        Panel(
            "From outside",
            "Reopenings on SIGHUP, files moved without it, and files that a start repaired.",
            "short",
            {
                "{{instance}} reopened": grown("polygon_reopens_total", "instance"),
                "{{instance}} vanished": grown("polygon_vanished_files_total", "instance"),
                "{{instance}} recovered": grown("polygon_recovered_files_total", "instance"),
            },
        ),
        Panel(
            "ZMQ",
            "Records published a second, each counted once however many subscribe.",
            "cps",
            {"{{feed}} {{instance}}": rate("polygon_zmq_sent_total", "instance, feed", FEED)},
        ),
    ),
    "Clients": (
        Panel(
            "Clients",
            "Connected, and of them those that gave a good token.",
            "short",
            {
                "{{port}} {{instance}}": of("polygon_server_clients"),
                "{{port}} {{instance}} authenticated": of("polygon_server_clients_authenticated"),
            },
        ),
        Panel(
            "Events delivered",
            "A second, each counted for every client that it went to.",
            "cps",
            {"{{port}} {{instance}}": rate("polygon_server_events_total", "instance, port")},
        ),
        Panel(
            "Bytes sent",
            "Of data frames a second, counted likewise.",
            "Bps",
            {"{{port}} {{instance}}": rate("polygon_server_sent_bytes_total", "instance, port")},
        ),
        Panel(
            "Slowest client",
            "How long it has taken nothing of what waits for it; after 7 s it is cut.",
            "s",
            {"{{port}} {{instance}}": of("polygon_server_lag_max_seconds")},
        ),
        Panel(
            "Most unread by one client",
            "Past CLIENT_PENDING_BYTES_MAX (16 MiB) it is cut.",
            "bytes",
            {"{{port}} {{instance}}": of("polygon_server_pending_max_bytes")},
        ),
        Panel(
            "Clients cut",
            "By reason, on all ports; slow_consumer is one that left too much unread.",
            "short",
            {"{{reason}}": grown("polygon_server_evictions_total", "reason")},
        ),
        Panel(
            "Connections",
            "Accepted, and turned away by reason, on all ports.",
            "short",
            {
                "accepted": grown("polygon_server_connections_total", ""),
                "{{reason}}": grown("polygon_server_refused_total", "reason"),
            },
        ),
        Panel(
            "Requests",
            "Messages of clients a second; of them wrong tokens, and what could not be answered.",
            "reqps",
            {
                "{{port}} requests": rate("polygon_server_requests_total", "port"),
                "{{port}} wrong tokens": rate("polygon_server_auth_failures_total", "port"),
                "{{port}} bad requests": rate("polygon_server_bad_requests_total", "port"),
            },
        ),
        Panel(
            "Left out by choice",
            "Events that clients had asked to miss: dropped while they were slow, or conflated, since a newer one came.",
            "cps",
            {
                "{{port}} dropped": rate("polygon_server_dropped_events_total", "port"),
                "{{port}} conflated": rate("polygon_server_conflated_events_total", "port"),
            },
        ),
        Panel(
            "Resumes",
            "Clients that asked for what they had missed: what they got of it, and how often the archive was read for them.",
            "short",
            {
                "{{port}} {{outcome}}": grown("polygon_server_resumes_total", "port, outcome"),
                "{{port}} from the archive": grown("polygon_server_archive_reads_total", "port"),
            },
        ),
        Panel(
            "Snapshots",
            "Clients that asked for the last values first; refused is one that was too large.",
            "short",
            {"{{port}} {{outcome}}": grown("polygon_server_snapshots_total", "port, outcome")},
        ),
        Panel(
            "Subscriptions",
            "Topics held by all clients together, and different sets of topics: each set is matched and framed once.",
            "short",
            {
                "{{port}} {{instance}} topics": of("polygon_server_subscriptions"),
                "{{port}} {{instance}} sets": of("polygon_server_audiences"),
            },
        ),
        Panel(
            "Workers",
            "Processes that serve, by state, and those that were replaced. Empty with SERVE_WORKERS=0.",
            "short",
            {
                "{{instance}} {{state}}": of("polygon_serve_workers"),
                "{{instance}} replaced": grown("polygon_serve_worker_restarts_total", "instance"),
            },
        ),
        Panel(
            "Behind, by worker",
            "From the receipt of data to its being taken by the worker: the most within a second.",
            "s",
            {"{{instance}} {{worker}}": of("polygon_serve_worker_lag_seconds")},
        ),
        Panel(
            "Pending, by worker",
            "What the worker has not taken yet; past SERVE_WORKER_PENDING_BYTES_MAX it is replaced.",
            "bytes",
            {"{{instance}} {{worker}}": of("polygon_serve_worker_pending_bytes")},
        ),
        Panel(
            "Processor, by worker",
            "Share of one core.",
            "percentunit",
            {"{{instance}} {{worker}}": rate("polygon_serve_worker_cpu_seconds_total", "instance, worker")},
        ),
        Panel(
            "Memory, by worker",
            "Resident bytes.",
            "bytes",
            {"{{instance}} {{worker}}": of("polygon_serve_worker_resident_memory_bytes")},
        ),
        Panel(
            "Clients, by worker",
            "Connected, by port.",
            "short",
            {"{{instance}} {{worker}} {{port}}": of("polygon_serve_worker_clients")},
        ),
    ),
    "Bars": (
        Panel(
            "Bars",
            "Made a second, by cluster.",
            "cps",
            {"{{feed}} {{instance}}": rate("polygon_bars_total", "instance, feed", FEED)},
        ),
        Panel(
            "Trades",
            "Of symbols that clients want bars of, a second; what they count as once for each length of bar; and what of it "
            "is in bars.",
            "cps",
            {
                "{{feed}} trades": rate("polygon_bars_trades_total", "feed", FEED),
                "{{feed}} entries": rate("polygon_bars_entries_total", "feed", FEED),
                "{{feed}} in bars": rate("polygon_bars_entries_used_total", "feed", FEED),
            },
        ),
        Panel(
            "In no bar",
            "A second, by reason; late are those whose window had closed.",
            "cps",
            {"{{reason}}": rate("polygon_bars_left_out_total", "reason", FEED)},
        ),
        Panel(
            "Amended bars",
            "Bars sent again because of late trades, to clients that asked for amend; and late entries past "
            "BAR_AMEND_SECS or BAR_AMEND_BYTES, which amend nothing.",
            "short",
            {
                "{{feed}} amended": grown("polygon_bars_amended_total", "feed", FEED),
                "{{feed}} too late": grown("polygon_bars_too_late_total", "feed", FEED),
            },
        ),
        Panel(
            "Open windows",
            "Bars that are being filled.",
            "short",
            {"{{feed}} {{instance}}": of("polygon_bars_open_windows", FEED)},
        ),
        Panel(
            "Bars of the past",
            "Subscriptions that asked for them, with since.",
            "short",
            {"{{instance}}": grown("polygon_bars_replays_total", "instance")},
        ),
        Panel(
            "Bars of another recorder",
            "Received a second from the one that MS_AGGREGATOR_URL names. Empty where bars are made here.",
            "cps",
            {
                "{{instance}} received": rate("polygon_bars_relayed_total", "instance"),
                "{{instance}} unreadable": rate("polygon_bars_relay_rejects_total", "instance"),
            },
        ),
    ),
    "Process": (
        Panel(
            "Processor",
            "Share of one core that the recording process takes; workers not included.",
            "percentunit",
            {"{{instance}}": rate("process_cpu_seconds_total", "instance")},
        ),
        Panel(
            "Memory",
            "Resident bytes of the recording process.",
            "bytes",
            {"{{instance}}": of("process_resident_memory_bytes")},
        ),
        Panel(
            "Open files",
            "And how many it may open; the last 64 are not for clients.",
            "short",
            {
                "{{instance}} open": of("process_open_fds"),
                "{{instance}} allowed": of("process_max_fds"),
            },
        ),
        Panel(
            "How late the event loop is",
            "A timer that is due every 100 ms, and by how much it misses.",
            "s",
            {
                "{{instance}} median": quantile(0.5, "polygon_event_loop_lag_seconds", "instance"),
                "{{instance}} 99 %": quantile(0.99, "polygon_event_loop_lag_seconds", "instance"),
            },
        ),
        Panel(
            "Latest that it was",
            "The greatest lag of each run.",
            "s",
            {"{{instance}}": of("polygon_event_loop_lag_peak_seconds")},
        ),
        Panel(
            "Starts and defects",
            "Starts of the process, and batches on which a part failed, about each point.",
            "short",
            {
                "{{instance}} starts": f"changes({of('process_start_time_seconds')}[$__rate_interval])",
                "{{instance}} defects": grown("polygon_consumer_failures_total", "instance"),
            },
        ),
        Panel(
            "Parts",
            "Which parts work; one that failed is down until it is started again. The live page says what it failed with.",
            "none",
            {"{{part}} {{instance}}": of("polygon_part_up")},
            type="state-timeline",
            states={0: ("down", "red"), 1: ("up", "green")},
        ),
        Panel(
            "Parts restarted",
            "Failures after which a part was started again, about each point: a short one shows here alone.",
            "short",
            {"{{part}} {{instance}}": grown("polygon_part_restarts_total", "instance, part")},
        ),
    ),
}
