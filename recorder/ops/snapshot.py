"""What `/status`, `/events`, the page and `recorder top` tell: one structure, described field by field."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

SCHEMA_VERSION: Final = 1
"""Rises when a field goes or means something else; a field may be added without."""
CHANNELS_LISTED_MAX: Final = 64
"""The wire names channels, so there could be any number."""
CLIENTS_LISTED_MAX: Final = 100


def _unit(unit: str) -> Meta:
    return Meta(extra_json_schema={"unit": unit})


At = Annotated[int, _unit("Unix ms")]
Bytes = Annotated[int, _unit("bytes")]
Secs = Annotated[float, _unit("s")]
Events = Annotated[int, _unit("events")]
Counts = dict[str, int]


class Feed(Struct, frozen=True):
    """One cluster's upstream connection, over the whole run."""

    cluster: Annotated[str, Meta(description="Name of the cluster.")]
    state: Annotated[
        str,
        Meta(
            description="`starting`, `connecting`, `authenticating`, `subscribing`, `streaming`, `waiting` (to connect "
            "again) or `stopped`."
        ),
    ]
    since: Annotated[
        At, Meta(description="Since when it streams, or does not; before the first time the start.")
    ]
    ready: Annotated[
        bool,
        Meta(
            description="Whether it is subscribed and data has come as READY_MIN_MESSAGES and READY_DELAY_MS ask."
        ),
    ]
    connected: Annotated[bool, Meta(description="Whether there is a connection.")]
    subscribed: Annotated[bool, Meta(description="Whether a subscription is acknowledged.")]
    reason: Annotated[str, Meta(description="Why no data can be expected now; empty while streaming.")]
    topics_wanted: Annotated[int, Meta(description="Topics asked for.")]
    topics_acknowledged: Annotated[int, Meta(description="Topics that the exchange acknowledged.")]
    sessions: Annotated[int, Meta(description="Connections that were authenticated and subscribed.")]
    reconnects: Annotated[
        int, Meta(description="Attempts to connect after the first connection failed or was lost.")
    ]
    gaps: Annotated[int, Meta(description="Times between two sessions.")]
    gap_secs: Annotated[
        Secs, Meta(description="How long they were in all, each from the last data before it.")
    ]
    errors: Annotated[
        int, Meta(description="Connections that ended badly, and error statuses of the exchange.")
    ]
    ended_by: Annotated[
        Counts, Meta(description="Connections that ended and attempts that failed, by reason.")
    ]
    frames_received: Annotated[int, Meta(description="WebSocket frames received.")]
    frames_since_subscribed: Annotated[int, Meta(description="Data frames of this session.")]
    bytes_received: Annotated[Bytes, Meta(description="Bytes of the frames received.")]
    events_received: Annotated[
        Events | None,
        Meta(description="Events received; null before the first, and where nothing looks into the frames."),
    ]
    frames_per_sec: Annotated[float, Meta(description="Frames received within the last second.")]
    events_per_sec: Annotated[
        float, Meta(description="Events received within the last second; 0 where null is above.")
    ]
    bytes_per_sec: Annotated[float, Meta(description="Bytes received within the last second.")]
    last_received: Annotated[At, Meta(description="When data was last received; 0 before the first.")]
    session: Annotated[str, Meta(description="Whether its market is open: `open`, `closed` or `unknown`.")]
    session_until: Annotated[
        At, Meta(description="When the market will close or open; 0 where that is not known.")
    ]
    stale_secs: Annotated[
        Secs,
        Meta(
            description="For how long nothing has come though the market is open; 0 while that is no fault."
        ),
    ]
    last_event: Annotated[At, Meta(description="The newest event's own time; 0 before the first.")]


class Gap(Struct, frozen=True):
    """A time without data, between two sessions of a cluster."""

    cluster: Annotated[str, Meta(description="Name of the cluster.")]
    begun: Annotated[At, Meta(description="When the last data before it came.")]
    ended: Annotated[At, Meta(description="When the next session began.")]
    reason: Annotated[str, Meta(description="Why the session before it ended.")]


class Balance(Struct, frozen=True):
    """What became of the events that were received."""

    received: Annotated[Events, Meta(description="Events that came.")]
    recorded: Annotated[
        Events, Meta(description="Records that the sink has handed over: written, or published.")
    ]
    filtered: Annotated[Events, Meta(description="Left out by NDJSON_INCLUDE.")]
    sampled_out: Annotated[Events, Meta(description="Quotes left out by sampling.")]
    rejected: Annotated[Events, Meta(description="Not readable; the reject file keeps them.")]
    dropped: Annotated[Events, Meta(description="Lost against our will.")]
    pending: Annotated[Events, Meta(description="Records that wait for the sink.")]


class SinkBalance(Balance, frozen=True):
    """A sink's books over all channels."""

    difference: Annotated[
        Events,
        Meta(
            description="Accounted for nowhere, or twice, added up over all channels; 0: the books balance."
        ),
    ]


class ChannelBalance(Balance, frozen=True, kw_only=True):
    """A sink's books of one channel."""

    feed: Annotated[str, Meta(description="Name of the cluster.")]
    channel: Annotated[str, Meta(description="The event's `ev` code; empty: what could not be read.")]


class Drops(Struct, frozen=True):
    """Records of one channel that were dropped one after another for one reason."""

    cluster: Annotated[str, Meta(description="Name of the cluster.")]
    channel: Annotated[str, Meta(description="The events' `ev` code.")]
    reason: Annotated[str, Meta(description="Why, in words.")]
    first: Annotated[At, Meta(description="When the first of them was dropped.")]
    last: Annotated[At, Meta(description="When the last of them was dropped.")]
    count: Annotated[int, Meta(description="How many.")]


class Sink(Struct, frozen=True):
    """What pushes records out: `ndjson`, `stdout` or `zmq`."""

    name: Annotated[str, Meta(description="Name of the sink.")]
    failure: Annotated[str, Meta(description="Why it cannot write now, in words; empty while it can.")]
    stalled_secs: Annotated[
        Secs, Meta(description="How long it has been in its present write; 0 while it waits for work.")
    ]
    pending_bytes: Annotated[Bytes, Meta(description="Waiting for it.")]
    pending_bytes_max: Annotated[Bytes, Meta(description="What may wait; past it the newest is dropped.")]
    pending_bytes_peak: Annotated[Bytes, Meta(description="The most that has waited.")]
    pending_batches: Annotated[int, Meta(description="Batches waiting for it.")]
    bytes_written: Annotated[Bytes, Meta(description="What it has written.")]
    write_errors: Annotated[int, Meta(description="Writes that failed.")]
    balance: Annotated[SinkBalance, Meta(description="Its books over all channels.")]
    channels: Annotated[
        list[ChannelBalance],
        Meta(description=f"Its books by channel, the first {CHANNELS_LISTED_MAX} that came."),
    ]
    channels_count: Annotated[int, Meta(description="How many channels there are.")]
    recent_drops: Annotated[list[Drops], Meta(description="What it dropped lately, the newest first.")]


class ActiveFile(Struct, frozen=True):
    """A file that is being written."""

    file: Annotated[str, Meta(description="Name, relative to the archive's folder.")]
    bytes: Annotated[Bytes, Meta(description="Its size.")]
    records: Annotated[int, Meta(description="Its records.")]
    rotates_at: Annotated[
        At | None,
        Meta(
            description="When it is rotated by time; null while it is empty, and without NDJSON_ROTATE_SECS."
        ),
    ]


class RecentFile(Struct, frozen=True):
    """A file that was finished in this run."""

    file: Annotated[str, Meta(description="Name before compression, relative to the archive's folder.")]
    records: Annotated[int, Meta(description="Its records.")]
    bytes: Annotated[Bytes, Meta(description="Its size as NDJSON.")]
    compressed_bytes: Annotated[
        Bytes | None, Meta(description="Its size on disk once compressed; null while plain.")
    ]
    closed: Annotated[At, Meta(description="When it was finished.")]
    reason: Annotated[
        str, Meta(description="Why: `size`, `time`, `signal`, `reopen`, `pressure` or `shutdown`.")
    ]
    deleted: Annotated[bool, Meta(description="Whether retention has deleted it.")]


class Pressure(Struct, frozen=True):
    """The disk as it fills."""

    step: Annotated[
        str, Meta(description="`none`, or the step of [the ladder](operations.md#when-the-disk-fills).")
    ]
    free_bytes: Annotated[
        Bytes | None, Meta(description="Free on the disk; null with NDJSON_MIN_FREE_BYTES=0.")
    ]
    free_inodes: Annotated[
        int | None, Meta(description="Files that can still be made; null where that has no limit.")
    ]
    min_free_bytes: Annotated[Bytes, Meta(description="What recording leaves free: NDJSON_MIN_FREE_BYTES.")]
    needed_bytes: Annotated[
        Bytes, Meta(description="Free bytes at which the step is undone; 0 without a step.")
    ]
    transitions: Annotated[int, Meta(description="Changes of the step.")]
    sampled_out: Annotated[Events, Meta(description="Quotes left out because of it.")]
    dropped: Annotated[Events, Meta(description="Events that came while it paused recording.")]


class Archive(Struct, frozen=True):
    """The files of the archive."""

    active: Annotated[list[ActiveFile], Meta(description="The files that are being written.")]
    recent: Annotated[list[RecentFile], Meta(description="The files finished last, the newest first.")]
    rotate_bytes: Annotated[
        Bytes | None, Meta(description="Size at which a file is rotated: NDJSON_MAX_BYTES.")
    ]
    rotate_secs: Annotated[int | None, Meta(description="NDJSON_ROTATE_SECS; null: time rotates nothing.")]
    rotations: Annotated[int, Meta(description="Files finished in this run.")]
    rejects_written: Annotated[int, Meta(description="Lines of the reject file.")]
    fsync_errors: Annotated[int, Meta(description="Times that the disk refused to make data durable.")]
    manifest_errors: Annotated[int, Meta(description="Failed writes of the manifest.")]
    compress_pending: Annotated[int, Meta(description="Files that wait for compression.")]
    compress_errors: Annotated[int, Meta(description="Compressions that failed.")]
    deleted: Annotated[int, Meta(description="Files deleted by retention.")]
    recovered: Annotated[int, Meta(description="Files that a crash had left and that the start finished.")]
    pressure: Annotated[Pressure, Meta(description="The disk.")]


class Server(Struct, frozen=True):
    """One port that clients connect to; with SERVE_WORKERS, all workers together."""

    port: Annotated[str, Meta(description="`firehose`, `filtered` or `bars`.")]
    clients: Annotated[int, Meta(description="Connected now.")]
    clients_authenticated: Annotated[int, Meta(description="Of these, authenticated.")]
    clients_total: Annotated[int, Meta(description="Connections that were ever accepted.")]
    subscriptions: Annotated[int, Meta(description="Topics held by all clients together.")]
    audiences: Annotated[int, Meta(description="Different sets of topics among the clients.")]
    auth_failures: Annotated[int, Meta(description="Refused tokens.")]
    refused: Annotated[Counts, Meta(description="Connections that were turned away, by reason.")]
    evictions: Annotated[Counts, Meta(description="Clients that were cut, by reason.")]
    requests: Annotated[int, Meta(description="Requests of clients.")]
    bad_requests: Annotated[int, Meta(description="Of these, answered with an error.")]
    events_delivered: Annotated[Events, Meta(description="Each counted once for every client it went to.")]
    frames_delivered: Annotated[int, Meta(description="Frames delivered.")]
    bytes_delivered: Annotated[Bytes, Meta(description="Bytes delivered.")]
    pending_bytes_max: Annotated[
        Bytes, Meta(description="The most that one client holds unread, at the last look.")
    ]
    lag_secs_max: Annotated[
        Secs, Meta(description="How long the slowest has held something unread, at the last look.")
    ]


class Client(Struct, frozen=True):
    """One client of a port. Topics and agent are what it said: not to be trusted, and cut where they are long."""

    port: Annotated[str, Meta(description="`firehose`, `filtered` or `bars`.")]
    worker: Annotated[int, Meta(description="The worker that serves it; 0: the recording process.")]
    number: Annotated[int, Meta(description="Counts the connections of a port, at each worker by itself.")]
    address: Annotated[str, Meta(description="Its IP address; behind a proxy, the proxy's.")]
    address_port: Annotated[int, Meta(description="Its TCP port.")]
    cluster: Annotated[str, Meta(description="The cluster it asked for; empty: all.")]
    token: Annotated[
        str, Meta(description="The name of its token, never the token; empty before it has authenticated.")
    ]
    agent: Annotated[str, Meta(description="Its `User-Agent`.")]
    topics: Annotated[list[str], Meta(description="What it holds, the first few.")]
    topics_count: Annotated[int, Meta(description="How many topics it holds.")]
    unread_bytes: Annotated[Bytes, Meta(description="What it has not taken yet.")]
    lag_secs: Annotated[Secs, Meta(description="For how long it has taken nothing though something waits.")]
    events: Annotated[
        Events, Meta(description="Delivered to it; not counted on a firehose that nobody looks into.")
    ]
    bytes: Annotated[Bytes, Meta(description="Delivered to it.")]
    connected_secs: Annotated[Secs, Meta(description="How long it has been connected.")]


class Worker(Struct, frozen=True):
    """One process that serves, over all its lives."""

    worker: Annotated[int, Meta(description="Its number, from 1.")]
    state: Annotated[str, Meta(description="`starting`, `up` or `down`.")]
    pid: Annotated[int, Meta(description="Its process; 0 while it is down.")]
    restarts: Annotated[
        Counts, Meta(description="Ends that were not asked for: `ended`, `slow` or `silent`.")
    ]
    connections: Annotated[int, Meta(description="Clients, and connections that are none yet.")]
    clients: Annotated[Counts, Meta(description="Clients by port.")]
    pending_bytes: Annotated[Bytes, Meta(description="What it has not taken yet.")]
    lag_secs: Annotated[
        Secs, Meta(description="From the receipt of a batch to its being taken there, the most lately.")
    ]
    cpu_secs: Annotated[Secs, Meta(description="Processor time of this life.")]
    memory_bytes: Annotated[Bytes, Meta(description="Its resident memory.")]


class BarsMade(Struct, frozen=True):
    """The bars of one cluster."""

    cluster: Annotated[str, Meta(description="Name of the cluster.")]
    event_time: Annotated[At, Meta(description="The newest trade's own time.")]
    trades: Annotated[int, Meta(description="Trades of wanted symbols, readable or not.")]
    unreadable: Annotated[
        int, Meta(description="Of these: without a time, or with a price, size or conditions that are none.")
    ]
    misdated: Annotated[int, Meta(description="Of these: far ahead of all others' time.")]
    entries: Annotated[int, Meta(description="A trade has one for each interval that wants its symbol.")]
    in_bars: Annotated[int, Meta(description="Entries that are in a bar.")]
    late: Annotated[int, Meta(description="Entries whose window had closed.")]
    not_counted: Annotated[int, Meta(description="Entries that their conditions leave out.")]
    unpriced: Annotated[int, Meta(description="Entries in windows in which no trade could set a price.")]
    partial: Annotated[int, Meta(description="Entries in windows that had begun before they were wanted.")]
    abandoned: Annotated[
        int, Meta(description="Entries in windows that were open when nobody wanted them any more.")
    ]
    bars: Annotated[int, Meta(description="Bars made.")]
    open_windows: Annotated[int, Meta(description="Windows that are open.")]


class Bars(Struct, frozen=True):
    """Bars: made here, or taken from another recorder."""

    made: Annotated[list[BarsMade], Meta(description="By cluster; empty where none are made.")]
    replays: Annotated[int, Meta(description="Requests for bars of the past.")]
    relayed: Annotated[int, Meta(description="Bars taken from another recorder.")]


class Snapshot(Struct, frozen=True):
    """The whole recorder at one moment."""

    schema_version: Annotated[
        int, Meta(description=f"{SCHEMA_VERSION}. A reader accepts fields that it does not know.")
    ]
    version: Annotated[str, Meta(description="Version of the recorder.")]
    hostname: Annotated[str, Meta(description="Name of the machine.")]
    run_id: Annotated[str, Meta(description="Identifies this life of the process, here and in the manifest.")]
    pid: Annotated[int, Meta(description="The process.")]
    at: Annotated[At, Meta(description="When this was taken.")]
    started: Annotated[At, Meta(description="When the process started.")]
    uptime_secs: Annotated[Secs, Meta(description="How long it has worked.")]
    ready: Annotated[bool, Meta(description="Whether data flows from every cluster into every sink.")]
    reasons: Annotated[list[str], Meta(description="Why it is not ready, in words; empty while it is.")]
    warnings: Annotated[list[str], Meta(description="What is about to become a reason.")]
    loop_lag_secs: Annotated[Secs, Meta(description="How late the event loop's last timer fired.")]
    loop_lag_peak_secs: Annotated[Secs, Meta(description="The most of this run.")]
    consumer_failures: Annotated[
        int, Meta(description="Calls in which a consumer failed because of a defect in it.")
    ]
    notes: Annotated[
        list[str],
        Meta(description="What explains why nothing happens, and is no fault: a market that is closed."),
    ]
    feeds: Annotated[list[Feed], Meta(description="Each cluster.")]
    recent_gaps: Annotated[list[Gap], Meta(description="The gaps of all clusters, the newest first.")]
    sinks: Annotated[list[Sink], Meta(description="What records go into.")]
    archive: Annotated[Archive | None, Meta(description="The files; null where none are written.")]
    servers: Annotated[list[Server], Meta(description="The ports that clients connect to.")]
    clients: Annotated[
        list[Client],
        Meta(
            description=f"The clients; the {CLIENTS_LISTED_MAX} that leave most unread where there are more."
        ),
    ]
    clients_count: Annotated[int, Meta(description="How many clients there are.")]
    workers: Annotated[list[Worker], Meta(description="Processes that serve; empty where this one does.")]
    bars: Annotated[Bars, Meta(description="Bars.")]


class Rates(Struct, frozen=True):
    """The rates of one cluster, a number for each second, the newest last."""

    frames: Annotated[list[float], Meta(description="Frames a second.")]
    events: Annotated[list[float], Meta(description="Events a second.")]
    bytes: Annotated[list[float], Meta(description="Bytes a second.")]


class History(Struct, frozen=True):
    """What a page shows of the time before it was opened."""

    at: Annotated[At, Meta(description="The time of the newest numbers.")]
    feeds: Annotated[dict[str, Rates], Meta(description="By cluster.")]


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema of a snapshot (2020-12), with the unit of a field under `unit`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **msgspec.json.schema(Snapshot),
    }
