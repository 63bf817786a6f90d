"""The archive as a sink: records to the writer thread, sessions and gaps and drops to the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from recorder.archive.context import ArchiveContext
from recorder.archive.gaps import Gap, Silence
from recorder.archive.pressure import LoadShedding
from recorder.archive.record import Lines, Reached, RecordBatch, Summary
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Batch, Border, SessionChange, SessionOpened
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.polygon.rows import Rows
from recorder.records import reject_line
from recorder.sinks.borders import Borders
from recorder.sinks.brake import Brake
from recorder.sinks.queue import QueueLimits, writing_ends_ns
from recorder.sinks.sink import DEFECT, Drops, ThreadSink
from recorder.sinks.worker import Worker

log = get_logger("polygon_archive")

NAME: Final = "ndjson"
_PAUSED: Final = "disk_pressure"
"""Why records are dropped while recording is paused."""
_BORDER_NS: Final = 1_000_000_000
"""Time between two positions of a cluster that are noted though nothing is recorded."""


@dataclass(slots=True)
class _Dropped:
    """Batches dropped one after another: one run of `seq`, told to the manifest once something fits again."""

    reason: str
    first_seq: int
    last_seq: int
    counts: Counter[tuple[str, str]]


class _Files:
    """The archive's files as the target of the queue."""

    def __init__(self, writer: ArchiveWriter, finish: Callable[[int], None]) -> None:
        self.open = writer.open
        self.write = writer.write
        self.tick = writer.tick
        self.close = finish
        self._writer = writer

    @property
    def failure(self) -> str:
        return self._writer.failure

    @property
    def bytes_done(self) -> int:
        return self._writer.bytes_done


class ArchiveSink(ThreadSink[RecordBatch]):
    """Writes records to rotating files. Its thread owns every file; the loop only formats and hands over.

    Past `NDJSON_BUFFER_BYTES` the newest batch is dropped, counted, and noted in the
    manifest with its `seq`; so is all that comes while disk pressure pauses recording. `open` finishes what a crash
    left, which may take minutes, and raises ArchiveConfigError where the archive cannot be written.

    It is the one sink with a brake. All that the sources read waits while they do, so only the sink whose loss nobody
    can make up for lets them wait. The readers of stdout and of ZeroMQ are other programs, and slow at their own cost.
    """

    full = "records are dropped: more is waiting for the disk than NDJSON_BUFFER_BYTES allows"
    full_reason = "the disk is too slow"

    def __init__(
        self,
        context: ArchiveContext,
        writer: ArchiveWriter,
        shedding: LoadShedding,
        ledger: Ledger,
        *,
        worker: Worker | None = None,
    ) -> None:
        """`shedding` is what the writer sets; `worker` is for a simulation: what works in the writer thread's place."""
        settings = context.settings
        self._names = context.names
        self._clock = context.clock
        self._writer = writer
        self._shedding = shedding
        self._ledger = ledger
        drops = Drops(ledger.sink(NAME), context.clock, log, settings.warn_interval_secs)
        limits = QueueLimits(settings.channel_cap, settings.buffer_bytes, settings.flush_every)
        super().__init__(NAME, _Files(writer, self._finish), drops, limits, worker)
        self.brake = Brake(self.queue, limits, context.clock.monotonic_ns)
        self.end_reason = "failed"
        """Why the run ends, for the manifest."""
        self.reason_given_up = ""
        """Once closed: why the disk did not take what was given up."""
        self._dropped: _Dropped | None = None
        self._borders = Borders()
        self._border_ns: dict[str, int] = {}
        """By cluster, when a position without records was noted last (monotonic)."""
        self._archive_stats = context.stats
        self._run_id = context.run_id

    @property
    def manifest(self) -> Path:
        """Path of the manifest."""
        return self._names.manifest

    def may_read(self) -> bool:
        """Whether the sources may read on: not while the disk works off more than enough."""
        return self.brake.may_read()

    async def open(self) -> None:
        """Take possession of the archive and finish what a crash left.

        :raises ArchiveConfigError: the place cannot be used.
        """
        await super().open()
        # The writer thread is done with them.
        self._archive_stats.silences = dict(self._writer.silences)
        self._archive_stats.history = self._writer.history
        silences = self._writer.silences
        self._archive_stats.recorded = {
            cluster: replace(found, since_ms=silences[cluster].since_ms) if cluster in silences else found
            for cluster, found in self._writer.recorded.items()
        }
        self._borders.followed.update(self._writer.recorded)

    async def close(self, deadline_ns: int) -> None:
        """Write what is pending, seal the files, end the manifest; what is not done by the deadline is given up.

        A stop ends the process by its deadline amid a repair, too.
        """
        if self._dropped is not None:
            self._note_drops()
        # A batch is large, and a slow disk takes it in many steps: the writer looks at the clock between two of them.
        self._writer.write_until_ns = writing_ends_ns(self._clock.monotonic_ns(), deadline_ns)
        await super().close(deadline_ns)
        if self.queue.is_opening:
            log.warning("archive_repair_interrupted")

    def item_of(self, batch: Batch, rows: Rows) -> RecordBatch | None:
        """Return the lines of a batch, file by file; None while disk pressure pauses recording."""
        rejects = batch.rows.rejects
        reached = self._borders.of(batch, rows)
        if self._shedding.paused:
            self._leave_out(rows, len(rejects))
            return None
        if self._dropped is not None and self._dropped.reason == _PAUSED:
            self._note_drops()
        ingest_ms = batch.received_ns // 1_000_000
        reject_lines = [reject_line(ingest_ms, rows.cluster, reason, raw) for reason, raw in rejects]
        lines = self._lines(batch, rows)
        reject_data = b"".join(reject_lines)
        return RecordBatch(rows.cluster, batch.received_ns, lines, reject_data, len(rejects), reached)

    def accept(self, batch: Batch) -> None:
        """Put the records of one batch into the queue, or drop and count them."""
        if batch.recorded is None and batch.marks:
            self.border_passed(Border(batch.cluster, batch.marks[-1].after))
        super().accept(batch)

    def border_passed(self, border: Border) -> None:
        """Have a position noted behind which nothing was recorded, unless one was a moment ago."""
        recorded = self._archive_stats.recorded.get(border.cluster)
        if recorded is not None and not recorded.overlap.is_over:
            return  # what is recorded behind it would no longer be known
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._border_ns.get(border.cluster, -_BORDER_NS) < _BORDER_NS:
            return
        self._border_ns[border.cluster] = now_ns
        self._borders.followed.add(border.cluster)
        reached = Reached(border.after, 0, self._borders.seq)
        self.queue.call(lambda: self._writer.note(border.cluster, reached))

    def taken(self) -> None:
        """Enter earlier drops in the manifest, now that something fits again."""
        if self._dropped is not None:
            self._note_drops()

    def refuse(self, item: RecordBatch) -> None:
        """Account for a batch that does not fit into the queue."""
        reason = self.stats.failure or self.full_reason
        self._account_drop(item, reason)
        self.drops.warn(self.full, reason=reason)

    def lose(self, rows: Rows) -> None:
        """Account for records whose lines could not be made."""
        first, last = (rows.seqs[0], rows.seqs[-1]) if rows else (0, 0)
        self._add_drop(rows.cluster, rows.counts, 0, first, last, DEFECT)

    def give_up(self, item: RecordBatch) -> None:
        """Account, on the writer thread, for what could not be written before the deadline."""
        self._account_drop(item, self.stats.failure or self.late_reason)
        self.stats.given_up += sum(item.counts.values())

    def session_changed(self, change: SessionChange) -> None:
        """Write the session, and the gap before it, to the manifest."""
        at_ms = change.at_ns // 1_000_000
        cluster, stats = change.cluster, self._archive_stats
        if isinstance(change, SessionOpened):
            # The gap first: a kill between the two must not lose it.
            silence = stats.silences.pop(cluster, None)
            if silence is not None and change.resumed is None:
                self._note_gap(cluster, silence.since_ms, at_ms, silence.reason)
            for missed in change.missed:
                self._note_gap(cluster, missed.from_ms, missed.to_ms, missed.reason)
            stats.history.session_opened(cluster, at_ms, self._run_id)
            resumed = {} if change.resumed is None else {"resumed": change.resumed}
            self._note("session_opened", cluster=cluster, at=at_ms, **resumed)
        else:
            last_ms = change.last_received_ns // 1_000_000
            if cluster in stats.silences:
                # It was not open: what is missing since the one before may be missing still.
                last_ms = stats.silences[cluster].since_ms
            stats.silences[cluster] = Silence(last_ms or at_ms, change.reason)
            after = {"after": change.after} if change.after else {}
            if change.after:
                self._border_ns.pop(cluster, None)
                self.border_passed(Border(cluster, change.after))
            self._note(
                "session_closed",
                cluster=cluster,
                at=at_ms,
                reason=change.reason,
                last_received=last_ms,
                **after,
            )

    def reopen(self, done: Callable[[], object]) -> None:
        """Close every active file as a segment and open its path again; then call `done`, on the writer thread."""

        def work() -> None:
            self._writer.reopen()
            done()

        self.queue.call_soon(work)

    def rotate(self) -> None:
        """Rotate every active file now."""
        self.queue.call_soon(lambda: self._writer.rotate("signal"))

    def _finish(self, deadline_ns: int) -> None:
        """End the archive, on the writer thread."""
        if self.queue.failed:
            return  # behind a defect the files are left as after a kill, for the next start to look at
        self.reason_given_up = self._writer.failure or self.full_reason
        for fields in self._take_drops():
            self._writer.append("drop", **fields)
        self._writer.close(self.end_reason, self._balance, deadline_ns)

    def _balance(self) -> dict[str, object]:
        """The books, as the manifest keeps them; asked for when nothing is pending any more."""
        differences = self._ledger.differences(NAME)
        return {
            **self._ledger.totals(NAME),
            "difference": sum(differences.values()),
            "channels": {f"{cluster}.{channel}": rest for (cluster, channel), rest in differences.items()},
        }

    def _lines(self, batch: Batch, rows: Rows) -> list[Lines]:
        """Put the lines of a batch in the files they belong to."""
        names = self._names
        if not names.split_per_type:
            # One file takes every channel, so there is nothing to look up for each.
            return [_group(batch, names.active(rows.cluster, ""), rows, batch.lines)] if rows else []
        files: dict[str, set[str]] = {}
        for channel in rows.counts:
            files.setdefault(names.active(rows.cluster, channel), set()).add(channel)
        if len(files) == 1:
            [file] = files
            return [_group(batch, file, rows, batch.lines)]
        grouped = []
        for file, channels in files.items():
            part = rows.of_channels(channels)
            grouped.append(_group(batch, file, part, batch.lines_of(part)))
        return grouped

    def _leave_out(self, rows: Rows, rejects_count: int) -> None:
        """Account for rows that arrive while recording is paused, without formatting them."""
        if self._dropped is not None and self._dropped.reason != _PAUSED:
            self._note_drops()
        seqs = rows.seqs
        first, last = (seqs[0], seqs[-1]) if seqs else (0, 0)
        self._add_drop(rows.cluster, rows.counts, rejects_count, first, last, _PAUSED)
        self._shedding.stats.dropped += len(rows)

    def _account_drop(self, batch: RecordBatch, reason: str) -> None:
        first = min((lines.summary.first_seq for lines in batch.lines), default=0)
        last = max((lines.summary.last_seq for lines in batch.lines), default=0)
        self._add_drop(batch.cluster, batch.counts, batch.rejects_count, first, last, reason)

    def _add_drop(
        self, cluster: str, records: Mapping[str, int], rejects: int, first: int, last: int, reason: str
    ) -> None:
        self.drops.add(cluster, records, reason)
        counts: Counter[tuple[str, str]] = Counter()
        for channel, count in records.items():
            counts[cluster, self._ledger.name_of(channel)] += count
        if rejects:
            counts[cluster, ""] += rejects
            self.stats.rejects_dropped += rejects
        dropped = self._dropped
        if dropped is None:
            self._dropped = _Dropped(reason, first, last, counts)
        else:
            dropped.first_seq = dropped.first_seq or first
            dropped.last_seq = last or dropped.last_seq
            dropped.counts.update(counts)

    def _note_drops(self) -> None:
        for fields in self._take_drops():
            self._note("drop", **fields)

    def _take_drops(self) -> list[dict[str, Any]]:
        """Return what the manifest has to say of the drops since it last said something."""
        dropped, self._dropped = self._dropped, None
        if dropped is None:
            return []
        return [
            {
                "cluster": cluster,
                "channel": channel,
                "count": count,
                "reason": dropped.reason,
                "first_seq": dropped.first_seq,
                "last_seq": dropped.last_seq,
            }
            for (cluster, channel), count in dropped.counts.items()
        ]

    def _note_gap(self, cluster: str, from_ms: int, to_ms: int, reason: str) -> None:
        self._archive_stats.history.gap_ended(Gap(cluster, from_ms, to_ms, reason, self._run_id))
        self._note("gap", **{"cluster": cluster, "from": from_ms, "to": to_ms, "reason": reason})

    def _note(self, kind: str, **fields: object) -> None:
        self.queue.call(lambda: self._writer.append(kind, **fields))

    def __repr__(self) -> str:
        return f"ArchiveSink({self._names.template}, {self.queue!r})"


def _group(batch: Batch, file: str, rows: Rows, data: bytes) -> Lines:
    """Return the lines of one file, and what they amount to."""
    ingest_ms = batch.received_ns // 1_000_000
    min_ts, max_ts = rows.span_ms
    summary = Summary(
        records=len(rows),
        bytes=len(data),
        first_seq=rows.seqs[0],
        last_seq=rows.seqs[-1],
        min_ts=min_ts,
        max_ts=max_ts,
        first_ingest_ts=ingest_ms,
        last_ingest_ts=ingest_ms,
        counts=rows.counts,
    )
    return Lines(rows.cluster, file, data, summary)
