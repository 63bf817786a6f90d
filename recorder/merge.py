"""Makes one archive of two recordings of one feed: each event once, and what each of them lacked."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from recorder.archive.continuity import narrowing
from recorder.archive.cutting import RecordedEvent
from recorder.archive.disk import Disk
from recorder.archive.dropped import APART_MS, Missing
from recorder.archive.gaps import NOT_RUNNING
from recorder.archive.lacked import SPANS_MAX
from recorder.archive.manifest_index import NEVER_MS
from recorder.archive.merge_source import Source
from recorder.archive.new_archive import NewArchive
from recorder.archive.new_folder import refuse_destination
from recorder.archive.silent import Silent, silent_in_all
from recorder.clock import SystemClock
from recorder.errors import ArchiveConfigError
from recorder.progress import Progress
from recorder.union import BOTH, Union
from recorder.version import VERSION
from recorder.words import moment_text, printable, shortened

NAMES: Final = ("A", "B")
_WRITE_RECORDS: Final = 4096
"""So many records are written at once."""
_SPANS_SHOWN: Final = 20


@dataclass(slots=True)
class Merged:
    """What was merged, and what came of it."""

    folder: Path
    run_id: str
    sources: list[Source]
    records: int = 0
    both: int = 0
    """Records that both archives had."""
    dropped: int = 0
    """Records that one of them dropped and none has."""
    gaps: dict[str, list[Silent]] = field(default_factory=dict)
    """By cluster, when none of the archives has data; from 0 until the first session of all."""

    @property
    def skipped(self) -> list[str]:
        """What could not be read and is left out."""
        return [f"{source.name}: {text}" for source in self.sources for text in source.skipped]

    @property
    def notes(self) -> list[str]:
        """What is worth knowing."""
        return [note for source in self.sources for note in source.notes()]


def merge(
    paths: Sequence[Path],
    folder: Path,
    progress: Progress | None = None,
    *,
    segment_bytes: int,
    codec: str,
    skips_damaged: bool = False,
    disk: Disk | None = None,
) -> Merged:
    """Make the archive `folder` of two archives that recorded the same feed. Raise `ArchiveError`.

    Each of `paths` is a folder, a manifest or an `NDJSON_DEST`. `folder` is missing or empty; it has its name once it is
    whole, and nothing of it is left where something fails. `disk` is for tests.
    """
    now_ms = SystemClock.wall_ns() // 1_000_000
    sources = [
        Source(path, name, now_ms, skips_damaged=skips_damaged)
        for path, name in zip(paths, NAMES, strict=True)
    ]
    _refuse_unsuitable(sources, folder)
    found = Merged(folder, str(uuid.uuid4()), sources)
    for cluster in sorted(set[str]().union(*(source.clusters for source in sources))):
        found.gaps[cluster] = silent_in_all(
            [gaps for source in sources for gaps in source.gaps(cluster, now_ms)]
        )
    with NewArchive(folder, found.run_id, segment_bytes=segment_bytes, codec=codec, disk=disk) as archive:
        _note_sessions(archive, found, now_ms)
        last_ms = _write(archive, found, progress)
        ends_ms = [gaps[-1].from_ms for gaps in found.gaps.values() if gaps and gaps[-1].to_ms == now_ms]
        archive.finish(max([last_ms, *ends_ms]))
    return found


def _refuse_unsuitable(sources: list[Source], folder: Path) -> None:
    manifests = [{one.manifest.resolve() for one in source.recordings} for source in sources]
    refuse_destination(folder, set[Path]().union(*manifests))
    if same := manifests[0] & manifests[1]:
        raise ArchiveConfigError(
            f"A and B are the same archive, {min(same)}; name two recordings of one feed"
        )
    one, other = (source.clusters for source in sources)
    if one and other and not one & other:
        raise ArchiveConfigError(
            f"A has {', '.join(sorted(one))} and B has {', '.join(sorted(other))}: they are not two recordings of one feed"
        )


def _note_sessions(archive: NewArchive, found: Merged, now_ms: int) -> None:
    """Write what the new manifest says before its segments: where all comes from, and when there is data."""
    first_ms = min((source.first_ms for source in found.sources if source.runs), default=now_ms)
    lines: list[tuple[int, str, dict[str, Any]]] = []
    for cluster, gaps in found.gaps.items():
        begin_ms = 0
        for gap in gaps:
            if gap.from_ms:
                reason = "shutdown" if gap.reason == NOT_RUNNING and gap.to_ms == now_ms else gap.reason
                fields = {"at": gap.from_ms, "reason": reason, "last_received": gap.from_ms}
                lines.append((gap.from_ms, "session_closed", {"cluster": cluster, **fields}))
            if gap.to_ms == now_ms:
                break
            if gap.from_ms:
                fields = {"from": gap.from_ms, "to": gap.to_ms, "reason": gap.reason}
                lines.append((gap.to_ms, "gap", {"cluster": cluster, **fields}))
            lines.append((gap.to_ms, "session_opened", {"cluster": cluster, "at": gap.to_ms}))
            begin_ms = gap.to_ms
        else:
            fields = {"at": now_ms, "reason": "shutdown", "last_received": now_ms}
            lines.append((max(now_ms, begin_ms), "session_closed", {"cluster": cluster, **fields}))
    lines.sort(key=lambda line: line[0])
    recordings = [one for source in found.sources for one in source.recordings]
    # What one of them kept out the other may have missed: nobody may take the new archive for whole.
    settings: dict[str, Any] = {}
    for recording in recordings:
        for run in recording.known_runs.values():
            settings |= narrowing(run)
    archive.note(
        "run_started",
        min([first_ms, *(at_ms for at_ms, _, _ in lines)]),
        version=VERSION,
        merged=[one for source in found.sources for one in source.origin()],
        merged_at=now_ms,
        **({"settings": settings} if settings else {}),
        **({"shifted": True} if any(one.is_shifted for one in recordings) else {}),
    )
    for at_ms, kind, fields in lines:
        archive.note(kind, at_ms, **fields)


def _write(archive: NewArchive, found: Merged, progress: Progress | None) -> int:
    """Write all records; return when the last one came, Unix ms, or 0."""
    sources = found.sources
    missing = Missing()
    pieces = [source.pieces(partial(missing.add, side)) for side, source in enumerate(sources)]
    union = Union((pieces[0], pieces[1]), _feed_of, _payload_of, _ingest_ms_of)
    waiting: list[RecordedEvent] = []
    before_ms = 0

    def hand_over(until_ms: int) -> None:
        if waiting:
            archive.write(waiting)
            found.records += len(waiting)
            waiting.clear()
        for dropped, count in missing.until(until_ms):
            found.dropped += count
            first_seq, last_seq = archive.leave_out(count)
            drop = dropped.drop
            facts = {"count": count, "reason": drop.reason, "first_seq": first_seq, "last_seq": last_seq}
            archive.note("drop", dropped.to_ms, cluster=drop.cluster, channel=drop.channel, **facts)
        if progress is not None:
            progress(sum(one.read_bytes for one in sources), sum(one.size_bytes for one in sources))

    for event, side in union.items():
        if side == BOTH:
            found.both += 1
        else:
            sources[1 - side].lacked.add(event)
            missing.lacks(1 - side, event)
        if before_ms - APART_MS < event.ingest_ts < before_ms:
            event.ingest_ts = before_ms
        before_ms = event.ingest_ts
        waiting.append(event)
        if len(waiting) >= _WRITE_RECORDS:
            hand_over(before_ms)
    hand_over(NEVER_MS)
    return before_ms


def as_json(found: Merged) -> str:
    """Return everything that was found as one JSON object."""
    fields = {
        "to": str(found.folder),
        "run_id": found.run_id,
        "records": found.records,
        "both": found.both,
        "dropped": found.dropped,
        "archives": [
            {
                "name": source.name,
                "path": str(source.path),
                "records": source.records,
                "lacked": {cluster: dict(counts) for cluster, counts in source.lacked.counts.items()},
                "lacked_times": [
                    {"cluster": one.cluster, "from": one.from_ms, "to": one.to_ms, "records": one.records}
                    for one in source.lacked.spans
                ],
                "lacked_times_left_out": source.lacked.spans_left_out,
            }
            for source in found.sources
        ],
        "gaps": [
            {"cluster": cluster, "from": gap.from_ms, "to": gap.to_ms, "reason": gap.reason}
            for cluster, gaps in found.gaps.items()
            for gap in gaps
        ],
        "skipped": found.skipped,
        "notes": found.notes,
    }
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode()


def print_merged(found: Merged, console: Console) -> None:
    """Print what was found for people. What the wire said is text: it styles and steers nothing."""

    def say(words: str, style: str | None = None) -> None:
        console.print(printable(words), markup=False, style=style)

    table = Table("", *(f"lacked by {name}" for name in NAMES), box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    lacked = [source.lacked.counts for source in found.sources]
    kinds = {(cluster, kind) for one in lacked for cluster, of_it in one.items() for kind in of_it}
    for cluster, kind in sorted(kinds):
        counts = [f"{one[cluster][kind] if cluster in one else 0:,}" for one in lacked]
        table.add_row(printable(f"{cluster} {shortened(kind, 20)}"), *counts)
    if table.row_count:
        console.print(table)
    for source in found.sources:
        _print_spans(source, say)
    for note in found.notes:
        say(f"note: {note}")
    for text in found.skipped:
        say(f"left out: {text}", style="red")
    dropped = f"; {found.dropped:,} that were dropped are missing" if found.dropped else ""
    say(f"{found.folder}: {found.records:,} records, {found.both:,} of which both had{dropped}")


def _print_spans(source: Source, say: Any) -> None:
    lacked = source.lacked
    for span in lacked.spans[:_SPANS_SHOWN]:
        times = f"{moment_text(span.from_ms)} to {moment_text(span.to_ms)}"
        say(f"{source.name} lacked {span.records:,} records of {span.cluster}, {times}")
    more = len(lacked.spans) + lacked.spans_left_out - _SPANS_SHOWN
    if more > 0:
        say(f"{source.name} lacked records at {more:,} more times; --json lists the first {SPANS_MAX:,}")


def _feed_of(event: RecordedEvent) -> str:
    return event.feed


def _payload_of(event: RecordedEvent) -> bytes:
    return bytes(event.payload)


def _ingest_ms_of(event: RecordedEvent) -> int:
    return event.ingest_ts
