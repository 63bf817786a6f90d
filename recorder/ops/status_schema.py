"""What `/status`, `/events`, the page and `recorder top` show: one structure, described field by field.

A section has the fields that its part declares (`recorder.stats`); what is written here is worked out from several of
them, or belongs to no part. `snapshot_builder` fills it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from recorder.access_log.writer import AccessLogStats
from recorder.archive.pressure import PressureStats
from recorder.archive.stats import ActiveSegment, ArchiveStats, ClosedSegment, UploadStats
from recorder.bars import BarStats
from recorder.ledger import DropRun, PairStats, SinkStats
from recorder.ops.sections import section
from recorder.part import PartStats
from recorder.servers.draining import DrainStats
from recorder.servers.stats import ClientStats, ServerStats
from recorder.sources.nats.stats import StreamStats
from recorder.sources.replay.stats import PlayStats
from recorder.sources.stats import FeedStats
from recorder.stats import AT, BYTES, EVENTS, SECS
from recorder.workers.stats import WorkerStats

SCHEMA_VERSION: Final = 1
"""Rises when a field goes or means something else; a field may be added without."""
CHANNELS_LISTED_MAX: Final = 64
"""The wire names channels, so there could be any number."""
CLIENTS_LISTED_MAX: Final = 100
SYMBOLS_LISTED_MAX: Final = 50


def about(text: str) -> Meta:
    """Return the meaning of a field."""
    return Meta(description=text)


def _unit(unit: str) -> Meta:
    return Meta(extra_json_schema={"unit": unit})


At = Annotated[int, _unit(AT)]
Bytes = Annotated[int, _unit(BYTES)]
Secs = Annotated[float, _unit(SECS)]
Events = Annotated[int, _unit(EVENTS)]
Counts = dict[str, int]


@section
class Feed(FeedStats):
    """One cluster's upstream connection, over the whole run."""

    since: Annotated[
        At, about("When it began to stream, or ceased to; before that, the start of the process.")
    ]
    ready: Annotated[
        bool,
        Meta(
            description="Whether it is subscribed and data has come as READY_MIN_MESSAGES and READY_DELAY_MS ask."
        ),
    ]
    events_received: Annotated[
        Events | None,
        about("Events received; null before the first, and where nothing reads the frames."),
    ]
    frames_per_sec: Annotated[float, about("Frames received within the last second.")]
    events_per_sec: Annotated[
        float, about("Events received within the last second; 0 while events_received is null.")
    ]
    bytes_per_sec: Annotated[float, about("Bytes received within the last second.")]
    last_received: Annotated[At, about("When data was last received; 0 before the first.")]
    session: Annotated[str, about("Whether its market is open: `open`, `closed` or `unknown`.")]
    session_until: Annotated[At, about("When the market will close or open; 0 where that is not known.")]
    gap_since: Annotated[
        At,
        about(
            "When data last came before the gap that is open now, in a run before this one, too; before the first session "
            "of all, the start of the process; 0 while no gap is open."
        ),
    ]
    gap_reason: Annotated[
        str,
        about(
            "Why it is open: as in the manifest, or `not_connected` before the first session, or `silence` where another "
            "recorder sends nothing while the market is open; empty while none is."
        ),
    ]
    today_complete: Annotated[
        float | None,
        about(
            "Which part of today's market hours until now the archive has data of, from 0 to 1; a day is one of New York. "
            "Null where the market was not open yet, where its hours are not known, and where no files are written."
        ),
    ]
    today_missing_secs: Annotated[
        Secs | None,
        about(
            "What is missing of them; null where their hours are not known, and where no files are written."
        ),
    ]
    last_event: Annotated[At, about("The newest event's own time; 0 before the first.")]


class Gap(Struct, frozen=True):
    """A time without data, between two sessions of a cluster."""

    cluster: Annotated[str, about("Name of the cluster.")]
    begun: Annotated[At, about("When the last data before it came.")]
    ended: Annotated[At, about("When the next session began.")]
    reason: Annotated[str, about("Why the session before it ended.")]


class Balance(Struct, frozen=True):
    """What became of the events that were received."""

    received: Annotated[Events, about("Events that came.")]
    recorded: Annotated[Events, about("Records that the sink has handed over: written, or published.")]
    filtered: Annotated[Events, about("Left out by NDJSON_INCLUDE.")]
    sampled_out: Annotated[Events, about("Quotes left out by sampling.")]
    rejected: Annotated[Events, about("Unreadable; the reject file keeps them.")]
    dropped: Annotated[Events, about("Lost against our will.")]
    pending: Annotated[Events, about("Records that wait for the sink.")]


class SinkBalance(Balance, frozen=True):
    """A sink's books over all channels."""

    difference: Annotated[
        Events,
        Meta(
            description="Events accounted for nowhere or twice, added up over all channels; the books balance at 0."
        ),
    ]


class ChannelBalance(Balance, frozen=True, kw_only=True):
    """A sink's books of one channel."""

    feed: Annotated[str, about("Name of the cluster.")]
    channel: Annotated[str, about("The event's `ev` code; empty: what could not be read.")]


@section
class Drops(DropRun):
    """Records of one channel that were dropped one after another for one reason."""


@section
class Appended(PairStats):
    """A stream that the sink `nats` appends to, alone or with another recorder; see [NATS](nats.md)."""


@section
class Sink(SinkStats):
    """What pushes records out: `ndjson`, `stdout`, `zmq`, `nats` or `kafka`."""

    stalled_secs: Annotated[
        Secs, about("How long it has been in its present write; 0 while it waits for work.")
    ]
    balance: Annotated[SinkBalance, about("Its books over all channels.")]
    channels: Annotated[
        list[ChannelBalance],
        about(f"Its books by channel, the first {CHANNELS_LISTED_MAX} of them."),
    ]
    channels_count: Annotated[int, about("The number of channels.")]
    recent_drops: Annotated[list[Drops], about("Its latest drops, the newest first.")]
    streams: Annotated[list[Appended], about("The streams that it appends to; empty unless it is `nats`.")]


@section
class ActiveFile(ActiveSegment):
    """A file that is being written."""


@section
class RecentFile(ClosedSegment):
    """A file that was finished in this run."""


@section
class Pressure(PressureStats):
    """The disk as it fills."""

    step: Annotated[str, about("`none`, or the step of [the ladder](operations.md#when-the-disk-fills).")]
    transitions: Annotated[int, about("Changes of the step.")]


@section
class Upload(UploadStats):
    """Sealed files on their way to a bucket."""


@section
class Archive(ArchiveStats):
    """The files of the archive."""

    active: Annotated[list[ActiveFile], about("The files that are being written.")]
    recent: Annotated[list[RecentFile], about("The files finished last, the newest first.")]
    rotations: Annotated[int, about("Files finished in this run.")]
    pressure: Annotated[Pressure, about("The disk.")]
    upload: Annotated[Upload | None, about("Uploads to a bucket; null without ARCHIVE_UPLOAD_URL.")]


@section
class Server(ServerStats):
    """One port that clients connect to; with SERVE_WORKERS, all workers together."""


@section
class AccessLog(AccessLogStats):
    """The log of who received what."""


@section
class Client(ClientStats):
    """One client of a port. Topics and agent are what it said: not to be trusted, and cut where they are long."""


@section
class Worker(WorkerStats):
    """One process that serves, over all its lives."""

    worker: Annotated[int, about("Its number, from 1.")]


@section
class BarsMade(BarStats):
    """The bars of one cluster."""


@section
class Replay(PlayStats):
    """What `recorder replay` plays, where it stands and how late it is."""


@section
class Stream(StreamStats):
    """How the stream of one cluster is followed, with SOURCE=nats."""


@section
class Part(PartStats):
    """One part of the recorder, which is started again when it fails."""


@section
class Draining(DrainStats):
    """Whether clients are taken, or on their way to another recorder."""


class Bars(Struct, frozen=True):
    """Bars: made here, or taken from another recorder."""

    made: Annotated[list[BarsMade], about("By cluster; empty where none are made.")]
    replays: Annotated[int, about("Requests for bars of the past.")]
    relayed: Annotated[int, about("Bars taken from another recorder.")]


class Symbol(Struct, frozen=True):
    """A symbol, as somebody who looks sees it."""

    cluster: Annotated[str, about("Name of the cluster.")]
    symbol: Annotated[str, about("The symbol, as sent.")]
    price: Annotated[
        float | None,
        about(
            "Of its last trade; where a cluster has no trades, its last value, close or bid. Null before the first."
        ),
    ]
    events_per_sec: Annotated[float, about("Events a second, over the last few seconds.")]


class Snapshot(Struct, frozen=True):
    """The whole recorder at one moment."""

    schema_version: Annotated[int, about(f"{SCHEMA_VERSION}. A reader accepts fields that it does not know.")]
    version: Annotated[str, about("Version of the recorder.")]
    native: Annotated[bool, about("Whether native code is used; RECORDER_NATIVE.")]
    bars_compiled: Annotated[bool, about("Whether bars are made with compiled windows; RECORDER_NATIVE.")]
    hostname: Annotated[str, about("Name of the machine.")]
    run_id: Annotated[str, about("Identifies this life of the process, here and in the manifest.")]
    pid: Annotated[int, about("The process.")]
    at: Annotated[At, about("When this was taken.")]
    started: Annotated[At, about("When the process started.")]
    uptime_secs: Annotated[Secs, about("How long it has worked.")]
    ready: Annotated[bool, about("Whether data flows from every cluster into every sink.")]
    reasons: Annotated[list[str], about("Why it is not ready, in words; empty while it is.")]
    warnings: Annotated[
        list[str], about("What is about to become a reason, and what fails without data being missing.")
    ]
    loop_lag_secs: Annotated[Secs, about("How late the event loop's last timer fired.")]
    loop_lag_peak_secs: Annotated[Secs, about("The most of this run.")]
    consumer_failures: Annotated[int, about("Calls in which a consumer failed because of a defect in it.")]
    notes: Annotated[
        list[str],
        about("What explains why nothing happens, and is no fault: a market that is closed."),
    ]
    feeds: Annotated[list[Feed], about("Each cluster.")]
    recent_gaps: Annotated[list[Gap], about("The gaps of all clusters, the newest first.")]
    sinks: Annotated[list[Sink], about("What records go into.")]
    symbols: Annotated[
        list[Symbol],
        Meta(
            description=f"The {SYMBOLS_LISTED_MAX} symbols with most events, of those that `find` asks for; empty while "
            "nobody looks."
        ),
    ]
    symbols_count: Annotated[int, about("Symbols seen since somebody looks.")]
    archive: Annotated[Archive | None, about("The files; null where none are written.")]
    servers: Annotated[list[Server], about("The ports that clients connect to.")]
    clients: Annotated[
        list[Client],
        Meta(
            description=f"The clients; the {CLIENTS_LISTED_MAX} that leave most unread where there are more."
        ),
    ]
    clients_count: Annotated[int, about("The number of clients.")]
    parts: Annotated[list[Part], about("The parts that one supervisor keeps, in the order of their start.")]
    workers: Annotated[list[Worker], about("Processes that serve; empty where this one does.")]
    bars: Annotated[Bars, about("Bars.")]
    access_log: Annotated[
        AccessLog | None, about("The log of who received what; null where none is written.")
    ]
    replay: Annotated[Replay | None, about("The replay; null where nothing is replayed.")]
    draining: Annotated[Draining, about("Whether clients are taken.")]
    streams: Annotated[list[Stream], about("The streams that are followed; empty unless SOURCE is nats.")]


class Rates(Struct, frozen=True):
    """The rates of one cluster, a number for each second, the newest last."""

    frames: Annotated[list[float], about("Frames a second.")]
    events: Annotated[list[float], about("Events a second.")]
    bytes: Annotated[list[float], about("Bytes a second.")]


class History(Struct, frozen=True):
    """What a page shows of the time before it was opened."""

    at: Annotated[At, about("The time of the newest numbers.")]
    feeds: Annotated[dict[str, Rates], about("By cluster.")]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a snapshot (2020-12), with the unit of a field under `unit`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **msgspec.json.schema(Snapshot),
    }
