"""The active files of an archive: which lines go to which, and when each is rotated by size and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from recorder.archive.active_file import ActiveFile
from recorder.archive.context import ArchiveContext
from recorder.archive.record import RecordBatch, Summary
from recorder.archive.segment import SegmentLog
from recorder.archive.set_back import CLOCK_RACE_MS
from recorder.archive.stats import ActiveSegment, Rotation

_TIME_GRACE_NS: Final = 500_000_000
"""Without traffic a period ends this much later, so that what was read before its end still goes into it."""


class ActiveFiles:
    """One file of records for each name, made when its first line comes, one of rejects and one of positions.

    The latter comes last, since a position may only be noted once everything up to it is written. It is rotated with the
    files of records, so that retention deletes with these what is said of them.

    Lines and the closing of files are only queued here, in order; `drain` of each file carries them out.
    """

    def __init__(
        self,
        context: ArchiveContext,
        record_log: SegmentLog,
        reject_log: SegmentLog,
        position_log: SegmentLog,
    ) -> None:
        settings = context.settings
        self._context = context
        self._names = context.names
        self._bytes_max = settings.max_bytes
        self._rotate_ns = (settings.rotate_secs or 0) * 1_000_000_000
        self._record_log = record_log
        self._reject_log = reject_log
        self._files: dict[str, ActiveFile] = {}
        self._stamps: Mapping[Path, str] = {}
        """Of each active file, the newest stamp that a run before has given."""
        self._rejects = ActiveFile(self._names.rejects, context, reject_log)
        self.positions = ActiveFile(self._names.positions, context, position_log)

    def __iter__(self) -> Iterator[ActiveFile]:
        yield from self._files.values()
        yield self._rejects
        yield self.positions

    @property
    def pending_bytes(self) -> int:
        """Bytes that are queued, over all files."""
        return sum(file.pending_bytes for file in self)

    def open(self, paths: Sequence[Path], stamps: Mapping[Path, str]) -> None:
        """Open these files of records now rather than at their first lines. Raise `OSError`.

        `stamps` has the newest stamp that a run before has given to files of a name.
        """
        self._stamps = stamps
        for side in (self._rejects, self.positions):
            side.follow(stamps.get(side.path, ""))
        for path in paths:
            self._file(str(path))
        for file in self._files.values():
            file.open()

    def put(self, batch: RecordBatch) -> None:
        """Queue a batch, with rotation where it crosses a border of time or size."""
        for lines in batch.lines:
            file = self._file(lines.file)
            self._put(file, self._record_log, lines.cluster, lines.data, lines.summary, batch.received_ns)
        if batch.rejects:
            summary = Summary(records=batch.rejects_count, bytes=len(batch.rejects))
            self._put(
                self._rejects, self._reject_log, batch.cluster, batch.rejects, summary, batch.received_ns
            )

    def note_positions(self, lines: Sequence[bytes]) -> None:
        """Queue lines of the journal."""
        if lines:
            data = b"".join(lines)
            self.positions.put("", data, Summary(records=len(lines), bytes=len(data)), 0)

    def rotate(self, reason: Rotation, bytes_min: int) -> bool:
        """Seal every file of records that has so many bytes; return whether there is one."""
        files = [file for file in self._files.values() if file.planned_bytes >= bytes_min]
        for file in files:
            self._rotate(file, reason)
        return bool(files)

    def seal_ended(self, wall_ns: int) -> None:
        """Seal every file of records whose period has ended."""
        if not self._rotate_ns:
            return
        period = (wall_ns - _TIME_GRACE_NS) // self._rotate_ns
        for file in self._files.values():
            if file.period_ns is not None and period > file.period_ns // self._rotate_ns:
                self._rotate(file, "time")

    def period_left_secs(self, wall_ns: int) -> float:
        """Return the seconds until `seal_ended` may find something; infinity without rotation by time."""
        if not self._rotate_ns:
            return float("inf")
        return (self._rotate_ns - (wall_ns - _TIME_GRACE_NS) % self._rotate_ns) / 1e9

    def reopen(self) -> None:
        """Close every file that is or will be open, and open its path again, whatever stands there by then."""
        for file in self:
            if file.is_open or file.busy:
                file.seal("reopen", "reopen")

    def active(self) -> dict[str, ActiveSegment]:
        """Return how far each file of records is, by its name in the manifest."""
        return {
            name: ActiveSegment(name, file.size_bytes, file.records, self._rotates_ms(file))
            for name, file in ((self._names.relative(file.path), file) for file in self._files.values())
        }

    def _rotates_ms(self, file: ActiveFile) -> int | None:
        if not self._rotate_ns or file.period_ns is None:
            return None
        return (file.period_ns // self._rotate_ns + 1) * self._rotate_ns // 1_000_000

    def _file(self, key: str) -> ActiveFile:
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = ActiveFile(Path(key), self._context, self._record_log)
            file.follow(self._stamps.get(Path(key), ""))
        return file

    def _put(
        self,
        file: ActiveFile,
        segment_log: SegmentLog,
        cluster: str,
        data: bytes,
        summary: Summary,
        received_ns: int,
    ) -> None:
        if (
            self._rotate_ns
            and file.period_ns is not None
            and self._is_other_period(file.period_ns, received_ns)
        ):
            self._rotate(file, "time")
        limit = self._bytes_max
        if limit is None or file.planned_bytes + len(data) <= limit:
            file.put(cluster, data, summary, received_ns)
            return
        begin = 0
        while begin < len(data):
            room = max(0, limit - file.planned_bytes)
            end = len(data) if len(data) - begin <= room else data.rfind(b"\n", begin, begin + room) + 1
            if end <= begin:
                if file.planned_bytes:
                    self._rotate(file, "size")
                    continue
                end = data.index(b"\n", begin) + 1  # one line that is longer than the limit
            part = data[begin:end]
            file.put(cluster, part, segment_log.sum_up(part), received_ns)
            begin = end

    def _rotate(self, file: ActiveFile, reason: Rotation) -> None:
        file.seal(reason, "rename")
        self.positions.seal(reason, "rename")

    def _is_other_period(self, period_ns: int, received_ns: int) -> bool:
        period, received = period_ns // self._rotate_ns, received_ns // self._rotate_ns
        return received > period or received_ns < period * self._rotate_ns - CLOCK_RACE_MS * 1_000_000
