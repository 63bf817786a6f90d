"""The archive as a sink: records to the writer thread, sessions and gaps and drops to the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from recorder.archive.manifest_index import Silence
from recorder.archive.policy import FileNames
from recorder.archive.record import Lines, RecordBatch, Summary
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Batch, SessionChange, SessionOpened
from recorder.clock import Clock
from recorder.ledger import Ledger, SinkStats
from recorder.log import RateLimited, get_logger
from recorder.polygon.rows import Rows
from recorder.records import reject_line
from recorder.settings import ArchiveSettings
from recorder.sinks.edge import Edge
from recorder.sinks.strand import Strand

log = get_logger("polygon_archive")

_PAUSED: Final = "disk_pressure"
"""Why records are dropped while recording is paused."""


@dataclass(slots=True)
class _Drops:
    """Batches dropped one after another: one run of `seq`, told to the manifest once something fits again."""

    reason: str
    first_seq: int
    last_seq: int
    counts: Counter[tuple[str, str]]


class ArchiveSink:
    """Writes records to rotating files. Its writer thread owns every file; the loop only formats and hands over.

    Past `NDJSON_BUFFER_BYTES` or `NDJSON_CHANNEL_CAP` the newest batch is dropped, counted, and noted in the
    manifest with its `seq`; so is all that comes while disk pressure pauses recording. `open` raises
    ArchiveConfigError where the archive cannot be written at start.
    """

    name = "ndjson"

    def __init__(
        self,
        settings: ArchiveSettings,
        names: FileNames,
        writer: ArchiveWriter,
        ledger: Ledger,
        clock: Clock,
        *,
        strand: Strand | None = None,
    ) -> None:
        """`strand` is for a simulation: what works in the writer thread's place."""
        self._settings = settings
        self._names = names
        self._writer = writer
        self._ledger = ledger
        self._clock = clock
        self.books: SinkStats = ledger.sink(self.name)
        self.edge: Edge[RecordBatch] = Edge(
            self.name,
            writer,
            self.books,
            batches_max=settings.channel_cap,
            bytes_max=settings.buffer_bytes,
            wake_records=settings.flush_every,
            given_up=self._given_up,
            strand=strand,
        )
        self.reason_given_up = ""
        """Once closed: why the disk did not take what was given up."""
        self._drops: _Drops | None = None
        self._warning = RateLimited(settings.warn_interval_secs)
        self._silences: dict[str, Silence] = {}
        """Per cluster, since when nothing comes, and why; also from runs before this one."""

    def open(self) -> None:
        """Take possession of the archive and finish what a crash left; blocks, before the loop has work."""
        self._writer.open()
        self._silences = dict(self._writer.silences)

    async def run(self) -> None:
        """Work until closed; raise if the writer thread fails by a defect."""
        self.edge.start()
        await self.edge.wait()

    def accept(self, batch: Batch) -> None:
        """Hand the records of one batch to the writer thread, or drop and count them."""
        rows = batch.recorded
        if rows is None:
            return
        cluster = rows.cluster
        for channel, count in rows.counts.items():
            self.books.accepted[cluster, channel] += count
        rejects = batch.rows.rejects
        if self._writer.shedding.paused:
            self._leave_out(rows, len(rejects))
            return
        if self._drops is not None and self._drops.reason == _PAUSED:
            self._note_drops()
        ingest_ms = batch.received_ns // 1_000_000
        reject_lines = [reject_line(ingest_ms, cluster, reject.reason, reject.raw) for reject in rejects]
        records = RecordBatch(
            cluster, batch.received_ns, self._lines(batch, rows), b"".join(reject_lines), len(rejects)
        )
        if self.edge.offer(records, records.size, len(rows) + len(rejects)):
            if self._drops is not None:
                self._note_drops()
        else:
            self._drop(records)

    def session_changed(self, change: SessionChange) -> None:
        """Write the session, and the gap before it, to the manifest."""
        at_ms = change.at_ns // 1_000_000
        cluster = change.cluster
        if isinstance(change, SessionOpened):
            # The gap first: a kill between the two must not lose it.
            silence = self._silences.pop(cluster, None)
            if silence is not None:
                since_ms, why = silence
                self._note("gap", **{"cluster": cluster, "from": since_ms, "to": at_ms, "reason": why})
            self._note("session_opened", cluster=cluster)
        else:
            last_ms = change.last_received_ns // 1_000_000
            self._silences[cluster] = Silence(last_ms or at_ms, change.reason)
            self._note("session_closed", cluster=cluster, reason=change.reason, last_received=last_ms)

    def reopen(self, done: Callable[[], object]) -> None:
        """Close every active file as a segment and open its path again; then call `done`, on the writer thread."""

        def work() -> None:
            self._writer.reopen()
            done()

        self.edge.call_soon(work)

    def rotate(self) -> None:
        """Rotate every active file now."""
        self.edge.call_soon(lambda: self._writer.rotate("signal"))

    async def close(self, reason: str, timeout_secs: float) -> None:
        """Write what is pending, seal the files, end the manifest; give up after `timeout_secs`."""
        self._note_drops()
        deadline_ns = self._clock.monotonic_ns() + int(timeout_secs * 1e9)

        def finish() -> None:
            self.reason_given_up = self._writer.failure or "the disk is too slow"
            for fields in self._take_drops():
                self._writer.append("drop", **fields)
            self._writer.close(reason, self._balance, deadline_ns)

        await self.edge.close(timeout_secs, finish)

    def give_back(self, reason: str) -> None:
        """Let go of an archive that was opened and never written, since another part could not start."""
        self._writer.close(reason, self._balance, self._clock.monotonic_ns())

    def _balance(self) -> dict[str, object]:
        """The books, as the manifest keeps them; asked for when nothing is pending any more."""
        differences = self._ledger.differences(self.name)
        return {
            **self._ledger.totals(self.name),
            "difference": sum(differences.values()),
            "channels": {f"{cluster}.{channel}": rest for (cluster, channel), rest in differences.items()},
        }

    def _lines(self, batch: Batch, rows: Rows) -> list[Lines]:
        """Put the lines of a batch in the files they belong to."""
        names = self._names
        files: dict[str, set[str]] = {}
        for channel in rows.counts:
            files.setdefault(names.active(rows.cluster, channel), set()).add(channel)
        if len(files) == 1:
            [file] = files
            return [_group(batch, file, rows, batch.lines)]
        grouped = []
        for file, channels in files.items():
            part = rows.where([channel in channels for channel in rows.channels])
            grouped.append(_group(batch, file, part, batch.lines_of(part)))
        return grouped

    def _drop(self, batch: RecordBatch) -> None:
        """Account for a batch that does not fit."""
        reason = self.books.failure or "the disk is too slow"
        self._account_drop(batch, reason)
        suppressed = self._warning.ready(self._clock.monotonic_ns())
        if suppressed is not None:
            log.warning(
                "records dropped: more is waiting for the disk than NDJSON_BUFFER_BYTES or NDJSON_CHANNEL_CAP allow",
                reason=reason,
                pending_bytes=self.books.pending_bytes,
                dropped_total=sum(self.books.dropped.values()),
                batches_since_last_warning=suppressed + 1,
            )

    def _leave_out(self, rows: Rows, rejects_count: int) -> None:
        """Account for what comes while recording is paused; nothing of it is formatted."""
        if self._drops is not None and self._drops.reason != _PAUSED:
            self._note_drops()
        seqs = rows.seqs
        first, last = (seqs[0], seqs[-1]) if seqs else (0, 0)
        self._add_drop(rows.cluster, rows.counts, rejects_count, first, last, _PAUSED)
        self._writer.shedding.stats.dropped += len(rows)

    def _account_drop(self, batch: RecordBatch, reason: str) -> None:
        counts: Counter[str] = Counter()
        for lines in batch.lines:
            counts.update(lines.summary.counts)
        first = min((lines.summary.first_seq for lines in batch.lines), default=0)
        last = max((lines.summary.last_seq for lines in batch.lines), default=0)
        self._add_drop(batch.cluster, counts, batch.rejects_count, first, last, reason)

    def _add_drop(
        self, cluster: str, records: Mapping[str, int], rejects: int, first: int, last: int, reason: str
    ) -> None:
        self.books.note_drops(self._clock.wall_ns() // 1_000_000, cluster, records, reason)
        counts = Counter({(cluster, channel): count for channel, count in records.items()})
        for key, count in counts.items():
            self.books.dropped[key] += count
        if rejects:
            counts[cluster, ""] += rejects
            self.books.rejects_dropped += rejects
        if self._drops is None:
            self._drops = _Drops(reason, first, last, counts)
        else:
            self._drops.first_seq = self._drops.first_seq or first
            self._drops.last_seq = last or self._drops.last_seq
            self._drops.counts.update(counts)

    def _note_drops(self) -> None:
        for fields in self._take_drops():
            self._note("drop", **fields)

    def _given_up(self, batch: RecordBatch) -> None:
        """Account, on the writer thread, for what could not be written before the deadline."""
        self._account_drop(batch, self.books.failure or "not written before the shutdown's deadline")
        self.books.given_up += sum(lines.summary.records for lines in batch.lines)

    def _take_drops(self) -> list[dict[str, Any]]:
        """Give what the manifest has to say of the drops since it was last told."""
        drops, self._drops = self._drops, None
        if drops is None:
            return []
        return [
            {
                "cluster": cluster,
                "channel": channel,
                "count": count,
                "reason": drops.reason,
                "first_seq": drops.first_seq,
                "last_seq": drops.last_seq,
            }
            for (cluster, channel), count in drops.counts.items()
        ]

    def _note(self, kind: str, **fields: object) -> None:
        self.edge.call(lambda: self._writer.append(kind, **fields))

    def __repr__(self) -> str:
        return f"ArchiveSink({self._settings.dest}, {self.edge!r})"


def _group(batch: Batch, file: str, rows: Rows, data: bytes) -> Lines:
    """Return the lines of one file, and what they amount to."""
    ingest_ms = batch.received_ns // 1_000_000
    times = rows.distinct_times_ms
    summary = Summary(
        records=len(rows),
        bytes=len(data),
        first_seq=rows.seqs[0],
        last_seq=rows.seqs[-1],
        min_ts=min(filter(None, times), default=0),
        max_ts=max(times),
        first_ingest_ts=ingest_ms,
        last_ingest_ts=ingest_ms,
        counts=Counter(rows.counts),
    )
    return Lines(rows.cluster, file, data, summary)
